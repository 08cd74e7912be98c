//! The typed data fields of a tensor message (`float_data`, `int32_data`, …), the alternative to `raw_data`.

use bytes::Bytes;

use crate::{DType, proto::TensorProto};

/// Takes the values out of the typed field for `dtype`, as raw bytes.
pub(super) fn take(message: &mut TensorProto, dtype: DType) -> Bytes {
    let narrow = |values: &[i32], width: usize| -> Vec<u8> {
        values
            .iter()
            .flat_map(|v| v.to_le_bytes().into_iter().take(width))
            .collect()
    };
    let raw = match dtype {
        DType::FLOAT | DType::COMPLEX64 => le(&std::mem::take(&mut message.float_data), f32::to_le_bytes),
        DType::DOUBLE | DType::COMPLEX128 => le(&std::mem::take(&mut message.double_data), f64::to_le_bytes),
        DType::INT64 => le(&std::mem::take(&mut message.int64_data), i64::to_le_bytes),
        DType::UINT64 => le(&std::mem::take(&mut message.uint64_data), u64::to_le_bytes),
        DType::UINT32 => std::mem::take(&mut message.uint64_data)
            .iter()
            .flat_map(|v| (*v as u32).to_le_bytes())
            .collect(),
        DType::INT32 => le(&std::mem::take(&mut message.int32_data), i32::to_le_bytes),
        other => narrow(
            &std::mem::take(&mut message.int32_data),
            other.bits().map_or(1, |bits| bits.div_ceil(8)),
        ),
    };
    raw.into()
}

/// Puts raw bytes into the typed field for `dtype`.
pub(super) fn put(message: &mut TensorProto, dtype: DType, raw: &[u8]) {
    match dtype {
        DType::FLOAT | DType::COMPLEX64 => message.float_data = from_le(raw, f32::from_le_bytes),
        DType::DOUBLE | DType::COMPLEX128 => message.double_data = from_le(raw, f64::from_le_bytes),
        DType::INT64 => message.int64_data = from_le(raw, i64::from_le_bytes),
        DType::UINT64 => message.uint64_data = from_le(raw, u64::from_le_bytes),
        DType::UINT32 => message.uint64_data = from_le(raw, |b| u32::from_le_bytes(b).into()),
        DType::INT32 => message.int32_data = from_le(raw, i32::from_le_bytes),
        DType::INT8 => message.int32_data = from_le(raw, |b| i8::from_le_bytes(b).into()),
        DType::INT16 => message.int32_data = from_le(raw, |b| i16::from_le_bytes(b).into()),
        other if other.bits() == Some(16) => {
            message.int32_data = from_le(raw, |b| u16::from_le_bytes(b).into());
        }
        _ => message.int32_data = raw.iter().map(|&b| b.into()).collect(),
    }
}

fn le<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&v| bytes(v)).collect()
}

fn from_le<T, const N: usize>(raw: &[u8], value: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&chunk| value(chunk)).collect()
}
