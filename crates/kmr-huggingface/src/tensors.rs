//! Where tensors come from.

use indexmap::IndexMap;
use kmr_model::Tensor;

use crate::HuggingFaceError;

/// Named tensors that a network is made of, by the names that `transformers` gives them.
///
/// Floating-point tensors of 32 or 16 bits. What is large had better be mapped: tensors are kept as they are given.
pub trait Tensors {
    /// The tensor of this name, if there is one.
    ///
    /// # Errors
    /// If it is there and cannot be read.
    fn tensor(&self, name: &str) -> Result<Option<Tensor>, HuggingFaceError>;

    /// Whether there is a tensor of this name.
    fn contains(&self, name: &str) -> bool;
}

impl Tensors for IndexMap<String, Tensor> {
    fn tensor(&self, name: &str) -> Result<Option<Tensor>, HuggingFaceError> {
        Ok(self.get(name).cloned())
    }

    fn contains(&self, name: &str) -> bool {
        self.contains_key(name)
    }
}
