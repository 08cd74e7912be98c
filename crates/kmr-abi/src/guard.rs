//! The guard that keeps panics from crossing.

use std::{
    any::Any,
    cell::Cell,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use abi_stable::std_types::{RErr, ROk};

use crate::{AbiResult, ErrorCode, PluginError};

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

/// A value whose destructor runs inside the guard.
///
/// What crosses as a trait object is dropped by the other side, where a panic would end the process.
pub struct DropGuarded<T> {
    value: ManuallyDrop<T>,
    on_panic: fn(&PluginError),
}

impl<T> DropGuarded<T> {
    /// Wraps `value`; `on_panic` is told if its destructor panics, and is guarded itself.
    pub fn new(value: T, on_panic: fn(&PluginError)) -> Self {
        Self {
            value: ManuallyDrop::new(value),
            on_panic,
        }
    }
}

impl<T> Deref for DropGuarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for DropGuarded<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for DropGuarded<T> {
    fn drop(&mut self) {
        let dropped = guard(|| {
            // SAFETY: nothing else drops the value, and nothing uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
            Ok(())
        });
        if let RErr(error) = dropped {
            let on_panic = self.on_panic;
            // There is nobody left to tell if telling panics too.
            let _ = guard(|| {
                on_panic(&error);
                Ok(())
            });
        }
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
        assert!(error.location.contains("guard.rs:"), "{error:?}");
    }

    #[test]
    fn a_payload_that_panics_in_turn_is_contained() {
        let result = guard::<()>(|| std::panic::panic_any(PanicsWhenDropped));
        assert_eq!(result.unwrap_err().message, "panicked without a message");
    }

    #[test]
    fn a_destructor_that_panics_is_told_of() {
        thread_local!(static TOLD: Cell<u32> = const { Cell::new(0) });
        drop(DropGuarded::new(PanicsWhenDropped, |error| {
            assert_eq!(error.code, ErrorCode::PANIC);
            TOLD.set(TOLD.get() + 1);
            panic!("while telling");
        }));
        assert_eq!(TOLD.get(), 1);
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
