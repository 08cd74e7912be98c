//! Models on disk.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use kmr_model::Model;

use crate::{exit, failure::Failure};

/// The bytes of the file at `path`, mapped.
pub fn read(path: &Path) -> Result<Bytes, Failure> {
    // Reading a pipe or a device may never end.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Failure::new(exit::INPUT, "is not a regular file").at(path.display().to_string()));
    }
    kmr_platform::map_file(path).map_err(|error| {
        Failure::new(exit::INPUT, format!("cannot read the file: {error}")).at(path.display().to_string())
    })
}

/// The model at `path`.
pub fn read_model(path: &Path) -> Result<Model, Failure> {
    Model::decode(read(path)?).map_err(|error| Failure::model(path, &error))
}

/// Where a result for `path` goes: through links, and never in the place of a device, a pipe or a folder.
pub fn destination(path: &Path) -> Result<PathBuf, Failure> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_file() => Err(Failure::new(
            exit::USAGE,
            format!("cannot write `{}`: it is not a regular file", path.display()),
        )
        .help("choose another file")),
        Ok(_) => Ok(path.canonicalize().unwrap_or_else(|_| path.to_owned())),
        Err(_) => Ok(path.to_owned()),
    }
}
