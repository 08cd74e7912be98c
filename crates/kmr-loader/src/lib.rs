//! Finds, inspects, verifies and loads plugins.
//!
//! [`PluginFile::open`] reads a plugin's metadata without running any of its code; [`PluginFile::load`] runs
//! it in this process. What comes out is behind [`LoadedPlugin`], in terms of the host ([`HostServices`]),
//! so that plugins in a worker process or with a C interface fit the same place.
//!
//! The traps that this crate is built around:
//!
//! - abi_stable's own loading functions keep one library per *type*: a second plugin silently becomes the
//!   first. Each library's header is read from the library itself.
//! - abi_stable's layout check has a direction: a newer host refuses an older plugin. Both are tried.
//! - A library file that is cut short or overwritten while it is loaded ends the process. So the bytes are
//!   read once, checked, hashed, and loaded from a sealed memory file.
//! - The dynamic linker tells libraries apart by path before it looks at the file, so the descriptor in a
//!   sealed file's path must never be used again: it stays open, and libraries are never unloaded.

mod abi_host;
mod binary;
mod discovery;
mod error;
mod in_process;
mod layout;
mod library;
mod output;
mod plugin;
mod plugin_file;
mod services;

pub use discovery::{Discovery, discover};
pub use error::{LoadError, LoadErrorKind};
pub use plugin::{Environment, LoadedPlugin, MeterInstance, PolicyInstance, RuleInstance};
pub use plugin_file::PluginFile;
pub use services::{BatchStream, HostServices, TrainingSession};
