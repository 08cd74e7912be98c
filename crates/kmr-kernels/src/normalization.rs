//! Batch normalization with the statistics of the batch, and its gradients.
//!
//! A channel's elements are read twice, the second time from the second-level cache unless the batch is
//! large. Sums are taken in float64 over a partition of the images that follows their size alone, so no
//! result depends on the number of threads or on the instruction set.

use rayon::prelude::*;

use crate::{
    GeometryError, InstructionSet,
    elementwise::Coefficients,
    moments::{Channel, Planes, Sums},
    output::Output,
};

/// Floats of one channel that are summed one after the other.
const PIECE: usize = 1 << 17;

/// Batch normalization of tensors of shape `[batch, channels, plane]`, in training.
#[derive(Clone, Copy, Debug)]
pub struct BatchNormalization<'a> {
    /// What each normalized channel is multiplied by.
    pub scale: &'a [f32],
    /// What is added to each channel after that.
    pub bias: &'a [f32],
    /// What is added to the variance.
    pub epsilon: f32,
    /// Whether a relu follows.
    pub relu: bool,
}

/// The statistics of a batch, per channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Statistics {
    pub mean: Vec<f32>,
    /// The mean square distance from the mean.
    pub variance: Vec<f32>,
    /// `1 / sqrt(variance + epsilon)`
    pub inverse_deviation: Vec<f32>,
}

/// The gradients of a batch normalization.
#[derive(Clone, Debug, PartialEq)]
pub struct NormalizationGradient {
    /// By the input, of its shape.
    pub input: Vec<f32>,
    /// By the scale, per channel.
    pub scale: Vec<f32>,
    /// By the bias, per channel.
    pub bias: Vec<f32>,
}

/// The division of a tensor into channels and pieces of their images.
#[derive(Clone, Copy)]
struct Partition {
    batch: usize,
    channels: usize,
    plane: usize,
    /// Images of one piece.
    images: usize,
}

impl Partition {
    /// What `function` computes for each piece of `channel`.
    fn pieces<T: Send>(&self, channel: usize, function: impl Fn(Planes) -> T + Sync) -> Vec<T> {
        let one = |piece: usize| {
            let first = piece * self.images;
            function(Planes {
                first: (first * self.channels + channel) * self.plane,
                step: self.channels * self.plane,
                count: self.images.min(self.batch - first),
                length: self.plane,
            })
        };
        match self.batch.div_ceil(self.images) {
            1 => vec![one(0)],
            pieces => (0..pieces).into_par_iter().map(one).collect(),
        }
    }

    /// The totals of the sums that `add` takes over the planes of `channel`.
    fn total(&self, channel: usize, add: impl Fn(Planes, &mut Sums) + Sync) -> [f64; 2] {
        let pieces = self.pieces(channel, |planes| {
            let mut sums = Sums::new();
            add(planes, &mut sums);
            sums
        });
        let mut sums = Sums::new();
        pieces.iter().for_each(|piece| sums.add(piece));
        sums.total()
    }

    /// Elements of one channel, at least one.
    fn elements(&self) -> f64 {
        (self.batch * self.plane).max(1) as f64
    }
}

impl BatchNormalization<'_> {
    /// Normalizes `input` of shape `[batch, channels, plane]` with its own statistics.
    ///
    /// `add`, a tensor of the same shape, is added before the relu. Without elements, the mean and the
    /// variance are zero.
    ///
    /// # Errors
    /// If the sizes do not fit each other.
    pub fn forward(
        &self,
        input: &[f32],
        add: Option<&[f32]>,
        plane: usize,
    ) -> Result<(Vec<f32>, Statistics), GeometryError> {
        let partition = self.partition(input, plane)?;
        if let Some(add) = add {
            same_length("addend", add, input)?;
        }
        let instruction_set = InstructionSet::detect();
        let mut statistics = Vec::new();
        let fill = |target: &Output| {
            let one = |channel: usize| {
                let [sum, squares] = partition.total(channel, |planes, sums| {
                    instruction_set.add_moments(input, planes, sums);
                });
                let mean = sum / partition.elements();
                let variance = (squares / partition.elements() - mean * mean).max(0.0);
                let inverse = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
                let values = self.channel(channel, mean as f32, inverse as f32);
                partition.pieces(channel, |planes| {
                    // SAFETY: the planes of all channels and pieces are disjoint.
                    unsafe { instruction_set.normalize(&values, input, add, planes, target) };
                });
                [mean as f32, variance as f32, inverse as f32]
            };
            statistics = (0..partition.channels).into_par_iter().map(one).collect();
        };
        // SAFETY: the planes of all channels and pieces cover the tensor.
        let output = unsafe { Output::fill(input.len(), fill) };
        let column = |index: usize| statistics.iter().map(|row: &[f32; 3]| row[index]).collect();
        let statistics = Statistics {
            mean: column(0),
            variance: column(1),
            inverse_deviation: column(2),
        };
        Ok((output, statistics))
    }

    /// The gradients, from the input, its statistics, and the cotangent of the output.
    ///
    /// With a relu, its mask is computed again, which is right where nothing was added before it; after
    /// an addition, mask the cotangent with [`relu_gradient`](crate::relu_gradient) and set `relu` to false.
    ///
    /// # Errors
    /// If the sizes do not fit each other.
    pub fn backward(
        &self,
        statistics: &Statistics,
        input: &[f32],
        cotangent: &[f32],
        plane: usize,
    ) -> Result<NormalizationGradient, GeometryError> {
        let partition = self.partition(input, plane)?;
        same_length("cotangent", cotangent, input)?;
        same_length("mean", &statistics.mean, self.scale)?;
        same_length("inverse deviation", &statistics.inverse_deviation, self.scale)?;
        let instruction_set = InstructionSet::detect();
        let mut sums = Vec::new();
        let fill = |target: &Output| {
            let one = |channel: usize| {
                let inverse = statistics.inverse_deviation[channel];
                let values = self.channel(channel, statistics.mean[channel], inverse);
                let [sum, products] = partition.total(channel, |planes, sums| {
                    instruction_set.add_cotangents(&values, input, cotangent, planes, sums);
                });
                let inverse = f64::from(inverse);
                let scale = f64::from(self.scale[channel]) * inverse;
                let coefficients = Coefficients {
                    cotangents: scale as f32,
                    distances: (-scale * inverse * inverse * products / partition.elements()) as f32,
                    constant: (-scale * sum / partition.elements()) as f32,
                };
                partition.pieces(channel, |planes| {
                    // SAFETY: the planes of all channels and pieces are disjoint.
                    unsafe { instruction_set.denormalize(&values, &coefficients, input, cotangent, planes, target) };
                });
                [(products * inverse) as f32, sum as f32]
            };
            sums = (0..partition.channels).into_par_iter().map(one).collect();
        };
        // SAFETY: the planes of all channels and pieces cover the tensor.
        let input = unsafe { Output::fill(input.len(), fill) };
        let column = |index: usize| sums.iter().map(|row: &[f32; 2]| row[index]).collect();
        Ok(NormalizationGradient {
            input,
            scale: column(0),
            bias: column(1),
        })
    }

    fn channel(&self, channel: usize, mean: f32, inverse_deviation: f32) -> Channel {
        Channel {
            mean,
            factor: self.scale[channel] * inverse_deviation,
            bias: self.bias[channel],
            relu: self.relu,
        }
    }

    fn partition(&self, input: &[f32], plane: usize) -> Result<Partition, GeometryError> {
        same_length("bias", self.bias, self.scale)?;
        let channels = self.scale.len();
        let image = channels * plane;
        if !input.len().is_multiple_of(image.max(1)) || (image == 0 && !input.is_empty()) {
            return Err(GeometryError(format!(
                "{} values are not a whole number of images of {channels} channels of {plane}",
                input.len()
            )));
        }
        Ok(Partition {
            batch: input.len() / image.max(1),
            channels,
            plane,
            images: (PIECE / plane.max(1)).max(1),
        })
    }
}

fn same_length(name: &str, values: &[f32], others: &[f32]) -> Result<(), GeometryError> {
    if values.len() == others.len() {
        Ok(())
    } else {
        Err(GeometryError(format!(
            "expected {} values of the {name}; got {}",
            others.len(),
            values.len()
        )))
    }
}
