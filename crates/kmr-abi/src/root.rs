//! The one thing that a plugin exports.

use abi_stable::{
    StableAbi, declare_root_module_statics,
    library::RootModule,
    package_version_strings,
    sabi_types::VersionStrings,
    std_types::{RStr, RString},
};

use crate::{AbiResult, LogLevel, MeterBox, PolicyBox, RuleBox};

/// What a plugin gets from the host's process. A shared library has its own copy of every crate, so
/// the host's logger and thread pools do not reach it by themselves.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Environment {
    /// Takes a log line: level, the plugin's module, text.
    pub log: extern "C" fn(LogLevel, RStr<'_>, RStr<'_>),
    /// The most detailed level that anybody reads; 0 for none.
    pub log_level: LogLevel,
    /// How many threads the plugin may use.
    pub threads: u64,
}

/// The functions of a plugin.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRoot_Ref)))]
#[sabi(missing_field(option))]
pub struct PluginRoot {
    /// The plugin's metadata, the same JSON as in its `.kmr` section.
    pub information: extern "C" fn() -> AbiResult<RString>,
    /// Tells the plugin about the process; called once, first.
    pub initialize: extern "C" fn(Environment) -> AbiResult<()>,
    /// Makes the rule of this id with this configuration.
    pub make_rule: extern "C" fn(RStr<'_>, RStr<'_>) -> AbiResult<RuleBox>,
    /// Makes the meter of this id with this configuration.
    pub make_meter: extern "C" fn(RStr<'_>, RStr<'_>) -> AbiResult<MeterBox>,
    /// Makes the policy of this id with this configuration.
    #[sabi(last_prefix_field)]
    pub make_policy: extern "C" fn(RStr<'_>, RStr<'_>) -> AbiResult<PolicyBox>,
}

impl RootModule for PluginRoot_Ref {
    declare_root_module_statics! {PluginRoot_Ref}
    const BASE_NAME: &'static str = "kmr_plugin";
    const NAME: &'static str = "kmr_plugin";
    const VERSION_STRINGS: VersionStrings = package_version_strings!();
}
