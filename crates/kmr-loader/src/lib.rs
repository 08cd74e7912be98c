//! Finds, inspects, verifies and loads plugins.
//!
//! [`discover`] and [`PluginFile::open`] read files and run none of their code; [`PluginFile::load`] brings a plugin
//! to life as a [`Plugin`]. A file is inspected, hashed and loaded from the same bytes in memory, so nothing that
//! happens to it meanwhile matters. Plugins are never unloaded.

mod discover;
mod error;
mod file;
mod in_process;
mod layout;
mod library;
mod log_sink;
mod metadata;
mod open;
mod plugin;
#[cfg(test)]
mod tiny_library;

pub use discover::discover;
pub use error::{ErrorKind, Failure, LoaderError, Result};
pub use file::PluginFile;
pub use in_process::InProcess;
pub use kmr_abi::{ErrorCode, HostRef};
pub use plugin::{MeterInstance, Plugin, PolicyInstance, RuleInstance};
