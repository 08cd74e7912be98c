//! What a plugin offers to the host.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_local_definitions,
    clippy::all,
    reason = "sabi_trait and the StableAbi derive write items that the comments here do not reach"
)]

use abi_stable::{
    StableAbi, declare_root_module_statics,
    library::RootModule,
    package_version_strings, sabi_trait,
    sabi_types::VersionStrings,
    std_types::{RBox, RStr, RString, RVec},
};

use crate::{AbiResult, HostRef};

/// How important a log record is: 1 error, 2 warning, 3 information, 4 debugging, 5 tracing. Open.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogLevel(pub u32);

impl LogLevel {
    /// Nothing is logged.
    pub const OFF: Self = Self(0);
    /// Something failed.
    pub const ERROR: Self = Self(1);
    /// Something is doubtful.
    pub const WARN: Self = Self(2);
    /// Something worth knowing happened.
    pub const INFO: Self = Self(3);
    /// For those who look for a mistake.
    pub const DEBUG: Self = Self(4);
    /// Everything.
    pub const TRACE: Self = Self(5);
}

/// Takes a plugin's log records.
#[sabi_trait]
pub trait LogSink: Send + Sync {
    /// Takes one record: `target` names the part of the plugin that it is from.
    ///
    /// # Errors
    /// If the host is gone.
    #[sabi(last_prefix_field)]
    fn log(&self, level: LogLevel, target: RStr<'_>, text: RStr<'_>) -> AbiResult<()>;
}

/// An owned [`LogSink`].
pub type LogSinkBox = LogSink_TO<'static, RBox<()>>;

/// What a plugin needs from its surroundings for as long as it lives. Frozen.
///
/// A plugin has its own copy of everything it links, thread pools and loggers too: they are set up from here.
#[repr(C)]
#[derive(StableAbi)]
pub struct Environment {
    /// The size of the plugin's thread pool, at least 1.
    pub threads: u64,
    /// The least important level that is wanted.
    pub log_level: LogLevel,
    /// Takes log records, from any thread, also outside of calls.
    pub log: LogSinkBox,
}

/// Changes a model: T(M, k, v) → M′, deterministically. One instance serves one entry of a manifest.
///
/// After a call that returned [`ErrorCode::PANIC`](crate::ErrorCode::PANIC) the instance answers every
/// other with [`ErrorCode::POISONED`](crate::ErrorCode::POISONED).
#[sabi_trait]
pub trait Rule: Send {
    /// Where the rule's knobs can be turned on the candidate and what values have an effect there: JSON
    /// array of targets. The host's edits are denied here.
    ///
    /// # Errors
    /// [`ErrorCode::UNSUPPORTED`](crate::ErrorCode::UNSUPPORTED) if the rule cannot work on this model.
    fn targets(&mut self, host: HostRef<'_>) -> AbiResult<RString>;

    /// Applies the rule under *all* of its knob values: JSON `{"assignments": [{"knob", "target", "value"}]}`,
    /// those that are off included. Answers JSON `{"changes": [...], "notes": [...]}`. The candidate is the
    /// base of the stage, never the result of an earlier action of the same rule.
    ///
    /// # Errors
    /// Any; the model is then as it was.
    #[sabi(last_prefix_field)]
    fn apply(&mut self, host: HostRef<'_>, action: RStr<'_>) -> AbiResult<RString>;
}

/// An owned [`Rule`].
pub type RuleBox = Rule_TO<'static, RBox<()>>;

/// What a meter read. Frozen.
#[repr(C)]
#[derive(StableAbi, Clone, PartialEq, Debug)]
pub struct Reading {
    /// The value.
    pub value: f64,
    /// One score per sample, in the order of the data, whose mean is the value; empty if there is no such.
    pub scores: RVec<f64>,
    /// More about it: a JSON object; `{}` for nothing.
    pub details: RString,
}

/// Measures a cost or a quality of the candidate.
#[sabi_trait]
pub trait Meter: Send {
    /// Measures: JSON `{"split", "limit"}`. The host's edits are denied here.
    ///
    /// # Errors
    /// Any; the candidate is then not accepted.
    #[sabi(last_prefix_field)]
    fn measure(&mut self, host: HostRef<'_>, request: RStr<'_>) -> AbiResult<Reading>;
}

/// An owned [`Meter`].
pub type MeterBox = Meter_TO<'static, RBox<()>>;

/// Picks what to try next.
#[sabi_trait]
pub trait Policy: Send {
    /// The next question or step, as JSON, from the whole history, as JSON.
    ///
    /// The answer depends on configuration, seed and history alone: a resumed run asks a new instance.
    ///
    /// # Errors
    /// Any; the search then ends.
    #[sabi(last_prefix_field)]
    fn next(&mut self, history: RStr<'_>) -> AbiResult<RString>;
}

/// An owned [`Policy`].
pub type PolicyBox = Policy_TO<'static, RBox<()>>;

/// The entry of a plugin.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRoot_Ref)))]
#[sabi(missing_field(option))]
pub struct PluginRoot {
    /// The plugin's metadata: the same JSON as in its link section.
    pub info: extern "C" fn() -> AbiResult<RString>,
    /// Sets the plugin up. Called once, before anything is made.
    pub start: extern "C" fn(environment: Environment) -> AbiResult<()>,
    /// Makes the rule `id` from JSON `{"config": {...}, "knobs": {NAME: {"values": [...], "per": ...}}}`.
    pub make_rule: extern "C" fn(id: RStr<'_>, configuration: RStr<'_>) -> AbiResult<RuleBox>,
    /// Makes the meter `id` from JSON `{"config": {...}}`.
    pub make_meter: extern "C" fn(id: RStr<'_>, configuration: RStr<'_>) -> AbiResult<MeterBox>,
    /// Makes the policy `id` from JSON `{"config": {...}, "seed": ...}`.
    #[sabi(last_prefix_field)]
    pub make_policy: extern "C" fn(id: RStr<'_>, configuration: RStr<'_>) -> AbiResult<PolicyBox>,
}

impl RootModule for PluginRoot_Ref {
    declare_root_module_statics! {PluginRoot_Ref}
    const BASE_NAME: &'static str = "kmr_plugin";
    const NAME: &'static str = "kmr_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
