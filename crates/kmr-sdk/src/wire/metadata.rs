//! What a plugin says about itself, readable without running it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The document in a plugin's metadata section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The version of the contract that it was built against, as `1.0.0`.
    pub abi: String,
    /// The plugin.
    pub plugin: PluginInfo,
    /// What it offers.
    pub extensions: Vec<Extension>,
}

/// Who a plugin is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginInfo {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its licence, as an SPDX expression; may be empty.
    #[serde(default)]
    pub license: String,
    /// What it does, in one line; may be empty.
    #[serde(default)]
    pub description: String,
}

/// One thing that a plugin offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Extension {
    /// Changes a model.
    Rule(RuleInfo),
    /// Measures one.
    Meter(MeterInfo),
    /// Picks what to try next.
    Policy(PolicyInfo),
    /// A kind that came after this version.
    #[serde(other)]
    Unknown,
}

impl Extension {
    /// Its id; empty for an unknown kind.
    pub fn id(&self) -> &str {
        match self {
            Self::Rule(rule) => &rule.id,
            Self::Meter(meter) => &meter.id,
            Self::Policy(policy) => &policy.id,
            Self::Unknown => "",
        }
    }

    /// Its kind, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rule(_) => "rule",
            Self::Meter(_) => "meter",
            Self::Policy(_) => "policy",
            Self::Unknown => "unknown",
        }
    }
}

/// What a rule is for, and so how its actions are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The cost must strictly fall.
    #[default]
    Reduce,
    /// The cost must not rise and the quality must rise.
    Recover,
}

/// What a rule's result for one target depends on; results are cached accordingly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    /// The whole model.
    #[default]
    Graph,
    /// The target and everything before it.
    Prefix,
    /// The target's own tensors.
    Tensor,
}

/// A rule that a plugin offers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// Its id, as in a manifest's `use`.
    pub id: String,
    /// What it does, in one line.
    #[serde(default)]
    pub summary: String,
    /// What it is for.
    #[serde(default)]
    pub role: Role,
    /// What its result depends on.
    #[serde(default)]
    pub locality: Locality,
    /// What can be turned.
    #[serde(default)]
    pub knobs: Vec<KnobInfo>,
    /// The least version of ONNX's own operator set that it writes, 0 for any: the host upgrades models to it.
    #[serde(default)]
    pub opset: i64,
    /// Rules that it works better after.
    #[serde(default)]
    pub after: Vec<String>,
    /// Rules that it cannot share a stage with.
    #[serde(default)]
    pub conflicts: Vec<String>,
}

/// A knob of a rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnobInfo {
    /// Its name.
    pub name: String,
    /// What it does, in one line.
    #[serde(default)]
    pub description: String,
    /// The values that it takes.
    pub domain: Domain,
    /// Where it can be turned; the first is the default.
    #[serde(default = "model_only")]
    pub per: Vec<Per>,
    /// The values searched when the manifest names none; the first is *off*.
    #[serde(default)]
    pub default: Vec<Value>,
}

fn model_only() -> Vec<Per> {
    vec![Per::Model]
}

/// The values that a knob takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Domain {
    /// Numbers, both ends included.
    Range {
        /// The smallest.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// These, from *off* to the strongest.
    Choices {
        /// The values.
        choices: Vec<Value>,
    },
}

/// Where a knob is turned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Once for the whole model.
    Model,
    /// For each layer, or each group of layers that must change together.
    Layer,
    /// For each group of neighboring channels of a layer.
    ChannelGroup,
}

/// What a meter measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measures {
    /// How good the model's answers are.
    Quality,
    /// What the model costs.
    Cost,
}

/// A meter that a plugin offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeterInfo {
    /// Its id, as in a manifest's `meter`.
    pub id: String,
    /// What it measures, in one line.
    #[serde(default)]
    pub summary: String,
    /// Whether it measures quality or cost.
    pub measures: Measures,
    /// Whether it can only judge data with labels.
    #[serde(default)]
    pub needs_labels: bool,
    /// Whether a greater value is better. A cost's is not.
    #[serde(default = "yes")]
    pub higher_is_better: bool,
    /// The unit of its readings; empty for none.
    #[serde(default)]
    pub unit: String,
}

fn yes() -> bool {
    true
}

/// A policy that a plugin offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    /// Its id, as in a manifest's `policy.use`.
    pub id: String,
    /// How it searches, in one line.
    #[serde(default)]
    pub summary: String,
}
