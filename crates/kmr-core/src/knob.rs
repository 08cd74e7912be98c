//! Knobs: the named, finite, ordered choices that a rule offers on its targets.

use std::fmt;
use std::ops::Index;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::assignment::Assignment;

/// One value of a knob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// `true` or `false`.
    Flag(bool),
    /// A finite number; whole numbers are written to JSON without a fraction.
    Number(#[serde(serialize_with = "write_number")] f64),
    /// A choice by name.
    Text(String),
}

fn write_number<S: serde::Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53: above it an integer is no longer exact
    if number.fract() == 0.0 && number.abs() <= EXACT {
        serializer.serialize_i64(*number as i64)
    } else {
        serializer.serialize_f64(*number)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Flag(flag) => flag.fmt(formatter),
            Value::Number(number) => number.fmt(formatter),
            Value::Text(text) => text.fmt(formatter),
        }
    }
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Value::Flag(flag)
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Value::Number(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

/// What a rule's action is for, and so how it is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The cost must strictly fall.
    #[default]
    Reduce,
    /// The cost must not rise and the quality must rise.
    Recover,
}

/// A named parameter of a rule on one target, with its finite ordered values.
///
/// Equal knobs of different targets are different `Knob`s: this is the paper's `k`, and `values`
/// its `V_k`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knob {
    /// The rule that offers it.
    pub rule: String,
    /// Its name within the rule.
    pub name: String,
    /// The stable id of what it acts on: the whole model, a layer or a group.
    pub target: String,
    /// The target as people know it.
    #[serde(default)]
    pub label: String,
    /// How its steps are judged.
    #[serde(default)]
    pub role: Role,
    /// The values in order; the first is *off*.
    pub values: Vec<Value>,
    /// Ids of the parts of the subject that it changes, whatever these are. Knobs without one in
    /// common are taken not to influence each other's costs; a knob without any may influence all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub touches: Vec<String>,
}

impl Knob {
    /// A knob whose label is its target.
    pub fn new(
        rule: impl Into<String>,
        name: impl Into<String>,
        target: impl Into<String>,
        role: Role,
        values: Vec<Value>,
    ) -> Self {
        let target = target.into();
        Knob {
            rule: rule.into(),
            name: name.into(),
            label: target.clone(),
            target,
            role,
            values,
            touches: Vec::new(),
        }
    }

    /// The same knob, known to change these parts.
    pub fn touching(self, touches: Vec<String>) -> Self {
        Knob { touches, ..self }
    }

    /// How many values lie beyond *off*: |V_k| − 1.
    pub fn levels(&self) -> usize {
        self.values.len().saturating_sub(1)
    }
}

impl fmt::Display for Knob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.label.is_empty() {
            &self.target
        } else {
            &self.label
        };
        write!(formatter, "{}.{} of {}", self.rule, self.name, place)
    }
}

/// A list of knobs that cannot be searched.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KnobError {
    /// A knob without even an *off* value.
    #[error("knob `{knob}` has no values; the first value must be the one that is off")]
    NoValues {
        /// The knob.
        knob: String,
    },
    /// A value twice in one knob, so that a step could change nothing.
    #[error("knob `{knob}` lists the value {value} twice")]
    RepeatedValue {
        /// The knob.
        knob: String,
        /// The value.
        value: String,
    },
    /// NaN or an infinity.
    #[error("knob `{knob}` lists the value {value}, which is not a finite number")]
    NotFinite {
        /// The knob.
        knob: String,
        /// The value.
        value: String,
    },
    /// One (rule, name, target) twice.
    #[error("knob `{knob}` is offered twice")]
    RepeatedKnob {
        /// The knob.
        knob: String,
    },
}

/// The checked list of knobs that an [`Assignment`] gives values to, by position.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Knob>", into = "Vec<Knob>")]
pub struct Knobs(Vec<Knob>);

impl Knobs {
    /// Checks the knobs: each has values, all finite and distinct, and none is offered twice.
    pub fn new(knobs: Vec<Knob>) -> Result<Self, KnobError> {
        let mut identities = std::collections::HashSet::new();
        for knob in &knobs {
            if knob.values.is_empty() {
                return Err(KnobError::NoValues { knob: knob.to_string() });
            }
            for (position, value) in knob.values.iter().enumerate() {
                if matches!(value, Value::Number(number) if !number.is_finite()) {
                    return Err(KnobError::NotFinite {
                        knob: knob.to_string(),
                        value: value.to_string(),
                    });
                }
                if knob.values[..position].contains(value) {
                    return Err(KnobError::RepeatedValue {
                        knob: knob.to_string(),
                        value: value.to_string(),
                    });
                }
            }
            if !identities.insert((&knob.rule, &knob.name, &knob.target)) {
                return Err(KnobError::RepeatedKnob { knob: knob.to_string() });
            }
        }
        Ok(Knobs(knobs))
    }

    /// How many knobs there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no knob at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The knobs in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Knob> {
        self.0.iter()
    }

    /// The knob at a position.
    pub fn get(&self, position: usize) -> Option<&Knob> {
        self.0.get(position)
    }

    /// The positions of the knobs with this role.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = usize> + '_ {
        self.iter()
            .enumerate()
            .filter(move |(_, knob)| knob.role == role)
            .map(|(at, _)| at)
    }

    /// Σ(|V_k| − 1) over the knobs with this role: Proposition 1's N for [`Role::Reduce`].
    pub fn levels(&self, role: Role) -> usize {
        self.iter().filter(|knob| knob.role == role).map(Knob::levels).sum()
    }

    /// The assignment with every knob off.
    pub fn off(&self) -> Assignment {
        Assignment::from(vec![0; self.len()])
    }
}

impl Index<usize> for Knobs {
    type Output = Knob;

    fn index(&self, position: usize) -> &Knob {
        &self.0[position]
    }
}

impl TryFrom<Vec<Knob>> for Knobs {
    type Error = KnobError;

    fn try_from(knobs: Vec<Knob>) -> Result<Self, KnobError> {
        Knobs::new(knobs)
    }
}

impl From<Knobs> for Vec<Knob> {
    fn from(knobs: Knobs) -> Self {
        knobs.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knob(values: Vec<Value>) -> Knob {
        Knob::new("prune", "sparsity", "layer1", Role::Reduce, values)
    }

    #[test]
    fn values_cross_json_unchanged_and_read_well() {
        let values: Vec<Value> = vec![32.0.into(), 0.1.into(), false.into(), "int8".into()];
        let json = serde_json::to_string(&values).unwrap();
        assert_eq!(json, r#"[32,0.1,false,"int8"]"#);
        assert_eq!(serde_json::from_str::<Vec<Value>>(&json).unwrap(), values);
        let words: Vec<_> = values.iter().map(Value::to_string).collect();
        assert_eq!(words, ["32", "0.1", "false", "int8"]);
    }

    #[test]
    fn unsearchable_knobs_are_refused_by_name() {
        let message = |knobs| Knobs::new(knobs).unwrap_err().to_string();
        assert!(message(vec![knob(vec![])]).contains("prune.sparsity of layer1"));
        assert!(message(vec![knob(vec![0.0.into(), 0.0.into()])]).contains("value 0 twice"));
        assert!(message(vec![knob(vec![f64::NAN.into()])]).contains("NaN"));
        assert!(message(vec![knob(vec![0.0.into()]), knob(vec![1.0.into()])]).contains("offered twice"));
    }
}
