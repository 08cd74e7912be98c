//! What extensions ask of the host, and the host of a meter.

use kmr_abi::CANDIDATE;
use serde::{Deserialize, Serialize};

/// Which part of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What rules may see.
    #[default]
    Calibration,
    /// What the model is being judged on. Meters alone may see it.
    Evaluation,
}

/// Runs a model over data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunRequest {
    /// `candidate`, `reference`, or a model of the manifest.
    pub model: String,
    /// The data.
    pub split: Split,
    /// The values wanted, inner ones too; none named means the model's outputs.
    pub outputs: Vec<String>,
    /// Samples per batch; the host chooses if none is given.
    pub batch: Option<usize>,
    /// How many samples, from the beginning; all if none is given.
    pub limit: Option<usize>,
}

impl Default for RunRequest {
    fn default() -> Self {
        Self {
            model: CANDIDATE.into(),
            split: Split::Calibration,
            outputs: Vec::new(),
            batch: None,
            limit: None,
        }
    }
}

/// A statistic of a value, per channel, over samples and places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Statistic {
    /// Smallest.
    Min,
    /// Greatest.
    Max,
    /// Mean.
    Mean,
    /// Mean of absolute values.
    MeanAbs,
    /// Mean of squares.
    MeanSquare,
    /// Population variance.
    Variance,
    /// Mean of the products of every two channels: XᵀX / n, channels × channels.
    Gram,
}

impl Statistic {
    /// Its name in documents.
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

/// What batch normalization does while observing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNorm {
    /// It uses its stored mean and variance.
    #[default]
    Running,
    /// It uses the data's own.
    Batch,
}

/// Statistics of values of the candidate over the calibration data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObserveRequest {
    /// The values.
    pub values: Vec<String>,
    /// The statistics of each.
    pub statistics: Vec<Statistic>,
    /// The dimension that channels lie along; 1 for images. Negative counts from the last.
    pub channel_axis: i64,
    /// How many samples; all if none is given.
    pub samples: Option<usize>,
    /// What batch normalization does.
    pub batch_norm: BatchNorm,
}

impl Default for ObserveRequest {
    fn default() -> Self {
        Self {
            values: Vec::new(),
            statistics: Vec::new(),
            channel_axis: 1,
            samples: None,
            batch_norm: BatchNorm::Running,
        }
    }
}

/// Opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRequest {
    /// `candidate`, `reference`, or a model of the manifest.
    pub model: String,
    /// The data.
    pub split: Split,
    /// The initializers to differentiate by.
    pub trainable: Vec<String>,
    /// Samples per batch; the host chooses if none is given.
    pub batch: Option<usize>,
    /// The seed of the order of samples.
    pub seed: u64,
}

impl Default for SessionRequest {
    fn default() -> Self {
        Self {
            model: CANDIDATE.into(),
            split: Split::Calibration,
            trainable: Vec::new(),
            batch: None,
            seed: 0,
        }
    }
}

/// Asks a meter to measure the candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasureRequest {
    /// The data to judge it on.
    #[serde(default)]
    pub split: Split,
    /// How many samples, from the beginning; all if none is given.
    #[serde(default)]
    pub limit: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_have_the_published_shape() {
        let request = RunRequest {
            outputs: vec!["logits".into()],
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"model":"candidate","split":"calibration","outputs":["logits"],"batch":null,"limit":null}"#
        );
        let observe: ObserveRequest =
            serde_json::from_str(r#"{"values":["x"],"statistics":["mean_abs","gram"],"later":1}"#).unwrap();
        assert_eq!(observe.statistics, [Statistic::MeanAbs, Statistic::Gram]);
        assert_eq!(observe.channel_axis, 1);
        for statistic in observe.statistics {
            assert_eq!(serde_json::to_value(statistic).unwrap(), statistic.name());
        }
    }
}
