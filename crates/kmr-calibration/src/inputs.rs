//! Means of what layers multiply their weights with, and the products of every two inputs.

use std::sync::Arc;

use kmr_methods::gram::{Gram, Inputs, is_taken};
use kmr_sdk::{
    Error, Host, Result,
    model::{Graph, Tensor, windows::Reading},
};
use rayon::prelude::*;

use crate::each_batch;

/// Rows that a Gram matrix is made from at most, spread evenly over samples and places: beyond a few for each column
/// more of them change nothing.
const MOST_ROWS: usize = 16_384;

/// A convolution or matrix product that reads a weight, and what it multiplies with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// The node's id.
    pub node: String,
    /// The value that it multiplies.
    pub input: String,
    /// Groups of a convolution; 1 elsewhere.
    pub groups: usize,
}

/// A weight whose inputs are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'l> {
    /// The products that read it, one at least. All have as many groups.
    pub products: &'l [Product],
    /// The weight's shape.
    pub shape: &'l [usize],
    /// What one output is made of: input channels of a group, times the taps of a kernel.
    pub columns: usize,
    /// Whether the means are taken away.
    pub centered: bool,
}

impl Layer<'_> {
    fn groups(&self) -> usize {
        self.products.first().map_or(1, |product| product.groups.max(1))
    }
}

/// A way to read a value; several products may read it so.
#[derive(PartialEq, Eq)]
struct View<'l> {
    input: &'l str,
    reading: Reading,
    /// The rank of what a convolution reads.
    rank: Option<usize>,
}

/// The views of one layer, and what they add up.
struct Sum<'l> {
    views: Vec<View<'l>>,
    grams: Vec<Gram>,
    /// One row in so many is taken of each view, by a fixed pattern without a period.
    strides: Vec<u64>,
    seen: Vec<u64>,
}

/// The inputs of `layers` on up to `samples` calibration samples, of each group of theirs. Layers that read the same in
/// the same way share what was found.
///
/// # Errors
/// If there is no calibration data, the candidate cannot be run, or an input is not finite.
pub fn observe(host: &Host<'_>, graph: &Graph, layers: &[Layer<'_>], samples: usize) -> Result<Vec<Arc<Vec<Inputs>>>> {
    let mut sums: Vec<Sum<'_>> = Vec::new();
    let mut wanted: Vec<(usize, bool)> = Vec::new();
    for layer in layers {
        let views = layer.products.iter().map(|product| view(graph, product, layer.shape));
        let views = views.collect::<Result<Vec<_>>>()?;
        let known = sums
            .iter()
            .position(|sum| sum.views == views && sum.grams.len() == layer.groups() && sum.columns() == layer.columns);
        let place = known.unwrap_or(sums.len());
        if known.is_none() {
            sums.push(Sum {
                grams: (0..layer.groups()).map(|_| Gram::new(layer.columns)).collect(),
                strides: vec![0; views.len()],
                seen: vec![0; views.len()],
                views,
            });
        }
        wanted.push((place, layer.centered));
    }
    let mut inputs: Vec<&str> = Vec::new();
    for view in sums.iter().flat_map(|sum| &sum.views) {
        if !inputs.contains(&view.input) {
            inputs.push(view.input);
        }
    }
    each_batch(host, &inputs, samples, "observing the inputs of layers", |_, batch| {
        let all = |sum: &mut Sum<'_>| {
            let mut outputs = batch.outputs.iter();
            outputs.try_for_each(|(value, tensor)| sum.take(value, tensor, samples, batch.size))
        };
        // Of several failures the first is told, whatever the number of threads.
        let taken: Vec<Result<()>> = sums.par_iter_mut().map(all).collect();
        taken.into_iter().collect()
    })?;
    let finished: Vec<[Option<Arc<Vec<Inputs>>>; 2]> = sums
        .into_par_iter()
        .enumerate()
        .map(|(place, sum)| {
            finish(
                sum.grams,
                [false, true].map(|centered| wanted.contains(&(place, centered))),
            )
        })
        .collect();
    let found = wanted
        .iter()
        .filter_map(|&(place, centered)| finished[place][usize::from(centered)].clone());
    Ok(found.collect())
}

/// What has been added up, as it is and centered, as far as either is wanted.
fn finish(grams: Vec<Gram>, wanted: [bool; 2]) -> [Option<Arc<Vec<Inputs>>>; 2] {
    let finished = |grams: Vec<Gram>, centered| {
        let grams = grams.into_iter().map(|gram| gram.finished(centered));
        Some(Arc::new(grams.collect()))
    };
    match wanted {
        [true, true] => [finished(grams.clone(), false), finished(grams, true)],
        [true, false] => [finished(grams, false), None],
        [false, true] => [None, finished(grams, true)],
        [false, false] => [None, None],
    }
}

fn view<'l>(graph: &Graph, product: &'l Product, shape: &[usize]) -> Result<View<'l>> {
    let node = graph.node(&product.node);
    let node = node.ok_or_else(|| Error::not_found("does not exist").at(format!("node `{}`", product.node)))?;
    Ok(View {
        input: &product.input,
        reading: Reading::of(node, shape, product.groups)?,
        rank: node.is("Conv").then_some(shape.len()),
    })
}

impl Sum<'_> {
    fn columns(&self) -> usize {
        self.grams.first().map_or(0, Gram::columns)
    }

    /// Adds what the views read of `value`.
    fn take(&mut self, value: &str, input: &Tensor, samples: usize, batch: usize) -> Result<()> {
        for (at, view) in self.views.iter().enumerate().filter(|(_, view)| view.input == value) {
            let located = |error: Error| error.at(format!("value `{value}`"));
            let values = input.to_f32().map_err(|error| located(error.into()))?;
            if values.iter().any(|value| !value.is_finite()) {
                return Err(located(Error::unsupported("is not finite on the calibration data")));
            }
            // A call of fixed batch size comes with an axis that counts calls.
            let rows = match (view.rank, input.shape()) {
                (Some(rank), [1, shape @ ..]) if shape.len() == rank => view.reading.rows(shape, &values),
                (_, shape) => view.reading.rows(shape, &values),
            };
            let rows = rows.map_err(|error| located(error.into()))?;
            if self.grams.iter().any(|gram| gram.columns() != rows.columns()) {
                return Err(located(Error::unsupported(
                    "does not fit the weights that it is multiplied with",
                )));
            }
            if self.strides[at] == 0 {
                let total = rows.count().div_ceil(batch.max(1)).saturating_mul(samples);
                self.strides[at] = total.div_ceil(MOST_ROWS).max(1) as u64;
            }
            let mut row = vec![0.0; rows.columns()];
            for number in 0..rows.count() {
                let taken = is_taken(self.seen[at], self.strides[at]);
                self.seen[at] += 1;
                if !taken {
                    continue;
                }
                for (group, gram) in self.grams.iter_mut().enumerate() {
                    rows.write(group, number, &mut row);
                    gram.add(&row);
                }
            }
        }
        Ok(())
    }
}
