//! What meters answer about a candidate.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Cost by meter id; lower is better.
pub type Costs = BTreeMap<String, f64>;

/// A quality meter's reading; higher is better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// The point estimate.
    pub value: f64,
    /// How many samples stand behind it.
    pub samples: usize,
    /// One score per sample, in the order of the samples, or empty where the meter has none.
    /// Never written: a policy that is asked a thousand times must not carry them each time.
    #[serde(default, skip_serializing)]
    pub scores: Arc<[f64]>,
}

impl Quality {
    /// A reading without scores.
    pub fn new(value: f64, samples: usize) -> Self {
        Quality {
            value,
            samples,
            scores: Arc::default(),
        }
    }

    /// The mean of the scores, with the scores. NaN when there are none.
    pub fn from_scores(scores: Arc<[f64]>) -> Self {
        let value = scores.iter().sum::<f64>() / scores.len() as f64;
        Quality {
            value,
            samples: scores.len(),
            scores,
        }
    }

    /// The same reading without its scores.
    pub fn without_scores(&self) -> Self {
        Quality::new(self.value, self.samples)
    }
}

/// Everything measured on one candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Every cost, also those without a limit.
    pub costs: Costs,
    /// The quality, where it was measured.
    #[serde(default)]
    pub quality: Option<Quality>,
}

impl Measurement {
    /// The quality's value, where it was measured.
    pub fn quality_value(&self) -> Option<f64> {
        self.quality.as_ref().map(|quality| quality.value)
    }

    pub(crate) fn without_scores(&self) -> Self {
        let quality = self.quality.as_ref().map(Quality::without_scores);
        Measurement {
            costs: self.costs.clone(),
            quality,
        }
    }
}

/// How thoroughly quality is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fidelity {
    /// At most this many samples; absent means all of them, 0 means costs alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Whether the subject may answer with a cheaper, smoother meter than the one of the floor.
    /// Such readings are comparable with one another alone.
    #[serde(default)]
    pub proxy: bool,
}

impl Fidelity {
    /// All samples, the real meter: what accepted steps are judged by.
    pub const FULL: Fidelity = Fidelity {
        samples: None,
        proxy: false,
    };
    /// Costs without quality.
    pub const COSTS: Fidelity = Fidelity {
        samples: Some(0),
        proxy: false,
    };

    /// The proxy on at most this many samples.
    pub fn proxy(samples: usize) -> Self {
        Fidelity {
            samples: Some(samples),
            proxy: true,
        }
    }
}
