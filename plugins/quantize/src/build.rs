//! New nodes and initializers, gathered into one patch.

pub use kmr_sdk::model::Build;
