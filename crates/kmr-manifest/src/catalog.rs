//! What plugins offer, as the host tells it to [`crate::Manifest::resolve`].

use std::fmt;

use serde_json::Value;

use crate::{Per, Role};

/// Everything that the built-ins and the plugins offer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// Rules of usable plugins.
    pub rules: Vec<RuleOffer>,
    /// Meters of the host and of usable plugins.
    pub meters: Vec<MeterOffer>,
    /// Policies of the host and of usable plugins.
    pub policies: Vec<PolicyOffer>,
    /// What plugins offer that cannot be used.
    pub unavailable: Vec<Unavailable>,
}

/// A rule that a plugin offers.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleOffer {
    /// The rule's id, as in `use = "prune"`.
    pub id: String,
    /// The plugin's name.
    pub plugin: String,
    /// What the rule is for.
    pub role: Role,
    /// The knobs that may be turned.
    pub knobs: Vec<KnobOffer>,
    /// Ids of rules that it works better after.
    pub after: Vec<String>,
    /// Ids of rules that it cannot share a stage with.
    pub conflicts: Vec<String>,
}

/// A knob of an offered rule.
#[derive(Clone, Debug, PartialEq)]
pub struct KnobOffer {
    /// The knob's name.
    pub name: String,
    /// What the knob does, in one line; it is shown as help.
    pub description: String,
    /// The values it takes.
    pub domain: Domain,
    /// Where it can be turned; the first is the default.
    pub per: Vec<Per>,
    /// The values searched when the manifest gives none; the first is *off*.
    pub default: Vec<Value>,
}

impl KnobOffer {
    /// The value that leaves the model as it is: the first default, else the first choice or the
    /// smallest value.
    pub fn off(&self) -> Option<Value> {
        if let Some(first) = self.default.first() {
            return Some(first.clone());
        }
        match &self.domain {
            Domain::Range { min, .. } => Some(Value::from(*min)),
            Domain::Choices(choices) => choices.first().cloned(),
        }
    }
}

/// The values that a knob takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Domain {
    /// Numbers, both ends included.
    Range {
        /// The smallest.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// These values, in the order from *off* to the strongest.
    Choices(Vec<Value>),
}

impl fmt::Display for Domain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { min, max } => write!(formatter, "[{min}, {max}]"),
            Self::Choices(choices) => {
                let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
                write!(formatter, "{{{}}}", choices.join(", "))
            }
        }
    }
}

/// A meter that the host or a plugin offers.
#[derive(Clone, Debug, PartialEq)]
pub struct MeterOffer {
    /// The meter's id.
    pub id: String,
    /// The plugin's name; none for the host's own meters.
    pub plugin: Option<String>,
    /// What it measures.
    pub measures: Measures,
    /// Whether it can only judge data with labels.
    pub needs_labels: bool,
    /// The unit of its readings, `"bytes"` for bytes; empty when there is none.
    pub unit: String,
}

/// What a meter measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measures {
    /// A cost of the model, to be lowered.
    Cost,
    /// The quality of its answers, to be kept.
    Quality,
}

impl fmt::Display for Measures {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cost => "cost",
            Self::Quality => "quality",
        })
    }
}

/// A policy that the host or a plugin offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyOffer {
    /// The policy's id.
    pub id: String,
    /// The plugin's name; none for the host's own policies.
    pub plugin: Option<String>,
}

/// An extension that exists but cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// What it is.
    pub kind: ExtensionKind,
    /// Its id.
    pub id: String,
    /// The plugin that offers it.
    pub plugin: String,
    /// Why it cannot be used: "is disabled", "needs ABI 2.0.0".
    pub reason: String,
}

/// What an extension is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtensionKind {
    /// It changes a model.
    Rule,
    /// It measures one.
    Meter,
    /// It picks the next action.
    Policy,
}

impl fmt::Display for ExtensionKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Rule => "rule",
            Self::Meter => "meter",
            Self::Policy => "policy",
        })
    }
}
