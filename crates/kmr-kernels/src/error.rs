//! The error of this crate.

use std::fmt;

/// Sizes that do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeometryError(pub(crate) String);

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GeometryError {}
