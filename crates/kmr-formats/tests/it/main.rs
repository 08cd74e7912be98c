//! The crate's behavior as its callers see it.

mod adapters;
mod damage;
mod datasets;
mod gguf;
mod reading;
mod writing;

use std::path::PathBuf;

/// A checked-in file.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}
