//! The numerics of compression methods, as pure functions: no graph, no files, no plugin interface.
//!
//! Weights are a [`Matrix`] of float32, row by row: rows are output channels, columns are inputs (of a
//! convolution: input channels of the group × kernel height × kernel width, in that order). A
//! [`Scheme`] says how they become integers; [`quantize`] rounds them to nearest, [`gptq`](gptq::gptq)
//! against the Gram matrix of their inputs; [`sparse_gpt`] sets weights to zero against it. [`loss`] and [`schedule`]
//! are for training; [`experts`], [`clustering`] and [`ridge`] for routing. Results do not depend on the number of
//! threads.

pub mod assignment;
pub mod awq;
pub mod bias;
pub mod calibration;
mod cholesky;
pub mod clustering;
pub mod equalize;
mod error;
pub mod experts;
mod fit;
pub mod gptq;
pub mod gram;
mod grid;
pub mod loss;
pub mod low_rank;
mod matrix;
mod metric;
pub mod pack;
mod quantized;
pub mod ridge;
mod rounding;
pub mod schedule;
pub mod sparse_gpt;
mod tiles;

pub use error::MethodError;
pub use fit::{Clipping, Parameters, Scheme, fit};
pub use grid::{Granularity, Grid};
pub use matrix::Matrix;
pub use quantized::Quantized;
pub use rounding::{quantize, round_to_nearest};
