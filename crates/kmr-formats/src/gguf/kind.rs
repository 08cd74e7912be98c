//! How a tensor's numbers are stored.

use std::fmt;

/// How a tensor's numbers are stored: plain, or as blocks of equally many numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgufKind {
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    BF16,
    /// float64.
    F64,
    /// int8.
    I8,
    /// int16.
    I16,
    /// int32.
    I32,
    /// int64.
    I64,
    /// 32 numbers of 4 bits: d (q − 8).
    Q4_0,
    /// 32 numbers of 4 bits: d q + m.
    Q4_1,
    /// 32 numbers of 5 bits: d (q − 16).
    Q5_0,
    /// 32 numbers of 5 bits: d q + m.
    Q5_1,
    /// 32 numbers of 8 bits: d q.
    Q8_0,
    /// 256 numbers of 2 bits, in 16 parts with 4-bit scales and minima.
    Q2K,
    /// 256 numbers of 3 bits, in 16 parts with 6-bit scales.
    Q3K,
    /// 256 numbers of 4 bits, in 8 parts with 6-bit scales and minima.
    Q4K,
    /// 256 numbers of 5 bits, in 8 parts with 6-bit scales and minima.
    Q5K,
    /// 256 numbers of 6 bits, in 16 parts with 8-bit scales.
    Q6K,
}

use GgufKind::{BF16, F16, F32, F64, I8, I16, I32, I64, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// Every kind with its number in the file, its name, the numbers of a block and the bytes that it takes.
static KINDS: [(GgufKind, u32, &str, usize, usize); 18] = [
    (F32, 0, "F32", 1, 4),
    (F16, 1, "F16", 1, 2),
    (Q4_0, 2, "Q4_0", 32, 18),
    (Q4_1, 3, "Q4_1", 32, 20),
    (Q5_0, 6, "Q5_0", 32, 22),
    (Q5_1, 7, "Q5_1", 32, 24),
    (Q8_0, 8, "Q8_0", 32, 34),
    (Q2K, 10, "Q2_K", 256, 84),
    (Q3K, 11, "Q3_K", 256, 110),
    (Q4K, 12, "Q4_K", 256, 144),
    (Q5K, 13, "Q5_K", 256, 176),
    (Q6K, 14, "Q6_K", 256, 210),
    (I8, 24, "I8", 1, 1),
    (I16, 25, "I16", 1, 2),
    (I32, 26, "I32", 1, 4),
    (I64, 27, "I64", 1, 8),
    (F64, 28, "F64", 1, 8),
    (BF16, 30, "BF16", 1, 2),
];

impl GgufKind {
    fn row(self) -> &'static (GgufKind, u32, &'static str, usize, usize) {
        let found = KINDS.iter().find(|(kind, ..)| *kind == self);
        found.expect("every kind is in the table")
    }

    /// The kind of this number in files.
    pub fn from_number(number: u32) -> Option<Self> {
        let found = KINDS.iter().find(|(_, known, ..)| *known == number);
        found.map(|(kind, ..)| *kind)
    }

    /// The kind of this name, as [`Display`](fmt::Display) writes it.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = KINDS.iter().find(|(_, _, known, ..)| *known == name);
        found.map(|(kind, ..)| *kind)
    }

    /// Its number in files.
    pub fn number(self) -> u32 {
        self.row().1
    }

    /// Numbers in a block; 1 for plain numbers. A row of a tensor is a whole number of blocks.
    pub fn block(self) -> usize {
        self.row().3
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.row().4
    }

    /// The bytes of a tensor of this shape; none if its rows are no whole blocks, or the number does not fit.
    pub fn byte_len(self, shape: &[usize]) -> Option<usize> {
        let count = shape
            .iter()
            .try_fold(1_usize, |product, &size| product.checked_mul(size))?;
        let whole = shape.last().is_none_or(|row| row.is_multiple_of(self.block()));
        (whole && count.is_multiple_of(self.block())).then_some(())?;
        (count / self.block()).checked_mul(self.block_bytes())
    }
}

impl fmt::Display for GgufKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.row().2)
    }
}

/// The name of a number that ggml knows and kmr does not read.
pub(super) fn foreign_name(number: u32) -> Option<&'static str> {
    Some(match number {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return None,
    })
}
