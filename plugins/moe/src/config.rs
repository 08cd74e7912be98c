//! What the manifest's `config` tables say.

use kmr_sdk::{Error, Ignore, Result};
use serde::Deserialize;

/// Experts that a layer may be split into.
pub const MOST_EXPERTS: usize = 256;

/// The configuration of `moe_top_k`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopKConfig {
    /// Whether the weights of the experts that are left are divided by their sum, where the model does not do so.
    pub renormalize: bool,
    pub ignore: Ignore,
}

/// What becomes of the experts that are not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// They go.
    #[default]
    Drop,
    /// Each goes into the kept one that it is most like.
    Merge,
}

/// What tells which experts are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// The layer's outputs are to stay as they are.
    #[default]
    Error,
    /// How much weight tokens give them.
    Usage,
    /// Of two that are alike, one is enough.
    Similarity,
}

/// The configuration of `moe_experts`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpertsConfig {
    pub method: Method,
    pub importance: Importance,
    /// Calibration samples that are run.
    pub samples: usize,
    /// Tokens of these that count.
    pub tokens: usize,
    pub ignore: Ignore,
}

impl Default for ExpertsConfig {
    fn default() -> Self {
        Self {
            method: Method::default(),
            importance: Importance::default(),
            samples: 64,
            tokens: 1024,
            ignore: Ignore::default(),
        }
    }
}

impl ExpertsConfig {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn check(&self) -> Result<()> {
        at_least_one(&[("samples", self.samples), ("tokens", self.tokens)])
    }
}

/// What neurons are clustered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cluster {
    /// The tokens that they are active on.
    #[default]
    Activation,
    /// What they read.
    Weights,
}

/// The configuration of `moe_split`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// How many experts a layer becomes.
    pub experts: usize,
    /// How many of the active ones are the same for every token.
    pub shared: usize,
    pub cluster: Cluster,
    /// Rounds of clustering.
    pub rounds: usize,
    /// Calibration samples that are run.
    pub samples: usize,
    /// Tokens of these that count.
    pub tokens: usize,
    /// The penalty of the router's weights.
    pub damping: f64,
    /// Whether the last product is fitted to what is computed.
    pub refit: bool,
    /// How routers are trained; where nothing is said, they are not.
    pub train: Option<TrainConfig>,
    pub ignore: Ignore,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            experts: 8,
            shared: 1,
            cluster: Cluster::default(),
            rounds: 10,
            samples: 128,
            tokens: 4096,
            damping: 0.01,
            refit: true,
            train: None,
            ignore: Ignore::default(),
        }
    }
}

impl SplitConfig {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// The first key that does not.
    pub fn check(&self) -> Result<()> {
        at_least_one(&[
            ("rounds", self.rounds),
            ("samples", self.samples),
            ("tokens", self.tokens),
        ])?;
        if !(2..=MOST_EXPERTS).contains(&self.experts) {
            return refuse(
                "experts",
                format!("has to be 2 to {MOST_EXPERTS}; got {}", self.experts),
            );
        }
        if self.shared + 1 >= self.experts {
            let message = format!(
                "leaves nothing to choose; let it be less than {} of {} experts",
                self.experts - 1,
                self.experts
            );
            return refuse("shared", message);
        }
        if !(self.damping > 0.0 && self.damping.is_finite()) {
            return refuse("damping", format!("has to be greater than 0; got {}", self.damping));
        }
        self.train.as_ref().map_or(Ok(()), TrainConfig::check)
    }
}

/// How routers are trained.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training data.
    pub epochs: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Samples for each step.
    pub batch: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 4,
            learning_rate: 0.001,
            batch: 16,
        }
    }
}

impl TrainConfig {
    fn check(&self) -> Result<()> {
        at_least_one(&[("train.epochs", self.epochs), ("train.batch", self.batch)])?;
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            let message = format!("has to be greater than 0; got {}", self.learning_rate);
            return refuse("train.learning_rate", message);
        }
        Ok(())
    }
}

fn at_least_one(counts: &[(&str, usize)]) -> Result<()> {
    match counts.iter().find(|&&(_, count)| count == 0) {
        Some((key, _)) => refuse(key, "has to be 1 or more; got 0"),
        None => Ok(()),
    }
}

fn refuse<T>(key: &str, message: impl Into<String>) -> Result<T> {
    Err(Error::invalid_configuration(message).at(format!("config.{key}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_told() {
        let split = |text: &str| -> Result<()> { kmr_sdk::serde_json::from_str::<SplitConfig>(text)?.check() };
        let experts = |text: &str| -> Result<()> { kmr_sdk::serde_json::from_str::<ExpertsConfig>(text)?.check() };
        assert!(split("{}").is_ok() && experts("{}").is_ok());
        for (told, expected) in [
            (split(r#"{"experts": 1}"#), "config.experts: has to be 2 to 256; got 1"),
            (
                split(r#"{"experts": 4, "shared": 3}"#),
                "config.shared: leaves nothing to choose",
            ),
            (split(r#"{"damping": 0}"#), "config.damping: has to be greater than 0"),
            (split(r#"{"tokens": 0}"#), "config.tokens: has to be 1 or more"),
            (
                split(r#"{"train": {"epochs": 0}}"#),
                "config.train.epochs: has to be 1 or more",
            ),
            (
                split(r#"{"train": {"learning_rate": -1}}"#),
                "config.train.learning_rate: has to be greater than 0",
            ),
            (split(r#"{"cluster": "colour"}"#), "unknown variant `colour`"),
            (experts(r#"{"samples": 0}"#), "config.samples: has to be 1 or more"),
            (experts(r#"{"keep": 1}"#), "unknown field `keep`"),
        ] {
            let told = told.unwrap_err().to_string();
            assert!(told.starts_with(expected), "{told}");
        }
    }
}
