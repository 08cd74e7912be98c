//! Values of metadata.

use bytes::Bytes;

/// The type of a number in metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufNumber {
    /// uint8.
    U8,
    /// int8.
    I8,
    /// uint16.
    U16,
    /// int16.
    I16,
    /// uint32.
    U32,
    /// int32.
    I32,
    /// float32.
    F32,
    /// A byte, 0 or 1.
    Bool,
    /// uint64.
    U64,
    /// int64.
    I64,
    /// float64.
    F64,
}

/// The number of a text's type in files.
pub(super) const TEXT: u32 = 8;
/// The number of an array's type in files.
pub(super) const ARRAY: u32 = 9;

/// Types of numbers with their number in files and their bytes.
static NUMBERS: [(GgufNumber, u32, usize); 11] = [
    (GgufNumber::U8, 0, 1),
    (GgufNumber::I8, 1, 1),
    (GgufNumber::U16, 2, 2),
    (GgufNumber::I16, 3, 2),
    (GgufNumber::U32, 4, 4),
    (GgufNumber::I32, 5, 4),
    (GgufNumber::F32, 6, 4),
    (GgufNumber::Bool, 7, 1),
    (GgufNumber::U64, 10, 8),
    (GgufNumber::I64, 11, 8),
    (GgufNumber::F64, 12, 8),
];

impl GgufNumber {
    pub(super) fn from_number(number: u32) -> Option<Self> {
        let found = NUMBERS.iter().find(|(_, known, _)| *known == number);
        found.map(|(kind, ..)| *kind)
    }

    fn row(self) -> &'static (GgufNumber, u32, usize) {
        let found = NUMBERS.iter().find(|(kind, ..)| *kind == self);
        found.expect("every type is in the table")
    }

    pub(super) fn number(self) -> u32 {
        self.row().1
    }

    /// Bytes of one.
    pub(super) fn size(self) -> usize {
        self.row().2
    }

    /// The value of these little-endian bytes, of which there are [`size`](Self::size).
    pub(super) fn value(self, bytes: &[u8]) -> GgufValue {
        macro_rules! read {
            ($variant:ident, $rust:ty) => {{
                let mut fixed = [0; size_of::<$rust>()];
                fixed.copy_from_slice(bytes);
                GgufValue::$variant(<$rust>::from_le_bytes(fixed))
            }};
        }
        match self {
            Self::U8 => read!(U8, u8),
            Self::I8 => read!(I8, i8),
            Self::U16 => read!(U16, u16),
            Self::I16 => read!(I16, i16),
            Self::U32 => read!(U32, u32),
            Self::I32 => read!(I32, i32),
            Self::F32 => read!(F32, f32),
            Self::Bool => GgufValue::Bool(bytes != [0]),
            Self::U64 => read!(U64, u64),
            Self::I64 => read!(I64, i64),
            Self::F64 => read!(F64, f64),
        }
    }
}

/// A value of metadata, by the types of [`GgufNumber`] and two more.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(GgufArray),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufArray {
    /// Numbers as they are stored: little-endian, side by side.
    Numbers(GgufNumber, Bytes),
    /// Texts.
    Texts(Vec<String>),
    /// Arrays.
    Arrays(Vec<GgufArray>),
}

impl GgufValue {
    /// A whole number of any type that is not below 0.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U64(value) => Some(value),
            _ => self.as_i64().and_then(|value| u64::try_from(value).ok()),
        }
    }

    /// A whole number of any type that int64 can hold.
    pub fn as_i64(&self) -> Option<i64> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => i64::try_from(value).ok()?,
            Self::I64(value) => value,
            _ => return None,
        })
    }

    /// A floating-point number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(value) => Some(value.into()),
            Self::F64(value) => Some(value),
            _ => None,
        }
    }

    /// A truth value.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Texts.
    pub fn as_texts(&self) -> Option<&[String]> {
        match self {
            Self::Array(GgufArray::Texts(texts)) => Some(texts),
            _ => None,
        }
    }

    /// Whole numbers of any type that int64 can hold.
    pub fn as_integers(&self) -> Option<Vec<i64>> {
        let Self::Array(GgufArray::Numbers(kind, bytes)) = self else {
            return None;
        };
        let numbers = bytes.chunks_exact(kind.size());
        numbers.map(|number| kind.value(number).as_i64()).collect()
    }
}

impl From<&str> for GgufValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Vec<String>> for GgufValue {
    fn from(texts: Vec<String>) -> Self {
        Self::Array(GgufArray::Texts(texts))
    }
}

macro_rules! from {
    ($($rust:ty => $variant:ident),*) => {
        $(
            impl From<$rust> for GgufValue {
                fn from(value: $rust) -> Self {
                    Self::$variant(value)
                }
            }

            impl From<Vec<$rust>> for GgufValue {
                fn from(values: Vec<$rust>) -> Self {
                    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                    Self::Array(GgufArray::Numbers(GgufNumber::$variant, bytes.into()))
                }
            }
        )*
    };
}
from!(u32 => U32, i32 => I32, f32 => F32, u64 => U64);

impl From<bool> for GgufValue {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}
