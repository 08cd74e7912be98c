//! A plugin's file, inspected and not yet loaded.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use kmr_abi::METADATA_SECTION;
use kmr_sdk::wire::Metadata;
use sha2::{Digest, Sha256};

use crate::{
    error::{ErrorKind, LoaderError, Result},
    library::{self, Defect},
    metadata,
};

/// A plugin's file: a whole shared library for this machine whose metadata this host understands. None of its code
/// has run.
///
/// The bytes are held in memory, so that what was inspected and hashed is what [`PluginFile::load`] loads, whatever
/// happens to the file meanwhile.
#[derive(Clone)]
pub struct PluginFile {
    path: PathBuf,
    bytes: Bytes,
    sha256: String,
    metadata: Metadata,
}

impl fmt::Debug for PluginFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginFile")
            .field("path", &self.path)
            .field("sha256", &self.sha256)
            .field("plugin", &self.metadata.plugin)
            .finish_non_exhaustive()
    }
}

impl PluginFile {
    /// Reads and inspects a file.
    ///
    /// # Errors
    /// [`ErrorKind::Missing`] where the file cannot be read, [`ErrorKind::Damaged`] where it is not a whole shared
    /// library or has no readable metadata, [`ErrorKind::Incompatible`] where it is a plugin for another machine or
    /// another major version of the contract.
    pub fn open(path: &Path) -> Result<Self> {
        Self::find(path)?.ok_or_else(|| {
            LoaderError::new(
                ErrorKind::Damaged,
                path,
                format!("the shared library is no kmr plugin: it has no section `{METADATA_SECTION}`"),
            )
            .with_help("a plugin is a `cdylib` crate that calls the export macro of kmr-sdk once")
        })
    }

    /// As [`PluginFile::open`], with `None` for a whole shared library that is no plugin.
    pub(crate) fn find(path: &Path) -> Result<Option<Self>> {
        let bytes = kmr_platform::read_file(path).map_err(|error| unreadable(path, &error))?;
        let range = match library::metadata_range(&bytes) {
            Ok(range) => range,
            Err(Defect::NoMetadata) => return Ok(None),
            Err(Defect::Damaged(message)) => {
                return Err(LoaderError::new(ErrorKind::Damaged, path, message)
                    .with_help("build the plugin again, or fetch the file again"));
            }
            Err(Defect::Foreign(message)) => {
                return Err(LoaderError::new(ErrorKind::Incompatible, path, message)
                    .with_help("build the plugin for this machine"));
            }
        };
        let metadata = metadata::parse(&bytes[range], path)?;
        Ok(Some(Self {
            path: path.to_owned(),
            sha256: hexadecimal(&Sha256::digest(&bytes)),
            bytes,
            metadata,
        }))
    }

    /// Where the file was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SHA-256 of the file's bytes, 64 lower-case hexadecimal digits.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// What the plugin says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The file's bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The error for a file or folder that cannot be read.
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> LoaderError {
    let (message, help) = match error.kind() {
        io::ErrorKind::NotFound => (
            "there is no such file or folder".to_owned(),
            "check the path; KMR_PLUGIN_PATH and the manifest say where plugins are looked for",
        ),
        io::ErrorKind::PermissionDenied => (
            "reading is not permitted".to_owned(),
            "give this user the right to read it",
        ),
        _ => (format!("cannot be read: {error}"), "check the path"),
    };
    LoaderError::new(ErrorKind::Missing, path, message).with_help(help)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_files_and_folders_are_missing() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("libnone.so"), folder.path().to_owned()] {
            let error = PluginFile::open(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Missing);
            assert_eq!(error.place(), path);
        }
    }

    #[test]
    fn hashes_are_written_as_the_world_writes_them() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(hexadecimal(&Sha256::digest(b"")), empty);
    }
}
