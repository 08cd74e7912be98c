//! Errors that cross.

use abi_stable::{
    StableAbi,
    std_types::{RResult, RString},
};

/// What kind of thing went wrong. Open: a code that this version does not name means [`ErrorCode::OTHER`].
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// None of the others.
    pub const OTHER: Self = Self(0);
    /// The function panicked. A plugin's instance is not called again after it.
    pub const PANIC: Self = Self(1);
    /// The instance panicked earlier and refuses further calls.
    pub const POISONED: Self = Self(2);
    /// The call was cancelled, as [`Host::cancelled`](crate::Host::cancelled) said it should.
    pub const CANCELLED: Self = Self(3);
    /// The configuration of an extension is not valid.
    pub const INVALID_CONFIGURATION: Self = Self(4);
    /// A request, action or operation is malformed or contradicts itself.
    pub const INVALID_REQUEST: Self = Self(5);
    /// A name (tensor, value, node, extension, model) does not exist.
    pub const NOT_FOUND: Self = Self(6);
    /// Shapes or element types do not fit.
    pub const SHAPE: Self = Self(7);
    /// The model holds something that the extension or the host cannot handle.
    pub const UNSUPPORTED: Self = Self(8);
    /// The caller may not have this (search labels in a rule, say).
    pub const DENIED: Self = Self(9);
    /// Memory could not be had.
    pub const OUT_OF_MEMORY: Self = Self(10);
    /// A file could not be read or written.
    pub const IO: Self = Self(11);

    /// The code's name, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PANIC => "panic",
            Self::POISONED => "poisoned",
            Self::CANCELLED => "cancelled",
            Self::INVALID_CONFIGURATION => "invalid configuration",
            Self::INVALID_REQUEST => "invalid request",
            Self::NOT_FOUND => "not found",
            Self::SHAPE => "shape",
            Self::UNSUPPORTED => "unsupported",
            Self::DENIED => "denied",
            Self::OUT_OF_MEMORY => "out of memory",
            Self::IO => "input/output",
            _ => "error",
        }
    }
}

/// An error that crosses. Frozen.
#[repr(C)]
#[derive(StableAbi, Clone, PartialEq, Eq, Debug)]
pub struct PluginError {
    /// What kind of thing went wrong.
    pub code: ErrorCode,
    /// What happened, in lower case, for people.
    pub message: RString,
    /// The node, tensor, key or source line that it is about; empty if nothing in particular.
    pub location: RString,
}

impl PluginError {
    /// An error without a location.
    pub fn new(code: ErrorCode, message: impl Into<RString>) -> Self {
        Self {
            code,
            message: message.into(),
            location: RString::new(),
        }
    }

    /// The same error about `location`.
    #[must_use]
    pub fn at(mut self, location: impl Into<RString>) -> Self {
        self.location = location.into();
        self
    }
}

/// What every function of this contract returns.
pub type AbiResult<T> = RResult<T, PluginError>;
