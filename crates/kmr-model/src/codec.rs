//! The ONNX codec: reads and writes models, keeping what it does not understand.

mod decode;
mod encode;
mod sparse;
mod typed;

use std::sync::Arc;

use bytes::Bytes;

use crate::{ErrorKind, Initializer, ModelError, Tensor, proto};

pub use decode::{DecodeOptions, ExternalData};
pub use encode::tensor_marker;

/// What a file says about a tensor beside its type, shape and values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorShell {
    /// The message without dims, type and data (strings keep theirs).
    message: proto::TensorProto,
    /// Whether the values were in the typed field rather than in `raw_data`.
    typed: bool,
    /// The message of the sparse form that the tensor came in, without data.
    sparse: Option<Box<proto::SparseTensorProto>>,
}

impl Initializer {
    /// This initializer with other values, keeping what else the file said about it.
    #[must_use]
    pub fn with_tensor(&self, tensor: Tensor) -> Self {
        Self {
            tensor: Arc::new(tensor),
            layout: self.layout,
            shell: self.shell.clone(),
        }
    }
}

fn malformed(place: impl Into<String>, message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorKind::Malformed, place, message)
}

/// Reads one tensor message that holds its own data, as attributes do.
///
/// # Errors
/// [`ErrorKind::Malformed`] if data and shape do not fit, [`ErrorKind::Unsupported`] for external data.
pub fn tensor_from_message(message: &proto::TensorProto) -> Result<Tensor, ModelError> {
    let (tensor, _) = decode::tensor(message.clone(), &decode::NoExternalData)?;
    Ok(tensor)
}

/// The message of a tensor, its values as raw bytes.
pub fn tensor_to_message(name: &str, tensor: &Tensor) -> proto::TensorProto {
    proto::TensorProto {
        name: Some(name.into()),
        dims: tensor.shape().iter().map(|&size| size as i64).collect(),
        data_type: Some(tensor.dtype().number()),
        raw_data: Some(Bytes::clone(tensor.bytes())),
        ..Default::default()
    }
}
