//! Errors that cross, and the guard that keeps panics from crossing.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use abi_stable::{
    StableAbi, std_types::RErr, std_types::ROk, std_types::RResult, std_types::RString,
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

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PANIC_LOCATION: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs the body of a function of this contract; a panic becomes [`ErrorCode::PANIC`] with its source line.
///
/// Inside of the guard the panic is not printed: the error value says it all. Panics elsewhere are printed
/// as ever.
pub fn guard<T>(body: impl FnOnce() -> Result<T, PluginError>) -> AbiResult<T> {
    // Each shared library has a standard library, and so a panic hook, of its own.
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                PANIC_LOCATION.set(info.location().map(ToString::to_string));
            } else {
                previous(info);
            }
        }));
    });
    let outer = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body));
    GUARDED.set(outer);
    match result {
        Ok(Ok(value)) => ROk(value),
        Ok(Err(error)) => RErr(error),
        Err(payload) => {
            let message = panic_message(&*payload);
            discard(payload);
            let location = PANIC_LOCATION.take().unwrap_or_default();
            RErr(PluginError::new(ErrorCode::PANIC, message).at(location))
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    match text {
        Some(text) => format!("panicked: {text}"),
        None => "panicked without a message".to_owned(),
    }
}

/// Drops the payload of a panic, whose own destructor may panic in turn.
fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("in the payload's destructor");
        }
    }

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        let RErr(error) = guard::<()>(|| panic!("the {} is gone", "weight")) else {
            panic!("the guard let a panic pass for success");
        };
        assert_eq!(error.code, ErrorCode::PANIC);
        assert_eq!(error.message, "panicked: the weight is gone");
        assert!(error.location.contains("error.rs:"), "{error:?}");
    }

    #[test]
    fn a_payload_that_panics_in_turn_is_contained() {
        let result = guard::<()>(|| std::panic::panic_any(PanicsWhenDropped));
        assert_eq!(result.unwrap_err().message, "panicked without a message");
    }

    #[test]
    fn guards_nest() {
        let outer = guard(|| {
            let inner = guard::<()>(|| panic!("inner"));
            assert!(inner.is_err());
            assert!(GUARDED.get(), "the outer guard still holds");
            Ok(1)
        });
        assert_eq!(outer, ROk(1));
        assert!(!GUARDED.get());
    }
}
