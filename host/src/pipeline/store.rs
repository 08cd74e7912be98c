//! Where the tensors lie that rules make: in memory while there are few, beyond that in files of the run's folder, which
//! are mapped and have no names.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use kmr_platform::ScratchMemory;

/// Bytes of made tensors that lie in memory.
const IN_MEMORY: usize = 512 << 20;
/// Tensors of fewer bytes always do.
const SMALLEST_FILE: usize = 64 << 10;

/// Gives memory for tensors.
pub struct TensorStore {
    folder: PathBuf,
    in_memory: Arc<AtomicUsize>,
    limit: usize,
}

impl TensorStore {
    /// A store whose files lie in `folder`, which is made where it is missing.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            in_memory: Arc::default(),
            limit: IN_MEMORY,
        }
    }

    /// Zeroed memory for a tensor of `length` bytes.
    pub fn memory(&self, length: usize) -> io::Result<TensorMemory> {
        let total = self.in_memory.load(Ordering::Relaxed).saturating_add(length);
        if length < SMALLEST_FILE || total <= self.limit {
            return AlignedMemory::new(length, &self.in_memory).map(TensorMemory::InMemory);
        }
        fs::create_dir_all(&self.folder)?;
        let placed = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.folder.display()));
        ScratchMemory::new(&self.folder, length)
            .map(TensorMemory::InFile)
            .map_err(placed)
    }
}

/// Memory for one tensor.
pub enum TensorMemory {
    InMemory(AlignedMemory),
    InFile(ScratchMemory),
}

impl TensorMemory {
    /// The memory, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::InMemory(memory) => memory.bytes_mut(),
            Self::InFile(memory) => memory.bytes_mut(),
        }
    }

    /// Shares the memory without a copy.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::InMemory(memory) => Bytes::from_owner(memory),
            Self::InFile(memory) => memory.into_bytes(),
        }
    }
}

/// One cache line of a buffer; its alignment is the buffer's.
#[repr(C, align(64))]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Line([u8; 64]);

/// Zeroed, 64-byte aligned memory that is counted.
pub struct AlignedMemory {
    lines: Vec<Line>,
    length: usize,
    counter: Arc<AtomicUsize>,
}

impl AlignedMemory {
    fn new(length: usize, counter: &Arc<AtomicUsize>) -> io::Result<Self> {
        let count = length.div_ceil(64);
        let mut lines = Vec::new();
        let reserved = lines.try_reserve_exact(count);
        reserved.map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        lines.resize(count, Line([0; 64]));
        counter.fetch_add(length, Ordering::Relaxed);
        Ok(Self {
            lines,
            length,
            counter: counter.clone(),
        })
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.length]
    }
}

impl AsRef<[u8]> for AlignedMemory {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.length]
    }
}

impl Drop for AlignedMemory {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.length, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_limit_lies_in_files_until_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let store = TensorStore {
            limit: 2 * SMALLEST_FILE,
            ..TensorStore::new(folder.path().join("new"))
        };
        let in_file = |memory: &TensorMemory| matches!(memory, TensorMemory::InFile(_));
        let mut first = store.memory(2 * SMALLEST_FILE).unwrap();
        assert!(!in_file(&first));
        let mut second = store.memory(SMALLEST_FILE).unwrap();
        assert!(in_file(&second));
        assert!(!in_file(&store.memory(100).unwrap()), "small ones cost a page each");
        for memory in [&mut first, &mut second] {
            assert!(memory.bytes_mut().iter().all(|&byte| byte == 0));
            memory.bytes_mut()[5] = 9;
        }
        let bytes = [first.into_bytes(), second.into_bytes()];
        assert_eq!([bytes[0].len(), bytes[1].len()], [2 * SMALLEST_FILE, SMALLEST_FILE]);
        assert!(
            bytes
                .iter()
                .all(|bytes| bytes[5] == 9 && bytes.as_ptr().addr().is_multiple_of(64))
        );
        drop(bytes);
        assert!(!in_file(&store.memory(2 * SMALLEST_FILE).unwrap()));
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        let store = TensorStore {
            limit: 0,
            ..TensorStore::new(file)
        };
        assert!(store.memory(SMALLEST_FILE).is_err());
        assert!(store.memory(10).is_ok());
    }
}
