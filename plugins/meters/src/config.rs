//! What the manifest's `config` table of a meter holds.

use serde::Deserialize;

/// For meters that compare classes: `top1`, `top5`, `loss`, `agreement` and `kl`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassConfig {
    /// The value that is judged; the model's first output if none is given.
    pub output: Option<String>,
    /// The dimension that the classes lie along; negative counts from the last. Every other dimension after
    /// the samples holds positions, over which a sample's score is the mean.
    pub axis: i64,
    /// Samples per batch; the host chooses if none is given.
    pub batch: Option<usize>,
}

impl Default for ClassConfig {
    fn default() -> Self {
        Self {
            output: None,
            axis: 1,
            batch: None,
        }
    }
}

/// For meters of one output: `cosine`, `sqnr` and `accuracy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutputConfig {
    /// The value that is judged; the model's first output if none is given.
    pub output: Option<String>,
    /// Samples per batch; the host chooses if none is given.
    pub batch: Option<usize>,
}
