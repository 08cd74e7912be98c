//! What the author of a kmr plugin writes against.
//!
//! A plugin is a `cdylib` that implements [`Rule`], [`Meter`] or [`Policy`] and names them once in
//! [`export_plugin!`]. It sees the model through [`Host`] and never the host's source. The guide in this
//! crate's folder, `GUIDE.md`, goes from an empty folder to a plugin in a manifest; `template/` is one.
//!
//! [`wire`] holds the documents that cross between host and plugins; the host uses the same types.

mod error;
mod export;
mod extension;
mod host;
mod ignore;
mod logging;
pub mod logits;
#[doc(hidden)]
pub mod metadata;
pub mod tensors;
pub mod tokens;
pub mod wire;

pub use error::{Error, Result};
pub use extension::{Meter, Policy, Reading, Rule};
pub use host::{Batch, Batches, Host, Observation, Output, Session};
pub use ignore::Ignore;
pub use wire::{
    Action, Applied, Assignment, Change, KnobSettings, MeasureRequest, Method, NoConfig, ObserveRequest, Optimizer,
    RunRequest, SessionRequest, Split, Statistic, Target,
};

pub use kmr_abi::ErrorCode;
pub use kmr_core::{Ask, History};
pub use kmr_model as model;
pub use {half, log, serde, serde_json};

/// What [`export_plugin!`] expands to; not for direct use.
#[doc(hidden)]
pub mod internal {
    pub use crate::export::{header, make_meter, make_policy, make_rule, start, unknown_extension};
    pub use kmr_abi;
}

/// Compiles the guide's examples.
#[cfg(doctest)]
#[doc = include_str!("../GUIDE.md")]
struct Guide;
