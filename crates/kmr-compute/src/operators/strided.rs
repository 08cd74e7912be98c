//! Moving elements of any type, by strides over their bytes.

use bytes::Bytes;
use kmr_model::{DType, Tensor};

/// Bytes of an element of a type that is not packed.
pub fn element_size(dtype: DType) -> Result<usize, String> {
    match dtype.bits() {
        Some(bits) if bits.is_multiple_of(8) => Ok(bits / 8),
        _ => Err(format!("elements of {dtype} cannot be moved singly")),
    }
}

/// Elements of a whole number of bytes each: those of packed types take a byte here.
pub struct Cells {
    /// Bytes of one element.
    pub size: usize,
    pub bytes: Bytes,
}

impl Cells {
    /// The elements of `tensor`.
    pub fn new(tensor: &Tensor) -> Result<Self, String> {
        match tensor.dtype().bits() {
            Some(bits @ (2 | 4)) => {
                let per_byte = 8 / bits;
                let code = |position: usize| {
                    let byte = tensor.bytes()[position / per_byte];
                    byte >> (position % per_byte * bits) & ((1 << bits) - 1)
                };
                Ok(Self {
                    size: 1,
                    bytes: (0..tensor.len()).map(code).collect::<Vec<u8>>().into(),
                })
            }
            _ => Ok(Self {
                size: element_size(tensor.dtype())?,
                bytes: tensor.bytes().clone(),
            }),
        }
    }

    /// The element at `position`; the caller makes sure that it exists.
    pub fn get(&self, position: usize) -> &[u8] {
        &self.bytes[position * self.size..][..self.size]
    }

    /// A tensor of elements as this type lays them out.
    pub fn tensor(dtype: DType, shape: Vec<usize>, cells: Vec<u8>) -> Result<Tensor, String> {
        let bytes = match dtype.bits() {
            Some(bits @ (2 | 4)) => {
                let byte = |cells: &[u8]| {
                    let parts = cells.iter().enumerate();
                    parts.fold(0, |byte, (k, cell)| byte | (cell & ((1 << bits) - 1)) << (k * bits))
                };
                cells.chunks(8 / bits).map(byte).collect()
            }
            _ => cells,
        };
        Tensor::new(dtype, shape, bytes.into()).map_err(|error| error.to_string())
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

/// Strides over a tensor of shape `own` under which it appears broadcast to `shape`.
pub fn broadcast_strides(own: &[usize], shape: &[usize]) -> Vec<isize> {
    let strides = strides(own);
    let lead = shape.len() - own.len();
    (0..shape.len())
        .map(|axis| match axis.checked_sub(lead) {
            Some(axis) if own[axis] != 1 => strides[axis],
            _ => 0,
        })
        .collect()
}

/// Calls `visit` with `offset + Σ index·stride` for each index of `shape`, in row-major order.
pub fn visit(shape: &[usize], strides: &[isize], offset: isize, mut visit: impl FnMut(isize)) {
    let count: usize = shape.iter().product();
    let mut index = vec![0_usize; shape.len()];
    let mut at = offset;
    for _ in 0..count {
        visit(at);
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
}

/// The positions `offset + Σ index·stride`, in row-major order of `shape`; the caller makes sure that
/// none is negative.
pub fn positions(shape: &[usize], strides: &[isize], offset: isize) -> Vec<usize> {
    let mut positions = Vec::with_capacity(shape.iter().product());
    visit(shape, strides, offset, |at| positions.push(at as usize));
    positions
}

/// The elements `offset + Σ index·stride`, in row-major order of `shape`.
///
/// The caller makes sure that all of them exist.
pub fn copy(tensor: &Tensor, shape: Vec<usize>, strides: &[isize], offset: isize) -> Result<Tensor, String> {
    let cells = Cells::new(tensor)?;
    let count: usize = shape.iter().product();
    let mut bytes = Vec::with_capacity(count * cells.size);
    visit(&shape, strides, offset, |at| {
        bytes.extend_from_slice(cells.get(at as usize))
    });
    Cells::tensor(tensor.dtype(), shape, bytes)
}

/// The tensor broadcast to `shape`, which it must broadcast to.
pub fn expand(tensor: &Tensor, shape: &[usize]) -> Result<Tensor, String> {
    if tensor.shape() == shape {
        return Ok(tensor.clone());
    }
    let steps = broadcast_strides(tensor.shape(), shape);
    copy(tensor, shape.to_vec(), &steps, 0)
}
