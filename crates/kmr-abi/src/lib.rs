//! The binary contract between kmr and its plugins.
//!
//! Structured things cross as JSON, tensors as handles to memory that the host allocated. Every
//! function returns a result, so that a panic has somewhere to go; no function assumes that host and
//! plugin share an address space. Plugin authors write against `kmr-sdk`, never against this crate.
//!
//! Growth: until the first tagged release the shape is free. From then on frozen structs stay as they
//! are, and new abilities come as methods with a default body after `last_prefix_field`, as fields at
//! the end of [`PluginRoot`], or as keys in JSON.

// The derive macros of abi_stable predate these lints.
#![allow(non_camel_case_types, clippy::missing_safety_doc)]

mod error;
mod extension;
mod host;
mod memory;
mod root;

pub use abi_stable;
pub use error::{AbiResult, ErrorCode, PluginError};
pub use extension::{
    Meter, Meter_TO, MeterBox, Policy, Policy_TO, PolicyBox, Reading, Rule, Rule_TO, RuleBox,
};
pub use host::{
    Batch, Batches, Batches_TO, BatchesBox, Host, Host_TO, HostRef, LogLevel, OutputTensor, Session, Session_TO, SessionBox,
};
pub use memory::{
    ElementType, NamedTensor, OutputBuffer, OutputBuffer_TO, OutputBufferBox, SharedTensor, SharedTensor_TO,
    SharedTensorBox, TensorDescription,
};
pub use root::{Environment, PluginRoot, PluginRoot_Ref};

/// The contract's version; plugins of the same major version are loaded.
pub const ABI_VERSION: &str = env!("CARGO_PKG_VERSION");
