//! What can be wrong with a folder.

use std::fmt;
use std::path::{Path, PathBuf};

use kmr_formats::FormatError;
use kmr_model::ModelError;

/// What sort of thing is wrong; new kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The system refused to read or write, or a file is missing.
    Io,
    /// A file is damaged, or no JSON.
    Malformed,
    /// A key of a configuration is missing, of the wrong type, or has a value that cannot be meant.
    Config,
    /// The architecture, or something it is told to do, is not known here.
    Unknown,
    /// A tensor is missing, or has another shape or element type than the configuration asks for.
    Tensor,
    /// The model has become something that the folder's architecture cannot express.
    Inexpressible,
    /// The system refused to write.
    Unwritable,
    /// What is to be written has a name that is taken already.
    Exists,
    /// What was written is not what should have been.
    Damaged,
}

/// What is wrong with a folder, where, and the way out.
#[derive(Debug, thiserror::Error)]
pub struct HuggingFaceError(Box<Details>);

#[derive(Debug)]
struct Details {
    kind: ErrorKind,
    file: Option<PathBuf>,
    message: String,
    help: Option<String>,
}

impl HuggingFaceError {
    /// An error of `kind`, its message a whole statement without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            file: None,
            message: message.into(),
            help: None,
        }))
    }

    /// Names the file or folder, unless one is named already.
    #[must_use]
    pub fn file(mut self, file: &Path) -> Self {
        self.0.file.get_or_insert_with(|| file.to_owned());
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = Some(help.into());
        self
    }

    pub(crate) fn io(file: &Path, doing: &str, cause: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("cannot {doing}: {cause}"))
            .file(file)
            .help("check the path and its permissions, or download the folder again")
    }

    pub(crate) fn unwritable(file: &Path, cause: &std::io::Error) -> Self {
        Self::new(ErrorKind::Unwritable, format!("cannot be written: {cause}"))
            .file(file)
            .help("choose another place, or free some space")
    }

    /// A file that could not be written at `target`.
    pub(crate) fn unwritten(error: &FormatError, target: &Path) -> Self {
        let text = error.to_string();
        let message = text
            .strip_prefix(&format!("{}: ", error.file().display()))
            .unwrap_or(&text);
        let kind = match error.kind() {
            kmr_formats::ErrorKind::Io => ErrorKind::Unwritable,
            _ => ErrorKind::Inexpressible,
        };
        Self::new(kind, message).file(target).help(error.way_out())
    }

    pub(crate) fn taken(target: &Path, cause: &std::io::Error) -> Self {
        match cause.kind() {
            std::io::ErrorKind::AlreadyExists => Self::new(ErrorKind::Exists, format!("cannot be written: {cause}"))
                .file(target)
                .help("choose another name, or remove what is there"),
            _ => Self::unwritable(target, cause),
        }
    }

    pub(crate) fn damaged(what: &str) -> Self {
        Self::new(ErrorKind::Damaged, format!("{what} is not what was written"))
            .help("this is a defect of kmr or of the disk")
    }

    /// What sort of thing is wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or folder, where it is about one.
    pub fn path(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The way out, where one is known.
    pub fn way_out(&self) -> Option<&str> {
        self.0.help.as_deref()
    }

    /// What is wrong, without the file.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for HuggingFaceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(formatter, "{}: ", file.display())?;
        }
        formatter.write_str(&self.0.message)
    }
}

impl From<FormatError> for HuggingFaceError {
    fn from(error: FormatError) -> Self {
        let kind = match error.kind() {
            kmr_formats::ErrorKind::Io => ErrorKind::Io,
            _ => ErrorKind::Malformed,
        };
        let text = error.to_string();
        let message = text.strip_prefix(&format!("{}: ", error.file().display()));
        Self::new(kind, message.unwrap_or(&text))
            .file(error.file())
            .help(error.way_out())
    }
}

impl From<ModelError> for HuggingFaceError {
    fn from(error: ModelError) -> Self {
        let made = Self::new(ErrorKind::Malformed, error.to_string());
        match error.help() {
            Some(help) => made.help(help),
            None => made,
        }
    }
}

/// A name from a file as a terminal can be trusted with it.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(200).flat_map(char::escape_debug).collect()
}
