//! Why a plugin cannot be used.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// What kind of thing went wrong; new kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoadErrorKind {
    /// There is no such file or folder, or it cannot be read.
    Missing,
    /// It is no plugin for this host: another kind of file, damaged, or of another contract.
    Incompatible,
    /// It is a plugin for this host, and failed.
    Failed,
}

impl LoadErrorKind {
    /// The process exit code that stands for this kind.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Missing => 21,
            Self::Incompatible => 22,
            Self::Failed => 24,
        }
    }
}

/// Why a plugin cannot be used: one line, a way out where one is known, and details for those who look.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    kind: LoadErrorKind,
    path: PathBuf,
    message: String,
    help: Option<String>,
    details: Option<String>,
}

impl LoadError {
    pub(crate) fn new(kind: LoadErrorKind, path: &Path, message: impl Into<String>) -> Self {
        Self {
            kind,
            path: path.to_owned(),
            message: message.into(),
            help: None,
            details: None,
        }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = Some(details.into());
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> LoadErrorKind {
        self.kind
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What went wrong, without the path.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The way out, where one is known.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// All that is known, of any length, for a file or a bug report.
    pub fn details(&self) -> Option<&str> {
        self.details.as_deref()
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin `{}`: {}", self.path.display(), self.message)
    }
}
