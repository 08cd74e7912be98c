//! Configurations, targets, actions and what came of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::Per;
use crate::{Error, Result};

/// What a rule is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleConfiguration {
    /// The manifest's `config` table for this rule.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// The knobs that the manifest turns.
    #[serde(default)]
    pub knobs: KnobSettings,
    /// What the artifact is laid out for.
    #[serde(default)]
    pub platform: Platform,
}

/// What the artifact is laid out for: the manifest's `[target]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// The processor: an architecture and features in words, as `x86-64-v4 avx512vnni`; empty for any.
    pub cpu: String,
}

impl Platform {
    /// Whether a word about the processor contains `feature`, as `vnni`. Nothing is sure of any processor.
    pub fn has(&self, feature: &str) -> bool {
        self.cpu.split([' ', ',', '+']).any(|word| word.contains(feature))
    }
}

/// What a meter is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MeterConfiguration {
    /// The manifest's `config` table for this meter.
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// What a policy is made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyConfiguration {
    /// The manifest's `config` table for this policy.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// The seed of everything random in it.
    #[serde(default)]
    pub seed: u64,
}

/// The configuration of an extension that has nothing to configure: every key is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}

/// The knobs that the manifest turns, by name. A rule offers no targets for the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KnobSettings(pub BTreeMap<String, KnobSetting>);

/// How one knob may be turned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnobSetting {
    /// The values to search; the first is *off*.
    pub values: Vec<Value>,
    /// Where it is turned.
    pub per: Per,
}

impl KnobSettings {
    /// The setting of `knob`, if the manifest turns it.
    pub fn get(&self, knob: &str) -> Option<&KnobSetting> {
        self.0.get(knob)
    }

    /// The values of `knob` as `T`s; none if the manifest does not turn it.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_CONFIGURATION`](crate::ErrorCode::INVALID_CONFIGURATION) if one is no `T`.
    pub fn values<T: DeserializeOwned>(&self, knob: &str) -> Result<Vec<T>> {
        let values = self.get(knob).map_or(&[][..], |setting| &setting.values);
        let parsed = values.iter().map(T::deserialize).collect::<Result<_, _>>();
        parsed.map_err(|error| Error::invalid_configuration(error.to_string()).at(format!("knob `{knob}`")))
    }
}

/// A place where a knob can be turned, with the values that have an effect there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The knob's name.
    pub knob: String,
    /// A stable id: the same for the same layers however the model changes before them.
    pub target: String,
    /// What people call it.
    pub label: String,
    /// *Off* first; then, from mild to strong, only values that change this model, each differently.
    pub values: Vec<Value>,
    /// The ids of the nodes that it changes.
    #[serde(default)]
    pub layers: Vec<String>,
}

/// What to do: every knob of the rule on every target with its value, those that are off included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Action {
    /// The values.
    pub assignments: Vec<Assignment>,
    /// Only the costs of the result will be read: shapes, types and storage must be exact, and the values of
    /// tensors may be any finite ones.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub costs_only: bool,
}

/// The value of a knob on a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// The knob's name.
    pub knob: String,
    /// The target's id.
    pub target: String,
    /// The value.
    pub value: Value,
}

impl Assignment {
    /// The value as a `T`.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) if it is none.
    pub fn value<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.value).map_err(|error| {
            Error::invalid_request(error.to_string()).at(format!("knob `{}` of `{}`", self.knob, self.target))
        })
    }
}

impl Action {
    /// The assignments of `knob`, in order.
    pub fn of<'a>(&'a self, knob: &'a str) -> impl Iterator<Item = &'a Assignment> {
        self.assignments
            .iter()
            .filter(move |assignment| assignment.knob == knob)
    }
}

/// What a rule did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// What changed.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// What else people should know.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The values of tensors are right, too, where [only the costs](Action::costs_only) were asked for: the host need
    /// not apply the rule again. Tells nothing where they were not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub complete: bool,
}

impl Applied {
    /// Adds a change of `what` in `layer`.
    pub fn change(&mut self, layer: &str, what: &str, before: impl ToString, after: impl ToString) {
        self.changes.push(Change {
            layer: layer.into(),
            what: what.into(),
            before: before.to_string(),
            after: after.to_string(),
        });
    }
}

/// What changed in a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The name of the node.
    pub layer: String,
    /// What was changed: `channels`, `bits`.
    pub what: String,
    /// What it was.
    pub before: String,
    /// What it is.
    pub after: String,
}
