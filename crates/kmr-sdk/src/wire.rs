//! The documents that cross between host and plugins as JSON, used by both sides.
//!
//! They only grow: a reader ignores keys that it does not know.

mod edit;
mod metadata;
mod request;
mod rule;

pub use edit::{EDIT_VERSION, EditRequest, Operation, Size};
pub use metadata::{
    Domain, Extension, KnobInfo, Locality, Measures, Metadata, MeterInfo, Per, PluginInfo, PolicyInfo, Role, RuleInfo,
};
pub use request::{
    BatchNorm, MeasureRequest, Method, ObserveRequest, Optimizer, RunRequest, SessionRequest, Split, Statistic, Update,
    Updated,
};
pub use rule::{
    Action, Applied, Assignment, Change, KnobSetting, KnobSettings, MeterConfiguration, NoConfig, Platform,
    PolicyConfiguration, RuleConfiguration, Target,
};
