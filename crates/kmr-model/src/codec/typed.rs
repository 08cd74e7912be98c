//! The typed data fields of a tensor message (`float_data`, `int32_data`, …), the alternative to `raw_data`.
//!
//! Types of less than a byte are packed in `int32_data` as they are in `raw_data`, a byte to an entry; only the 6-bit
//! floats have an entry for each element.

use bytes::Bytes;

use crate::{DType, proto::TensorProto};

/// Values read from a typed field.
pub(super) struct Typed {
    /// The values as raw bytes.
    pub(super) raw: Bytes,
    /// Whether [`put`] gives back the very field: not if a number does not fit the type, which readers wrap.
    pub(super) exact: bool,
}

/// Reads the values of the typed field for `dtype`, a type of known size, by the element count `count`.
pub(super) fn read(message: &TensorProto, dtype: DType, count: usize) -> Typed {
    let raw = match dtype {
        DType::FLOAT | DType::COMPLEX64 => le(&message.float_data, f32::to_le_bytes),
        DType::DOUBLE | DType::COMPLEX128 => le(&message.double_data, f64::to_le_bytes),
        DType::INT64 => le(&message.int64_data, i64::to_le_bytes),
        DType::UINT64 => le(&message.uint64_data, u64::to_le_bytes),
        DType::UINT32 => le(&message.uint64_data, |value| (value as u32).to_le_bytes()),
        DType::INT32 => le(&message.int32_data, i32::to_le_bytes),
        DType::FLOAT6E2M3 | DType::FLOAT6E3M2 => pack_6_bits(&message.int32_data),
        _ if dtype.bits() == Some(16) => le(&message.int32_data, |value| (value as u16).to_le_bytes()),
        _ => message.int32_data.iter().map(|&value| value as u8).collect(),
    };
    let exact = match dtype {
        DType::UINT32 => message.uint64_data.iter().all(|&value| u32::try_from(value).is_ok()),
        _ if is_narrow(dtype) => message.int32_data == narrow(dtype, &raw, count),
        _ => true,
    };
    Typed { raw: raw.into(), exact }
}

/// Empties the typed field for `dtype`.
pub(super) fn clear(message: &mut TensorProto, dtype: DType) {
    match dtype {
        DType::FLOAT | DType::COMPLEX64 => message.float_data = Vec::new(),
        DType::DOUBLE | DType::COMPLEX128 => message.double_data = Vec::new(),
        DType::INT64 => message.int64_data = Vec::new(),
        DType::UINT64 | DType::UINT32 => message.uint64_data = Vec::new(),
        _ => message.int32_data = Vec::new(),
    }
}

/// Empties every field that can hold values.
pub(super) fn clear_all(message: &mut TensorProto) {
    message.raw_data = None;
    message.float_data = Vec::new();
    message.int32_data = Vec::new();
    message.string_data = Vec::new();
    message.int64_data = Vec::new();
    message.double_data = Vec::new();
    message.uint64_data = Vec::new();
}

/// Puts the raw bytes of `count` elements into the typed field for `dtype`.
pub(super) fn put(message: &mut TensorProto, dtype: DType, raw: &[u8], count: usize) {
    match dtype {
        DType::FLOAT | DType::COMPLEX64 => message.float_data = from_le(raw, f32::from_le_bytes),
        DType::DOUBLE | DType::COMPLEX128 => message.double_data = from_le(raw, f64::from_le_bytes),
        DType::INT64 => message.int64_data = from_le(raw, i64::from_le_bytes),
        DType::UINT64 => message.uint64_data = from_le(raw, u64::from_le_bytes),
        DType::UINT32 => message.uint64_data = from_le(raw, |b| u32::from_le_bytes(b).into()),
        DType::INT32 => message.int32_data = from_le(raw, i32::from_le_bytes),
        _ => message.int32_data = narrow(dtype, raw, count),
    }
}

/// Whether the type lies in `int32_data` without filling it.
fn is_narrow(dtype: DType) -> bool {
    dtype.bits().is_some_and(|bits| bits < 32)
}

fn narrow(dtype: DType, raw: &[u8], count: usize) -> Vec<i32> {
    match dtype {
        DType::INT8 => from_le(raw, |b| i8::from_le_bytes(b).into()),
        DType::INT16 => from_le(raw, |b| i16::from_le_bytes(b).into()),
        DType::FLOAT6E2M3 | DType::FLOAT6E3M2 => unpack_6_bits(raw, count),
        _ if dtype.bits() == Some(16) => from_le(raw, |b| u16::from_le_bytes(b).into()),
        _ => raw.iter().map(|&byte| byte.into()).collect(),
    }
}

/// Four elements to three bytes, the first in the lowest bits.
fn pack_6_bits(values: &[i32]) -> Vec<u8> {
    let mut raw = vec![0_u8; (values.len() * 6).div_ceil(8)];
    for (position, &value) in values.iter().enumerate() {
        let (byte, shift) = (position * 6 / 8, position * 6 % 8);
        let bits = u16::from(value as u8 & 0x3f) << shift;
        raw[byte] |= bits as u8;
        if bits > 0xff {
            raw[byte + 1] |= (bits >> 8) as u8;
        }
    }
    raw
}

fn unpack_6_bits(raw: &[u8], count: usize) -> Vec<i32> {
    let element = |position: usize| {
        let (byte, shift) = (position * 6 / 8, position * 6 % 8);
        let low = raw.get(byte).copied().unwrap_or_default();
        let high = raw.get(byte + 1).copied().unwrap_or_default();
        i32::from((u16::from_le_bytes([low, high]) >> shift) as u8 & 0x3f)
    };
    (0..count.min(raw.len() * 8 / 6)).map(element).collect()
}

fn le<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&v| bytes(v)).collect()
}

fn from_le<T, const N: usize>(raw: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&chunk| value(chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_bit_elements_pack_without_gaps() {
        let values: Vec<i32> = (0..13).map(|value| value * 5 % 64).collect();
        let raw = pack_6_bits(&values);
        assert_eq!(raw.len(), 10);
        assert_eq!(raw[0], (values[0] | values[1] << 6) as u8);
        assert_eq!(unpack_6_bits(&raw, 13), values);
    }
}
