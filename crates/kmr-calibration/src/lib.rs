//! What layers multiply their weights with on calibration data, as rules need it: passes over the data ([`each_batch`]),
//! means and Gram matrices of inputs ([`observe`]), and layers in groups that do not depend on one another ([`stages`]).
//!
//! A rule that goes through the stages in order, edits each before it observes the next, and drops what it has
//! observed, works with the inputs that the compressed layers before really give, and never holds more than one stage's
//! Gram matrices.

mod batches;
mod inputs;
mod stages;

pub use batches::each_batch;
pub use inputs::{Layer, Product, observe};
pub use kmr_methods::gram::Inputs;
pub use stages::stages;
