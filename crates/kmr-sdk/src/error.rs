//! The error of plugins and of the host's services.

use std::fmt;

use kmr_abi::{ErrorCode, PluginError};
use kmr_model::ModelError;

/// What went wrong, in terms that cross between plugin and host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// What kind of thing it is.
    pub code: ErrorCode,
    /// What happened, in lower case and without a full stop, for people.
    pub message: String,
    /// The node, tensor, key or source line that it is about; empty if nothing in particular.
    pub location: String,
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a location.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            location: String::new(),
        }
    }

    /// The model holds something that cannot be handled.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::UNSUPPORTED, message)
    }

    /// A request, action or document is malformed.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::INVALID_REQUEST, message)
    }

    /// The configuration of an extension is not valid.
    pub fn invalid_configuration(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::INVALID_CONFIGURATION, message)
    }

    /// A name does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NOT_FOUND, message)
    }

    /// The call was cancelled.
    pub fn cancelled() -> Self {
        Self::new(ErrorCode::CANCELLED, "cancelled")
    }

    /// The same error about `location`.
    #[must_use]
    pub fn at(mut self, location: impl Into<String>) -> Self {
        self.location = location.into();
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.location.as_str()) {
            (_, "") => f.write_str(&self.message),
            (ErrorCode::PANIC, source_line) => write!(f, "{} at {source_line}", self.message),
            (_, location) => write!(f, "{location}: {}", self.message),
        }
    }
}

impl From<PluginError> for Error {
    fn from(error: PluginError) -> Self {
        Self {
            code: error.code,
            message: error.message.into_string(),
            location: error.location.into_string(),
        }
    }
}

impl From<Error> for PluginError {
    fn from(error: Error) -> Self {
        Self {
            code: error.code,
            message: error.message.into(),
            location: error.location.into(),
        }
    }
}

impl From<ModelError> for Error {
    fn from(error: ModelError) -> Self {
        let code = match error.kind() {
            kmr_model::ErrorKind::Malformed => ErrorCode::INVALID_REQUEST,
            kmr_model::ErrorKind::Unsupported => ErrorCode::UNSUPPORTED,
            kmr_model::ErrorKind::Name => ErrorCode::NOT_FOUND,
            kmr_model::ErrorKind::Shape => ErrorCode::SHAPE,
            kmr_model::ErrorKind::Io => ErrorCode::IO,
            _ => ErrorCode::OTHER,
        };
        let whole = error.to_string();
        let message = match whole.strip_prefix(error.place()) {
            Some(rest) if !error.place().is_empty() => rest.trim_start_matches(": "),
            _ => whole.as_str(),
        };
        let message = match error.help() {
            Some(help) => format!("{message} ({help})"),
            None => message.to_owned(),
        };
        Self::new(code, message).at(error.place())
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::invalid_request(error.to_string())
    }
}
