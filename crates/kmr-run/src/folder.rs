//! The run folder, and files that are whole or absent.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use kmr_platform::Content;
use serde::Serialize;

use crate::{Certificate, Journal, Report};

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
    kmr_platform::replace_file(path, &mut |file| file.write_all(bytes)).map_err(|error| RunError::new(path, error))
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
    /// The artifact's weights, where they have a file of their own. The artifact names it, whatever its own name is.
    pub const DATA: &str = "weights.data";
    /// The report.
    pub const REPORT: &str = "report.json";
    /// What the artifact was made of, by digests.
    pub const CERTIFICATE: &str = "certificate.json";
    /// The journal of the run that the artifact comes from.
    pub const JOURNAL: &str = "journal.ndjson";
    /// The journal of a run that has no result yet: one that goes on, or was cut off.
    pub const UNFINISHED: &str = "journal.unfinished.ndjson";
    /// The folder of what was being trained; only a run that was cut off leaves it behind.
    pub const CHECKPOINTS: &str = "checkpoints";

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

    /// Starts a journal, as [`RunFolder::UNFINISHED`]: that of an earlier result stays beside that result.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn journal(&self) -> Result<Journal, RunError> {
        Journal::create(&self.path.join(Self::UNFINISHED))
    }

    /// Gives the journal its own name, in the place of an earlier one: there is a result that it belongs to. What is
    /// appended goes on under that name.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn keep_journal(&self) -> Result<(), RunError> {
        let (from, to) = (self.path.join(Self::UNFINISHED), self.path.join(Self::JOURNAL));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RunError::new(&to, error)),
            _ => Ok(()),
        }
    }

    /// Writes the artifact as the file `name`, the folder's only artifact from then on, and its weights as
    /// [`RunFolder::DATA`] where they have a file of their own.
    ///
    /// An earlier report and journal go first: a folder never shows an artifact beside a report of another one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_artifact<'w>(
        &self,
        name: &str,
        model: Content<'w>,
        weights: Option<Content<'w>>,
    ) -> Result<PathBuf, RunError> {
        self.remove(Self::CERTIFICATE)?;
        self.remove(Self::REPORT)?;
        if self.path.join(Self::UNFINISHED).exists() {
            self.remove(Self::JOURNAL)?;
        }
        let (path, data) = (self.path.join(name), self.path.join(Self::DATA));
        let alone = weights.is_none();
        let weights = weights.map(|weights| (data.as_path(), weights));
        let mut files: Vec<_> = weights.into_iter().chain([(path.as_path(), model)]).collect();
        kmr_platform::replace_files(&mut files).map_err(|error| RunError::new(&path, error))?;
        for other in [Self::MODEL, Self::BEST_EFFORT] {
            if other != name {
                self.remove(other)?;
            }
        }
        if alone {
            self.remove(Self::DATA)?;
        }
        self.keep_journal()?;
        Ok(path)
    }

    /// Removes the checkpoints of training: the run has come to its end.
    ///
    /// # Errors
    /// If they cannot be removed.
    pub fn remove_checkpoints(&self) -> Result<(), RunError> {
        let folder = self.path.join(Self::CHECKPOINTS);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(RunError::new(&folder, error)),
            _ => Ok(()),
        }
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
        self.write_json(Self::REPORT, report)
    }

    /// Writes the certificate of the artifact.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_certificate(&self, certificate: &Certificate) -> Result<PathBuf, RunError> {
        self.write_json(Self::CERTIFICATE, certificate)
    }

    fn write_json(&self, name: &str, document: &impl Serialize) -> Result<PathBuf, RunError> {
        let path = self.path.join(name);
        let mut text =
            serde_json::to_string_pretty(document).map_err(|error| RunError::new(&path, io::Error::other(error)))?;
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
        let write = |run: &RunFolder, name: &str, weights: bool| {
            let mut own = |file: &mut fs::File| file.write_all(b"model");
            let mut data = |file: &mut fs::File| file.write_all(b"weights");
            let data = weights.then_some(&mut data as Content<'_>);
            run.write_artifact(name, &mut own, data).unwrap()
        };
        write(&run, RunFolder::MODEL, true);
        assert!(path.join(RunFolder::DATA).exists());
        fs::write(path.join(RunFolder::REPORT), b"report").unwrap();
        let run = RunFolder::create(&path).unwrap();
        assert!(path.join(RunFolder::MODEL).exists());
        write(&run, RunFolder::BEST_EFFORT, false);
        assert!(!path.join(RunFolder::DATA).exists());
        assert!(!path.join(RunFolder::MODEL).exists());
        assert!(!path.join(RunFolder::REPORT).exists());
        fs::write(parent.path().join("file"), b"").unwrap();
        assert!(RunFolder::create(&parent.path().join("file")).is_err());
    }
    #[test]
    fn a_journal_lies_beside_the_result_that_it_belongs_to() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("run");
        let read = |name: &str| fs::read_to_string(path.join(name)).ok();
        let write = |run: &RunFolder, model: &[u8]| {
            let mut own = |file: &mut fs::File| file.write_all(model);
            run.write_artifact(RunFolder::MODEL, &mut own, None).unwrap();
        };
        let run = RunFolder::create(&path).unwrap();
        let mut journal = run.journal().unwrap();
        journal.append(&1).unwrap();
        assert_eq!(read(RunFolder::JOURNAL), None);
        write(&run, b"first");
        journal.append(&2).unwrap();
        write(&run, b"first again");
        assert_eq!(read(RunFolder::JOURNAL).unwrap(), "1\n2\n");
        // A run that is cut off.
        let run = RunFolder::create(&path).unwrap();
        run.journal().unwrap().append(&3).unwrap();
        assert_eq!(read(RunFolder::JOURNAL).unwrap(), "1\n2\n");
        assert_eq!(read(RunFolder::MODEL).unwrap(), "first again");
        assert_eq!(read(RunFolder::UNFINISHED).unwrap(), "3\n");
        // The next one comes to its end.
        let run = RunFolder::create(&path).unwrap();
        run.journal().unwrap().append(&4).unwrap();
        write(&run, b"second");
        assert_eq!(read(RunFolder::JOURNAL).unwrap(), "4\n");
        assert_eq!(read(RunFolder::UNFINISHED), None);
    }
}
