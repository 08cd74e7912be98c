//! The safetensors format: eight bytes with the length of a JSON header, the header, the tensors' bytes without gaps.

use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use indexmap::IndexMap;
use kmr_model::{DType, Tensor};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::atomic::write_atomically;
use crate::bounded::Bounded;
use crate::{ErrorKind, FormatError, NamedArrays};

/// The longest header that other readers take, too.
const LONGEST_HEADER: u64 = 100_000_000;
/// The header's key for what is no tensor.
const METADATA: &str = "__metadata__";

/// Element types by the format's names.
const TYPES: [(&str, DType); 13] = [
    ("F64", DType::DOUBLE),
    ("F32", DType::FLOAT),
    ("F16", DType::FLOAT16),
    ("BF16", DType::BFLOAT16),
    ("I64", DType::INT64),
    ("I32", DType::INT32),
    ("I16", DType::INT16),
    ("I8", DType::INT8),
    ("U64", DType::UINT64),
    ("U32", DType::UINT32),
    ("U16", DType::UINT16),
    ("U8", DType::UINT8),
    ("BOOL", DType::BOOL),
];

/// What the header says of a tensor.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Every tensor of a safetensors file, in the order of its header. A large file stays where it is and is mapped, as
/// [`kmr_platform::map_file`] has it; only tensors that lie misaligned in it are copied.
///
/// # Errors
///
/// A file that cannot be read, is damaged, or holds something other than numbers and booleans.
pub fn read_safetensors(path: &Path) -> Result<NamedArrays, FormatError> {
    let open = |cause| FormatError::io(path, "open the file", &cause);
    parse(path, &kmr_platform::map_file(path).map_err(open)?)
}

/// [`read_safetensors`] from any source, into memory; `path` is its name in messages.
///
/// # Errors
///
/// Those of [`read_safetensors`].
pub fn read_safetensors_from(path: &Path, mut source: impl Read + Seek) -> Result<NamedArrays, FormatError> {
    let open = |cause| FormatError::io(path, "read the file", &cause);
    let length = source.seek(SeekFrom::End(0)).map_err(open)?;
    source.rewind().map_err(open)?;
    let bytes = Bounded::new(source, path, None, length).bytes(length, "the file")?;
    parse(path, &Bytes::from(bytes))
}

fn parse(path: &Path, file: &Bytes) -> Result<NamedArrays, FormatError> {
    let length = file.len() as u64;
    let mut reader = Bounded::new(&file[..], path, None, length);
    let header_length = u64::from_le_bytes(reader.fixed("the header's length")?);
    if header_length > LONGEST_HEADER {
        let message = format!("the header takes {header_length} bytes; there can be at most {LONGEST_HEADER}");
        return Err(reader.error(ErrorKind::Malformed, message));
    }
    let header = reader.bytes(header_length, "the header")?;
    let entries: IndexMap<String, Value> = serde_json::from_slice(&header)
        .map_err(|cause| reader.error(ErrorKind::Malformed, format!("the header is no JSON object: {cause}")))?;
    // The header lies in the file: its end is a position in memory.
    let data = file.slice(8 + header_length as usize..);
    let mut arrays = NamedArrays::new();
    let mut ranges: Vec<(Range<usize>, String)> = Vec::new();
    for (name, entry) in entries {
        if name == METADATA {
            continue;
        }
        let malformed = |message: String| FormatError::new(ErrorKind::Malformed, path, message).array(&name);
        let entry: Entry = serde_json::from_value(entry).map_err(|cause| malformed(cause.to_string()))?;
        let Some(&(_, dtype)) = TYPES.iter().find(|(known, _)| *known == entry.dtype) else {
            let message = format!("element type `{}` is not supported", entry.dtype.escape_debug());
            return Err(FormatError::new(ErrorKind::Unsupported, path, message).array(&name));
        };
        let (start, end) = entry.data_offsets;
        if start > end || end > data.len() {
            let message = format!("its bytes {start}..{end} do not lie in the {} of the data", data.len());
            return Err(malformed(message));
        }
        let tensor = Tensor::new(dtype, entry.shape, aligned(data.slice(start..end), dtype));
        let tensor = tensor.map_err(|error| malformed(error.to_string()))?;
        ranges.push((start..end, name.clone()));
        arrays.insert(name, tensor);
    }
    without_gaps(path, ranges, data.len())?;
    Ok(arrays)
}

/// The same bytes where elements of `dtype` can be read one by one.
fn aligned(bytes: Bytes, dtype: DType) -> Bytes {
    let element = dtype.bits().unwrap_or(8).div_ceil(8);
    match bytes.as_ptr().addr().is_multiple_of(element) {
        true => bytes,
        false => kmr_platform::aligned_copy(&bytes),
    }
}

/// Checks that the tensors' bytes lie side by side, so that a file is no larger than what it says, and nothing in it
/// stands for two tensors.
fn without_gaps(path: &Path, mut ranges: Vec<(Range<usize>, String)>, length: usize) -> Result<(), FormatError> {
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    let mut reached = 0;
    for (range, name) in &ranges {
        if range.start != reached {
            let message = format!("its bytes begin at {}, those before it end at {reached}", range.start);
            return Err(FormatError::new(ErrorKind::Malformed, path, message).array(name));
        }
        reached = range.end;
    }
    match length - reached {
        0 => Ok(()),
        rest => {
            let message = format!("{rest} bytes at the end belong to no tensor");
            Err(FormatError::new(ErrorKind::Malformed, path, message))
        }
    }
}

/// Writes tensors by name into a safetensors file that says it is PyTorch's. The same tensors give the same bytes; a
/// file that is there is replaced only when all is written.
///
/// # Errors
///
/// An element type that the format has no name for, a name that occurs twice or is no tensor's, and a file that cannot
/// be written.
pub fn write_safetensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<(), FormatError> {
    let refuse = |kind, message: String, name: &str| Err(FormatError::new(kind, path, message).array(name));
    let mut header = Map::new();
    header.insert(METADATA.into(), json!({"format": "pt"}));
    let mut data = Vec::new();
    let mut offset = 0;
    for (name, tensor) in tensors {
        let Some((dtype, _)) = TYPES.iter().find(|(_, known)| *known == tensor.dtype()) else {
            let message = format!("safetensors has no name for {}", tensor.dtype());
            return refuse(ErrorKind::Unsupported, message, name);
        };
        let end = offset + tensor.byte_len();
        let entry = json!({"dtype": dtype, "shape": tensor.shape(), "data_offsets": [offset, end]});
        if header.insert(name.to_owned(), entry).is_some() {
            return refuse(
                ErrorKind::Malformed,
                "the name occurs twice, or is the header's own".into(),
                name,
            );
        }
        offset = end;
        data.push(tensor);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Tensors begin at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomically(path, |file| {
        let mut writer = std::io::BufWriter::new(file);
        writer.write_all(&(header.len() as u64).to_le_bytes())?;
        writer.write_all(&header)?;
        for tensor in &data {
            writer.write_all(tensor.bytes())?;
        }
        writer.flush()
    })
}
