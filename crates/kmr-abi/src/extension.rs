//! What a plugin offers: rules, meters and policies.

use abi_stable::{
    StableAbi, sabi_trait,
    std_types::{RBox, RStr, RString, RVec},
};

use crate::{AbiResult, HostRef};

/// A way to change a model.
#[sabi_trait]
pub trait Rule: Send {
    /// The knobs and targets on the host's candidate, as JSON.
    fn targets(&mut self, host: HostRef<'_>) -> AbiResult<RString>;
    /// Edits the host's candidate according to all of the rule's knob values; says in JSON what it did.
    #[sabi(last_prefix_field)]
    fn apply(&mut self, host: HostRef<'_>, action: RStr<'_>) -> AbiResult<RString>;
}

/// An owned [`Rule`].
pub type RuleBox = Rule_TO<'static, RBox<()>>;

/// What a meter read.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Reading {
    /// The reading.
    pub value: f64,
    /// The score of every sample in the order of the data; empty where samples have none.
    pub scores: RVec<f64>,
    /// More to say, as a JSON object; may be empty.
    pub details: RString,
}

/// A way to measure a model.
#[sabi_trait]
pub trait Meter: Send {
    /// Measures the host's candidate.
    #[sabi(last_prefix_field)]
    fn measure(&mut self, host: HostRef<'_>, request: RStr<'_>) -> AbiResult<Reading>;
}

/// An owned [`Meter`].
pub type MeterBox = Meter_TO<'static, RBox<()>>;

/// A way to choose the next action.
#[sabi_trait]
pub trait Policy: Send {
    /// What to do after this history; both are JSON, in the forms of `kmr-core`'s `History` and `Ask`.
    #[sabi(last_prefix_field)]
    fn next(&mut self, history: RStr<'_>) -> AbiResult<RString>;
}

/// An owned [`Policy`].
pub type PolicyBox = Policy_TO<'static, RBox<()>>;
