//! Statistics of inner values, reduced while a data set streams through.

use std::{collections::BTreeMap, fmt, str::FromStr};

use kmr_model::{DType, Tensor};
use rayon::prelude::*;

use crate::{ComputeError, ErrorKind, Feeds, Mode, Program};

/// A statistic per channel, over all samples and all positions of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Statistic {
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
    /// The mean.
    Mean,
    /// The mean of absolute values.
    MeanAbs,
    /// The mean of squares.
    MeanSquare,
    /// The mean squared distance from the mean (biased: divided by the count).
    Variance,
    /// `[channels, channels]`: the mean of the products of two channels, not centered.
    Gram,
}

impl Statistic {
    /// All of them, with their names.
    const NAMES: [(Self, &'static str); 7] = [
        (Self::Min, "min"),
        (Self::Max, "max"),
        (Self::Mean, "mean"),
        (Self::MeanAbs, "mean_abs"),
        (Self::MeanSquare, "mean_square"),
        (Self::Variance, "variance"),
        (Self::Gram, "gram"),
    ];
}

impl fmt::Display for Statistic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(statistic, _)| statistic == self);
        f.write_str(name.map_or("", |(_, name)| name))
    }
}

impl FromStr for Statistic {
    type Err = ComputeError;

    fn from_str(name: &str) -> Result<Self, ComputeError> {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(statistic, _)| *statistic).ok_or_else(|| {
            let known: Vec<&str> = Self::NAMES.iter().map(|(_, name)| *name).collect();
            ComputeError::new(ErrorKind::Name, format!("statistic `{name}`"), "does not exist")
                .with_help(format!("one of {}", known.join(", ")))
        })
    }
}

/// What to observe.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Values, by name.
    pub values: Vec<String>,
    /// What to compute of each.
    pub statistics: Vec<Statistic>,
    /// The axis that channels lie along; negative ones count from the end.
    pub channel_axis: i64,
    /// How the model is executed.
    pub mode: Mode,
}

/// Runs `program` on all `batches` and reduces the observed values to float32 tensors of shape
/// `[channels]` (`[channels, channels]` for [`Statistic::Gram`]), named `value/statistic`.
///
/// Sums are kept in float64 and in the order of the batches; nothing depends on the number of threads.
/// A NaN makes every statistic of its channel NaN.
///
/// # Errors
/// Those of the batches and of [`Program::forward`]; [`ErrorKind::Shape`] for a value that is not
/// float32, has no such axis or changes its number of channels, and if there was no element at all.
pub fn observe<E: From<ComputeError>>(
    program: &dyn Program,
    batches: impl IntoIterator<Item = Result<Feeds, E>>,
    observation: &Observation,
) -> Result<BTreeMap<String, Tensor>, E> {
    let names: Vec<&str> = observation.values.iter().map(String::as_str).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let gram = observation.statistics.contains(&Statistic::Gram);
    let mut sums: Vec<Option<Sums>> = names.iter().map(|_| None).collect();
    for feeds in batches {
        let values = program.forward(&feeds?, &names, observation.mode)?;
        for ((name, value), sums) in names.iter().zip(values).zip(&mut sums) {
            let batch = Channels::new(name, &value, observation.channel_axis)?;
            let sums = sums.get_or_insert_with(|| Sums::new(batch.channels, gram));
            if sums.channels.len() != batch.channels {
                return Err(wrong(
                    name,
                    format!("had {} channels and then {}", sums.channels.len(), batch.channels),
                )
                .into());
            }
            sums.add(&batch);
        }
    }
    let mut results = BTreeMap::new();
    for (name, sums) in names.iter().zip(sums) {
        let sums = sums
            .filter(|sums| sums.count > 0)
            .ok_or_else(|| wrong(name, "was never seen: there were no samples".into()))?;
        for statistic in &observation.statistics {
            results.insert(format!("{name}/{statistic}"), sums.statistic(*statistic));
        }
    }
    Ok(results)
}

fn wrong(name: &str, message: String) -> ComputeError {
    ComputeError::new(ErrorKind::Shape, format!("value `{name}`"), message)
}

/// One batch of a value, channel by channel.
struct Channels {
    channels: usize,
    /// Elements per channel.
    count: usize,
    /// `[channels][count]`.
    values: Vec<f32>,
}

impl Channels {
    fn new(name: &str, value: &Tensor, axis: i64) -> Result<Self, ComputeError> {
        let shape = value.shape();
        let from_start = if axis < 0 { axis + shape.len() as i64 } else { axis };
        let axis = usize::try_from(from_start).ok().filter(|&axis| axis < shape.len());
        let axis = axis.ok_or_else(|| {
            wrong(
                name,
                format!("has no channel axis {from_start}: its shape is {shape:?}"),
            )
        })?;
        if value.dtype() != DType::FLOAT {
            return Err(wrong(name, format!("is {}; float32 can be observed", value.dtype())));
        }
        let source = value.values::<f32>().map_err(|error| wrong(name, error.to_string()))?;
        let channels = shape[axis];
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let count = inner * outer;
        let mut values = vec![0.0; source.len()];
        if !values.is_empty() {
            values.par_chunks_mut(count).enumerate().for_each(|(channel, values)| {
                for (step, values) in values.chunks_mut(inner).enumerate() {
                    let start = (step * channels + channel) * inner;
                    values.copy_from_slice(&source[start..start + inner]);
                }
            });
        }
        Ok(Self {
            channels,
            count,
            values,
        })
    }

    fn channel(&self, channel: usize) -> &[f32] {
        &self.values[channel * self.count..][..self.count]
    }
}

/// Running sums of one channel.
#[derive(Clone, Copy)]
struct Channel {
    min: f32,
    max: f32,
    mean: f64,
    /// Sum of squared distances from the mean.
    spread: f64,
    absolute: f64,
    square: f64,
}

/// Running sums of one value.
struct Sums {
    count: u64,
    channels: Vec<Channel>,
    /// `[channels][channels]`, the upper triangle; empty if nobody asked.
    products: Vec<f64>,
}

impl Sums {
    fn new(channels: usize, gram: bool) -> Self {
        let empty = Channel {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            mean: 0.0,
            spread: 0.0,
            absolute: 0.0,
            square: 0.0,
        };
        Self {
            count: 0,
            channels: vec![empty; channels],
            products: if gram {
                vec![0.0; channels * channels]
            } else {
                Vec::new()
            },
        }
    }

    fn add(&mut self, batch: &Channels) {
        if batch.count == 0 || batch.channels == 0 {
            return;
        }
        let (before, added) = (self.count as f64, batch.count as f64);
        let total = before + added;
        self.channels.par_iter_mut().enumerate().for_each(|(index, channel)| {
            let values = batch.channel(index);
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / added;
            let spread: f64 = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
            // Two means and spreads merge exactly like this (Chan, Golub and LeVeque 1983).
            let delta = mean - channel.mean;
            channel.mean += delta * added / total;
            channel.spread += spread + delta * delta * before * added / total;
            for &value in values {
                channel.min = least(channel.min, value);
                channel.max = -least(-channel.max, -value);
                channel.absolute += f64::from(value.abs());
                channel.square += f64::from(value) * f64::from(value);
            }
        });
        if !self.products.is_empty() {
            let channels = batch.channels;
            self.products
                .par_chunks_mut(channels)
                .enumerate()
                .for_each(|(row, products)| {
                    for (column, product) in products.iter_mut().enumerate().skip(row) {
                        *product += dot(batch.channel(row), batch.channel(column));
                    }
                });
        }
        self.count += batch.count as u64;
    }

    fn statistic(&self, statistic: Statistic) -> Tensor {
        let count = self.count as f64;
        let channels = self.channels.len();
        let each = |read: fn(&Channel, f64) -> f32| {
            let values = self.channels.iter().map(|channel| read(channel, count));
            Tensor::from_vec(vec![channels], values.collect())
        };
        match statistic {
            Statistic::Min => each(|channel, _| channel.min),
            Statistic::Max => each(|channel, _| channel.max),
            Statistic::Mean => each(|channel, _| channel.mean as f32),
            Statistic::MeanAbs => each(|channel, count| (channel.absolute / count) as f32),
            Statistic::MeanSquare => each(|channel, count| (channel.square / count) as f32),
            Statistic::Variance => each(|channel, count| (channel.spread / count) as f32),
            Statistic::Gram => {
                let values = (0..channels * channels).map(|at| {
                    let (row, column) = (at / channels, at % channels);
                    let upper = row.min(column) * channels + row.max(column);
                    (self.products[upper] / count) as f32
                });
                Tensor::from_vec(vec![channels, channels], values.collect())
            }
        }
    }
}

/// The smaller one, NaN if either is.
fn least(a: f32, b: f32) -> f32 {
    if a.is_nan() || a < b { a } else { b }
}

/// The product of two vectors: float32 within runs that keep their error small, float64 across them.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LANES: usize = 8;
    a.chunks(LANES * 16)
        .zip(b.chunks(LANES * 16))
        .map(|(a, b)| {
            let mut lanes = [0.0_f32; LANES];
            let (heads, tails) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
            let rest = heads.remainder().iter().zip(tails.remainder());
            let rest: f32 = rest.map(|(a, b)| a * b).sum();
            for (a, b) in heads.zip(tails) {
                for lane in 0..LANES {
                    lanes[lane] += a[lane] * b[lane];
                }
            }
            lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + f64::from(rest)
        })
        .sum()
}
