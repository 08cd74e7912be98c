//! Moving elements of any type, by strides over their bytes.

use kmr_model::{DType, Tensor};

/// Bytes of an element of a type that is not packed.
pub fn element_size(dtype: DType) -> Result<usize, String> {
    match dtype.bits() {
        Some(bits) if bits.is_multiple_of(8) => Ok(bits / 8),
        _ => Err(format!("elements of {dtype} cannot be moved singly")),
    }
}

/// Row-major strides.
pub fn strides(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis] as isize;
    }
    strides
}

/// The elements `offset + Σ index·stride`, in row-major order of `shape`.
///
/// The caller makes sure that all of them exist.
pub fn copy(tensor: &Tensor, shape: Vec<usize>, strides: &[isize], offset: isize) -> Result<Tensor, String> {
    let size = element_size(tensor.dtype())?;
    let source = tensor.bytes();
    let count: usize = shape.iter().product();
    let mut bytes = Vec::with_capacity(count * size);
    let mut index = vec![0_usize; shape.len()];
    let mut at = offset;
    for _ in 0..count {
        let start = usize::try_from(at).map_err(|_| "an index lies before the tensor")? * size;
        let element = source.get(start..start + size);
        bytes.extend_from_slice(element.ok_or("an index lies behind the tensor")?);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis] as isize;
            index[axis] = 0;
        }
    }
    Tensor::new(tensor.dtype(), shape, bytes.into()).map_err(|error| error.to_string())
}

/// The tensor broadcast to `shape`, which it must broadcast to.
pub fn expand(tensor: &Tensor, shape: &[usize]) -> Result<Tensor, String> {
    if tensor.shape() == shape {
        return Ok(tensor.clone());
    }
    let own = strides(tensor.shape());
    let lead = shape.len() - tensor.shape().len();
    let steps: Vec<isize> = (0..shape.len())
        .map(|axis| match axis.checked_sub(lead) {
            Some(axis) if tensor.shape()[axis] != 1 => own[axis],
            _ => 0,
        })
        .collect();
    copy(tensor, shape.to_vec(), &steps, 0)
}
