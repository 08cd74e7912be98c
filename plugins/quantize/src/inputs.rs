//! What layers multiply their weights with on calibration data: means, and the products of every two inputs.

use kmr_sdk::{
    Error, Host, Result, RunRequest,
    model::{Graph, Tensor},
};
use rayon::prelude::*;

use crate::{
    layers::{Layer, Use},
    windows::Reading,
};

/// Rows that a Gram matrix is made from at most, spread evenly over samples and places: beyond a few for each column
/// more of them change nothing.
const MOST_ROWS: usize = 16_384;
/// Rows that are added at once, in float32, before they go into the sum in float64.
const BLOCK: usize = 64;
/// Values that are asked for in one pass, and samples in a batch: what is held at once.
const VALUES: usize = 24;
const BATCH: usize = 16;

/// The inputs of one group of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The mean of every column.
    pub means: Vec<f32>,
    /// XᵀX / n, columns × columns.
    pub gram: Vec<f64>,
}

impl Inputs {
    /// The Gram matrix of what is left when the means are taken away.
    pub fn covariance(&self) -> Vec<f64> {
        let columns = self.means.len();
        let mean = |at: usize| f64::from(self.means[at]);
        let products = self.gram.iter().enumerate();
        products
            .map(|(at, product)| product - mean(at / columns) * mean(at % columns))
            .collect()
    }
}

/// [`Inputs`] while they are added up.
#[derive(Clone, Debug)]
struct Gram {
    columns: usize,
    rows: u64,
    totals: Vec<f64>,
    /// `columns` × `columns`, the upper triangle until [`finished`](Self::finished).
    sums: Vec<f64>,
    /// Up to [`BLOCK`] rows, each column's numbers side by side.
    block: Vec<f32>,
    held: usize,
}

impl Gram {
    fn new(columns: usize) -> Self {
        Self {
            columns,
            rows: 0,
            totals: vec![0.0; columns],
            sums: vec![0.0; columns * columns],
            block: vec![0.0; columns * BLOCK],
            held: 0,
        }
    }

    fn add(&mut self, row: &[f32]) {
        for (column, &value) in row.iter().enumerate() {
            self.block[column * BLOCK + self.held] = value;
            self.totals[column] += f64::from(value);
        }
        self.rows += 1;
        self.held += 1;
        if self.held == BLOCK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Self {
            columns,
            sums,
            block,
            held,
            ..
        } = self;
        let columns = *columns;
        if *held < BLOCK {
            block.chunks_mut(BLOCK).for_each(|column| column[*held..].fill(0.0));
        }
        sums.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, sums)| {
            let own = &block[row * BLOCK..][..BLOCK];
            for (sum, other) in sums[row..].iter_mut().zip(block[row * BLOCK..].chunks_exact(BLOCK)) {
                *sum += f64::from(dot(own, other));
            }
        });
        *held = 0;
    }

    fn finished(mut self) -> Inputs {
        self.flush();
        let count = self.rows.max(1) as f64;
        let columns = self.columns;
        let entry = |at: usize| {
            let (row, column) = (at / columns, at % columns);
            self.sums[row.min(column) * columns + row.max(column)] / count
        };
        Inputs {
            means: self.totals.iter().map(|total| (total / count) as f32).collect(),
            gram: (0..columns * columns).map(entry).collect(),
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0_f32; LANES];
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum()
}

/// A product of a layer, while its inputs are added up.
struct Watched<'l> {
    /// The position of its layer.
    layer: usize,
    input: &'l str,
    reading: Reading,
    /// One row in so many is taken, by a fixed pattern without a period.
    stride: u64,
    seen: u64,
}

/// The inputs of `layers` on the calibration data, of each group; none for a layer whose inputs cannot be observed.
///
/// # Errors
/// If there is no calibration data, the candidate cannot be run, or an input is not finite.
pub fn observe(host: &Host<'_>, graph: &Graph, layers: &[&Layer], samples: usize) -> Result<Vec<Option<Vec<Inputs>>>> {
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
    let passes = inputs.len().div_ceil(VALUES).max(1);
    for (pass, values) in inputs.chunks(VALUES).enumerate() {
        let request = RunRequest {
            outputs: values.iter().map(|&value| value.to_owned()).collect(),
            batch: Some(BATCH),
            limit: Some(samples),
            ..Default::default()
        };
        for batch in host.run(&request)? {
            let batch = batch?;
            host.progress(pass as f64 / passes as f64, "observing the inputs of layers")?;
            for (value, tensor) in &batch.outputs {
                for watch in watched.iter_mut().filter(|watch| watch.input == value) {
                    if let Some(grams) = &mut sums[watch.layer] {
                        watch.take(tensor, samples, batch.size, grams)?;
                    }
                }
            }
        }
    }
    Ok(sums
        .into_par_iter()
        .map(|grams| Some(grams?.into_iter().map(Gram::finished).collect()))
        .collect())
}

impl Watched<'_> {
    fn take(&mut self, input: &Tensor, samples: usize, batch: usize, grams: &mut [Gram]) -> Result<()> {
        let at = |error: Error| error.at(format!("value `{}`", self.input));
        let values = input.to_f32().map_err(|error| at(error.into()))?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(at(Error::unsupported("is not finite on the calibration data")));
        }
        let rows = self.reading.rows(input, &values).map_err(at)?;
        if grams.iter().any(|gram| gram.columns != rows.columns()) {
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
            let taken = spread(self.seen) < u64::MAX / self.stride;
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

/// A number that looks random for each position (the finalizer of SplitMix64).
fn spread(position: u64) -> u64 {
    let mut mixed = position.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
