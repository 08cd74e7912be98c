//! What can be wrong with data.

use std::fmt;
use std::path::{Path, PathBuf};

/// What sort of thing is wrong with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The system refused to read or write.
    Io,
    /// The bytes do not follow their format.
    Malformed,
    /// The bytes are fine, but this reader does not take what they hold.
    Unsupported,
    /// An array has not the shape or element type that is needed.
    Shape,
    /// The labels do not fit the samples or the classes.
    Labels,
    /// There is no sample.
    Empty,
}

/// What is wrong with data, where, and the way out.
#[derive(Debug, thiserror::Error)]
pub struct FormatError(Box<Details>);

#[derive(Debug)]
struct Details {
    kind: ErrorKind,
    file: PathBuf,
    array: Option<String>,
    offset: Option<u64>,
    message: String,
    help: String,
}

impl FormatError {
    pub(crate) fn new(kind: ErrorKind, file: &Path, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            file: file.to_path_buf(),
            array: None,
            offset: None,
            message: message.into(),
            help: String::new(),
        }))
    }

    pub(crate) fn io(file: &Path, doing: &str, cause: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, file, format!("cannot {doing}: {cause}"))
    }

    pub(crate) fn array(mut self, name: &str) -> Self {
        self.0.array = Some(name.to_string());
        self
    }

    pub(crate) fn offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.0.help = help.into();
        self
    }

    /// What sort of thing is wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or folder.
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    /// The array inside the file, when the trouble is about one.
    pub fn array_name(&self) -> Option<&str> {
        self.0.array.as_deref()
    }

    /// The byte where reading stopped, counted from the start of the array, or of the file when
    /// no array is named.
    pub fn byte_offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The way out.
    pub fn way_out(&self) -> &str {
        match (self.0.help.as_str(), self.0.kind) {
            ("", ErrorKind::Io) => "check the path and its permissions",
            ("", ErrorKind::Malformed) => "the file is cut short or damaged: write or copy it again",
            ("", ErrorKind::Unsupported) => "store numbers or booleans of a fixed size",
            ("", ErrorKind::Shape) => "arrays hold one sample per entry of their first axis",
            ("", ErrorKind::Labels) => "labels hold one class number per sample",
            ("", ErrorKind::Empty) => "give at least one sample",
            (help, _) => help,
        }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.0.file.display())?;
        if let Some(array) = &self.0.array {
            write!(formatter, "array `{}`: ", array.escape_debug())?;
        }
        write!(formatter, "{}", self.0.message)?;
        match self.0.offset {
            Some(offset) => write!(formatter, " (at byte {offset})"),
            None => Ok(()),
        }
    }
}
