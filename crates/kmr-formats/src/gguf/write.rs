//! Writing.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::value::{ARRAY, TEXT};
use super::{ALIGNMENT, AXES, Gguf, GgufArray, GgufValue, MAGIC, VERSION};
use crate::atomic::write_atomically;
use crate::{ErrorKind, FormatError};

pub(super) fn write(gguf: &Gguf, path: &Path) -> Result<(), FormatError> {
    let (header, alignment) = header(gguf, path)?;
    write_atomically(path, |file| {
        let mut writer = BufWriter::new(file);
        parts(gguf, &header, alignment, &mut writer)?;
        writer.flush()
    })
}

pub(super) fn to_bytes(gguf: &Gguf) -> Result<Vec<u8>, FormatError> {
    let path = Path::new("GGUF");
    let (header, alignment) = header(gguf, path)?;
    let mut bytes = Vec::new();
    let written = parts(gguf, &header, alignment, &mut bytes);
    written.map_err(|cause| FormatError::io(path, "write the file", &cause))?;
    Ok(bytes)
}

fn parts(gguf: &Gguf, header: &[u8], alignment: usize, writer: &mut impl Write) -> io::Result<()> {
    let mut padded = |bytes: &[u8]| {
        writer.write_all(bytes)?;
        writer.write_all(&vec![0; bytes.len().next_multiple_of(alignment) - bytes.len()])
    };
    padded(header)?;
    gguf.tensors.values().try_for_each(|tensor| padded(tensor.bytes()))
}

pub(super) fn encoded_len(gguf: &Gguf) -> Result<u64, FormatError> {
    let (header, alignment) = header(gguf, Path::new("GGUF"))?;
    let padded = |length: usize| length.next_multiple_of(alignment) as u64;
    let data = gguf.tensors.values().map(|tensor| padded(tensor.bytes().len()));
    Ok(padded(header.len()) + data.sum::<u64>())
}

/// All before the tensors' bytes, and the alignment of these.
fn header(gguf: &Gguf, path: &Path) -> Result<(Vec<u8>, usize), FormatError> {
    let alignment = gguf.alignment().and_then(|alignment| usize::try_from(alignment).ok());
    let alignment = alignment.filter(|alignment| *alignment <= 1 << 20).ok_or_else(|| {
        let message = format!("`{ALIGNMENT}` is no power of two up to a million");
        FormatError::new(ErrorKind::Malformed, path, message).help("leave it out: the default is 32")
    })?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((gguf.tensors.len() as u64).to_le_bytes());
    bytes.extend((gguf.metadata.len() as u64).to_le_bytes());
    for (key, value) in &gguf.metadata {
        text(&mut bytes, key);
        push_value(&mut bytes, value);
    }
    let mut offset = 0;
    for (name, tensor) in &gguf.tensors {
        if tensor.shape().len() > AXES {
            let message = format!(
                "GGUF holds tensors of up to {AXES} axes; its shape is {:?}",
                tensor.shape()
            );
            return Err(FormatError::new(ErrorKind::Unsupported, path, message).array(name));
        }
        text(&mut bytes, name);
        bytes.extend((tensor.shape().len() as u32).to_le_bytes());
        for size in tensor.shape().iter().rev() {
            bytes.extend((*size as u64).to_le_bytes());
        }
        bytes.extend(tensor.kind().number().to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().len().next_multiple_of(alignment);
    }
    Ok((bytes, alignment))
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

fn push_value(bytes: &mut Vec<u8>, value: &GgufValue) {
    macro_rules! number {
        ($number:expr, $value:expr) => {{
            bytes.extend(u32::to_le_bytes($number));
            bytes.extend($value.to_le_bytes());
        }};
    }
    match value {
        GgufValue::U8(value) => number!(0, value),
        GgufValue::I8(value) => number!(1, value),
        GgufValue::U16(value) => number!(2, value),
        GgufValue::I16(value) => number!(3, value),
        GgufValue::U32(value) => number!(4, value),
        GgufValue::I32(value) => number!(5, value),
        GgufValue::F32(value) => number!(6, value),
        GgufValue::Bool(value) => number!(7, u8::from(*value)),
        GgufValue::U64(value) => number!(10, value),
        GgufValue::I64(value) => number!(11, value),
        GgufValue::F64(value) => number!(12, value),
        GgufValue::Text(value) => {
            bytes.extend(TEXT.to_le_bytes());
            text(bytes, value);
        }
        GgufValue::Array(value) => {
            bytes.extend(ARRAY.to_le_bytes());
            array(bytes, value);
        }
    }
}

fn array(bytes: &mut Vec<u8>, value: &GgufArray) {
    let mut start = |kind: u32, count: usize| {
        bytes.extend(kind.to_le_bytes());
        bytes.extend((count as u64).to_le_bytes());
    };
    match value {
        GgufArray::Numbers(kind, numbers) => {
            start(kind.number(), numbers.len() / kind.size());
            bytes.extend_from_slice(numbers);
        }
        GgufArray::Texts(texts) => {
            start(TEXT, texts.len());
            for value in texts {
                text(bytes, value);
            }
        }
        GgufArray::Arrays(arrays) => {
            start(ARRAY, arrays.len());
            for value in arrays {
                array(bytes, value);
            }
        }
    }
}
