//! Tensors in GGUF's encodings.

use std::collections::BTreeMap;

use kmr_formats::gguf::{EncodingError, GgufKind, GgufTensor};
use kmr_model::Tensor;

use super::integers::{IntegerMatrix, Made};
use crate::error::shown;
use crate::{ErrorKind, HuggingFaceError};

/// Numbers of a block of the encodings that codes can be kept in.
const BLOCK: usize = 32;
/// The largest number of float16.
const LARGEST_HALF: f32 = 65_504.0;

/// Encodes tensors, and counts what became of them.
pub(super) struct Encoder {
    /// What matrices are stored as whose codes cannot be kept.
    asked: GgufKind,
    kept: BTreeMap<String, usize>,
    /// Matrices by why they are stored in another way than was asked for, and what way that is.
    other: BTreeMap<String, Vec<String>>,
}

impl Encoder {
    pub fn new(asked: GgufKind) -> Self {
        Self {
            asked,
            kept: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// A tensor: vectors as float32, matrices with their own codes where a block says these, else as asked.
    pub fn encode(&mut self, name: &str, tensor: &Tensor, made: Option<&Made>) -> Result<GgufTensor, HuggingFaceError> {
        if let Some(Made::Codes(matrix)) = made
            && let Some((kind, bytes)) = exact(matrix)
        {
            *self.kept.entry(kind.to_string()).or_default() += 1;
            let shape = vec![matrix.rows, matrix.columns];
            return GgufTensor::new(kind, shape, bytes.into()).map_err(|error| refuse(name, &error));
        }
        let values = tensor.to_f32()?;
        let shape = tensor.shape();
        let kind = match shape.len() {
            0 | 1 => GgufKind::F32,
            _ => self.kind(name, shape[shape.len() - 1], &values),
        };
        GgufTensor::encode(kind, shape.to_vec(), &values).map_err(|error| refuse(name, &error))
    }

    /// What a matrix is stored as whose rows have `columns` numbers.
    fn kind(&mut self, name: &str, columns: usize, values: &[f32]) -> GgufKind {
        let mut kind = self.asked;
        while !columns.is_multiple_of(kind.block()) {
            kind = match kind {
                GgufKind::Q4K => GgufKind::Q4_1,
                GgufKind::Q6K => GgufKind::Q8_0,
                _ => GgufKind::F16,
            };
        }
        let mut why = format!("rows of {columns} are no blocks of {}", self.asked.block());
        if kind == GgufKind::F16 && values.iter().any(|value| value.abs() > LARGEST_HALF) {
            kind = GgufKind::F32;
            why = "float16 does not hold their numbers".into();
        }
        if kind != self.asked {
            let why = format!("stored as {kind} instead of {}: {why}", self.asked);
            self.other.entry(why).or_default().push(name.to_owned());
        }
        kind
    }

    /// What became of the codes, for people.
    pub fn changes(&self) -> Vec<String> {
        let kept = self.kept.iter();
        kept.map(|(kind, count)| {
            let which = if *count == 1 {
                "1 weight keeps its"
            } else {
                &format!("{count} weights keep their")
            };
            format!("{which} codes as {kind}; scales are rounded to float16")
        })
        .collect()
    }

    /// What was stored in another way than was asked for.
    pub fn warnings(&self) -> Vec<String> {
        let other = self.other.iter();
        other
            .map(|(why, names)| match names.len() {
                1 => format!("`{}` is {why}", shown(&names[0])),
                count => format!("{count} matrices (`{}` and others) are {why}", shown(&names[0])),
            })
            .collect()
    }
}

fn refuse(name: &str, error: &EncodingError) -> HuggingFaceError {
    HuggingFaceError::new(ErrorKind::Inexpressible, format!("tensor `{}`: {error}", shown(name)))
        .help("store it as `f32`, or write the model as ONNX")
}

/// The blocks that hold the very codes of a matrix.
fn exact(matrix: &IntegerMatrix) -> Option<(GgufKind, Vec<u8>)> {
    if !matrix.group.is_multiple_of(BLOCK) || !matrix.columns.is_multiple_of(BLOCK) {
        return None;
    }
    let kind = match (matrix.bits, matrix.is_symmetric()) {
        (4, true) => GgufKind::Q4_0,
        (4, false) => GgufKind::Q4_1,
        (8, true) => GgufKind::Q8_0,
        _ => return None,
    };
    let mut bytes = Vec::with_capacity(matrix.codes.len() / BLOCK * kind.block_bytes());
    for (block, codes) in matrix.codes.chunks_exact(BLOCK).enumerate() {
        let (row, column) = (block * BLOCK / matrix.columns, block * BLOCK % matrix.columns);
        let place = row * matrix.groups() + column / matrix.group;
        let (scale, zero) = (matrix.scales[place], matrix.zeros[place]);
        push_half(&mut bytes, scale)?;
        match kind {
            GgufKind::Q8_0 => bytes.extend(codes.iter().map(|&code| code as u8)),
            kind => {
                if kind == GgufKind::Q4_1 {
                    // Blocks count from their least number: the code −8.
                    push_half(&mut bytes, scale * -(8.0 + f32::from(zero)))?;
                }
                let nibble = |at: usize| (codes[at] + 8) as u8;
                bytes.extend((0..BLOCK / 2).map(|at| nibble(at) | nibble(at + BLOCK / 2) << 4));
            }
        }
    }
    Some((kind, bytes))
}

/// A float16; none for what it does not hold.
fn push_half(bytes: &mut Vec<u8>, value: f32) -> Option<()> {
    let half = half::f16::from_f32(value);
    (half.is_finite() && (half.to_f32() != 0.0 || value == 0.0)).then_some(())?;
    bytes.extend(half.to_le_bytes());
    Some(())
}
