//! What a plugin implements.

use kmr_core::{Ask, History};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Action, Applied, Host, KnobSettings, MeasureRequest, Result, Target, wire::Platform};

/// Changes a model, deterministically: the same model, knob values, data and seed give the same bytes.
///
/// A panic in any of these functions is caught and reported, and the instance is not called again.
pub trait Rule: Send + Sized + 'static {
    /// The manifest's `config` table; [`NoConfig`](crate::NoConfig) where there is nothing to configure.
    type Config: DeserializeOwned;

    /// Makes the rule for one entry of a manifest.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    fn new(config: Self::Config, knobs: KnobSettings) -> Result<Self>;

    /// Tells the rule, before anything else is asked of it, what the artifact is laid out for.
    fn laid_out_for(&mut self, _platform: &Platform) {}

    /// Where this rule's knobs can be turned on the candidate, with the values that have an effect there.
    ///
    /// # Errors
    /// If the rule cannot work on this model.
    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>>;

    /// Edits the candidate by *all* knob values of `action`, those that are off included. The candidate is
    /// the base of the stage, never what this rule made of it before.
    ///
    /// # Errors
    /// Any: the model is then as it was.
    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied>;
}

/// Measures a quality or a cost of the candidate.
pub trait Meter: Send + Sized + 'static {
    /// The manifest's `config` table; [`NoConfig`](crate::NoConfig) where there is nothing to configure.
    type Config: DeserializeOwned;

    /// Makes the meter.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    fn new(config: Self::Config) -> Result<Self>;

    /// Measures the candidate on the data that `request` names.
    ///
    /// # Errors
    /// Any: the candidate is then not accepted.
    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading>;
}

/// Picks what to try next.
pub trait Policy: Send + Sized + 'static {
    /// The manifest's `config` table; [`NoConfig`](crate::NoConfig) where there is nothing to configure.
    type Config: DeserializeOwned;

    /// Makes the policy.
    ///
    /// # Errors
    /// If the configuration contradicts itself.
    fn new(config: Self::Config, seed: u64) -> Result<Self>;

    /// The next question or step. It depends on configuration, seed and history alone: a resumed run asks a
    /// new instance.
    ///
    /// # Errors
    /// Any: the search then ends.
    fn next(&mut self, history: &History) -> Result<Ask>;
}

/// What a meter read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    /// The value.
    pub value: f64,
    /// One score per sample, in the order of the data; empty if there is no such.
    pub scores: Vec<f64>,
    /// More about it.
    pub details: Map<String, Value>,
}

impl Reading {
    /// A reading without scores.
    pub fn of(value: f64) -> Self {
        Self {
            value,
            ..Default::default()
        }
    }

    /// The mean of per-sample scores, with the scores. NaN if there are none.
    pub fn mean(scores: Vec<f64>) -> Self {
        Self {
            value: scores.iter().sum::<f64>() / scores.len() as f64,
            scores,
            ..Default::default()
        }
    }
}
