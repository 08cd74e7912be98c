//! A loaded plugin, wherever its code runs.

use kmr_sdk::{
    Action, Applied, Ask, History, MeasureRequest, Reading, Result, Target,
    wire::{Metadata, MeterConfiguration, PolicyConfiguration, RuleConfiguration},
};

use crate::HostServices;

/// What a plugin is set up with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Environment {
    /// The size of the plugin's thread pool, at least 1.
    pub threads: usize,
    /// The least important log records that are wanted. They arrive in this process's own `log`.
    pub log_level: log::LevelFilter,
}

/// A plugin that is ready to make extensions.
///
/// The errors of a plugin's functions are the plugin's own; an answer that cannot be read is an error of code
/// `OTHER`.
pub trait LoadedPlugin: Send + Sync {
    /// What the plugin says about itself.
    fn metadata(&self) -> &Metadata;

    /// Makes the rule `id`.
    ///
    /// # Errors
    /// `NOT_FOUND` if the plugin has none, `INVALID_CONFIGURATION` if it refuses the configuration.
    fn make_rule(
        &self,
        id: &str,
        configuration: &RuleConfiguration,
    ) -> Result<Box<dyn RuleInstance>>;

    /// Makes the meter `id`.
    ///
    /// # Errors
    /// As [`make_rule`](LoadedPlugin::make_rule).
    fn make_meter(
        &self,
        id: &str,
        configuration: &MeterConfiguration,
    ) -> Result<Box<dyn MeterInstance>>;

    /// Makes the policy `id`.
    ///
    /// # Errors
    /// As [`make_rule`](LoadedPlugin::make_rule).
    fn make_policy(
        &self,
        id: &str,
        configuration: &PolicyConfiguration,
    ) -> Result<Box<dyn PolicyInstance>>;
}

/// A rule of a plugin.
pub trait RuleInstance: Send {
    /// Where its knobs can be turned.
    ///
    /// # Errors
    /// Those of the rule.
    fn targets(&mut self, host: &dyn HostServices) -> Result<Vec<Target>>;

    /// Applies it. The host keeps the edits only if this succeeds.
    ///
    /// # Errors
    /// Those of the rule.
    fn apply(&mut self, host: &dyn HostServices, action: &Action) -> Result<Applied>;
}

/// A meter of a plugin.
pub trait MeterInstance: Send {
    /// Measures the candidate.
    ///
    /// # Errors
    /// Those of the meter.
    fn measure(&mut self, host: &dyn HostServices, request: &MeasureRequest) -> Result<Reading>;
}

/// A policy of a plugin.
pub trait PolicyInstance: Send {
    /// The next question or step.
    ///
    /// # Errors
    /// Those of the policy.
    fn next(&mut self, history: &History) -> Result<Ask>;
}
