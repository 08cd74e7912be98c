//! The npy format, versions 1 to 3: one array in a file.

mod header;

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use kmr_model::{DType, Tensor};

use crate::atomic::write_atomically;
use crate::bounded::Bounded;
use crate::{ErrorKind, FormatError};
use header::Header;

/// Element types by the names that numpy writes, without byte order.
const TYPES: &[(&str, DType)] = &[
    ("f2", DType::FLOAT16),
    ("f4", DType::FLOAT),
    ("f8", DType::DOUBLE),
    ("u1", DType::UINT8),
    ("i1", DType::INT8),
    ("u2", DType::UINT16),
    ("i2", DType::INT16),
    ("u4", DType::UINT32),
    ("i4", DType::INT32),
    ("u8", DType::UINT64),
    ("i8", DType::INT64),
    ("b1", DType::BOOL),
];

/// Reads one npy file.
///
/// # Errors
///
/// A file that cannot be read, is damaged, or holds something other than numbers and booleans.
pub fn read_npy(path: &Path) -> Result<Tensor, FormatError> {
    let open = |cause| FormatError::io(path, "open the file", &cause);
    read_npy_from(path, File::open(path).map_err(open)?)
}

/// [`read_npy`] from any source; `path` is its name in messages.
///
/// # Errors
///
/// Those of [`read_npy`].
pub fn read_npy_from(path: &Path, mut source: impl Read + Seek) -> Result<Tensor, FormatError> {
    let open = |cause| FormatError::io(path, "read the file", &cause);
    let length = source.seek(SeekFrom::End(0)).map_err(open)?;
    source.rewind().map_err(open)?;
    read_array(Bounded::new(BufReader::new(source), path, None, length))
}

/// Reads one array in npy form to the reader's end.
pub(crate) fn read_array<R: Read>(mut reader: Bounded<'_, R>) -> Result<Tensor, FormatError> {
    let header = Header::read(&mut reader)?;
    let values = reader.bytes(header.byte_len, "the array")?;
    let dtype = header.dtype;
    let mut values = values;
    if header.big_endian {
        swap_bytes(&mut values, header.item_size);
    }
    if dtype == DType::BOOL {
        // ONNX knows 0 and 1 only; numpy takes any other byte for true.
        values.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
    }
    if header.fortran_order {
        values = to_row_major(&values, &header.shape, header.item_size);
    }
    let tensor = Tensor::new(dtype, header.shape, Bytes::from(values))
        .map_err(|cause| reader.error(ErrorKind::Malformed, cause.to_string()))?;
    reader.end()?;
    Ok(tensor)
}

/// Turns big-endian items into little-endian ones.
pub(crate) fn swap_bytes(values: &mut [u8], item_size: usize) {
    values.chunks_exact_mut(item_size).for_each(<[u8]>::reverse);
}

/// Reorders column-major items to row-major.
fn to_row_major(values: &[u8], shape: &[usize], item_size: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = item_size;
    for size in shape {
        strides.push(stride);
        stride *= size;
    }
    let mut reordered = Vec::with_capacity(values.len());
    let mut index = vec![0; shape.len()];
    while reordered.len() < values.len() {
        let start: usize = index.iter().zip(&strides).map(|(i, s)| i * s).sum();
        reordered.extend_from_slice(&values[start..start + item_size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    reordered
}

/// Writes one npy file; a file that is there is replaced only when all is written.
///
/// # Errors
///
/// An element type that npy has no name for, and a file that cannot be written.
pub fn write_npy(path: &Path, tensor: &Tensor) -> Result<(), FormatError> {
    let header = header_bytes(path, tensor)?;
    write_atomically(path, |file| {
        let mut writer = BufWriter::new(file);
        writer.write_all(&header)?;
        writer.write_all(tensor.bytes())?;
        writer.flush()
    })
}

/// The bytes in front of a tensor's values, as numpy writes them.
pub(crate) fn header_bytes(path: &Path, tensor: &Tensor) -> Result<Vec<u8>, FormatError> {
    let Some((name, _)) = TYPES.iter().find(|(_, dtype)| *dtype == tensor.dtype()) else {
        let message = format!("npy files cannot hold {}", tensor.dtype());
        return Err(FormatError::new(ErrorKind::Unsupported, path, message)
            .help("ask for another value, or cast it in the model"));
    };
    Ok(header::write(name, tensor.shape()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_major_items_are_reordered() {
        // Column-major [[1, 2, 3], [4, 5, 6]].
        let stored = [1, 4, 2, 5, 3, 6];
        assert_eq!(to_row_major(&stored, &[2, 3], 1), [1, 2, 3, 4, 5, 6]);
        let cube: Vec<u8> = (0..24).collect();
        let reordered = to_row_major(&cube, &[2, 3, 4], 1);
        for (place, value) in reordered.iter().enumerate() {
            let (i, j, k) = (place / 12, place / 4 % 3, place % 4);
            assert_eq!(usize::from(*value), i + 2 * j + 6 * k);
        }
    }
}
