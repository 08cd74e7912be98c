//! What extensions ask of the host, and the host of a meter.

use kmr_abi::CANDIDATE;
use serde::{Deserialize, Serialize};

use super::EditRequest;

/// Which part of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What rules may see.
    #[default]
    Calibration,
    /// What rules may train on: the manifest's `data.training`, or the calibration data where there is none.
    Training,
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
    /// Whether the host may keep values of this run and start later ones of the same call from them, as far as no edit
    /// reaches them. Results are the same: this is for rules that go through a model layer by layer, and edit on the way.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
}

impl Default for RunRequest {
    fn default() -> Self {
        Self {
            model: CANDIDATE.into(),
            split: Split::Calibration,
            outputs: Vec::new(),
            batch: None,
            limit: None,
            hold: false,
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SessionRequest {
    /// `candidate`, `reference`, or a model of the manifest.
    pub model: String,
    /// The data.
    pub split: Split,
    /// The initializers to differentiate by, and to train.
    pub trainable: Vec<String>,
    /// Samples per batch; the host chooses if none is given.
    pub batch: Option<usize>,
    /// The seed of the order of samples, of augmentation and of dropout.
    pub seed: u64,
    /// How many samples, from the beginning; all if none is given.
    pub samples: Option<usize>,
    /// Whether a last batch that is not full is left out.
    pub whole_batches: bool,
    /// Whether samples are augmented as the manifest's `data.augment` says.
    pub augment: bool,
    /// Whether rounding counts as the identity in derivatives, within its range: QuantizeLinear, Round and
    /// the like.
    pub straight_through: bool,
    /// How [`step`](crate::Session::step) moves tensors.
    pub optimizer: Optimizer,
    /// Edits of the model that this session alone sees.
    pub edits: Option<EditRequest>,
}

impl Default for SessionRequest {
    fn default() -> Self {
        Self {
            model: CANDIDATE.into(),
            split: Split::Calibration,
            trainable: Vec::new(),
            batch: None,
            seed: 0,
            samples: None,
            whole_batches: false,
            augment: false,
            straight_through: false,
            optimizer: Optimizer::default(),
            edits: None,
        }
    }
}

/// How gradients move tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Optimizer {
    /// The method.
    pub method: Method,
    /// How strongly tensors of two or more axes shrink. In [`Method::Sgd`] it is added to the gradient; in
    /// [`Method::AdamW`] it is apart from it ("Decoupled Weight Decay Regularization", arXiv 1711.05101).
    pub weight_decay: f64,
    /// The greatest norm of the whole gradient; a longer one is scaled down to it.
    pub clip_norm: Option<f64>,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            method: Method::default(),
            weight_decay: 0.0,
            clip_norm: None,
        }
    }
}

/// An optimizer's method.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Method {
    /// Stochastic gradient descent; `v = momentum · v + g`, `w -= rate · v`, or `w -= rate · (g + momentum · v)`
    /// after Nesterov.
    Sgd {
        /// The share of the last movement that goes on.
        #[serde(default)]
        momentum: f64,
        /// Whether the gradient is looked up ahead.
        #[serde(default)]
        nesterov: bool,
    },
    /// Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW {
        /// Decay of the mean of gradients.
        #[serde(default = "first")]
        beta1: f64,
        /// Decay of the mean of their squares.
        #[serde(default = "second")]
        beta2: f64,
        /// What is added to the root of the squares.
        #[serde(default = "epsilon")]
        epsilon: f64,
    },
}

fn first() -> f64 {
    0.9
}

fn second() -> f64 {
    0.999
}

fn epsilon() -> f64 {
    1e-8
}

impl Default for Method {
    fn default() -> Self {
        Self::Sgd {
            momentum: 0.9,
            nesterov: true,
        }
    }
}

/// One step of an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Update {
    /// How far.
    pub learning_rate: f64,
}

/// What a step of an optimizer did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Updated {
    /// The norm of the whole gradient, before it was clipped.
    pub gradient_norm: f64,
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
