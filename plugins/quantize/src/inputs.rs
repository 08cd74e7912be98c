//! What layers multiply their weights with on calibration data: means, and the products of every two inputs.

use kmr_methods::gram::{Gram, is_taken};
use kmr_sdk::{
    Error, Host, Result,
    model::{Graph, Tensor, windows::Reading},
};
use rayon::prelude::*;

pub use kmr_methods::gram::Inputs;

use crate::{
    calibration::each_batch,
    layers::{Layer, Use},
};

/// Rows that a Gram matrix is made from at most, spread evenly over samples and places: beyond a few for each column
/// more of them change nothing.
const MOST_ROWS: usize = 16_384;
/// A product of a layer, while its inputs are added up.
struct Watched<'l> {
    /// The position of its layer.
    layer: usize,
    input: &'l str,
    reading: Reading,
    /// The rank of what a convolution reads.
    rank: Option<usize>,
    /// One row in so many is taken, by a fixed pattern without a period.
    stride: u64,
    seen: u64,
}

/// The inputs of `layers` on the calibration data, of each group; none for a layer whose inputs cannot be observed. The
/// layers that `centered` names by position have their means taken away.
///
/// # Errors
/// If there is no calibration data, the candidate cannot be run, or an input is not finite.
pub fn observe(
    host: &Host<'_>,
    graph: &Graph,
    layers: &[Layer],
    centered: impl Fn(usize) -> bool + Sync,
    samples: usize,
) -> Result<Vec<Option<Vec<Inputs>>>> {
    let mut watched = Vec::new();
    let mut sums: Vec<Option<Vec<Gram>>> = Vec::new();
    for (position, layer) in layers.iter().enumerate() {
        let Use::Products(products) = &layer.reads else {
            sums.push(None);
            continue;
        };
        let columns = layer.columns();
        sums.push(Some((0..layer.groups().max(1)).map(|_| Gram::new(columns)).collect()));
        for product in products {
            let node = graph.node(&product.node);
            let node = node.ok_or_else(|| Error::not_found("does not exist").at(format!("node `{}`", product.node)))?;
            watched.push(Watched {
                layer: position,
                input: &product.input,
                reading: Reading::of(node, &layer.shape, product.groups)?,
                rank: node.is("Conv").then_some(layer.shape.len()),
                stride: 0,
                seen: 0,
            });
        }
    }
    let mut inputs: Vec<&str> = Vec::new();
    for watch in &watched {
        if !inputs.contains(&watch.input) {
            inputs.push(watch.input);
        }
    }
    each_batch(host, &inputs, samples, "observing the inputs of layers", |_, batch| {
        for (value, tensor) in &batch.outputs {
            for watch in watched.iter_mut().filter(|watch| watch.input == value) {
                if let Some(grams) = &mut sums[watch.layer] {
                    watch.take(tensor, samples, batch.size, grams)?;
                }
            }
        }
        Ok(())
    })?;
    let finished = |(layer, grams): (usize, Option<Vec<Gram>>)| {
        let grams = grams?.into_iter();
        Some(grams.map(|gram| gram.finished(centered(layer))).collect())
    };
    Ok(sums.into_par_iter().enumerate().map(finished).collect())
}

impl Watched<'_> {
    fn take(&mut self, input: &Tensor, samples: usize, batch: usize, grams: &mut [Gram]) -> Result<()> {
        let at = |error: Error| error.at(format!("value `{}`", self.input));
        let values = input.to_f32().map_err(|error| at(error.into()))?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(at(Error::unsupported("is not finite on the calibration data")));
        }
        // A call of fixed batch size comes with an axis that counts calls.
        let rows = match (self.rank, input.shape()) {
            (Some(rank), [1, shape @ ..]) if shape.len() == rank => self.reading.rows(shape, &values),
            (_, shape) => self.reading.rows(shape, &values),
        };
        let rows = rows.map_err(|error| at(error.into()))?;
        if grams.iter().any(|gram| gram.columns() != rows.columns()) {
            return Err(at(Error::unsupported(
                "does not fit the weights that it is multiplied with",
            )));
        }
        if self.stride == 0 {
            let total = rows.count().div_ceil(batch.max(1)) * samples;
            self.stride = total.div_ceil(MOST_ROWS).max(1) as u64;
        }
        let mut row = vec![0.0; rows.columns()];
        for number in 0..rows.count() {
            let taken = is_taken(self.seen, self.stride);
            self.seen += 1;
            if !taken {
                continue;
            }
            for (group, gram) in grams.iter_mut().enumerate() {
                rows.write(group, number, &mut row);
                gram.add(&row);
            }
        }
        Ok(())
    }
}
