//! The npz format: npy arrays in a zip archive, stored or deflated.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use kmr_model::Tensor;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::atomic::write_atomically;
use crate::bounded::{Bounded, deflate_bound};
use crate::npy::{header_bytes, read_array};
use crate::{ErrorKind, FormatError, NamedArrays};

/// Reads every array of an npz file.
///
/// # Errors
///
/// A file that cannot be read, is damaged, or holds something other than arrays of numbers and
/// booleans.
pub fn read_npz(path: &Path) -> Result<NamedArrays, FormatError> {
    let open = |cause| FormatError::io(path, "open the file", &cause);
    read_npz_from(path, File::open(path).map_err(open)?)
}

/// [`read_npz`] from any source; `path` is its name in messages.
///
/// # Errors
///
/// Those of [`read_npz`].
pub fn read_npz_from(path: &Path, mut source: impl Read + Seek) -> Result<NamedArrays, FormatError> {
    let open = |cause| FormatError::io(path, "read the file", &cause);
    let file_length = source.seek(SeekFrom::End(0)).map_err(open)?;
    source.rewind().map_err(open)?;
    let malformed = |cause: zip::result::ZipError| {
        let message = format!("this is no sound npz file: {cause}");
        FormatError::new(ErrorKind::Malformed, path, message)
    };
    let mut archive = ZipArchive::new(BufReader::new(source)).map_err(malformed)?;
    let mut arrays = NamedArrays::new();
    // Entries may name the same bytes; a small file could stand for any number of arrays.
    let mut unclaimed = file_length;
    for index in 0..archive.len() {
        let entry = archive.by_index(index).map_err(malformed)?;
        let full_name = entry.name().map_err(malformed)?.into_owned();
        let Some(name) = full_name.strip_suffix(".npy") else {
            let message = format!("entry `{}` is no npy array", full_name.escape_debug());
            return Err(FormatError::new(ErrorKind::Unsupported, path, message)
                .help("write the file with numpy's savez or savez_compressed"));
        };
        let packed = entry.compressed_size();
        unclaimed = unclaimed.checked_sub(packed).ok_or_else(|| {
            let message = "the entries together are longer than the file";
            FormatError::new(ErrorKind::Malformed, path, message).array(name)
        })?;
        let bound = match entry.compression() {
            CompressionMethod::Stored => packed,
            CompressionMethod::Deflated => deflate_bound(packed),
            other => {
                let message = format!("compression {other} is not supported");
                return Err(FormatError::new(ErrorKind::Unsupported, path, message)
                    .array(name)
                    .help("write the file with numpy's savez or savez_compressed"));
            }
        };
        let bound = bound.min(entry.size());
        let tensor = read_array(Bounded::new(entry, path, Some(name), bound))?;
        if arrays.insert(name.to_string(), tensor).is_some() {
            let message = "the name occurs twice";
            return Err(FormatError::new(ErrorKind::Malformed, path, message).array(name));
        }
    }
    Ok(arrays)
}

/// Writes arrays by name into an npz file, uncompressed. The same arrays give the same bytes; a
/// file that is there is replaced only when all is written.
///
/// # Errors
///
/// An element type that npy has no name for, a name that occurs twice, and a file that cannot be
/// written.
pub fn write_npz<'a>(path: &Path, arrays: impl IntoIterator<Item = (&'a str, &'a Tensor)>) -> Result<(), FormatError> {
    let arrays = arrays
        .into_iter()
        .map(|(name, tensor)| {
            let header = header_bytes(path, tensor).map_err(|error| error.array(name))?;
            Ok((name, tensor, header))
        })
        .collect::<Result<Vec<_>, FormatError>>()?;
    write_atomically(path, |file| {
        let mut writer = ZipWriter::new(BufWriter::new(file));
        for (name, tensor, header) in &arrays {
            const ZIP32_LIMIT: usize = u32::MAX as usize;
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .large_file(header.len() + tensor.byte_len() >= ZIP32_LIMIT);
            writer.start_file(format!("{name}.npy"), options)?;
            writer.write_all(header)?;
            writer.write_all(tensor.bytes())?;
        }
        writer.finish()?.flush()
    })
}
