//! From blocks to numbers, one function per kind. The order of operations is that of the package `gguf`, so that the
//! last bit agrees.

use super::GgufKind;

/// The numbers of whole blocks.
pub(super) fn decode(kind: GgufKind, bytes: &[u8]) -> Vec<f32> {
    let block = match kind {
        GgufKind::Q4_0 => q4_0,
        GgufKind::Q4_1 => q4_1,
        GgufKind::Q5_0 => q5_0,
        GgufKind::Q5_1 => q5_1,
        GgufKind::Q8_0 => q8_0,
        GgufKind::Q2K => q2_k,
        GgufKind::Q3K => q3_k,
        GgufKind::Q4K => q4_k,
        GgufKind::Q5K => q5_k,
        GgufKind::Q6K => q6_k,
        plain => unreachable!("{plain} has no blocks"),
    };
    let mut values = vec![0.0; bytes.len() / kind.block_bytes() * kind.block()];
    let blocks = bytes.chunks_exact(kind.block_bytes());
    for (bytes, values) in blocks.zip(values.chunks_exact_mut(kind.block())) {
        block(bytes, values);
    }
    values
}

/// float16 at a place.
fn half_at(bytes: &[u8], place: usize) -> f32 {
    half::f16::from_le_bytes([bytes[place], bytes[place + 1]]).to_f32()
}

/// Codes of 4 bits: all low halves come before all high ones.
fn nibble(bytes: &[u8], at: usize) -> u8 {
    match at < bytes.len() {
        true => bytes[at] & 15,
        false => bytes[at - bytes.len()] >> 4,
    }
}

fn bit(bytes: &[u8], at: usize) -> u8 {
    bytes[at / 8] >> (at % 8) & 1
}

fn q4_0(bytes: &[u8], values: &mut [f32]) {
    let scale = half_at(bytes, 0);
    for (at, value) in values.iter_mut().enumerate() {
        *value = scale * (f32::from(nibble(&bytes[2..], at)) - 8.0);
    }
}

fn q4_1(bytes: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(bytes, 0), half_at(bytes, 2));
    for (at, value) in values.iter_mut().enumerate() {
        *value = scale * f32::from(nibble(&bytes[4..], at)) + least;
    }
}

fn q5_0(bytes: &[u8], values: &mut [f32]) {
    let scale = half_at(bytes, 0);
    for (at, value) in values.iter_mut().enumerate() {
        let code = nibble(&bytes[6..], at) | bit(&bytes[2..6], at) << 4;
        *value = scale * (f32::from(code) - 16.0);
    }
}

fn q5_1(bytes: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(bytes, 0), half_at(bytes, 2));
    for (at, value) in values.iter_mut().enumerate() {
        let code = nibble(&bytes[8..], at) | bit(&bytes[4..8], at) << 4;
        *value = scale * f32::from(code) + least;
    }
}

fn q8_0(bytes: &[u8], values: &mut [f32]) {
    let scale = half_at(bytes, 0);
    for (value, &code) in values.iter_mut().zip(&bytes[2..]) {
        *value = f32::from(code as i8) * scale;
    }
}

/// Code `at` of 2 bits: 128 numbers take 32 bytes, whose lowest bits are the first 32 numbers.
fn quarter(bytes: &[u8], at: usize) -> u8 {
    bytes[at / 128 * 32 + at % 32] >> (at % 128 / 32 * 2) & 3
}

fn q2_k(bytes: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(bytes, 80), half_at(bytes, 82));
    for (part, values) in values.chunks_exact_mut(16).enumerate() {
        let factors = bytes[part];
        let (scale, least) = (scale * f32::from(factors & 15), least * f32::from(factors >> 4));
        for (at, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(quarter(&bytes[16..80], part * 16 + at)) - least;
        }
    }
}

fn q3_k(bytes: &[u8], values: &mut [f32]) {
    let scale = half_at(bytes, 108);
    let factors = &bytes[96..108];
    for (part, values) in values.chunks_exact_mut(16).enumerate() {
        let low = factors[part % 8] >> (part / 8 * 4) & 15;
        let high = factors[8 + part % 4] >> (part / 4 * 2) & 3;
        let scale = scale * (f32::from(low | high << 4) - 32.0);
        for (inside, value) in values.iter_mut().enumerate() {
            let at = part * 16 + inside;
            let high = bytes[at % 32] >> (at / 32) & 1;
            let code = f32::from(quarter(&bytes[32..96], at)) - if high == 0 { 4.0 } else { 0.0 };
            *value = scale * code;
        }
    }
}

/// The 6-bit scale and minimum of one of eight parts.
pub(super) fn scale_and_least(factors: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        return (factors[part] & 63, factors[part + 4] & 63);
    }
    let low = factors[part + 4];
    (
        low & 15 | factors[part - 4] >> 2 & 0x30,
        low >> 4 | factors[part] >> 2 & 0x30,
    )
}

/// 4-bit code `at`: 64 numbers take 32 bytes, whose low halves are the first 32.
fn paired_nibble(bytes: &[u8], at: usize) -> u8 {
    bytes[at / 64 * 32 + at % 32] >> (at % 64 / 32 * 4) & 15
}

fn q4_k(bytes: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(bytes, 0), half_at(bytes, 2));
    for (part, values) in values.chunks_exact_mut(32).enumerate() {
        let factors = scale_and_least(&bytes[4..16], part);
        let (scale, least) = (scale * f32::from(factors.0), least * f32::from(factors.1));
        for (at, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from(paired_nibble(&bytes[16..], part * 32 + at)) - least;
        }
    }
}

fn q5_k(bytes: &[u8], values: &mut [f32]) {
    let (scale, least) = (half_at(bytes, 0), half_at(bytes, 2));
    for (part, values) in values.chunks_exact_mut(32).enumerate() {
        let factors = scale_and_least(&bytes[4..16], part);
        let (scale, least) = (scale * f32::from(factors.0), least * f32::from(factors.1));
        for (at, value) in values.iter_mut().enumerate() {
            let high = bytes[16 + at] >> part & 1;
            let code = paired_nibble(&bytes[48..], part * 32 + at) | high << 4;
            *value = scale * f32::from(code) - least;
        }
    }
}

fn q6_k(bytes: &[u8], values: &mut [f32]) {
    let scale = half_at(bytes, 208);
    for (part, values) in values.chunks_exact_mut(16).enumerate() {
        let scale = scale * f32::from(bytes[192 + part] as i8);
        for (inside, value) in values.iter_mut().enumerate() {
            let at = part * 16 + inside;
            let (half, within) = (at / 128, at % 128);
            let low = bytes[half * 64 + within % 64] >> (within / 64 * 4) & 15;
            let high = bytes[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
            *value = scale * (f32::from(low | high << 4) - 32.0);
        }
    }
}
