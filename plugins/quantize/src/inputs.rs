//! What layers multiply their weights with on calibration data: means, and the products of every two inputs.

use kmr_sdk::{
    Error, Host, Result,
    model::{Graph, Tensor},
};
use rayon::prelude::*;

use crate::{
    calibration::each_batch,
    layers::{Layer, Use},
    windows::Reading,
};

/// Rows that a Gram matrix is made from at most, spread evenly over samples and places: beyond a few for each column
/// more of them change nothing.
const MOST_ROWS: usize = 16_384;
/// Rows that are added at once, in float32, before they go into the sum in float64.
const BLOCK: usize = 64;
/// A variance below this part of the square is rounding of float32.
const ROUNDING: f64 = 1e-10;
/// The inputs of one group of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    /// The mean of every column.
    pub means: Vec<f32>,
    /// The mean of xᵀx, columns × columns; where the inputs are centered, of what is left when the means are taken away,
    /// with zeros for columns that hardly vary.
    pub metric: Vec<f64>,
}

/// [`Inputs`] while they are added up.
#[derive(Clone, Debug)]
struct Gram {
    columns: usize,
    rows: u64,
    /// The first row. Products are those of differences from it: where a column hardly varies, products of the numbers
    /// themselves would leave nothing but rounding of its variance.
    origin: Vec<f32>,
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
            origin: Vec::new(),
            totals: vec![0.0; columns],
            sums: vec![0.0; columns * columns],
            block: vec![0.0; columns * BLOCK],
            held: 0,
        }
    }

    fn add(&mut self, row: &[f32]) {
        if self.origin.is_empty() {
            self.origin = row.to_vec();
        }
        for (column, (value, origin)) in row.iter().zip(&self.origin).enumerate() {
            self.block[column * BLOCK + self.held] = value - origin;
            self.totals[column] += f64::from(value - origin);
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

    fn finished(mut self, centered: bool) -> Inputs {
        self.flush();
        self.origin.resize(self.columns, 0.0);
        let count = self.rows.max(1) as f64;
        let columns = self.columns;
        let product = |row: usize, column: usize| self.sums[row.min(column) * columns + row.max(column)] / count;
        let shift = |at: usize| self.totals[at] / count;
        let origin = |at: usize| f64::from(self.origin[at]);
        let varies: Vec<bool> = (0..columns)
            .map(|at| {
                let square = product(at, at);
                square - shift(at) * shift(at) > ROUNDING * (square + origin(at) * origin(at))
            })
            .collect();
        let entry = |row: usize, column: usize| match centered {
            true if varies[row] && varies[column] => product(row, column) - shift(row) * shift(column),
            true => 0.0,
            false => {
                let crossed = origin(row) * shift(column) + shift(row) * origin(column);
                product(row, column) + crossed + origin(row) * origin(column)
            }
        };
        Inputs {
            means: (0..columns).map(|at| (origin(at) + shift(at)) as f32).collect(),
            metric: (0..columns * columns)
                .map(|at| entry(at / columns, at % columns))
                .collect(),
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
        let rows = rows.map_err(at)?;
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
