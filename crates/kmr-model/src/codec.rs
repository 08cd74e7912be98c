//! The ONNX codec: reads and writes models, keeping what it does not understand.

mod decode;
mod encode;
mod external;
mod files;
mod shell;
mod sparse;
mod typed;

use bytes::Bytes;

use crate::{ErrorKind, ModelError, Tensor, proto};

pub use decode::{DecodeOptions, ExternalData};
pub(crate) use decode::{Decoder, Place};
pub use encode::tensor_marker;
pub use files::{DataFile, ModelFiles};
pub(crate) use shell::TensorShell;

fn malformed(place: impl Into<String>, message: impl Into<String>) -> ModelError {
    ModelError::new(ErrorKind::Malformed, place, message)
}

/// Reads one tensor message that holds its own data, as attributes do.
///
/// # Errors
/// [`ErrorKind::Malformed`] if data and shape do not fit, [`ErrorKind::Unsupported`] for external data and for types
/// of unknown size.
pub fn tensor_from_message(message: &proto::TensorProto) -> Result<Tensor, ModelError> {
    let name = message.name.as_deref().unwrap_or_default();
    let tensor = shell::read(name, message)?;
    if tensor.dtype().bits().is_none() && tensor.dtype() != crate::DType::STRING {
        let message = format!("has {}, which kmr does not know", tensor.dtype());
        return Err(ModelError::new(
            ErrorKind::Unsupported,
            format!("tensor `{name}`"),
            message,
        ));
    }
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
