//! The IDX format of the MNIST family, plain or compressed by gzip.
//!
//! Two zero bytes, a type, the number of dimensions, each dimension as a big-endian u32, and the
//! values in big-endian order, row-major.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use kmr_model::{DType, Tensor};

use crate::bounded::{Bounded, deflate_bound};
use crate::npy::swap_bytes;
use crate::{ErrorKind, FormatError};

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];

/// Reads one IDX file.
///
/// # Errors
///
/// A file that cannot be read or is damaged.
pub fn read_idx(path: &Path) -> Result<Tensor, FormatError> {
    let open = |cause| FormatError::io(path, "open the file", &cause);
    read_idx_from(path, File::open(path).map_err(open)?)
}

/// [`read_idx`] from any source; `path` is its name in messages.
///
/// # Errors
///
/// Those of [`read_idx`].
pub fn read_idx_from(path: &Path, mut source: impl Read + Seek) -> Result<Tensor, FormatError> {
    let open = |cause| FormatError::io(path, "read the file", &cause);
    let length = source.seek(SeekFrom::End(0)).map_err(open)?;
    source.rewind().map_err(open)?;
    let mut reader = BufReader::new(source);
    let compressed = reader.fill_buf().map_err(open)?.starts_with(GZIP_MAGIC);
    match compressed {
        true => {
            let decoder = GzDecoder::new(reader);
            read(Bounded::new(decoder, path, None, deflate_bound(length)))
        }
        false => read(Bounded::new(reader, path, None, length)),
    }
}

fn read<R: Read>(mut reader: Bounded<'_, R>) -> Result<Tensor, FormatError> {
    let [zero, also_zero, code, rank] = reader.fixed("the IDX header")?;
    if (zero, also_zero) != (0, 0) {
        return Err(reader.error(ErrorKind::Malformed, "this is no IDX file"));
    }
    let (dtype, item_size) = match code {
        0x08 => (DType::UINT8, 1),
        0x09 => (DType::INT8, 1),
        0x0b => (DType::INT16, 2),
        0x0c => (DType::INT32, 4),
        0x0d => (DType::FLOAT, 4),
        0x0e => (DType::DOUBLE, 8),
        _ => {
            let message = format!("IDX has no element type {code:#04x}");
            return Err(reader.error(ErrorKind::Malformed, message));
        }
    };
    let mut shape = Vec::new();
    let mut byte_len = item_size as u64;
    for _ in 0..rank {
        let size = u32::from_be_bytes(reader.fixed("the IDX header")?);
        shape.push(size as usize);
        // Saturation exceeds every bound, which is checked before anything is read.
        byte_len = byte_len.saturating_mul(u64::from(size));
    }
    let mut values = reader.bytes(byte_len, "the array")?;
    swap_bytes(&mut values, item_size);
    let tensor = Tensor::new(dtype, shape, Bytes::from(values))
        .map_err(|cause| reader.error(ErrorKind::Malformed, cause.to_string()))?;
    reader.end()?;
    Ok(tensor)
}
