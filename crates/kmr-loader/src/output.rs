//! Memory for tensors that plugins make.

use bytes::Bytes;
use kmr_abi::{BUFFER_ALIGNMENT, TensorDescription};
use kmr_model::{DType, Tensor};
use kmr_sdk::{Error, ErrorCode, Result, tensors::read_description};

/// As many bytes as [`BUFFER_ALIGNMENT`] says, and so aligned.
#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; BUFFER_ALIGNMENT]);

/// A tensor's memory: aligned, and zero at first.
pub struct Allocation {
    dtype: DType,
    shape: Vec<usize>,
    lines: Vec<Line>,
    length: usize,
}

impl Allocation {
    /// Memory for a tensor of this description.
    ///
    /// # Errors
    /// `SHAPE` if type and shape name no number of bytes, `OUT_OF_MEMORY` if there is not so much.
    pub fn new(description: &TensorDescription) -> Result<Self> {
        let name = description.name.as_str();
        let (dtype, shape) = read_description(description)?;
        let count = shape
            .iter()
            .try_fold(1_usize, |product, &size| product.checked_mul(size));
        let length = count
            .and_then(|count| dtype.byte_len(count))
            .ok_or_else(|| {
                let message =
                    format!("a {dtype} tensor of shape {shape:?} takes no known number of bytes");
                Error::new(ErrorCode::SHAPE, message).at(name)
            })?;
        let mut lines = Vec::new();
        let count = length.div_ceil(BUFFER_ALIGNMENT);
        lines.try_reserve_exact(count).map_err(|_| {
            Error::new(
                ErrorCode::OUT_OF_MEMORY,
                format!("{length} bytes cannot be had"),
            )
            .at(name)
        })?;
        lines.resize(count, bytemuck::Zeroable::zeroed());
        Ok(Self {
            dtype,
            shape,
            lines,
            length,
        })
    }

    /// The memory.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.length]
    }

    /// The tensor, without a copy.
    ///
    /// # Errors
    /// None that type and shape were not refused for before.
    pub fn into_tensor(self) -> Result<Tensor> {
        let (dtype, shape) = (self.dtype, self.shape.clone());
        Ok(Tensor::new(dtype, shape, Bytes::from_owner(self))?)
    }
}

impl AsRef<[u8]> for Allocation {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use kmr_sdk::tensors::describe;

    use super::*;

    #[test]
    fn memory_is_aligned_and_becomes_the_tensor() {
        let mut allocation = Allocation::new(&describe("w", DType::FLOAT, &[3, 7])).unwrap();
        let bytes = allocation.bytes();
        assert_eq!(
            (bytes.len(), bytes.as_ptr() as usize % BUFFER_ALIGNMENT),
            (84, 0)
        );
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes[4..8].copy_from_slice(&2.5_f32.to_le_bytes());
        let start = bytes.as_ptr();
        let tensor = allocation.into_tensor().unwrap();
        assert_eq!(tensor.bytes().as_ptr(), start);
        assert_eq!(tensor.values::<f32>().unwrap()[..2], [0.0, 2.5]);
    }

    #[test]
    fn shapes_without_a_length_are_refused() {
        let code = |dtype, shape: &[usize]| {
            Allocation::new(&describe("w", dtype, shape))
                .err()
                .map(|e| e.code)
        };
        assert_eq!(
            code(DType::FLOAT, &[1 << 40, 1 << 40]),
            Some(ErrorCode::SHAPE)
        );
        assert_eq!(code(DType::STRING, &[2]), Some(ErrorCode::SHAPE));
        assert_eq!(
            code(DType::UINT8, &[isize::MAX as usize]),
            Some(ErrorCode::OUT_OF_MEMORY)
        );
        assert_eq!(code(DType::INT4, &[0]), None);
    }
}
