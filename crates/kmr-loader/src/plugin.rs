//! A loaded plugin, as the host sees it.
//!
//! These traits are all that the rest of the host knows of a plugin: whether its code runs in this process, in a
//! worker process or behind the C header is an implementation's affair.

use std::path::Path;

use kmr_abi::HostRef;
use kmr_sdk::{
    Ask, History, Reading,
    wire::{
        Action, Applied, MeasureRequest, Metadata, MeterConfiguration, PolicyConfiguration, RuleConfiguration, Target,
    },
};

use crate::error::Result;

/// A loaded plugin.
///
/// Every method that makes an extension fails with [`ErrorKind::Missing`](crate::ErrorKind::Missing) where the
/// plugin's metadata names none of this id, and with [`ErrorKind::Failed`](crate::ErrorKind::Failed) where the plugin
/// refuses the configuration or panics.
pub trait Plugin: Send + Sync {
    /// What the plugin says about itself.
    fn metadata(&self) -> &Metadata;

    /// The SHA-256 of the plugin's file, 64 lower-case hexadecimal digits.
    fn sha256(&self) -> &str;

    /// Where the plugin was found.
    fn path(&self) -> &Path;

    /// Makes the rule `id`.
    ///
    /// # Errors
    /// See [`Plugin`].
    fn rule(&self, id: &str, configuration: &RuleConfiguration) -> Result<Box<dyn RuleInstance>>;

    /// Makes the meter `id`.
    ///
    /// # Errors
    /// See [`Plugin`].
    fn meter(&self, id: &str, configuration: &MeterConfiguration) -> Result<Box<dyn MeterInstance>>;

    /// Makes the policy `id`.
    ///
    /// # Errors
    /// See [`Plugin`].
    fn policy(&self, id: &str, configuration: &PolicyConfiguration) -> Result<Box<dyn PolicyInstance>>;
}

/// One configured rule of a plugin.
///
/// Every method fails with [`ErrorKind::Failed`](crate::ErrorKind::Failed) where the plugin fails, panics or answers
/// what cannot be read. After a panic every further call fails: make a new instance.
pub trait RuleInstance: Send {
    /// Where the rule's knobs can be turned on the host's candidate.
    ///
    /// # Errors
    /// See [`RuleInstance`].
    fn targets(&mut self, host: HostRef<'_>) -> Result<Vec<Target>>;

    /// Edits the host's candidate according to all of the rule's knob values.
    ///
    /// # Errors
    /// See [`RuleInstance`]; what was edited before the failure is for the host to undo.
    fn apply(&mut self, host: HostRef<'_>, action: &Action) -> Result<Applied>;
}

/// One configured meter of a plugin.
pub trait MeterInstance: Send {
    /// Measures the host's candidate. The reading's value is a number, possibly infinite.
    ///
    /// # Errors
    /// As [`RuleInstance`]'s.
    fn measure(&mut self, host: HostRef<'_>, request: &MeasureRequest) -> Result<Reading>;
}

/// One configured policy of a plugin.
pub trait PolicyInstance: Send {
    /// What to do after this history.
    ///
    /// # Errors
    /// As [`RuleInstance`]'s.
    fn next(&mut self, history: &History) -> Result<Ask>;
}
