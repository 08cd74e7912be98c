//! The model that kmr works on.
//!
//! A [`Model`] is an ONNX model: a [`Graph`] of [`Node`]s over named values, with [`Tensor`]s behind
//! `Arc` so that a candidate costs only what it changes. Rules edit through a [`Patch`]; nothing is
//! changed in place. What this crate does not understand it keeps and writes back.

pub mod adapters;
mod build;
pub mod channels;
pub mod codec;
pub mod compact;
pub mod cost;
mod dtype;
mod error;
pub mod experts;
mod functions;
mod graph;
mod lift;
mod model;
mod names;
mod node;
pub mod parameters;
mod patch;
pub mod shapes;
pub mod stored;
mod subgraphs;
mod tensor;
pub mod upgrade;
mod value;
pub mod weights;
pub mod windows;

pub use build::Build;
pub use dtype::DType;
pub use error::{ErrorKind, ModelError};
pub use graph::{Graph, GraphIndex, Initializer, Layout};
pub use model::{Model, OperatorSet};
pub use node::Node;
pub use patch::{Edit, Patch};
pub use tensor::{Element, Tensor};
pub use value::{Dimension, ValueInfo};

/// The ONNX wire messages, generated from `schema/onnx.proto`.
#[expect(
    missing_docs,
    rustdoc::all,
    reason = "generated code, documented by the ONNX specification"
)]
#[allow(clippy::all)]
pub mod proto {
    mod generated {
        include!(concat!(env!("OUT_DIR"), "/messages.rs"));
    }
    pub use generated::onnx::*;
}
