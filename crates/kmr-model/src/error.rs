//! The one error of this crate: what happened, where, and the way out.

use std::fmt;

/// What kind of thing went wrong; new kinds may be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The bytes are not an ONNX model, or are damaged.
    Malformed,
    /// The model is valid, but uses something that kmr cannot handle.
    Unsupported,
    /// A name does not exist, or exists twice.
    Name,
    /// Shapes or element types do not fit each other.
    Shape,
    /// A file could not be read.
    Io,
}

/// An error about a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ModelError {
    kind: ErrorKind,
    place: String,
    message: String,
    help: Option<String>,
}

impl ModelError {
    /// An error of `kind` about `place` (a node, a tensor or a value, as people would name it).
    pub fn new(kind: ErrorKind, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            place: shown(place.into()),
            message: shown(message.into()),
            help: None,
        }
    }

    /// Adds the way out.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(shown(help.into()));
        self
    }

    /// Names the place more closely.
    #[must_use]
    pub(crate) fn with_place(mut self, place: impl Into<String>) -> Self {
        self.place = shown(place.into());
        self
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The node, tensor or value that the error is about; empty for the whole model.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The way out, where one is known.
    pub fn help(&self) -> Option<&str> {
        self.help.as_deref()
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.place, self.message)
        }
    }
}

/// `text` as one line that a terminal can be trusted with: names come from files, and can be anything.
pub(crate) fn shown(text: String) -> String {
    /// Bytes that are shown of a longer text, half of them from its end.
    const LONGEST: usize = 1000;
    if text.len() <= LONGEST && !text.contains(char::is_control) {
        return text;
    }
    let escaped = |part: &str| -> String {
        let escape = |c: char| {
            if c.is_control() {
                c.escape_default().to_string()
            } else {
                c.to_string()
            }
        };
        part.chars().map(escape).collect()
    };
    if text.len() <= LONGEST {
        return escaped(&text);
    }
    let (head, tail) = (text.floor_char_boundary(LONGEST / 2), text.len() - LONGEST / 2);
    format!(
        "{}…{}",
        escaped(&text[..head]),
        escaped(&text[text.ceil_char_boundary(tail)..])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_files_cannot_take_the_terminal() {
        let name = format!("a\n\u{1b}[31m{}é", "x".repeat(5000));
        let error = ModelError::new(ErrorKind::Name, format!("node `{name}`"), "is odd").with_help(name.as_str());
        let message = error.to_string();
        assert!(
            message.starts_with("node `a\\n\\u{1b}[31mxxx") && message.ends_with("xé`: is odd"),
            "{message}"
        );
        assert!(message.len() < 1100 && message.contains('…'));
        assert!(!error.help().is_some_and(|help| help.contains(char::is_control)));
    }
}
