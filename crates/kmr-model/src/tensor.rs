//! Tensors: an element type, a shape and shared bytes.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{DType, ErrorKind, ModelError};

/// A dense tensor: row-major, little-endian, packed as ONNX's `raw_data`.
///
/// The bytes are shared: cloning is cheap, and they may lie in a mapped file.
#[derive(Clone, Debug, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Self) -> bool {
        // What is shared need not be read.
        let shared = std::ptr::eq::<[u8]>(&*self.bytes, &*other.bytes);
        self.dtype == other.dtype && self.shape == other.shape && (shared || self.bytes == other.bytes)
    }
}

/// Elements that [`Tensor::visit_f32`] makes float32 at a time.
const BLOCK: usize = 1 << 16;

/// A Rust type that is the memory form of an ONNX element type.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The ONNX element type.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => { $(impl Element for $rust { const DTYPE: DType = DType::$dtype; })* };
}
elements! {
    f32 => FLOAT, f64 => DOUBLE, u8 => UINT8, i8 => INT8, u16 => UINT16, i16 => INT16, u32 => UINT32,
    i32 => INT32, u64 => UINT64, i64 => INT64, half::f16 => FLOAT16, half::bf16 => BFLOAT16,
}

impl Tensor {
    /// A tensor over `bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if the bytes are not exactly those that type and shape ask for.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, ModelError> {
        let needed = element_count(&shape).and_then(|count| dtype.byte_len(count));
        if needed != Some(bytes.len()) {
            let needed = needed.map_or("an uncountable number of".to_owned(), |n| n.to_string());
            return Err(ModelError::new(
                ErrorKind::Shape,
                "",
                format!(
                    "a {dtype} tensor of shape {shape:?} takes {needed} bytes; got {}",
                    bytes.len()
                ),
            ));
        }
        Ok(Self { dtype, shape, bytes })
    }

    /// A tensor that owns `values`.
    ///
    /// # Panics
    /// If the number of values is not the product of `shape`: the caller made both.
    pub fn from_vec<T: Element>(shape: Vec<usize>, values: Vec<T>) -> Self {
        assert_eq!(
            element_count(&shape),
            Some(values.len()),
            "a tensor's values must fill its shape"
        );
        Self {
            dtype: T::DTYPE,
            shape,
            bytes: Bytes::from_owner(Values(values)),
        }
    }

    /// A tensor of rank 0.
    pub fn scalar<T: Element>(value: T) -> Self {
        Self::from_vec(Vec::new(), vec![value])
    }

    /// A tensor whose bytes are stored elsewhere (strings, kept in the file's own message).
    pub(crate) fn opaque(dtype: DType, shape: Vec<usize>) -> Self {
        Self {
            dtype,
            shape,
            bytes: Bytes::new(),
        }
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The shape; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes: row-major, little-endian.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Length of the bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The values as `T`, borrowed where the bytes are aligned and copied once where they are not.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if the tensor's element type is not `T`'s.
    pub fn values<T: Element>(&self) -> Result<Cow<'_, [T]>, ModelError> {
        if self.dtype != T::DTYPE {
            return Err(ModelError::new(
                ErrorKind::Shape,
                "",
                format!("expected a {} tensor; it is {}", T::DTYPE, self.dtype),
            ));
        }
        Ok(match bytemuck::try_cast_slice(&self.bytes) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(&self.bytes[..])),
        })
    }

    /// The values as integers, for the integer and bool types that shapes and axes come in.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] for other element types.
    pub fn to_i64(&self) -> Result<Vec<i64>, ModelError> {
        Ok(match self.dtype {
            DType::INT64 => self.values::<i64>()?.into_owned(),
            DType::INT32 => self.values::<i32>()?.iter().map(|&v| v.into()).collect(),
            DType::INT8 => self.values::<i8>()?.iter().map(|&v| v.into()).collect(),
            DType::UINT8 | DType::BOOL => self.bytes.iter().map(|&v| v.into()).collect(),
            other => {
                return Err(ModelError::new(
                    ErrorKind::Shape,
                    "",
                    format!("expected an integer tensor; it is {other}"),
                ));
            }
        })
    }

    /// The values as float32, for the floating-point types.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] for other element types.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>, ModelError> {
        Ok(match self.dtype {
            DType::FLOAT16 => Cow::Owned(self.values::<half::f16>()?.iter().map(|v| v.to_f32()).collect()),
            DType::BFLOAT16 => Cow::Owned(self.values::<half::bf16>()?.iter().map(|v| v.to_f32()).collect()),
            DType::DOUBLE => Cow::Owned(self.values::<f64>()?.iter().map(|&v| v as f32).collect()),
            _ => self.values::<f32>()?,
        })
    }

    /// Goes through the values of [`to_f32`](Self::to_f32) block by block, in their order, without a copy of all. `visit`
    /// is given a block's first position and its values, and ends the walk by what it gives.
    ///
    /// # Errors
    /// As [`to_f32`](Self::to_f32).
    pub fn visit_f32<R>(&self, mut visit: impl FnMut(usize, &[f32]) -> Option<R>) -> Result<Option<R>, ModelError> {
        let Some(bits) = self
            .dtype
            .bits()
            .filter(|_| self.dtype.is_float() && self.dtype != DType::FLOAT)
        else {
            return Ok(visit(0, &self.to_f32()?));
        };
        let width = bits.div_ceil(8);
        for start in (0..self.len()).step_by(BLOCK) {
            let count = BLOCK.min(self.len() - start);
            let bytes = self.bytes.slice(start * width..(start + count) * width);
            let block = Self::new(self.dtype, vec![count], bytes)?;
            if let Some(result) = visit(start, &block.to_f32()?) {
                return Ok(Some(result));
            }
        }
        Ok(None)
    }

    /// A tensor of a floating-point type, each value rounded to it: a finite one beyond the type becomes its greatest.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] for other than floating-point types, or if `values` do not fill `shape`.
    pub fn from_f32(dtype: DType, shape: Vec<usize>, values: Vec<f32>) -> Result<Self, ModelError> {
        if element_count(&shape) != Some(values.len()) {
            let message = format!("takes the values of shape {shape:?}; got {}", values.len());
            return Err(ModelError::new(ErrorKind::Shape, "", message));
        }
        let within = |value: f32, greatest: f32| match value.is_finite() {
            true => value.clamp(-greatest, greatest),
            false => value,
        };
        let half = |value| half::f16::from_f32(within(value, half::f16::MAX.to_f32()));
        let brain = |value| half::bf16::from_f32(within(value, half::bf16::MAX.to_f32()));
        match dtype {
            DType::FLOAT => Ok(Self::from_vec(shape, values)),
            DType::DOUBLE => Ok(Self::from_vec(shape, values.into_iter().map(f64::from).collect())),
            DType::FLOAT16 => Ok(Self::from_vec(shape, values.into_iter().map(half).collect())),
            DType::BFLOAT16 => Ok(Self::from_vec(shape, values.into_iter().map(brain).collect())),
            other => Err(ModelError::new(
                ErrorKind::Shape,
                "",
                format!("expected a tensor of floating-point numbers; it is {other}"),
            )),
        }
    }

    /// A tensor of the same type and shape with other values, as [`from_f32`](Self::from_f32) makes it. The counterpart of
    /// [`to_f32`](Self::to_f32).
    ///
    /// # Errors
    /// As [`from_f32`](Self::from_f32).
    pub fn with_f32(&self, values: Vec<f32>) -> Result<Self, ModelError> {
        Self::from_f32(self.dtype, self.shape.clone(), values)
    }

    /// The same bytes under another shape with as many elements.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if the number of elements differs.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self, ModelError> {
        Self::new(self.dtype, shape, self.bytes.clone())
    }

    /// The elements at `indices` of `axis`, in this order; none if there is no such axis or element, or if elements are not
    /// whole bytes.
    pub fn taken(&self, axis: usize, indices: &[usize]) -> Option<Self> {
        let &size = self.shape.get(axis)?;
        let width = self.dtype.bits().filter(|bits| bits % 8 == 0)? / 8;
        let inner: usize = self.shape[axis + 1..].iter().product::<usize>() * width;
        let outer: usize = self.shape[..axis].iter().product();
        let mut taken = Vec::with_capacity(outer * indices.len() * inner);
        for block in 0..outer {
            for &index in indices {
                let start = (block * size + index) * inner;
                taken.extend_from_slice(self.bytes.get(start..start + inner)?);
            }
        }
        let mut shape = self.shape.clone();
        shape[axis] = indices.len();
        Self::new(self.dtype, shape, taken.into()).ok()
    }
}

/// Product of `shape`, if it fits.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |product, &size| product.checked_mul(size))
}

struct Values<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for Values<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_all_values_in_their_order() {
        let count = 2 * BLOCK + 5;
        let halves: Vec<_> = (0..count).map(|at| half::bf16::from_f32((at % 251) as f32)).collect();
        let singles: Vec<f32> = halves.iter().map(|value| value.to_f32()).collect();
        let doubles: Vec<f64> = singles.iter().map(|&value| value.into()).collect();
        for tensor in [
            Tensor::from_vec(vec![count], halves),
            Tensor::from_vec(vec![count], singles.clone()),
            Tensor::from_vec(vec![count], doubles),
        ] {
            let mut seen = Vec::new();
            let ended = tensor.visit_f32(|start, values| {
                assert_eq!(start, seen.len());
                seen.extend_from_slice(values);
                None::<()>
            });
            assert_eq!(ended.unwrap(), None);
            assert_eq!(seen, singles);
            let found =
                tensor.visit_f32(|start, values| Some(start + values.iter().position(|&value| value == 250.0)?));
            assert_eq!(found.unwrap(), Some(250));
        }
        let integers = Tensor::from_vec(vec![2], vec![1_i64, 2]);
        assert!(integers.visit_f32(|_, _| Some(())).is_err());
    }

    #[test]
    fn tensors_are_equal_by_their_bytes_wherever_these_lie() {
        let tensor = Tensor::from_vec(vec![2], vec![1.0_f32, f32::NAN]);
        assert_eq!(tensor, tensor.clone());
        assert_eq!(tensor, Tensor::from_vec(vec![2], vec![1.0_f32, f32::NAN]));
        assert_ne!(tensor, Tensor::from_vec(vec![2], vec![1.0_f32, 2.0]));
        assert_ne!(tensor, tensor.reshaped(vec![1, 2]).unwrap());
    }
}
