//! Systems without a port of their own.

use std::io;

use crate::{Platform, SealedFile, private_copy::private_copy};

pub(crate) struct Plain;

impl Platform for Plain {
    fn sealed_library(&self, library: &[u8], name: &str) -> io::Result<SealedFile> {
        private_copy(library, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fallback_serves_a_readable_copy() {
        let copy = Plain.sealed_library(b"library", "libplain.so").unwrap();
        assert!(!copy.is_sealed());
        assert_eq!(std::fs::read(copy.path()).unwrap(), b"library");
    }
}
