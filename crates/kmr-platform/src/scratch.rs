//! Memory in a file that nobody else knows: pages go to the disk where the machine needs its memory, and count as those
//! of a mapped file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

use bytes::Bytes;
use memmap2::MmapMut;

use crate::{current, replace::temporary_beside};

/// Writable memory in a file of its own. The file has no name any more: it is gone with its last bytes, also if this
/// process is killed.
#[derive(Debug)]
pub struct ScratchMemory(MmapMut);

impl ScratchMemory {
    /// `length` zeros, at least one, in a file of the file system that `folder` is on.
    ///
    /// # Errors
    /// If there is no such folder, or no room in it: all of the file's bytes are its own from the start, so that writing
    /// to this memory cannot fail for want of them.
    #[expect(unsafe_code, reason = "a mapping")]
    pub fn new(folder: &Path, length: usize) -> io::Result<Self> {
        let file = current().scratch_file(folder, length as u64)?;
        // SAFETY: the file has no name and is open here alone, so that nobody else writes to it or cuts it short.
        Ok(Self(unsafe { MmapMut::map_mut(&file)? }))
    }

    /// The memory.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// Shares the memory without a copy; it begins at a page boundary.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self.0)
    }
}

/// A file that loses its name as soon as it is open.
pub fn scratch_file(folder: &Path, length: u64) -> io::Result<File> {
    let path = temporary_beside(&folder.join("kmr"))?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    fill(&file, length)?;
    Ok(file)
}

/// Writes `length` zeros: a file with holes would have room only as far as nobody else takes it.
pub fn fill(mut file: &File, length: u64) -> io::Result<()> {
    const PIECE: usize = 1 << 16;
    let mut left = length;
    while left > 0 {
        let piece = left.min(PIECE as u64);
        file.write_all(&[0; PIECE][..piece as usize])?;
        left -= piece;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_stays_and_no_file_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = ScratchMemory::new(folder.path(), 200_000).unwrap();
        assert!(memory.bytes_mut().iter().all(|&byte| byte == 0));
        memory.bytes_mut()[199_999] = 7;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let bytes = memory.into_bytes();
        let shared = bytes.slice(199_998..);
        drop(bytes);
        assert_eq!(shared, [0, 7].as_slice());
    }

    #[test]
    fn the_portable_way_gives_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = scratch_file(folder.path(), 100_001).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 100_001);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_folder_and_a_length_beyond_any_disk_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ScratchMemory::new(&folder.path().join("missing"), 10).is_err());
        #[cfg(target_os = "linux")]
        assert!(ScratchMemory::new(folder.path(), 1 << 60).is_err());
    }
}
