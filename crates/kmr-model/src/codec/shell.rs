//! What a file says about a tensor beside its type, shape and values, so that it can be written again as it came.

use std::sync::{Arc, Weak};

use super::{malformed, typed};
use crate::{DType, ErrorKind, Initializer, Layout, ModelError, Tensor, proto, tensor::element_count};

/// Where a tensor's values stand in its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// In `raw_data`; taken out of the shell.
    Raw,
    /// In the typed field; taken out of the shell, because the tensor gives the field back exactly.
    Typed,
    /// In the shell's message: texts, types of unknown size, and numbers that do not fit the tensor's type.
    Kept,
}

/// What a file says about a tensor beside its type, shape and values.
#[derive(Clone, Debug)]
pub(crate) struct TensorShell {
    /// The message, without the values where they were taken out.
    message: proto::TensorProto,
    values: Values,
    /// The whole message of the sparse form that the tensor came in.
    sparse: Option<Box<proto::SparseTensorProto>>,
    /// The tensor that was read: another one means that the values were changed since.
    read: Weak<Tensor>,
}

impl PartialEq for TensorShell {
    fn eq(&self, other: &Self) -> bool {
        self.message == other.message && self.values == other.values && self.sparse == other.sparse
    }
}

/// The tensor of a message that holds its own data. Texts and types of unknown size give a tensor without bytes.
pub(super) fn read(name: &str, message: &proto::TensorProto) -> Result<Tensor, ModelError> {
    Ok(read_values(name, message)?.0)
}

fn read_values(name: &str, message: &proto::TensorProto) -> Result<(Tensor, Values), ModelError> {
    let place = || format!("tensor `{name}`");
    if message.segment.is_set() {
        return Err(ModelError::new(
            ErrorKind::Unsupported,
            place(),
            "is stored in segments",
        ));
    }
    if message.data_location == Some(EXTERNAL) {
        return Err(
            ModelError::new(ErrorKind::Unsupported, place(), "is stored in a file beside the model")
                .with_help("save the model as a single file"),
        );
    }
    let dtype = DType::from_number(message.data_type.unwrap_or_default());
    let shape = shape(name, &message.dims)?;
    if dtype.bits().is_none() {
        let texts = dtype == DType::STRING && message.raw_data.is_none();
        if texts && element_count(&shape) != Some(message.string_data.len()) {
            let count = message.string_data.len();
            return Err(malformed(place(), format!("holds {count} texts in shape {shape:?}")));
        }
        return Ok((Tensor::opaque(dtype, shape), Values::Kept));
    }
    let (bytes, values) = match &message.raw_data {
        Some(raw) => (raw.clone(), Values::Raw),
        None => {
            let read = typed::read(message, dtype, element_count(&shape).unwrap_or_default());
            (read.raw, if read.exact { Values::Typed } else { Values::Kept })
        }
    };
    let tensor = Tensor::new(dtype, shape, bytes).map_err(|error| malformed(place(), error.to_string()))?;
    Ok((tensor, values))
}

/// The value of `data_location` that says that the data lies in another file.
pub(super) const EXTERNAL: i32 = 1;

/// Checked dimensions.
pub(super) fn shape(name: &str, dims: &[i64]) -> Result<Vec<usize>, ModelError> {
    let shape = dims.iter().map(|&size| usize::try_from(size)).collect::<Result<_, _>>();
    shape.map_err(|_| {
        malformed(
            format!("tensor `{name}`"),
            format!("has a negative dimension in {dims:?}"),
        )
    })
}

impl Initializer {
    /// The initializer that `message` describes, which holds its own data.
    pub(super) fn from_message(name: &str, mut message: proto::TensorProto) -> Result<Self, ModelError> {
        let (tensor, values) = read_values(name, &message)?;
        match values {
            Values::Raw => message.raw_data = None,
            Values::Typed => typed::clear(&mut message, tensor.dtype()),
            Values::Kept => {}
        }
        let tensor = Arc::new(tensor);
        Ok(Self {
            layout: Layout::Dense,
            shell: Some(Arc::new(TensorShell {
                message,
                values,
                sparse: None,
                read: Arc::downgrade(&tensor),
            })),
            tensor,
        })
    }

    /// This initializer, `dense` being what `message` stands for and `self` its values.
    pub(super) fn into_sparse(self, dense: Tensor, message: proto::SparseTensorProto) -> Self {
        let tensor = Arc::new(dense);
        let shell = self.shell.as_deref().cloned().map(|shell| {
            Arc::new(TensorShell {
                sparse: Some(Box::new(message)),
                read: Arc::downgrade(&tensor),
                ..shell
            })
        });
        Self {
            tensor,
            layout: Layout::Sparse,
            shell,
        }
    }

    /// This initializer with other values, keeping what else the file said about it.
    #[must_use]
    pub fn with_tensor(&self, tensor: Tensor) -> Self {
        Self {
            tensor: Arc::new(tensor),
            layout: self.layout,
            shell: self.shell.clone(),
        }
    }

    /// What the file said, if the values are still those of the file.
    fn untouched(&self) -> Option<&TensorShell> {
        let shell = self.shell.as_deref()?;
        std::ptr::eq(shell.read.as_ptr(), Arc::as_ptr(&self.tensor)).then_some(shell)
    }

    /// The sparse message that the values came in, if they are still those and still to be sparse.
    pub(super) fn sparse_message(&self, name: &str) -> Option<proto::SparseTensorProto> {
        let mut message = self.untouched()?.sparse.as_deref()?.clone();
        // Values without bytes have no other form than the one that they came in.
        if self.layout == Layout::Dense && self.tensor.dtype().bits().is_some() {
            return None;
        }
        message.values.get_or_insert_default().name = Some(name.into());
        Some(message)
    }

    /// The message of the sparse form without values, indices and dimensions: what else the file said.
    pub(super) fn sparse_shell(&self) -> proto::SparseTensorProto {
        let message = self.shell.as_deref().and_then(|shell| shell.sparse.as_deref());
        let mut message = message.cloned().unwrap_or_default();
        message.values.take();
        message.indices.take();
        message.dims.clear();
        message
    }

    /// The dense message of `tensor`, which is this initializer's or its nonzero values, without the values unless
    /// they are kept as they came. Gives whether the values are still missing.
    pub(super) fn shell_message(&self, name: &str, tensor: &Tensor) -> (proto::TensorProto, Missing) {
        let Some(shell) = self.shell.as_deref() else {
            let mut message = super::tensor_to_message(name, tensor);
            message.raw_data = None;
            return (message, Missing::Raw);
        };
        let mut message = shell.message.clone();
        let untouched = shell.sparse.is_none() && self.untouched().is_some();
        if !untouched {
            typed::clear_all(&mut message);
        }
        let missing = match shell.values {
            Values::Kept if untouched => Missing::Nothing,
            Values::Typed => Missing::Typed,
            Values::Kept | Values::Raw => Missing::Raw,
        };
        if missing == Missing::Nothing {
            message.name = Some(name.into());
            return (message, missing);
        }
        message.name = Some(name.into());
        message.dims = tensor.shape().iter().map(|&size| size as i64).collect();
        message.data_type = Some(tensor.dtype().number());
        (message, missing)
    }
}

/// Which field of a message still lacks its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// `raw_data`.
    Raw,
    /// The typed field.
    Typed,
    /// None: the message is whole.
    Nothing,
}
