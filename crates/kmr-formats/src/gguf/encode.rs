//! From numbers to blocks of 32. The order of operations is that of the package `gguf`, so that the last bit agrees.

use super::{EncodingError, GgufKind, encode_super};

/// The blocks of finite numbers that fill them.
pub(super) fn encode(kind: GgufKind, values: &[f32]) -> Result<Vec<u8>, EncodingError> {
    let block: fn(&[f32], &mut Vec<u8>) = match kind {
        GgufKind::F32 => |values, bytes| bytes.extend(values[0].to_le_bytes()),
        GgufKind::F16 => |values, bytes| bytes.extend(half::f16::from_f32(values[0]).to_le_bytes()),
        GgufKind::BF16 => |values, bytes| bytes.extend(half::bf16::from_f32(values[0]).to_le_bytes()),
        GgufKind::Q8_0 => q8_0,
        GgufKind::Q4_0 => q4_0,
        GgufKind::Q4_1 => q4_1,
        GgufKind::Q4K => encode_super::q4_k,
        GgufKind::Q6K => encode_super::q6_k,
        other => {
            let message = format!("{other} is read, not written; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K and Q6_K are");
            return Err(EncodingError(message));
        }
    };
    let mut bytes = Vec::with_capacity(values.len() / kind.block() * kind.block_bytes());
    for values in values.chunks_exact(kind.block()) {
        block(values, &mut bytes);
    }
    Ok(bytes)
}

pub(super) fn push_half(bytes: &mut Vec<u8>, value: f32) {
    bytes.extend(half::f16::from_f32(value).to_le_bytes());
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn push_nibbles(bytes: &mut Vec<u8>, codes: [u8; 32]) {
    bytes.extend((0..16).map(|at| codes[at] | codes[at + 16] << 4));
}

fn q8_0(values: &[f32], bytes: &mut Vec<u8>) {
    let greatest = values.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    let scale = greatest / 127.0;
    let inverse = inverse(scale);
    push_half(bytes, scale);
    bytes.extend(values.iter().map(|value| (value * inverse).round() as i8 as u8));
}

fn q4_0(values: &[f32], bytes: &mut Vec<u8>) {
    let mut far = values[0];
    for &value in values {
        if value.abs() > far.abs() {
            far = value;
        }
    }
    let scale = far / -8.0;
    let inverse = inverse(scale);
    push_half(bytes, scale);
    push_nibbles(
        bytes,
        std::array::from_fn(|at| ((values[at] * inverse + 8.5) as u8).min(15)),
    );
}

fn q4_1(values: &[f32], bytes: &mut Vec<u8>) {
    let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let scale = (greatest - least) / 15.0;
    let inverse = inverse(scale);
    push_half(bytes, scale);
    push_half(bytes, least);
    push_nibbles(
        bytes,
        std::array::from_fn(|at| (((values[at] - least) * inverse + 0.5) as u8).min(15)),
    );
}
