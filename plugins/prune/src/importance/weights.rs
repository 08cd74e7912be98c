//! How much each single weight matters.

use kmr_sdk::{Host, Result, model::Graph};
use serde::Deserialize;

use super::{ElementScores, magnitude, wanda};
use crate::weights::Weight;

/// What a single weight is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// Its absolute value, compared in the whole tensor.
    #[default]
    L1,
    /// Its absolute value times the norm of what it multiplies, compared for each output.
    Wanda,
    /// What its loss costs the layer's outputs when the weights that remain make up for it, compared for each output.
    #[serde(rename = "sparsegpt")]
    SparseGpt,
}

impl Importance {
    /// Whether the same share of every output's weights goes.
    pub fn compares_outputs(self) -> bool {
        matches!(self, Self::Wanda | Self::SparseGpt)
    }
}

/// The scores of `weights`. SparseGPT makes its own while it goes through the model; until then, magnitudes tell how
/// many zeros there will be.
///
/// # Errors
/// If the host cannot observe the model, or a weight is no finite number.
pub fn scores(
    host: &Host<'_>,
    graph: &Graph,
    weights: &[Weight],
    importance: Importance,
    samples: usize,
) -> Result<ElementScores> {
    match importance {
        Importance::L1 | Importance::SparseGpt => {
            magnitude::scores(graph, weights.iter().map(|weight| weight.tensor.as_str()))
        }
        Importance::Wanda => wanda::scores(host, graph, weights, samples),
    }
}
