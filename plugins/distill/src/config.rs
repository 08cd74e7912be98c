//! The manifest's `config` table.

use kmr_methods::schedule::{Decay, Schedule};
use kmr_sdk::{Error, Ignore, Method, Optimizer, Result};
use serde::Deserialize;

/// How a model is trained.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The model to learn from: `reference`, or a model of the manifest.
    pub teacher: String,
    /// What both models' scores are divided by before they are compared.
    pub temperature: f64,
    /// The share of the soft loss; the rest is that of the labels.
    pub alpha: f64,
    /// What a label leaves to all classes together.
    pub label_smoothing: f64,
    /// The greatest learning rate.
    learning_rate: Option<f64>,
    schedule: ScheduleName,
    warm_up: Option<f64>,
    optimizer: OptimizerName,
    momentum: Option<f64>,
    nesterov: Option<bool>,
    weight_decay: f64,
    clip_norm: Option<f64>,
    /// Samples in a batch.
    pub batch: usize,
    /// Batches in a step.
    pub accumulate: usize,
    /// The value that holds the logits.
    pub output: Option<String>,
    /// The teacher's, where it has another name.
    pub teacher_output: Option<String>,
    /// The axis of the logits that counts classes.
    pub class_axis: Option<i64>,
    /// Inner values that are to be like the teacher's.
    pub features: Vec<FeaturePair>,
    /// What is trained; everything, if there are no patterns.
    pub train: Option<Ignore>,
    /// What is not.
    pub ignore: Ignore,
    /// Whether weights that are stored as integers, or in 16 bits, are trained.
    pub quantization_aware: bool,
    /// Whether weights that are zero stay zero.
    pub keep_zeros: bool,
    /// Whether samples are augmented as the manifest says.
    pub augment: bool,
    /// Whether batch normalizations use each batch's own statistics.
    pub batch_statistics: Option<bool>,
    /// The decay of a moving average of the weights, which is kept in the end.
    pub average: Option<f64>,
    /// The seed of the order of samples, of augmentation and of projections.
    pub seed: Option<u64>,
    /// Passes over the data, where they are no knob.
    pub epochs: Option<f64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            teacher: REFERENCE.into(),
            temperature: 4.0,
            alpha: 0.9,
            label_smoothing: 0.0,
            learning_rate: None,
            schedule: ScheduleName::OneCycle,
            warm_up: None,
            optimizer: OptimizerName::Sgd,
            momentum: None,
            nesterov: None,
            weight_decay: 5e-4,
            clip_norm: None,
            batch: 100,
            accumulate: 1,
            output: None,
            teacher_output: None,
            class_axis: None,
            features: Vec::new(),
            train: None,
            ignore: Ignore::default(),
            quantization_aware: true,
            keep_zeros: true,
            augment: true,
            batch_statistics: None,
            average: None,
            seed: None,
            epochs: None,
        }
    }
}

/// The host's name for the model before anything changed it.
pub const REFERENCE: &str = "reference";

/// An inner value that is to be like one of the teacher's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeaturePair {
    /// The value in the model that is trained.
    pub student: String,
    /// The value in the teacher; the same name, if none is given.
    pub teacher: Option<String>,
    /// What the mean square of their difference is multiplied by.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ScheduleName {
    OneCycle,
    Cosine,
    Constant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum OptimizerName {
    Sgd,
    AdamW,
}

impl Config {
    /// Refuses what contradicts itself.
    ///
    /// # Errors
    /// The first key whose value is outside of its domain.
    pub fn check(&self) -> Result<()> {
        let numbers = [
            (
                "temperature",
                self.temperature,
                self.temperature > 0.0,
                "greater than 0",
            ),
            ("alpha", self.alpha, (0.0..=1.0).contains(&self.alpha), "from 0 to 1"),
            (
                "label_smoothing",
                self.label_smoothing,
                (0.0..1.0).contains(&self.label_smoothing),
                "from 0 to less than 1",
            ),
            (
                "learning_rate",
                self.learning_rate(),
                self.learning_rate() > 0.0,
                "greater than 0",
            ),
            (
                "warm_up",
                self.warm_up(),
                (0.0..=1.0).contains(&self.warm_up()),
                "from 0 to 1",
            ),
            (
                "momentum",
                self.momentum(),
                (0.0..1.0).contains(&self.momentum()),
                "from 0 to less than 1",
            ),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "0 or more"),
            (
                "clip_norm",
                self.clip_norm.unwrap_or(1.0),
                self.clip_norm.is_none_or(|norm| norm > 0.0),
                "greater than 0",
            ),
            (
                "average",
                self.average.unwrap_or(0.0),
                self.average.is_none_or(|decay| (0.0..1.0).contains(&decay)),
                "from 0 to less than 1",
            ),
        ];
        for (key, value, holds, domain) in numbers {
            if !holds || !value.is_finite() {
                return Err(refused(key, format!("has to be {domain}; got {value}")));
            }
        }
        for (key, count) in [("batch", self.batch), ("accumulate", self.accumulate)] {
            if count == 0 {
                return Err(refused(key, "has to be 1 or more; got 0"));
            }
        }
        for (at, pair) in self.features.iter().enumerate() {
            if !(pair.weight > 0.0 && pair.weight.is_finite()) {
                let message = format!("has to be greater than 0; got {}", pair.weight);
                return Err(refused(&format!("features[{at}].weight"), message));
            }
        }
        let of_sgd = [
            ("momentum", self.momentum.is_some()),
            ("nesterov", self.nesterov.is_some()),
        ];
        if let Some((key, _)) = of_sgd
            .iter()
            .find(|(_, given)| *given && self.optimizer == OptimizerName::AdamW)
        {
            return Err(refused(
                key,
                "belongs to the optimizer \"sgd\"; remove it, or the optimizer \"adamw\"",
            ));
        }
        if self.nesterov == Some(true) && self.momentum() == 0.0 {
            return Err(refused("nesterov", "needs a momentum greater than 0"));
        }
        self.schedule().map(|_| ())
    }

    /// How weights are moved.
    pub fn optimizer(&self) -> Optimizer {
        let method = match self.optimizer {
            OptimizerName::Sgd => Method::Sgd {
                momentum: self.momentum(),
                nesterov: self.nesterov.unwrap_or(self.momentum() > 0.0),
            },
            OptimizerName::AdamW => Method::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
            },
        };
        Optimizer {
            method,
            weight_decay: self.weight_decay,
            clip_norm: self.clip_norm,
        }
    }

    /// The learning rate over all steps.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn schedule(&self) -> Result<Schedule> {
        let decay = match self.schedule {
            ScheduleName::Constant => Decay::Constant,
            ScheduleName::OneCycle | ScheduleName::Cosine => Decay::Cosine,
        };
        Schedule::new(self.learning_rate(), self.warm_up(), decay)
            .map_err(|error| refused("schedule", error.to_string()))
    }

    /// The greatest learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate.unwrap_or(match self.optimizer {
            OptimizerName::Sgd => 0.02,
            OptimizerName::AdamW => 0.001,
        })
    }

    fn warm_up(&self) -> f64 {
        self.warm_up.unwrap_or(match self.schedule {
            ScheduleName::OneCycle => 0.2,
            _ => 0.0,
        })
    }

    fn momentum(&self) -> f64 {
        self.momentum.unwrap_or(0.9)
    }
}

/// An error about a key of this table.
pub fn refused(key: &str, message: impl Into<String>) -> Error {
    Error::invalid_configuration(message).at(format!("config.{key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Result<Config> {
        let config: Config = kmr_sdk::serde_json::from_str(config).map_err(Error::from)?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn defaults_hold() {
        let config = read("{}").unwrap();
        assert_eq!(config.learning_rate(), 0.02);
        assert_eq!(config.optimizer().method, Method::default());
        let config = read(r#"{"optimizer": "adamw", "schedule": "cosine"}"#).unwrap();
        assert_eq!((config.learning_rate(), config.warm_up()), (0.001, 0.0));
    }

    #[test]
    fn each_key_has_a_domain() {
        for (config, key) in [
            (
                r#"{"temperature": 0}"#,
                "config.temperature: has to be greater than 0; got 0",
            ),
            (r#"{"alpha": 1.5}"#, "config.alpha: has to be from 0 to 1"),
            (r#"{"label_smoothing": 1}"#, "config.label_smoothing"),
            (r#"{"learning_rate": -1}"#, "config.learning_rate"),
            (r#"{"warm_up": 2}"#, "config.warm_up"),
            (r#"{"momentum": 1}"#, "config.momentum"),
            (r#"{"weight_decay": -1}"#, "config.weight_decay"),
            (r#"{"clip_norm": 0}"#, "config.clip_norm"),
            (r#"{"average": 1}"#, "config.average"),
            (r#"{"batch": 0}"#, "config.batch: has to be 1 or more"),
            (r#"{"accumulate": 0}"#, "config.accumulate"),
            (
                r#"{"features": [{"student": "x", "weight": 0}]}"#,
                "config.features[0].weight",
            ),
            (
                r#"{"optimizer": "adamw", "momentum": 0.5}"#,
                "config.momentum: belongs to",
            ),
            (r#"{"momentum": 0, "nesterov": true}"#, "config.nesterov"),
            (r#"{"schedule": "linear"}"#, "unknown variant `linear`"),
            (r#"{"momenta": 3}"#, "unknown field `momenta`"),
        ] {
            let error = read(config).unwrap_err().to_string();
            assert!(error.contains(key), "{config}: {error}");
        }
    }
}
