//! What can go wrong between a file and a plugin's answer.

use std::path::{Path, PathBuf};

use kmr_abi::ErrorCode;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, LoaderError>;

/// What kind of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// There is no such file or folder, or it cannot be read; or the plugin does not offer what was asked of it.
    Missing,
    /// A plugin for another contract, architecture or operating system.
    Incompatible,
    /// Not a whole shared library, or not a plugin.
    Damaged,
    /// The plugin's code failed, or answered what cannot be read.
    Failed,
}

/// An error about one plugin's file.
///
/// It displays as `PLACE: MESSAGE`; the way out is apart, in [`LoaderError::help`].
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.place.display(), .0.message)]
pub struct LoaderError(Box<Content>);

#[derive(Debug)]
struct Content {
    kind: ErrorKind,
    place: PathBuf,
    message: String,
    help: Option<String>,
    details: Option<String>,
    failure: Option<Failure>,
}

/// What a plugin's code said when it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The plugin's name.
    pub plugin: String,
    /// What kind of failure; [`ErrorCode::PANIC`] leaves the instance unusable.
    pub code: ErrorCode,
    /// The plugin's own words.
    pub message: String,
    /// A source position for a panic, else a node or tensor; may be empty.
    pub location: String,
}

impl LoaderError {
    pub(crate) fn new(kind: ErrorKind, place: &Path, message: impl Into<String>) -> Self {
        Self(Box::new(Content {
            kind,
            place: place.to_owned(),
            message: message.into(),
            help: None,
            details: None,
            failure: None,
        }))
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.0.details = Some(details.into());
        self
    }

    pub(crate) fn with_failure(mut self, failure: Failure) -> Self {
        self.0.failure = Some(failure);
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The plugin's file, or the folder that was searched.
    pub fn place(&self) -> &Path {
        &self.0.place
    }

    /// What went wrong, without the place.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The way out, where there is one to tell.
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// All there is to say, possibly hundreds of lines: for a file, not for a terminal.
    pub fn details(&self) -> Option<&str> {
        self.0.details.as_deref()
    }

    /// What the plugin's own code said, where its code ran and failed.
    pub fn failure(&self) -> Option<&Failure> {
        self.0.failure.as_ref()
    }
}
