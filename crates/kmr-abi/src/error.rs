//! Errors that cross the border.

use abi_stable::{
    StableAbi,
    std_types::{RResult, RString},
};

/// What kind of thing went wrong. A number: kinds can be added without breaking old plugins.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u32);

impl ErrorCode {
    /// Anything else.
    pub const OTHER: Self = Self(0);
    /// The other side panicked; the instance must not be used again.
    pub const PANIC: Self = Self(1);
    /// The user asked to stop.
    pub const CANCELLED: Self = Self(2);
    /// A configuration, knob value or request that makes no sense.
    pub const INVALID: Self = Self(3);
    /// A name that does not exist.
    pub const NOT_FOUND: Self = Self(4);
    /// Shapes or element types that do not fit.
    pub const SHAPE: Self = Self(5);
    /// Asked for something that this side does not do.
    pub const UNSUPPORTED: Self = Self(6);
    /// The caller is not allowed to have this, as a rule is not allowed the search data.
    pub const FORBIDDEN: Self = Self(7);
}

/// An error from the other side.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct PluginError {
    /// What kind of thing went wrong.
    pub code: ErrorCode,
    /// What went wrong.
    pub message: RString,
    /// Where: a source position for a panic, else a node or tensor; may be empty.
    pub location: RString,
}

/// The result of every function of the contract.
pub type AbiResult<T> = RResult<T, PluginError>;
