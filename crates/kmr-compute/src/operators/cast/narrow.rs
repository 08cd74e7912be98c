//! Floats of 16 bits and fewer, by their formats.
//!
//! Sources: IEEE 754-2019; "FP8 Formats for Deep Learning" (arXiv 2209.05433) for the `fn` formats; "8-bit
//! Numerical Formats for Deep Neural Networks" (arXiv 2206.02915) for `fnuz`; OCP Microscaling Formats 1.0
//! for float4e2m1 and float8e8m0. Conversions follow the tables of ONNX's `Cast`.

use kmr_model::DType;

/// What becomes of a value beyond the largest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The largest value.
    Saturates,
    /// Infinity, or NaN where there is none.
    Special,
}

/// What stands for infinity and NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Specials {
    /// The highest exponent, as in IEEE 754.
    Ieee,
    /// NaN alone, with all bits set.
    Nan,
    /// NaN alone, in the place of negative zero.
    NanForNegativeZero,
    /// Nothing.
    None,
}

/// A binary floating-point format.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    exponent_bits: u32,
    fraction_bits: u32,
    bias: i32,
    specials: Specials,
}

impl Format {
    /// The format of an element type, if it has one here.
    pub fn of(dtype: DType) -> Option<Self> {
        let (exponent_bits, fraction_bits, bias, specials) = match dtype {
            DType::FLOAT16 => (5, 10, 15, Specials::Ieee),
            DType::BFLOAT16 => (8, 7, 127, Specials::Ieee),
            DType::FLOAT8E4M3FN => (4, 3, 7, Specials::Nan),
            DType::FLOAT8E4M3FNUZ => (4, 3, 8, Specials::NanForNegativeZero),
            DType::FLOAT8E5M2 => (5, 2, 15, Specials::Ieee),
            DType::FLOAT8E5M2FNUZ => (5, 2, 16, Specials::NanForNegativeZero),
            DType::FLOAT4E2M1 => (2, 1, 1, Specials::None),
            _ => return None,
        };
        Some(Self {
            exponent_bits,
            fraction_bits,
            bias,
            specials,
        })
    }

    fn sign_bit(self) -> u16 {
        1 << (self.exponent_bits + self.fraction_bits)
    }

    /// The code of the largest value.
    fn largest(self) -> u16 {
        let all = self.sign_bit() - 1;
        match self.specials {
            Specials::Ieee => all - (1 << self.fraction_bits),
            Specials::Nan => all - 1,
            Specials::NanForNegativeZero | Specials::None => all,
        }
    }

    /// The value of a code.
    pub fn value(self, code: u16) -> f64 {
        let sign = if code & self.sign_bit() == 0 { 1.0 } else { -1.0 };
        let magnitude = code & (self.sign_bit() - 1);
        if self.specials == Specials::NanForNegativeZero && code == self.sign_bit() {
            return f64::NAN;
        }
        if magnitude > self.largest() {
            let infinite = self.specials == Specials::Ieee && magnitude == self.largest() + 1;
            return if infinite { sign * f64::INFINITY } else { f64::NAN };
        }
        let exponent = i32::from(magnitude >> self.fraction_bits);
        let fraction = f64::from(magnitude & ((1 << self.fraction_bits) - 1));
        let one = f64::from(1_u32 << self.fraction_bits);
        let (significand, exponent) = match exponent {
            0 => (fraction, 1),
            exponent => (fraction + one, exponent),
        };
        sign * significand * exp2(exponent - self.bias - self.fraction_bits as i32)
    }

    /// The code of the nearest value, the even one of two.
    pub fn code(self, value: f64, overflow: Overflow) -> u16 {
        let sign = if value.is_sign_negative() { self.sign_bit() } else { 0 };
        let all = self.sign_bit() - 1;
        if value.is_nan() {
            return match self.specials {
                // The quiet NaN without a payload.
                Specials::Ieee => sign | (all - (1 << (self.fraction_bits - 1)) + 1),
                Specials::Nan => sign | all,
                Specials::NanForNegativeZero => self.sign_bit(),
                // There is none: ONNX's cases have negative zero instead.
                Specials::None => self.sign_bit(),
            };
        }
        let magnitude = value.abs();
        let code = if magnitude.is_infinite() {
            u64::from(all) + 1
        } else {
            // Steps of the value's binade, or of the lowest one.
            let lowest = 1 - self.bias;
            let binade = exponent(magnitude).max(lowest);
            let steps = (magnitude * exp2(self.fraction_bits as i32 - binade)).round_ties_even();
            (((binade - lowest) as u64) << self.fraction_bits) + steps as u64
        };
        if code > u64::from(self.largest()) {
            return match (overflow, self.specials) {
                (Overflow::Saturates, _) | (_, Specials::None) => sign | self.largest(),
                (_, Specials::Ieee) => sign | (self.largest() + 1),
                (_, Specials::Nan) => sign | all,
                (_, Specials::NanForNegativeZero) => self.sign_bit(),
            };
        }
        if code == 0 && self.specials == Specials::NanForNegativeZero {
            return 0;
        }
        sign | code as u16
    }
}

/// How float8e8m0, powers of two alone, rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleRounding {
    Up,
    Down,
    /// To the nearer power of two, the larger one from halfway on.
    Nearest,
}

const SCALE_NAN: u8 = 0xff;
const SCALE_BIAS: i32 = 127;

/// The value of a float8e8m0.
pub fn scale_value(code: u8) -> f64 {
    match code {
        SCALE_NAN => f64::NAN,
        code => exp2(i32::from(code) - SCALE_BIAS),
    }
}

/// The float8e8m0 of a value; the sign is not kept.
pub fn scale_code(value: f64, overflow: Overflow, rounding: ScaleRounding) -> u8 {
    let special = |saturated: u8| match overflow {
        Overflow::Saturates => saturated,
        Overflow::Special => SCALE_NAN,
    };
    let magnitude = value.abs();
    if magnitude.is_nan() {
        return SCALE_NAN;
    }
    if magnitude.is_infinite() {
        return special(SCALE_NAN - 1);
    }
    if magnitude == 0.0 {
        return special(0);
    }
    let below = exponent(magnitude);
    let fraction = magnitude / exp2(below);
    let up = match rounding {
        ScaleRounding::Up => fraction > 1.0,
        ScaleRounding::Down => false,
        ScaleRounding::Nearest => fraction >= 1.5,
    };
    match below + i32::from(up) + SCALE_BIAS {
        ..0 => special(0),
        code @ 0..=254 => code as u8,
        _ => special(SCALE_NAN - 1),
    }
}

/// The exponent of the power of two at or below a positive finite value; no lower than that of float64's
/// normal numbers, under which every format here is zero.
fn exponent(value: f64) -> i32 {
    ((value.to_bits() >> 52) & 0x7ff) as i32 - 1023
}

/// A power of two of a normal float64.
fn exp2(exponent: i32) -> f64 {
    f64::from_bits(((exponent.clamp(-1022, 1023) + 1023) as u64) << 52)
}
