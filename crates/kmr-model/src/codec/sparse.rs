//! ONNX's sparse tensors: nonzero values with their coordinates.

use bytes::Bytes;

use super::malformed;
use crate::{DType, ModelError, Tensor, tensor::element_count};

/// The dense form of `values` at `indices` (linear `[n]`, or coordinates `[n, rank]`).
///
/// `room` is how many bytes dense forms may still take: it is what keeps a small file from asking for much memory.
pub(super) fn to_dense(
    name: &str,
    shape: Vec<usize>,
    values: &Tensor,
    indices: &Tensor,
    room: &mut usize,
) -> Result<Tensor, ModelError> {
    let place = || format!("sparse tensor `{name}`");
    let dtype = values.dtype();
    let (Some(bits), Some(count)) = (dtype.bits(), element_count(&shape)) else {
        return Err(malformed(place(), format!("shape {shape:?} is too large")));
    };
    let bytes = dtype.byte_len(count).filter(|bytes| bytes <= room).ok_or_else(|| {
        malformed(place(), format!("shape {shape:?} is too large for so few values"))
            .with_help("store the tensor as an ordinary initializer")
    })?;
    *room -= bytes;
    let positions = linear(&shape, indices).ok_or_else(|| {
        malformed(
            place(),
            format!("indices of shape {:?} do not fit shape {shape:?}", indices.shape()),
        )
    })?;
    if positions.len() != values.len() || positions.iter().any(|&p| p >= count) {
        return Err(malformed(
            place(),
            "has indices outside its shape, or not one for each value",
        ));
    }
    let mut sorted = positions.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(malformed(place(), "names an index twice"));
    }
    let mut dense = vec![0_u8; bytes];
    if bits % 8 == 0 {
        let width = bits / 8;
        for (position, value) in positions.iter().zip(values.bytes().chunks_exact(width)) {
            dense[position * width..][..width].copy_from_slice(value);
        }
    } else {
        for (order, position) in positions.into_iter().enumerate() {
            copy_bits(values.bytes(), order * bits, &mut dense, position * bits, bits);
        }
    }
    Tensor::new(dtype, shape, Bytes::from(dense))
}

/// Copies `bits` bits from bit `from` of `source` to bit `to` of zeros.
fn copy_bits(source: &[u8], from: usize, target: &mut [u8], to: usize, bits: usize) {
    for bit in 0..bits {
        let (at, into) = (from + bit, to + bit);
        target[into / 8] |= (source[at / 8] >> (at % 8) & 1) << (into % 8);
    }
}

fn linear(shape: &[usize], indices: &Tensor) -> Option<Vec<usize>> {
    let raw = indices.to_i64().ok()?;
    match *indices.shape() {
        [_] => raw.iter().map(|&i| usize::try_from(i).ok()).collect(),
        [_, rank] if rank == shape.len() && rank > 0 => raw
            .chunks_exact(rank)
            .map(|coordinate| {
                coordinate.iter().zip(shape).try_fold(0_usize, |linear, (&i, &size)| {
                    let i = usize::try_from(i).ok().filter(|&i| i < size)?;
                    linear.checked_mul(size)?.checked_add(i)
                })
            })
            .collect(),
        _ => None,
    }
}

/// The nonzero values of `dense` and their linear indices.
///
/// "Zero" is the pattern of all zero bits: a negative zero is stored, so that nothing is lost.
pub(super) fn from_dense(dense: &Tensor) -> Option<(Tensor, Tensor)> {
    let width = match dense.dtype().bits() {
        Some(bits) if bits % 8 == 0 => bits / 8,
        _ => return None,
    };
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for (position, value) in dense.bytes().chunks_exact(width).enumerate() {
        if value.iter().any(|&byte| byte != 0) {
            values.extend_from_slice(value);
            indices.push(position as i64);
        }
    }
    let count = indices.len();
    let values = Tensor::new(dense.dtype(), vec![count], values.into()).ok()?;
    Some((values, Tensor::from_vec(vec![count], indices)))
}

/// Whether the dtype can be stored sparsely.
pub(crate) fn is_storable(dtype: DType) -> bool {
    dtype.bits().is_some_and(|bits| bits % 8 == 0)
}
