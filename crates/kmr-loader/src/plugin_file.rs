//! A plugin's file, before any of its code runs.

use std::path::{Path, PathBuf};

use kmr_abi::abi_stable::library::RootModule;
use kmr_sdk::wire::Metadata;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{Environment, LoadError, LoadErrorKind, LoadedPlugin, binary, in_process};

/// A plugin's file: read once, checked, hashed, its metadata known. None of its code has run.
#[derive(Clone, Debug)]
pub struct PluginFile {
    path: PathBuf,
    bytes: bytes::Bytes,
    sha256: String,
    document: String,
    metadata: Metadata,
}

impl PluginFile {
    /// Reads and checks a plugin's file. The file is not needed any more after this: what was checked is what
    /// is loaded.
    ///
    /// # Errors
    /// [`LoadErrorKind::Missing`] if the file cannot be read; [`LoadErrorKind::Incompatible`] if it is not a
    /// whole shared library for this system, no plugin, or a plugin of another major version of the contract.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let bytes = read(path)?;
        let section = binary::metadata_section(&bytes)
            .map_err(|refusal| incompatible(path, refusal.message).with_help(refusal.help))?;
        let document = section_text(section);
        check_abi(path, document)?;
        let metadata = serde_json::from_str(document).map_err(|error| {
            incompatible(path, format!("its metadata cannot be read: {error}"))
                .with_help("it was exported by other means than this kmr's `export_plugin!`")
                .with_details(document)
        })?;
        Ok(Self {
            path: path.to_owned(),
            sha256: hex(&Sha256::digest(&bytes)),
            document: document.to_owned(),
            metadata,
            bytes: bytes.into(),
        })
    }

    /// Where the file was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The SHA-256 of the file's bytes, in lower-case hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// The length of the file in bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// What the plugin says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Loads the plugin into this process and sets it up. Its code stays for as long as the process lives;
    /// loading equal bytes again gives the plugin that is loaded already, set up as it was.
    ///
    /// # Errors
    /// [`LoadErrorKind::Incompatible`] if it cannot be linked or its interface differs;
    /// [`LoadErrorKind::Failed`] if it fails to set up.
    pub fn load(&self, environment: &Environment) -> Result<Box<dyn LoadedPlugin>, LoadError> {
        in_process::load(self, environment)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The metadata as it stands in the file.
    pub(crate) fn document(&self) -> &str {
        &self.document
    }
}

pub fn incompatible(path: &Path, message: impl Into<String>) -> LoadError {
    LoadError::new(LoadErrorKind::Incompatible, path, message)
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let missing = |message: String| LoadError::new(LoadErrorKind::Missing, path, message);
    // A pipe or a device would be read without an end.
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => Err(missing("is not a file".into())),
        Ok(_) => std::fs::read(path).map_err(|error| missing(format!("cannot be read: {error}"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(missing("does not exist".into()))
        }
        Err(error) => Err(missing(format!("cannot be read: {error}"))),
    }
}

/// The text of the section; a linker may pad it with zeros.
fn section_text(section: &[u8]) -> &str {
    let end = section
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    std::str::from_utf8(&section[..end]).unwrap_or_default()
}

/// Checks the version alone first: metadata of another major version may have any other shape.
fn check_abi(path: &Path, document: &str) -> Result<(), LoadError> {
    #[derive(Deserialize)]
    struct Version {
        abi: String,
    }
    let Ok(Version { abi }) = serde_json::from_str(document) else {
        return Err(incompatible(
            path,
            "its metadata names no version of the plugin interface",
        )
        .with_help("it was exported by other means than `kmr_sdk::export_plugin!`")
        .with_details(document));
    };
    let host = kmr_abi::PluginRoot_Ref::VERSION_STRINGS;
    let major = |version: &str| {
        version
            .split('.')
            .next()
            .and_then(|part| part.parse::<u32>().ok())
    };
    if major(&abi) == major(kmr_abi::VERSION) && major(&abi).is_some() {
        return Ok(());
    }
    Err(other_version(path, &abi, host.version.as_str()))
}

pub fn other_version(path: &Path, plugin: &str, host: &str) -> LoadError {
    let major = host.split('.').next().unwrap_or(host);
    incompatible(
        path,
        format!("needs plugin interface {plugin}; this kmr has {host}"),
    )
    .with_help(format!(
        "get the plugin's build for interface {major}, or the kmr that it is for"
    ))
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_judged_before_the_rest() {
        let path = Path::new("libx.so");
        assert!(check_abi(path, r#"{"abi":"1.7.0","unknown":[]}"#).is_ok());
        let newer = check_abi(path, r#"{"abi":"2.0.0"}"#).unwrap_err();
        assert_eq!(
            newer.message(),
            "needs plugin interface 2.0.0; this kmr has 1.0.0"
        );
        assert_eq!(newer.kind().exit_code(), 22);
        for broken in ["", "{}", r#"{"abi":"x"}"#, r#"{"abi":1}"#, "not json"] {
            assert!(check_abi(path, broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn padding_is_no_part_of_the_metadata() {
        assert_eq!(section_text(b"{}\0\0\0"), "{}");
        assert_eq!(section_text(b"\0\0"), "");
        assert_eq!(section_text(b"\xff\xfe"), "");
    }
}
