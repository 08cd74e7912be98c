//! Digests that bind a report to what it speaks of.

use std::{fmt, io};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::Digest;

/// A SHA-256 in lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Sha256(String);

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::of(sha2::Sha256::new_with_prefix(bytes))
}

impl Sha256 {
    fn of(digest: sha2::Sha256) -> Self {
        Self(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The SHA-256 of what `write` writes.
///
/// # Errors
/// Those of `write`.
pub fn sha256_of(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<Sha256> {
    let mut digest = sha2::Sha256::new();
    write(&mut digest)?;
    Ok(Sha256::of(digest))
}

impl From<String> for Sha256 {
    fn from(hexadecimal: String) -> Self {
        Self(hexadecimal)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
