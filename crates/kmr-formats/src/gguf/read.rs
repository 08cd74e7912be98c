//! Reading: nothing is allocated by what a file claims, only by what it holds.

use std::path::Path;

use bytes::Bytes;
use indexmap::IndexMap;

use super::kind::foreign_name;
use super::value::{ARRAY, TEXT};
use super::{AXES, Gguf, GgufArray, GgufKind, GgufNumber, GgufTensor, GgufValue, MAGIC};
use crate::error::shown;
use crate::{ErrorKind, FormatError};

/// Arrays inside arrays inside arrays: as far as anybody needs.
const DEEPEST: usize = 3;

pub(super) fn read(path: &Path, bytes: Bytes) -> Result<Gguf, FormatError> {
    let mut cursor = Cursor {
        path,
        bytes: &bytes,
        position: 0,
    };
    version(&mut cursor)?;
    let tensors = cursor.u64("the number of tensors")?;
    let keys = cursor.u64("the number of keys")?;
    let mut gguf = Gguf::default();
    for _ in 0..keys {
        let start = cursor.position;
        let key = cursor.text("a key")?;
        let kind = cursor.u32("a value's type")?;
        let value = cursor.value(kind, &key)?;
        if gguf.metadata.insert(key.clone(), value).is_some() {
            let message = format!("key `{}` occurs twice", shown(&key));
            return Err(cursor.malformed(message).offset(start as u64));
        }
    }
    let Some(alignment) = gguf.alignment() else {
        return Err(cursor.malformed("`general.alignment` is no power of two"));
    };
    let mut entries: IndexMap<String, Entry> = IndexMap::new();
    for _ in 0..tensors {
        let start = cursor.position;
        let (name, entry) = cursor.entry()?;
        if entries.insert(name.clone(), entry).is_some() {
            return Err(cursor
                .malformed("the name occurs twice")
                .array(&name)
                .offset(start as u64));
        }
    }
    let data = u64::try_from(cursor.position).unwrap_or(u64::MAX);
    let data = data.checked_next_multiple_of(alignment);
    let mut ranges = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        let malformed = |message: String| FormatError::new(ErrorKind::Malformed, path, message).array(&name);
        if !entry.offset.is_multiple_of(alignment) {
            let message = format!("its offset {} is no multiple of {alignment}", entry.offset);
            return Err(malformed(message));
        }
        let start = data.and_then(|data| usize::try_from(data.checked_add(entry.offset)?).ok());
        let end = start.and_then(|start| start.checked_add(entry.length));
        let (Some(start), Some(end)) = (start, end.filter(|end| *end <= bytes.len())) else {
            let (length, offset) = (entry.length, entry.offset);
            let message = format!("its {length} bytes at {offset} lie outside the file of {}", bytes.len());
            return Err(malformed(message));
        };
        let tensor = GgufTensor::new(entry.kind, entry.shape, bytes.slice(start..end));
        let tensor = tensor.map_err(|error| malformed(error.to_string()))?;
        ranges.push((start, end, gguf.tensors.len()));
        gguf.tensors.insert(name, tensor);
    }
    apart(path, &gguf, ranges)?;
    Ok(gguf)
}

/// Checks that no byte stands for two tensors, so that all tensors together are no larger than the file.
fn apart(path: &Path, gguf: &Gguf, mut ranges: Vec<(usize, usize, usize)>) -> Result<(), FormatError> {
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let ((_, end, first), (start, _, second)) = (pair[0], pair[1]);
        if start < end {
            let name = |at: usize| gguf.tensors.get_index(at).map_or("", |(name, _)| name.as_str());
            let message = format!("its bytes are those of `{}`, too", shown(name(first)));
            return Err(FormatError::new(ErrorKind::Malformed, path, message).array(name(second)));
        }
    }
    Ok(())
}

fn version(cursor: &mut Cursor<'_>) -> Result<(), FormatError> {
    let magic = cursor.take(4, "the magic number")?;
    if magic != MAGIC {
        return Err(cursor.malformed("this is no GGUF file").offset(0));
    }
    let version = cursor.u32("the version")?;
    let message = match version {
        2 | 3 => return Ok(()),
        _ if version & 0xffff == 0 => "the file is big-endian".to_owned(),
        _ => format!("version {version} is not supported"),
    };
    let help = "versions 2 and 3, little-endian, are read: convert the model again";
    Err(cursor.error(ErrorKind::Unsupported, message).help(help))
}

/// What a file says of a tensor.
struct Entry {
    kind: GgufKind,
    /// Row-major: the last axis lies side by side.
    shape: Vec<usize>,
    length: usize,
    offset: u64,
}

struct Cursor<'b> {
    path: &'b Path,
    bytes: &'b Bytes,
    position: usize,
}

impl<'b> Cursor<'b> {
    fn error(&self, kind: ErrorKind, message: impl Into<String>) -> FormatError {
        FormatError::new(kind, self.path, message).offset(self.position as u64)
    }

    fn malformed(&self, message: impl Into<String>) -> FormatError {
        self.error(ErrorKind::Malformed, message)
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, count: usize, what: &str) -> Result<&'b [u8], FormatError> {
        if count > self.left() {
            let message = format!("{what} takes {count} bytes; {} are left", self.left());
            return Err(self.malformed(message));
        }
        let start = self.position;
        self.position += count;
        Ok(&self.bytes[start..self.position])
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FormatError> {
        let mut fixed = [0; N];
        fixed.copy_from_slice(self.take(N, what)?);
        Ok(fixed)
    }

    fn u32(&mut self, what: &str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.fixed(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.fixed(what)?))
    }

    /// A count of things of at least `least` bytes each.
    fn count(&mut self, least: usize, what: &str) -> Result<usize, FormatError> {
        let start = self.position;
        let claimed = self.u64(what)?;
        let count = usize::try_from(claimed).ok();
        let fits = |count: &usize| count.checked_mul(least).is_some_and(|bytes| bytes <= self.left());
        count.filter(fits).ok_or_else(|| {
            let message = format!("{what} is {claimed}; {} bytes are left", self.left());
            self.malformed(message).offset(start as u64)
        })
    }

    fn text(&mut self, what: &str) -> Result<String, FormatError> {
        let length = self.count(1, &format!("the length of {what}"))?;
        let start = self.position;
        let bytes = self.take(length, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => {
                let place = start + error.valid_up_to();
                Err(self.malformed(format!("{what} is not UTF-8")).offset(place as u64))
            }
        }
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<GgufValue, FormatError> {
        let what = || format!("the value of `{}`", shown(key));
        Ok(match kind {
            TEXT => GgufValue::Text(self.text(&what())?),
            ARRAY => GgufValue::Array(self.array(&what(), DEEPEST)?),
            _ => {
                let Some(number) = GgufNumber::from_number(kind) else {
                    return Err(self.malformed(format!("{} has the unknown type {kind}", what())));
                };
                let bytes = self.take(number.size(), &what())?;
                self.check_booleans(number, bytes, &what())?;
                number.value(bytes)
            }
        })
    }

    fn array(&mut self, what: &str, deepest: usize) -> Result<GgufArray, FormatError> {
        let kind = self.u32(what)?;
        match (kind, GgufNumber::from_number(kind)) {
            (TEXT, _) => {
                let count = self.count(8, what)?;
                (0..count)
                    .map(|_| self.text(what))
                    .collect::<Result<_, _>>()
                    .map(GgufArray::Texts)
            }
            (ARRAY, _) if deepest > 1 => {
                let count = self.count(12, what)?;
                let arrays = (0..count).map(|_| self.array(what, deepest - 1));
                arrays.collect::<Result<_, _>>().map(GgufArray::Arrays)
            }
            (ARRAY, _) => Err(self.error(ErrorKind::Unsupported, format!("{what} nests arrays too deeply"))),
            (_, Some(number)) => {
                let count = self.count(number.size(), what)?;
                let start = self.position;
                let bytes = self.take(count * number.size(), what)?;
                self.check_booleans(number, bytes, what)?;
                Ok(GgufArray::Numbers(number, self.bytes.slice(start..self.position)))
            }
            _ => Err(self.malformed(format!("{what} has elements of the unknown type {kind}"))),
        }
    }

    fn check_booleans(&self, number: GgufNumber, bytes: &[u8], what: &str) -> Result<(), FormatError> {
        if number == GgufNumber::Bool && bytes.iter().any(|&byte| byte > 1) {
            return Err(self.malformed(format!("{what} is neither true nor false")));
        }
        Ok(())
    }

    fn entry(&mut self) -> Result<(String, Entry), FormatError> {
        let name = self.text("a tensor's name")?;
        let path = self.path;
        let start = self.position as u64;
        let error = |kind, message: String| FormatError::new(kind, path, message).array(&name).offset(start);
        let axes = self.u32("the number of axes")? as usize;
        if axes > AXES {
            return Err(error(
                ErrorKind::Malformed,
                format!("it has {axes} axes; there can be {AXES}"),
            ));
        }
        let mut shape = Vec::with_capacity(AXES);
        for _ in 0..axes {
            let size = self.u64("a size")?;
            shape.push(
                usize::try_from(size)
                    .map_err(|_| error(ErrorKind::Malformed, format!("its size {size} is too large")))?,
            );
        }
        // The file names the axis that lies side by side first.
        shape.reverse();
        let number = self.u32("a tensor's type")?;
        let Some(kind) = GgufKind::from_number(number) else {
            let message = match foreign_name(number) {
                Some(foreign) => format!("it is stored as {foreign}, which is not supported"),
                None => format!("it is stored as the unknown type {number}"),
            };
            let help =
                "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and Q2_K to Q6_K are read: quantize the model again";
            return Err(error(ErrorKind::Unsupported, message).help(help));
        };
        let Some(length) = kind.byte_len(&shape) else {
            let message = format!(
                "rows of shape {shape:?} are no blocks of {} numbers, as {kind} has them",
                kind.block()
            );
            return Err(error(ErrorKind::Malformed, message));
        };
        let offset = self.u64("a tensor's offset")?;
        let entry = Entry {
            kind,
            shape,
            length,
            offset,
        };
        Ok((name, entry))
    }
}
