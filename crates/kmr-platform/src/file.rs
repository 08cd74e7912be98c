//! Files as shared bytes: small ones are read, large ones are mapped.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use bytes::Bytes;

use crate::{aligned::AlignedBytes, current};

/// Files from this many bytes on are mapped by [`map_file`]; smaller ones are read into memory.
pub const MAPPED_FROM: u64 = 64 << 20;

/// A file's content as read-only bytes whose memory starts on a 64-byte boundary.
///
/// Files of [`MAPPED_FROM`] bytes and more are mapped: pages are read on first use. **A mapped file must not be
/// truncated or rewritten in place while the bytes are in use**: a missing page ends the process with SIGBUS. Replacing
/// the file by a rename is harmless, and so is anything done to a smaller file, because that one was read into memory.
/// Pipes and the like are read to their end, up to [`MAPPED_FROM`] bytes.
///
/// # Errors
/// The operating system's: a missing file, a folder, no permission, a file that shrinks while it is read.
pub fn map_file(path: &Path) -> io::Result<Bytes> {
    contents(path, MAPPED_FROM)
}

/// A file's content in memory of this process, on a 64-byte boundary, whatever its size.
///
/// Unlike [`map_file`] nothing that happens to the file afterwards can be seen in the bytes.
///
/// # Errors
/// As [`map_file`].
pub fn read_file(path: &Path) -> io::Result<Bytes> {
    contents(path, u64::MAX)
}

/// A copy of `bytes` on a 64-byte boundary, for tensors that lie misaligned in a file.
pub fn aligned_copy(bytes: &[u8]) -> Bytes {
    AlignedBytes::copy_of(bytes).into_bytes()
}

fn contents(path: &Path, mapped_from: u64) -> io::Result<Bytes> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return stream(file);
    }
    let length = metadata.len();
    if length >= mapped_from {
        return current().map(path);
    }
    let length = usize::try_from(length).map_err(|_| io::ErrorKind::FileTooLarge)?;
    Ok(AlignedBytes::read_exact(&mut file, length)?.into_bytes())
}

/// Reads what has no length of its own.
fn stream(file: File) -> io::Result<Bytes> {
    let mut content = Vec::new();
    file.take(MAPPED_FROM + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAPPED_FROM {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(AlignedBytes::copy_of(&content).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_mapped_bytes_are_equal_and_aligned() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let source: Vec<u8> = (0..10_000u32).map(|index| (index % 251) as u8).collect();
        std::fs::write(&path, &source).unwrap();
        for mapped_from in [1, u64::MAX] {
            let bytes = contents(&path, mapped_from).unwrap();
            assert_eq!(bytes, source);
            assert!(bytes.as_ptr().addr().is_multiple_of(64));
        }
    }

    #[test]
    fn an_empty_file_gives_empty_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"").unwrap();
        assert!(map_file(&path).unwrap().is_empty());
    }

    #[test]
    fn a_small_file_may_be_truncated_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let bytes = map_file(&path).unwrap();
        std::fs::write(&path, b"").unwrap();
        assert!(bytes.iter().all(|&byte| byte == 7));
    }

    #[test]
    fn missing_files_folders_and_endless_devices_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let missing = map_file(&folder.path().join("missing")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert!(map_file(folder.path()).is_err());
        #[cfg(target_os = "linux")]
        assert!(map_file(Path::new("/dev/zero")).is_err());
    }
}
