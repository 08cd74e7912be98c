//! Direct convolution of float32 tensors in NCHW layout, its gradients, and what else training needs, on the
//! vector units of the CPU.
//!
//! There are two ways to convolve; the geometry decides which is taken.
//!
//! - Output channels over the lanes of vectors, where they fill them: the input is read where it lies, one
//!   float for all lanes, and padding is never multiplied with.
//! - Positions over the lanes: the input of a few images is rearranged so that every tap of the kernel
//!   reads consecutive floats at a constant distance; a register tile then accumulates several output
//!   channels over several vectors of neighboring positions.
//!
//! Either way, every output element is one chain of multiply-adds in the order (kernel column, kernel row,
//! input channel), starting from the bias, so that results of finite numbers depend neither on the way, nor
//! on the number of threads, nor on the batch that an image comes in. They do depend on the
//! [`InstructionSet`]: without fused multiply-add, products are rounded.
//!
//! The gradient by the input is a convolution of the cotangent, or one for each phase of a stride. Sums over
//! a batch, as in the gradient by the weights and in batch normalization, are taken over a partition that
//! follows the sizes alone, so they do not depend on the number of threads either.
//!
//! Beside these are sums for methods that work with Gram matrices ([`Products`], [`Lanewise`]). They round alike on
//! every processor, so that what a method makes of the same numbers is the same everywhere.

mod affine;
mod convolution;
mod elementwise;
mod error;
mod finish;
mod geometry;
mod gradient;
mod instruction_set;
mod lanes;
mod layout;
mod levels;
mod moments;
mod normalization;
mod output;
mod products;
mod spread;
mod tap;
mod tile;
mod transpose;
mod vector;
mod vectorized;
mod window;

pub use affine::{Affine, affine};
pub use convolution::{Convolution, Finish};
pub use elementwise::{add_relu, relu_gradient};
pub use error::GeometryError;
pub use geometry::Geometry;
pub use gradient::Gradient;
pub use instruction_set::InstructionSet;
pub use lanes::{LANES, Lanes, Lanewise, Panel};
pub use levels::{Levels, nearest_level};
pub use normalization::{BatchNormalization, NormalizationGradient, Statistics};
pub use products::Products;
