//! Element types, by the numbers of ONNX's `TensorProto.DataType`.

use std::fmt;

/// An ONNX element type. A number rather than an enum: types newer than this code survive a round trip.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DType(i32);

macro_rules! element_types {
    ($($constant:ident = $number:literal, $name:literal, $bits:literal;)*) => {
        impl DType {
            $(#[doc = concat!("ONNX `", stringify!($constant), "`.")] pub const $constant: Self = Self($number);)*

            /// The type's name as ONNX tools print it, if it is known.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some($name),)* _ => None }
            }

            /// Bits that one element takes; `None` for strings and unknown types.
            pub const fn bits(self) -> Option<usize> {
                match self.0 { $($number if $bits > 0 => Some($bits),)* _ => None }
            }
        }
    };
}

element_types! {
    FLOAT = 1, "float32", 32;
    UINT8 = 2, "uint8", 8;
    INT8 = 3, "int8", 8;
    UINT16 = 4, "uint16", 16;
    INT16 = 5, "int16", 16;
    INT32 = 6, "int32", 32;
    INT64 = 7, "int64", 64;
    STRING = 8, "string", 0;
    BOOL = 9, "bool", 8;
    FLOAT16 = 10, "float16", 16;
    DOUBLE = 11, "float64", 64;
    UINT32 = 12, "uint32", 32;
    UINT64 = 13, "uint64", 64;
    COMPLEX64 = 14, "complex64", 64;
    COMPLEX128 = 15, "complex128", 128;
    BFLOAT16 = 16, "bfloat16", 16;
    FLOAT8E4M3FN = 17, "float8e4m3fn", 8;
    FLOAT8E4M3FNUZ = 18, "float8e4m3fnuz", 8;
    FLOAT8E5M2 = 19, "float8e5m2", 8;
    FLOAT8E5M2FNUZ = 20, "float8e5m2fnuz", 8;
    UINT4 = 21, "uint4", 4;
    INT4 = 22, "int4", 4;
    FLOAT4E2M1 = 23, "float4e2m1", 4;
    FLOAT8E8M0 = 24, "float8e8m0", 8;
    UINT2 = 25, "uint2", 2;
    INT2 = 26, "int2", 2;
    FLOAT6E2M3 = 27, "float6e2m3", 6;
    FLOAT6E3M2 = 28, "float6e3m2", 6;
}

impl DType {
    /// The type with this ONNX number.
    pub const fn from_number(number: i32) -> Self {
        Self(number)
    }

    /// The type's ONNX number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// Bytes that `elements` elements take, packed types rounded up to a whole byte.
    ///
    /// `None` for strings and unknown types, and where the count does not fit.
    pub fn byte_len(self, elements: usize) -> Option<usize> {
        Some(elements.checked_mul(self.bits()?)?.div_ceil(8))
    }

    /// Whether values are floating-point numbers.
    pub fn is_float(self) -> bool {
        matches!(self, Self::FLOAT | Self::DOUBLE | Self::FLOAT16 | Self::BFLOAT16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "element type {}", self.0),
        }
    }
}

impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
