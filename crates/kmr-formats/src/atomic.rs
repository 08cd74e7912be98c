//! Files that are there as a whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::FormatError;

/// Writes to a new file beside `path` and moves it there when all is written and on disk.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), FormatError> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let outcome = File::create(&partial).and_then(|mut file| {
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    });
    outcome.map_err(|cause| {
        // The first failure is the one to report.
        let _ = fs::remove_file(&partial);
        FormatError::io(path, "write the file", &cause)
    })
}
