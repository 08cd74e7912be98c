//! What is specific to the operating system, behind the trait [`Platform`].
//!
//! Linux on x86-64 and aarch64 is first class. Elsewhere a plain fallback keeps everything working with weaker
//! promises; a port replaces that fallback by a module of its own and touches nothing outside this crate.

mod aligned;
mod file;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(not(target_os = "linux"), test))]
mod plain;
mod private_copy;
mod processor;

use std::{
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

/// A library's bytes in a file that nobody else can change while it is loaded.
///
/// The path is valid as long as this value lives. Keep it alive for as long as the library is loaded: the dynamic
/// linker recognizes libraries by their path, and a path that is used again would return the older library.
#[derive(Debug)]
pub struct SealedFile {
    path: PathBuf,
    sealed: bool,
    _storage: Storage,
}

/// What keeps a [`SealedFile`]'s path alive.
#[derive(Debug)]
enum Storage {
    #[cfg(target_os = "linux")]
    Memory {
        _descriptor: std::os::fd::OwnedFd,
    },
    Folder {
        _folder: tempfile::TempDir,
    },
}

impl SealedFile {
    /// Where the dynamic linker finds the library.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the operating system itself refuses every later change of the bytes.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }
}

/// What differs between operating systems.
pub trait Platform: Send + Sync {
    /// Copies a shared library into a file of this process alone; `name` shows up in debuggers.
    ///
    /// # Errors
    /// The operating system's, when there is neither memory nor disk for the copy.
    fn sealed_library(&self, library: &[u8], name: &str) -> io::Result<SealedFile>;

    /// What a shared library's file name starts with: `lib`, or nothing.
    fn library_prefix(&self) -> &'static str {
        std::env::consts::DLL_PREFIX
    }

    /// A shared library's file extension, without the dot.
    fn library_extension(&self) -> &'static str {
        std::env::consts::DLL_EXTENSION
    }
}

/// The operating system that this program was built for.
pub fn platform() -> &'static dyn Platform {
    #[cfg(target_os = "linux")]
    return &linux::Linux;
    #[cfg(not(target_os = "linux"))]
    return &plain::Plain;
}

pub use file::{MAPPED_FROM, map_file, read_file};
pub use processor::instruction_set;

/// Copies a shared library into a file that nobody else can change: see [`Platform::sealed_library`].
///
/// # Errors
/// The operating system's, when there is neither memory nor disk for the copy.
pub fn sealed_library(library: &[u8], name: &str) -> io::Result<SealedFile> {
    platform().sealed_library(library, name)
}

/// The file name of a shared library: `kmr_prune` is `libkmr_prune.so` on Linux.
pub fn library_file_name(name: &str) -> String {
    format!(
        "{}{name}.{}",
        platform().library_prefix(),
        platform().library_extension()
    )
}

/// Whether a file is named as a shared library is on this system.
pub fn is_library_file_name(path: &Path) -> bool {
    let named = path
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(platform().library_prefix()));
    named && path.extension() == Some(platform().library_extension().as_ref())
}

/// Bytes whose memory starts on a 64-byte boundary.
pub fn aligned_copy(bytes: &[u8]) -> Bytes {
    aligned::AlignedBytes::copy_of(bytes).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_names_round_trip() {
        let name = library_file_name("kmr_prune");
        assert!(is_library_file_name(Path::new(&name)));
        assert!(!is_library_file_name(Path::new("notes.txt")));
        if cfg!(target_os = "linux") {
            assert_eq!(name, "libkmr_prune.so");
            assert!(!is_library_file_name(Path::new("kmr_prune.so")));
        }
    }

    #[test]
    fn a_sealed_library_holds_the_bytes_under_a_path_of_its_own() {
        let first = sealed_library(b"first", "libfirst.so").unwrap();
        let second = sealed_library(b"second", "libsecond.so").unwrap();
        assert_ne!(first.path(), second.path());
        assert_eq!(std::fs::read(first.path()).unwrap(), b"first");
        assert_eq!(std::fs::read(second.path()).unwrap(), b"second");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_sealed_library_refuses_every_change() {
        let sealed = sealed_library(b"library", "liblibrary.so").unwrap();
        assert!(sealed.is_sealed());
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(sealed.path())
            .and_then(|mut file| io::Write::write_all(&mut file, b"other"));
        assert!(written.is_err());
        assert_eq!(std::fs::read(sealed.path()).unwrap(), b"library");
    }
}
