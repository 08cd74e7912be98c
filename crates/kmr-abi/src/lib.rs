//! The binary contract between kmr and its plugins.
//!
//! A plugin is a shared library with one [`PluginRoot`]. Through it the host makes [`Rule`]s, [`Meter`]s
//! and [`Policy`]s, and lends each call a [`Host`], by which the plugin reads and edits the model.
//! Plugin authors do not use this crate directly: `kmr-sdk` wraps it.
//!
//! # Promises
//!
//! - **Every function returns a result.** A panic that leaves a function of this contract ends the process,
//!   so both sides run every function inside [`guard`] and hand a panic over as an error value.
//! - **Structured things cross as JSON, bulk data as memory that the host allocates.** Inputs are
//!   [`SharedTensor`]s: owned handles that keep read-only memory alive. Outputs are [`OutputBuffer`]s: the
//!   plugin fills them and commits them. Neither side frees the other's memory.
//! - **Nothing assumes one address space.** What is lent for a call (`RStr`, [`BorrowedTensor`], [`HostRef`])
//!   ends with the call; what is handed over is a handle; so a proxy in another process can stand for either
//!   side. A plugin in C sees the same functions with the same error codes.
//! - **It only grows.** Frozen structs ([`PluginError`], [`TensorDescription`], [`Batch`], [`Reading`]…) never
//!   change. Growth is a trait method with a default body after the last one, a field at the end of
//!   [`PluginRoot`], or a key in a JSON document, which readers ignore when they do not know it. Numbers that
//!   name a choice ([`ErrorCode`], [`ElementType`], [`LogLevel`]) are open: unknown ones are valid.
//!
//! # Documents
//!
//! Requests and answers named "JSON" are UTF-8 documents whose shapes `kmr-sdk`'s `wire` module defines.

mod error;
mod guard;
mod host;
mod plugin;
mod tensor;

pub use abi_stable;

pub use error::{AbiResult, ErrorCode, PluginError};
pub use guard::{DropGuarded, guard};
pub use host::{
    Batch, BatchIterator, BatchIterator_TO, BatchIteratorBox, CANDIDATE, Host, Host_TO, HostRef, REFERENCE, Session,
    Session_TO, SessionBox,
};
pub use plugin::{
    Environment, LogLevel, LogSink, LogSink_TO, LogSinkBox, Meter, Meter_TO, MeterBox, PluginRoot, PluginRoot_Ref,
    Policy, Policy_TO, PolicyBox, Reading, Rule, Rule_TO, RuleBox,
};
pub use tensor::{
    BUFFER_ALIGNMENT, BorrowedTensor, ElementType, OutputBuffer, OutputBuffer_TO, OutputBufferBox, SharedTensor,
    SharedTensor_TO, SharedTensorBox, TensorDescription,
};

/// The version of the contract, as plugins carry it in their metadata.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The link section in which a plugin's metadata lies, readable without running any of its code.
#[cfg(not(target_vendor = "apple"))]
pub const METADATA_SECTION: &str = ".kmr";
/// The link section in which a plugin's metadata lies, readable without running any of its code.
#[cfg(target_vendor = "apple")]
pub const METADATA_SECTION: &str = "__kmr";

/// The exported static, an abi_stable `LibHeader`, from which a plugin's [`PluginRoot`] is reached.
pub const ROOT_SYMBOL: &str = "kmr_plugin_root";
