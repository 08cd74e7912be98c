//! Heap memory on 64-byte boundaries, so that tensors at aligned offsets in a file are aligned in memory too.

use std::io::{self, Read};

use bytes::Bytes;

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A byte buffer that starts on a 64-byte boundary.
pub(crate) struct AlignedBytes {
    lines: Vec<Line>,
    length: usize,
}

impl AlignedBytes {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// `OutOfMemory` where the memory cannot be had.
    fn zeroed(length: usize) -> io::Result<Self> {
        let count = length.div_ceil(size_of::<Line>());
        let lines = bytemuck::try_zeroed_vec(count).map_err(|()| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { lines, length })
    }

    /// Reads exactly `length` bytes.
    ///
    /// # Errors
    /// The source's; `UnexpectedEof` where it ends early.
    pub(crate) fn read_exact(source: &mut impl Read, length: usize) -> io::Result<Self> {
        let mut buffer = Self::zeroed(length)?;
        source.read_exact(&mut bytemuck::cast_slice_mut(&mut buffer.lines)[..length])?;
        Ok(buffer)
    }

    /// A copy.
    pub(crate) fn copy_of(bytes: &[u8]) -> Self {
        let mut lines = bytemuck::zeroed_vec::<Line>(bytes.len().div_ceil(size_of::<Line>()));
        bytemuck::cast_slice_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Self {
            lines,
            length: bytes.len(),
        }
    }

    /// Shares the buffer without a copy.
    pub(crate) fn into_bytes(self) -> Bytes {
        if self.length == 0 {
            return Bytes::new();
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.lines)[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_aligned_and_equal() {
        for length in [0, 1, 63, 64, 65, 1000] {
            let source: Vec<u8> = (0..length).map(|index| index as u8).collect();
            let bytes = AlignedBytes::copy_of(&source).into_bytes();
            assert_eq!(bytes, source);
            assert!(length == 0 || bytes.as_ptr().addr().is_multiple_of(64));
        }
    }

    #[test]
    fn a_source_that_ends_early_is_an_error() {
        let error = AlignedBytes::read_exact(&mut &b"abc"[..], 4).err();
        assert_eq!(error.unwrap().kind(), io::ErrorKind::UnexpectedEof);
    }
}
