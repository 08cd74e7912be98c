//! Reading no more than a file can justify.

use std::io::Read;
use std::path::Path;

use crate::{ErrorKind, FormatError};

/// The most bytes that one byte of a deflate stream can stand for (RFC 1951: a match of 258 bytes
/// in two bits).
const DEFLATE_RATIO: u64 = 1032;

/// The most bytes that a deflate stream of this length can hold.
pub(crate) fn deflate_bound(compressed: u64) -> u64 {
    compressed.saturating_mul(DEFLATE_RATIO)
}

/// A reader that knows where it stands, what it reads, and how much there can be.
pub(crate) struct Bounded<'f, R> {
    reader: R,
    file: &'f Path,
    array: Option<String>,
    position: u64,
    bound: u64,
}

impl<'f, R: Read> Bounded<'f, R> {
    /// `bound` is the greatest number of bytes that the reader can give.
    pub(crate) fn new(reader: R, file: &'f Path, array: Option<&str>, bound: u64) -> Self {
        Self {
            reader,
            file,
            array: array.map(str::to_string),
            position: 0,
            bound,
        }
    }

    pub(crate) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> FormatError {
        let error = FormatError::new(kind, self.file, message).offset(self.position);
        match &self.array {
            Some(array) => error.array(array),
            None => error,
        }
    }

    /// Exactly `count` bytes of `what`.
    ///
    /// Memory grows with the bytes that really arrive.
    pub(crate) fn bytes(&mut self, count: u64, what: &str) -> Result<Vec<u8>, FormatError> {
        const FIRST_ALLOCATION: u64 = 1 << 20;
        let left = self.bound.saturating_sub(self.position);
        if count > left || usize::try_from(count).is_err() {
            return Err(self.error(
                ErrorKind::Malformed,
                format!("{what} takes {count} bytes; there can be at most {left}"),
            ));
        }
        let mut bytes = Vec::with_capacity(count.min(FIRST_ALLOCATION) as usize);
        let outcome = self.reader.by_ref().take(count).read_to_end(&mut bytes);
        self.position += bytes.len() as u64;
        if let Err(cause) = outcome {
            return Err(self.error(ErrorKind::Malformed, format!("{what} is damaged: {cause}")));
        }
        if bytes.len() as u64 != count {
            let missing = count - bytes.len() as u64;
            return Err(self.error(ErrorKind::Malformed, format!("{what} ends {missing} bytes too early")));
        }
        Ok(bytes)
    }

    /// Exactly `N` bytes of `what`.
    pub(crate) fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], FormatError> {
        let mut fixed = [0; N];
        fixed.copy_from_slice(&self.bytes(N as u64, what)?);
        Ok(fixed)
    }

    /// Checks that nothing is left; this is also where checksums are compared.
    pub(crate) fn end(mut self) -> Result<(), FormatError> {
        let mut byte = [0];
        match self.reader.read(&mut byte) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.error(ErrorKind::Malformed, "more bytes follow than the shape takes")),
            Err(cause) => Err(self.error(ErrorKind::Malformed, format!("damaged: {cause}"))),
        }
    }
}
