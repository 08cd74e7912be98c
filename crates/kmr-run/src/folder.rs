//! The run folder, and files that are whole or absent.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use crate::{Journal, Report};

/// A run's folder or one of its files could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`: {source}", path.display())]
pub struct RunError {
    path: PathBuf,
    source: io::Error,
}

impl RunError {
    pub(crate) fn new(path: &Path, source: io::Error) -> Self {
        Self {
            path: path.to_owned(),
            source,
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The way out.
    pub fn help(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "choose a folder that you may write to with `--out`"
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free some space, or choose another `--out`",
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
                "there is a file in the way; choose another `--out`"
            }
            _ => "choose another folder with `--out`",
        }
    }
}

/// Replaces the file at `path` by `bytes`: after a crash at any moment the old or the new is there, whole.
///
/// # Errors
/// If the folder does not take the file; what was there before is untouched then.
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    write_and_rename(folder, path, bytes).map_err(|error| RunError::new(path, error))
}

fn write_and_rename(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".kmr-").suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // A temporary file is private by default; results are as readable as any other file.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
}

/// A rename is durable only once its folder is; other systems than Unix do it by themselves.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// The folder that a run writes.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
}

impl RunFolder {
    /// The artifact of a run that met its budget and its floor.
    pub const MODEL: &str = "model.onnx";
    /// The artifact of a run that fell short: named so that nobody deploys it by mistake.
    pub const BEST_EFFORT: &str = "best-effort.onnx";
    /// The report.
    pub const REPORT: &str = "report.json";
    /// The journal.
    pub const JOURNAL: &str = "journal.ndjson";

    /// Makes the folder where it is missing and proves that it can be written. Results of an earlier run
    /// stay until there are new ones.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub fn create(path: &Path) -> Result<Self, RunError> {
        let failed = |error| RunError::new(path, error);
        fs::create_dir_all(path).map_err(failed)?;
        tempfile::tempfile_in(path).map_err(failed)?;
        Ok(Self { path: path.to_owned() })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts the journal anew.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn journal(&self) -> Result<Journal, RunError> {
        Journal::create(&self.path.join(Self::JOURNAL))
    }

    /// Writes the artifact as the file `name`, the folder's only artifact from then on.
    ///
    /// An earlier report goes first: a folder never shows an artifact beside a report of another one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_artifact(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, RunError> {
        self.remove(Self::REPORT)?;
        let path = self.path.join(name);
        replace_file(&path, bytes)?;
        for other in [Self::MODEL, Self::BEST_EFFORT] {
            if other != name {
                self.remove(other)?;
            }
        }
        Ok(path)
    }

    fn remove(&self, name: &str) -> Result<(), RunError> {
        let file = self.path.join(name);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RunError::new(&file, error)),
            _ => Ok(()),
        }
    }

    /// Writes the report.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_report(&self, report: &Report) -> Result<PathBuf, RunError> {
        let path = self.path.join(Self::REPORT);
        let mut text =
            serde_json::to_string_pretty(report).map_err(|error| RunError::new(&path, io::Error::other(error)))?;
        text.push('\n');
        replace_file(&path, text.as_bytes())?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_a_failure_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        replace_file(&file, b"one").unwrap();
        replace_file(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = replace_file(&folder.path().join("missing/b"), b"x").unwrap_err();
        assert!(error.to_string().starts_with("cannot write `"));
    }

    #[test]
    fn a_folder_keeps_earlier_results_until_there_are_new_ones() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let run = RunFolder::create(&path).unwrap();
        run.write_artifact(RunFolder::MODEL, b"model").unwrap();
        fs::write(path.join(RunFolder::REPORT), b"report").unwrap();
        let run = RunFolder::create(&path).unwrap();
        assert!(path.join(RunFolder::MODEL).exists());
        run.write_artifact(RunFolder::BEST_EFFORT, b"other").unwrap();
        assert!(!path.join(RunFolder::MODEL).exists());
        assert!(!path.join(RunFolder::REPORT).exists());
        fs::write(parent.path().join("file"), b"").unwrap();
        assert!(RunFolder::create(&parent.path().join("file")).is_err());
    }
}
