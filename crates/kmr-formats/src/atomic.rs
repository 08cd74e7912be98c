//! Files that are there as a whole or not at all.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::FormatError;

/// Replaces the file at `path` when all is written and on disk.
pub(crate) fn write_atomically(
    path: &Path,
    mut write: impl FnMut(&mut File) -> io::Result<()>,
) -> Result<(), FormatError> {
    kmr_platform::replace_file(path, &mut write).map_err(|cause| FormatError::io(path, "write the file", &cause))
}
