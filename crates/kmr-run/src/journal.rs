//! The journal: one JSON object a line, on disk before it counts.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::RunError;

/// An append-only list of what a run did.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    pub(crate) fn create(path: &Path) -> Result<Self, RunError> {
        let file = File::create(path).map_err(|error| RunError::new(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Appends `entry` and waits until it is on disk.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, entry: &impl Serialize) -> Result<(), RunError> {
        let failed = |error| RunError::new(&self.path, error);
        let mut line = serde_json::to_vec(entry).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(failed)?;
        self.file.sync_data().map_err(failed)
    }
}
