//! What kmr needs of the operating system, behind one trait.
//!
//! Everything that differs from system to system is a method of [`Platform`] whose default body works
//! anywhere; a system that can do better overrides it in a module of its own. [`current`] is the one to use, or
//! the functions beside it, which ask it.

mod aligned;
mod allocator;
mod cpu;
mod file;
#[cfg(target_os = "linux")]
mod linux;
mod new_folder;
mod portable;
mod replace;
mod scratch;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

pub use allocator::keep_freed_memory;
pub use file::{MAPPED_FROM, aligned_copy, map_file, read_file};
pub use new_folder::{new_folder, vacant};
pub use replace::{Content, destination, replace_file, replace_files};
pub use scratch::ScratchMemory;

/// The system that this program runs on.
pub fn current() -> &'static dyn Platform {
    #[cfg(target_os = "linux")]
    {
        &linux::Linux
    }
    #[cfg(not(target_os = "linux"))]
    {
        &portable::Portable
    }
}

/// An operating system.
pub trait Platform: Send + Sync {
    /// Maps a file for reading. The bytes begin at a page boundary and cost no anonymous memory.
    ///
    /// A file that another program cuts short while it is mapped ends this program when the missing part is
    /// read; a file that is replaced (as [`replace_file`] does it) stays what it was.
    ///
    /// # Errors
    /// If the file cannot be opened or mapped.
    fn map(&self, path: &Path) -> io::Result<Bytes> {
        portable::map(path)
    }

    /// Puts `bytes` into a file of its own that nobody can change any more, and that a dynamic linker can
    /// load. `name` is for people who look at the process.
    ///
    /// A dynamic linker recognizes libraries by their path, and the path of a dropped file may be used again: keep
    /// the file for as long as the library is loaded.
    ///
    /// # Errors
    /// If there is no room, or no place for such a file.
    fn sealed_file(&self, name: &str, bytes: &[u8]) -> io::Result<SealedFile> {
        portable::sealed_file(name, bytes)
    }

    /// A new file in `folder` that has no name, so that nothing is left of it if this process ends; `None` where the
    /// system or the folder's file system knows no such files.
    ///
    /// # Errors
    /// If there is no such folder, or no file can be made in it.
    fn unnamed_file(&self, folder: &Path) -> io::Result<Option<File>> {
        let _ = folder;
        Ok(None)
    }

    /// A new file of `length` zeros in `folder` that can be read and written, has no name, and has all of its room.
    ///
    /// # Errors
    /// If there is no such folder, or no room for the file.
    fn scratch_file(&self, folder: &Path, length: u64) -> io::Result<File> {
        scratch::scratch_file(folder, length)
    }

    /// Gives a file of [`unnamed_file`](Platform::unnamed_file) the name `path`, which nothing has.
    ///
    /// # Errors
    /// If it cannot have it.
    fn name_file(&self, file: &File, path: &Path) -> io::Result<()> {
        let _ = (file, path);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The file name of the shared library `stem`: `libprune.so` for `prune`.
    fn library_file_name(&self, stem: &str) -> String {
        format!("{}{stem}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
    }

    /// The processor's kind and those of its instruction sets that numerics depend on, in a fixed order:
    /// `x86_64 avx avx2 fma`.
    fn cpu_features(&self) -> String {
        cpu::features()
    }
}

/// A file that nobody can change, under a path that is valid for as long as this value lives.
#[derive(Debug)]
pub struct SealedFile {
    path: PathBuf,
    _keep: Keep,
}

/// What keeps a sealed file in being.
#[derive(Debug)]
enum Keep {
    #[cfg(target_os = "linux")]
    Memory(#[expect(dead_code, reason = "open for as long as the path is used")] std::os::fd::OwnedFd),
    #[cfg_attr(target_os = "linux", allow(dead_code))]
    Disk(portable::Removed),
}

impl SealedFile {
    /// The path. It may be one that only this process understands.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Puts a shared library where nobody can change it any more: [`Platform::sealed_file`] of the [`current`] system.
///
/// # Errors
/// If there is no room, or no place for such a file.
pub fn sealed_library(library: &[u8], name: &str) -> io::Result<SealedFile> {
    current().sealed_file(name, library)
}

/// The file name of a shared library: `libkmr_prune.so` for `kmr_prune`.
pub fn library_file_name(stem: &str) -> String {
    current().library_file_name(stem)
}

/// Whether a file is named as a shared library is on this system.
pub fn is_library_file_name(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let stem = name
        .and_then(|name| name.strip_prefix(std::env::consts::DLL_PREFIX))
        .and_then(|rest| rest.strip_suffix(std::env::consts::DLL_SUFFIX));
    stem.is_some_and(|stem| !stem.is_empty())
}

/// The processor's kind and the instruction sets that numerics depend on: `x86_64 avx avx2 fma`.
///
/// Two machines with the same text take the same code paths, so their results compare bit by bit.
pub fn instruction_set() -> String {
    current().cpu_features()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_names_round_trip() {
        let name = library_file_name("kmr_prune");
        assert!(is_library_file_name(Path::new(&name)));
        assert!(!is_library_file_name(Path::new("notes.txt")));
        assert!(!is_library_file_name(Path::new("lib.so")));
        if cfg!(target_os = "linux") {
            assert_eq!(name, "libkmr_prune.so");
            assert!(!is_library_file_name(Path::new("kmr_prune.so")));
        }
    }

    #[test]
    fn sealed_libraries_have_paths_of_their_own() {
        let first = sealed_library(b"first", "libfirst.so").unwrap();
        let second = sealed_library(b"second", "libsecond.so").unwrap();
        assert_ne!(first.path(), second.path());
        assert_eq!(std::fs::read(first.path()).unwrap(), b"first");
        assert_eq!(std::fs::read(second.path()).unwrap(), b"second");
    }

    #[test]
    fn the_architecture_comes_first() {
        let text = instruction_set();
        assert_eq!(text.split(' ').next(), Some(std::env::consts::ARCH));
    }
}
