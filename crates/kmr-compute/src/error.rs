//! The one error of this crate: what happened, where, and the way out.

use std::fmt;

/// What kind of thing went wrong; new kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The model uses something that this engine cannot execute.
    Unsupported,
    /// A name does not exist, or a needed value is not fed.
    Name,
    /// Shapes, element types or values do not fit an operator.
    Shape,
    /// The engine itself failed.
    Internal,
}

/// An error of an execution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ComputeError {
    kind: ErrorKind,
    place: String,
    message: String,
    help: Option<String>,
}

impl ComputeError {
    /// An error of `kind` about `place` (a node, an input or a value, as people would name it).
    pub fn new(kind: ErrorKind, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            place: place.into(),
            message: message.into(),
            help: None,
        }
    }

    /// Adds the way out.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The node, input or value that the error is about; empty for the whole model.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The way out, where one is known.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for ComputeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.place, self.message)
        }
    }
}
