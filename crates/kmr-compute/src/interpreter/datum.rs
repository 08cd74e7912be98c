//! What flows between nodes: tensors, and what is made of them.

use std::sync::Arc;

use kmr_model::Tensor;

use super::{Float, Value};

/// A value of any kind that ONNX has for inner values.
#[derive(Clone, Debug)]
pub enum Datum {
    /// A tensor.
    Tensor(Value),
    /// A list of values.
    Sequence(Arc<Vec<Datum>>),
    /// A value that may be absent.
    Optional(Option<Box<Datum>>),
}

impl Datum {
    /// A tensor as a value.
    pub fn from_tensor(tensor: Tensor) -> Self {
        Self::Tensor(Value::from_tensor(tensor))
    }

    /// The tensor, or what the value is instead.
    pub fn tensor(self) -> Result<Value, &'static str> {
        match self {
            Self::Tensor(value) => Ok(value),
            other => Err(other.kind()),
        }
    }

    /// Whether a float32 tensor in it is of a kind.
    pub fn holds(&self, kind: &impl Fn(&Float) -> bool) -> bool {
        match self {
            Self::Tensor(Value::Float(float)) => kind(float),
            Self::Tensor(Value::Host(_)) | Self::Optional(None) => false,
            Self::Sequence(values) => values.iter().any(|value| value.holds(kind)),
            Self::Optional(Some(value)) => value.holds(kind),
        }
    }

    /// What people call this kind of value.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tensor(_) => "a tensor",
            Self::Sequence(_) => "a sequence",
            Self::Optional(_) => "an optional",
        }
    }
}
