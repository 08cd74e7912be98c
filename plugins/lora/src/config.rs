//! The configuration of the rules. The README of this folder says what each key does.

use kmr_methods::schedule::{Decay, Schedule};
use kmr_sdk::{Error, Ignore, Method, Optimizer, Result};
use serde::Deserialize;

use crate::{adapter::Scaling, layers::Layer};

/// Where adapters start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Initialize {
    /// They add nothing.
    Zeros,
    /// They add what compression has taken away, as far as their rank goes.
    #[default]
    Error,
}

/// In which norm compression's error is approximated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// That of the layer's outputs on calibration data.
    #[default]
    Outputs,
    /// That of the weights.
    Weights,
}

/// What becomes of adapters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// They go into the weights.
    #[default]
    Merge,
    /// They stay beside them.
    Nodes,
}

/// How the learning rate moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    OneCycle,
    Cosine,
    Constant,
}

/// How adapters are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    Sgd,
    AdamW,
}

/// The configuration of `lora`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub alpha: Option<f64>,
    pub rslora: bool,
    pub initialize: Initialize,
    pub error_norm: Norm,
    pub samples: usize,
    pub allocate: bool,
    pub keep: Keep,
    pub epochs: usize,
    pub teacher: String,
    pub temperature: f64,
    pub soft_share: f64,
    pub label_smoothing: f64,
    pub learning_rate: Option<f64>,
    pub schedule: ScheduleName,
    pub warm_up: Option<f64>,
    pub optimizer: OptimizerName,
    pub weight_decay: f64,
    pub clip_norm: Option<f64>,
    pub dropout: f64,
    pub batch: usize,
    pub output: Option<String>,
    pub class_axis: Option<i64>,
    pub augment: bool,
    pub seed: Option<u64>,
    pub targets: Option<Ignore>,
    pub ignore: Ignore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            alpha: None,
            rslora: false,
            initialize: Initialize::default(),
            error_norm: Norm::default(),
            samples: 256,
            allocate: false,
            keep: Keep::default(),
            epochs: 1,
            teacher: "reference".into(),
            temperature: 4.0,
            soft_share: 1.0,
            label_smoothing: 0.0,
            learning_rate: None,
            schedule: ScheduleName::OneCycle,
            warm_up: None,
            optimizer: OptimizerName::AdamW,
            weight_decay: 0.0,
            clip_norm: None,
            dropout: 0.0,
            batch: 64,
            output: None,
            class_axis: None,
            augment: true,
            seed: None,
            targets: None,
            ignore: Ignore::default(),
        }
    }
}

impl Config {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// The first key that does not, and why.
    pub fn check(&self) -> Result<()> {
        check_alpha(self.alpha)?;
        for (key, count) in [("samples", self.samples), ("batch", self.batch)] {
            if count == 0 {
                return refuse(key, "has to be 1 or more; got 0");
            }
        }
        let (rate, warm_up) = (self.learning_rate(), self.warm_up());
        let clip = self.clip_norm.unwrap_or(1.0);
        let numbers = [
            (
                "temperature",
                self.temperature,
                self.temperature > 0.0,
                "greater than 0",
            ),
            (
                "soft_share",
                self.soft_share,
                (0.0..=1.0).contains(&self.soft_share),
                "from 0 to 1",
            ),
            (
                "label_smoothing",
                self.label_smoothing,
                (0.0..1.0).contains(&self.label_smoothing),
                "from 0 to less than 1",
            ),
            ("learning_rate", rate, rate > 0.0, "greater than 0"),
            ("warm_up", warm_up, (0.0..=1.0).contains(&warm_up), "from 0 to 1"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0.0, "0 or more"),
            ("clip_norm", clip, clip > 0.0, "greater than 0"),
            (
                "dropout",
                self.dropout,
                (0.0..1.0).contains(&self.dropout),
                "from 0 to less than 1",
            ),
        ];
        for (key, value, holds, domain) in numbers {
            if !holds || !value.is_finite() {
                return refuse(key, format!("has to be {domain}; got {value}"));
            }
        }
        if self.initialize == Initialize::Zeros && self.epochs == 0 {
            return refuse(
                "epochs",
                "adapters that start at zero and are not trained change nothing; write 1 or more, or initialize = \
                 \"error\"",
            );
        }
        if self.allocate && self.initialize == Initialize::Zeros {
            return refuse(
                "allocate",
                "ranks are allocated by compression's error; write initialize = \"error\"",
            );
        }
        Ok(())
    }

    /// How products are scaled.
    pub fn scaling(&self) -> Scaling {
        Scaling {
            alpha: self.alpha,
            stabilized: self.rslora,
        }
    }

    /// How adapters are moved.
    pub fn optimizer(&self) -> Optimizer {
        Optimizer {
            method: match self.optimizer {
                OptimizerName::Sgd => Method::default(),
                OptimizerName::AdamW => Method::AdamW {
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                },
            },
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
            .map_err(|error| Error::invalid_configuration(error.to_string()).at("config.schedule"))
    }

    fn learning_rate(&self) -> f64 {
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
}

/// The configuration of `lora_adapt`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptConfig {
    pub alpha: Option<f64>,
    pub rslora: bool,
    pub targets: Option<Ignore>,
    pub ignore: Ignore,
}

impl AdaptConfig {
    /// Refuses what makes no sense.
    ///
    /// # Errors
    /// The first key that does not, and why.
    pub fn check(&self) -> Result<()> {
        check_alpha(self.alpha)
    }

    /// How products are scaled.
    pub fn scaling(&self) -> Scaling {
        Scaling {
            alpha: self.alpha,
            stabilized: self.rslora,
        }
    }
}

/// An error about a key.
pub fn refuse<T>(key: &str, message: impl Into<String>) -> Result<T> {
    Err(Error::invalid_configuration(message).at(format!("config.{key}")))
}

fn check_alpha(alpha: Option<f64>) -> Result<()> {
    match alpha {
        Some(alpha) if !(alpha.is_finite() && alpha > 0.0) => {
            refuse("alpha", format!("has to be greater than 0; got {alpha}"))
        }
        _ => Ok(()),
    }
}

/// Those of `layers` that are meant: what `targets` covers, without what `ignore` covers.
///
/// # Errors
/// If a pattern matches nothing, or no layer is left.
pub fn meant(layers: Vec<Layer>, targets: Option<&Ignore>, ignore: &Ignore) -> Result<Vec<Layer>> {
    let names: Vec<String> = layers.iter().flat_map(Layer::names).map(str::to_owned).collect();
    ignore.check(names.iter().map(String::as_str))?;
    if let Some(targets) = targets {
        let checked = targets.check(names.iter().map(String::as_str));
        checked.map_err(|error| error.at("config.targets"))?;
    }
    let found = layers.len();
    let is_meant =
        |layer: &Layer| targets.is_none_or(|targets| targets.covers(layer.names())) && !ignore.covers(layer.names());
    let meant: Vec<Layer> = layers.into_iter().filter(is_meant).collect();
    match (meant.is_empty(), found) {
        (false, _) => Ok(meant),
        (true, 0) => Err(Error::unsupported(
            "the model has nothing to adapt: no Gemm or MatMul with a constant float32 matrix and no Conv without \
             groups, or each has an adapter already",
        )),
        (true, found) => refuse(
            "targets",
            format!("`targets` and `ignore` leave none of {found} layers; let them name fewer or others"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{layers::layers, testing::perceptron};

    fn config(text: &str) -> Result<Config> {
        let config: Config =
            kmr_sdk::serde_json::from_str(text).map_err(|error| Error::invalid_configuration(error.to_string()))?;
        config.check()?;
        Ok(config)
    }

    #[test]
    fn contradictions_are_told() {
        assert!(config("{}").is_ok());
        for (text, expected) in [
            (r#"{"alpha": 0}"#, "config.alpha: has to be greater than 0; got 0"),
            (r#"{"samples": 0}"#, "config.samples: has to be 1 or more"),
            (
                r#"{"initialize": "zeros", "epochs": 0}"#,
                "config.epochs: adapters that start at zero",
            ),
            (
                r#"{"initialize": "zeros", "allocate": true}"#,
                "config.allocate: ranks are allocated",
            ),
            (r#"{"batch": 0}"#, "config.batch: has to be 1 or more"),
            (r#"{"dropout": 1}"#, "config.dropout: has to be from 0 to less than 1"),
            (
                r#"{"soft_share": 2}"#,
                "config.soft_share: has to be from 0 to 1; got 2",
            ),
            (r#"{"temperature": 0}"#, "config.temperature: has to be greater than 0"),
            (
                r#"{"learning_rate": -1}"#,
                "config.learning_rate: has to be greater than 0",
            ),
            (r#"{"keep": "both"}"#, "unknown variant `both`"),
            (r#"{"rank": 8}"#, "unknown field `rank`"),
        ] {
            let error = config(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn patterns_choose_layers() {
        let found = layers(&perceptron()).unwrap();
        let pattern = |text: &str| kmr_sdk::serde_json::from_str::<Ignore>(text).unwrap();
        let names = |targets: Option<&str>, ignore: &str| {
            let targets = targets.map(&pattern);
            let meant = meant(found.clone(), targets.as_ref(), &pattern(ignore))?;
            Ok::<_, Error>(meant.into_iter().map(|layer| layer.name).collect::<Vec<_>>())
        };
        assert_eq!(
            names(Some(r#"["block.*", "first"]"#), "[]").unwrap(),
            ["first", "block.second"]
        );
        assert_eq!(names(None, r#"["*ir*"]"#).unwrap(), ["block.second"]);
        let error = |targets, ignore| names(targets, ignore).unwrap_err().to_string();
        assert!(error(Some(r#"["frist"]"#), "[]").starts_with("config.targets: `frist` matches no layer"));
        assert!(error(None, r#"["frist"]"#).starts_with("config.ignore: `frist` matches no layer"));
        assert!(error(Some(r#"["first"]"#), r#"["first"]"#).contains("leave none of 3 layers"));
        let nothing = meant(Vec::new(), None, &Ignore::default()).unwrap_err();
        assert!(
            nothing.to_string().starts_with("the model has nothing to adapt"),
            "{nothing}"
        );
    }
}
