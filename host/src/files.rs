//! Models on disk.

use std::path::Path;

use bytes::Bytes;
use kmr_model::Model;

use crate::{exit, failure::Failure};

/// The bytes of the file at `path`, mapped.
pub fn read(path: &Path) -> Result<Bytes, Failure> {
    kmr_platform::map_file(path).map_err(|error| {
        Failure::new(exit::INPUT, format!("cannot read the file: {error}")).at(path.display().to_string())
    })
}

/// The model at `path`.
pub fn read_model(path: &Path) -> Result<Model, Failure> {
    Model::decode(read(path)?).map_err(|error| Failure::model(path, &error))
}
