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
    /// An error about a file or folder.
    pub fn new(kind: ErrorKind, file: &Path, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            file: file.to_path_buf(),
            array: None,
            offset: None,
            message: message.into(),
            help: String::new(),
        }))
    }

    /// The system's refusal of `doing`, such as "open the file".
    pub fn io(file: &Path, doing: &str, cause: &std::io::Error) -> Self {
        Self::new(ErrorKind::Io, file, format!("cannot {doing}: {cause}"))
    }

    /// Names the array or column that the trouble is about.
    pub fn array(mut self, name: &str) -> Self {
        self.0.array = Some(name.to_string());
        self
    }

    /// Names the byte where reading stopped.
    pub fn offset(mut self, offset: u64) -> Self {
        self.0.offset = Some(offset);
        self
    }

    /// Names the way out.
    pub fn help(mut self, help: impl Into<String>) -> Self {
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
            write!(formatter, "array `{}`: ", shown(array))?;
        }
        write!(formatter, "{}", self.0.message)?;
        match self.0.offset {
            Some(offset) => write!(formatter, " (at byte {offset})"),
            None => Ok(()),
        }
    }
}

/// The longest text of a file that a message repeats, in characters.
const LONGEST: usize = 200;

/// A text of a file for a message: without control characters, and cut where it is long.
pub(crate) fn shown(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
        None => text.escape_debug().to_string(),
    }
}
