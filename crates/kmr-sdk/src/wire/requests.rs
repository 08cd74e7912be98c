//! Requests to the host.

use serde::{Deserialize, Serialize};

/// Which model to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelChoice {
    /// The candidate, edits of this call included.
    #[default]
    Candidate,
    /// The model that the run started from.
    Reference,
}

/// Which data to run it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What rules may read.
    #[default]
    Calibration,
    /// What the candidate is judged by at this moment; for meters alone.
    Evaluation,
}

/// A request to [`Host::run`](crate::Host::run).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunRequest {
    /// The model.
    pub model: ModelChoice,
    /// The data.
    pub split: Split,
    /// The values to put out; none means the model's outputs.
    pub outputs: Vec<String>,
    /// Samples to a batch; the host chooses when absent.
    pub batch: Option<usize>,
    /// The most samples to run.
    pub limit: Option<usize>,
}

/// How batch norms behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormMode {
    /// By their stored statistics, as when deployed.
    #[default]
    Running,
    /// By the statistics of the batch, as in training.
    Batch,
}

/// A statistic of a value, per channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// The smallest element.
    Min,
    /// The greatest element.
    Max,
    /// The mean.
    Mean,
    /// The mean of absolute values.
    MeanAbs,
    /// The mean of squares.
    MeanSquare,
    /// The variance.
    Variance,
    /// The mean outer product over channels, `[channels, channels]`.
    Gram,
}

impl Statistic {
    /// The name that follows the value's in the answer, as in `relu1/mean`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanAbs => "mean_abs",
            Self::MeanSquare => "mean_square",
            Self::Variance => "variance",
            Self::Gram => "gram",
        }
    }
}

/// A request to [`Host::observe`](crate::Host::observe): statistics on calibration data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObserveRequest {
    /// The values.
    pub values: Vec<String>,
    /// The statistics of each.
    pub statistics: Vec<Statistic>,
    /// The axis of channels.
    #[serde(default = "one")]
    pub channel_axis: i64,
    /// The most samples to look at.
    #[serde(default)]
    pub samples: Option<usize>,
    /// How batch norms behave meanwhile.
    #[serde(default)]
    pub batch_norm: BatchNormMode,
}

fn one() -> i64 {
    1
}

/// A request to [`Host::open_session`](crate::Host::open_session).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionRequest {
    /// The model.
    pub model: ModelChoice,
    /// The tensors to have gradients of.
    pub trainable: Vec<String>,
    /// Samples to a batch; the host chooses when absent.
    pub batch: Option<usize>,
    /// The seed of the order of samples; none keeps the order of the data.
    pub seed: Option<u64>,
}

/// A request to a meter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeasureRequest {
    /// The data to measure on.
    pub split: Split,
}
