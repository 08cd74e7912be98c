//! `kmr run`, in parts: what is planned, the data, the services for plugins, the search and its end.

mod catalog;
mod checkpoint;
mod context;
mod data;
mod finish;
mod forward;
mod further;
mod held;
mod journal;
mod layers;
mod observation;
mod plan;
mod policy;
mod services;
mod session;
mod setup;
mod store;
mod subject;
mod transaction;

pub use catalog::{discover, loader_failure, plugin_folders};
pub use context::Context;
pub use data::{Splits, expected_inputs, format_failure, sample_kind};
pub use finish::{Finish, finish, measured};
pub use forward::Forward;
pub use journal::Recorder;
pub use plan::Plan;
pub use policy::Chosen;
pub use setup::{Setup, absolute, limits, search_failure, stages};
pub use subject::Subject;
