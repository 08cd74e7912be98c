//! Direct convolution of float32 tensors in NCHW layout, on the vector units of the CPU.
//!
//! The input of a few images is rearranged so that every tap of the kernel reads consecutive floats
//! at a constant distance; a register tile then accumulates several output channels over several
//! vectors of neighbouring positions. Every output element is one chain of multiply-adds in the order
//! (input channel, kernel row, kernel column), starting from the bias, so that results depend neither
//! on the number of threads nor on the batch that an image comes in. They do depend on the
//! [`InstructionSet`]: without fused multiply-add, products are rounded.

mod affine;
mod convolution;
mod elementwise;
mod error;
mod finish;
mod geometry;
mod gradient;
mod instruction_set;
mod layout;
mod moments;
mod normalization;
mod output;
mod spread;
mod tap;
mod tile;
mod transpose;
mod vector;
mod window;

pub use affine::{Affine, affine};
pub use convolution::{Convolution, Finish};
pub use elementwise::{add_relu, relu_gradient};
pub use error::GeometryError;
pub use geometry::Geometry;
pub use gradient::Gradient;
pub use instruction_set::InstructionSet;
pub use normalization::{BatchNormalization, NormalizationGradient, Statistics};
