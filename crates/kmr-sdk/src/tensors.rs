//! Tensors as handles of the contract, and back.

use bytes::Bytes;
use kmr_abi::{
    ElementType, SharedTensorBox, TensorDescription,
    abi_stable::std_types::{RResult, RVec},
};
use kmr_model::{DType, Tensor};

use crate::{Error, ErrorCode, Result};

/// The result of a call through the contract, in this crate's terms.
pub(crate) fn received<T>(result: kmr_abi::AbiResult<T>) -> Result<T> {
    match result {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(error) => Err(error.into()),
    }
}

/// The description of a tensor called `name`.
pub fn describe(name: &str, dtype: DType, shape: &[usize]) -> TensorDescription {
    TensorDescription {
        name: name.into(),
        element_type: ElementType(dtype.number()),
        shape: shape.iter().map(|&size| size as u64).collect::<RVec<u64>>(),
    }
}

/// The element type and shape of a description.
///
/// # Errors
/// [`ErrorCode::SHAPE`] if a size is greater than memory.
pub fn read_description(description: &TensorDescription) -> Result<(DType, Vec<usize>)> {
    let sizes = description.shape.iter().map(|&size| usize::try_from(size));
    let shape = sizes
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| Error::new(ErrorCode::SHAPE, "the shape is greater than memory").at(description.name.as_str()))?;
    Ok((DType::from_number(description.element_type.0), shape))
}

/// The name and the tensor behind a handle, without a copy: the tensor's bytes keep the handle.
///
/// # Errors
/// [`ErrorCode::SHAPE`] if the bytes do not fit type and shape.
pub fn from_handle(handle: SharedTensorBox) -> Result<(String, Tensor)> {
    let description = received(handle.description())?;
    let (dtype, shape) = read_description(&description)?;
    let name = description.name.into_string();
    let bytes = Bytes::from_owner(shared::SharedBytes::new(handle)?);
    let tensor = Tensor::new(dtype, shape, bytes).map_err(|error| Error::from(error).at(name.as_str()))?;
    Ok((name, tensor))
}

mod shared {
    #![allow(unsafe_code)]

    use kmr_abi::SharedTensorBox;

    use crate::Result;

    /// The memory behind a handle, asked for once.
    pub struct SharedBytes {
        start: *const u8,
        length: usize,
        _handle: SharedTensorBox,
    }

    impl SharedBytes {
        pub fn new(handle: SharedTensorBox) -> Result<Self> {
            let bytes = super::received(handle.bytes())?;
            let (start, length) = (bytes.as_ptr(), bytes.len());
            Ok(Self {
                start,
                length,
                _handle: handle,
            })
        }
    }

    impl AsRef<[u8]> for SharedBytes {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: the contract of `SharedTensor` promises that this memory stays readable and unchanged
            // for as long as the handle lives, and the handle lives in `self`.
            unsafe { std::slice::from_raw_parts(self.start, self.length) }
        }
    }

    // SAFETY: the memory is only read, and the handle is Send and Sync by its contract.
    unsafe impl Send for SharedBytes {}
    // SAFETY: as above.
    unsafe impl Sync for SharedBytes {}
}
