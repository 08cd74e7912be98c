//! One tensor of a file.

use bytes::Bytes;
use kmr_model::{DType, Tensor};

use super::{GgufKind, decode, encode};

/// What cannot be encoded, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EncodingError(pub(super) String);

/// A tensor as the file has it; clones share its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    kind: GgufKind,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl GgufTensor {
    /// A tensor over `bytes`; `shape` is row-major, so that the last axis lies side by side (the file says it the other
    /// way round).
    ///
    /// # Errors
    ///
    /// Rows that are no whole blocks, and bytes that are not exactly those that kind and shape ask for.
    pub fn new(kind: GgufKind, shape: Vec<usize>, bytes: Bytes) -> Result<Self, EncodingError> {
        let needed = whole_blocks(kind, &shape)?;
        if needed != bytes.len() {
            let message = format!("shape {shape:?} takes {needed} bytes as {kind}; got {}", bytes.len());
            return Err(EncodingError(message));
        }
        Ok(Self { kind, shape, bytes })
    }

    /// Encodes numbers: F32, F16, BF16, Q8_0, Q4_0 and Q4_1 to the bits of the package `gguf`; Q4_K and Q6_K by least
    /// squares.
    ///
    /// # Errors
    ///
    /// Other kinds, rows that are no whole blocks, numbers that do not fill the shape, and ones that are not finite.
    pub fn encode(kind: GgufKind, shape: Vec<usize>, values: &[f32]) -> Result<Self, EncodingError> {
        whole_blocks(kind, &shape)?;
        let count = shape
            .iter()
            .try_fold(1_usize, |product, &size| product.checked_mul(size));
        if count != Some(values.len()) {
            return Err(EncodingError(format!(
                "{} numbers do not fill the shape {shape:?}",
                values.len()
            )));
        }
        if let Some(place) = values.iter().position(|value| !value.is_finite()) {
            return Err(EncodingError(format!("number {place} is {}", values[place])));
        }
        let bytes = encode::encode(kind, values)?;
        Self::new(kind, shape, bytes.into())
    }

    /// How its numbers are stored.
    pub fn kind(&self) -> GgufKind {
        self.kind
    }

    /// Its shape, row-major.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Its numbers: plain ones as they are stored, sharing the file's memory; blocks as float32, to the last bit as the
    /// package `gguf` dequantizes them.
    pub fn to_tensor(&self) -> Tensor {
        let plain = match self.kind {
            GgufKind::F32 => DType::FLOAT,
            GgufKind::F16 => DType::FLOAT16,
            GgufKind::BF16 => DType::BFLOAT16,
            GgufKind::F64 => DType::DOUBLE,
            GgufKind::I8 => DType::INT8,
            GgufKind::I16 => DType::INT16,
            GgufKind::I32 => DType::INT32,
            GgufKind::I64 => DType::INT64,
            _ => return Tensor::from_vec(self.shape.clone(), decode::decode(self.kind, &self.bytes)),
        };
        Tensor::new(plain, self.shape.clone(), self.bytes.clone()).expect("bytes were counted when the tensor was made")
    }

    /// The rows of the last axis in another order: row `i` of the result is row `order[i]` of this. Encoded rows move as
    /// they are.
    ///
    /// # Errors
    ///
    /// An order that does not name each row once.
    pub fn with_rows(&self, order: &[usize]) -> Result<Self, EncodingError> {
        let rows: usize = self.shape[..self.shape.len().saturating_sub(1)].iter().product();
        if order.len() != rows {
            return Err(EncodingError(format!("an order of {} for {rows} rows", order.len())));
        }
        let mut named = vec![false; rows];
        let once = |&row: &usize| named.get_mut(row).is_some_and(|seen| !std::mem::replace(seen, true));
        if !order.iter().all(once) {
            return Err(EncodingError(format!(
                "the order does not name each of {rows} rows once"
            )));
        }
        let length = self.bytes.len() / rows.max(1);
        let mut bytes = Vec::with_capacity(self.bytes.len());
        for row in order {
            bytes.extend_from_slice(&self.bytes[row * length..][..length]);
        }
        Self::new(self.kind, self.shape.clone(), bytes.into())
    }
}

fn whole_blocks(kind: GgufKind, shape: &[usize]) -> Result<usize, EncodingError> {
    kind.byte_len(shape).ok_or_else(|| {
        let block = kind.block();
        EncodingError(format!(
            "rows of shape {shape:?} are no blocks of {block} numbers, as {kind} has them"
        ))
    })
}
