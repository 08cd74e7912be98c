//! No panic crosses the border.

use std::{
    any::Any,
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use kmr_abi::{
    AbiResult, ErrorCode,
    abi_stable::std_types::{RErr, ROk},
};

use crate::{Error, Result};

thread_local!(static LOCATION: RefCell<String> = const { RefCell::new(String::new()) });

/// Makes panics note their place instead of printing it: the host says it, with the plugin's name.
pub(crate) fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            let location = panic
                .location()
                .map(ToString::to_string)
                .unwrap_or_default();
            LOCATION.with(|cell| cell.replace(location));
        }));
    });
}

/// Runs `body`; a panic becomes an error.
pub fn guard<T>(body: impl FnOnce() -> Result<T>) -> AbiResult<T> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => ROk(value),
        Ok(Err(error)) => RErr(error.into()),
        Err(payload) => {
            let error = Error {
                code: ErrorCode::PANIC,
                message: format!("panicked: {}", text(&*payload)),
                location: LOCATION.with(|cell| cell.take()),
            };
            // Dropping a payload runs foreign code, which may panic again.
            if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
                std::mem::forget(second);
            }
            RErr(error.into())
        }
    }
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "with something that is not text".to_owned())
}

/// An instance that is not used again after a panic, and whose drop cannot panic either.
pub(crate) struct Guarded<T> {
    inner: Option<T>,
    poisoned: bool,
}

impl<T> Guarded<T> {
    pub fn new(inner: T) -> Self {
        Self {
            inner: Some(inner),
            poisoned: false,
        }
    }

    pub fn call<R>(&mut self, body: impl FnOnce(&mut T) -> Result<R>) -> AbiResult<R> {
        if self.poisoned {
            return RErr(
                Error::with_code(ErrorCode::PANIC, "cannot go on after an earlier panic").into(),
            );
        }
        let Some(inner) = self.inner.as_mut() else {
            return RErr(Error::new("was dropped already").into());
        };
        let result = guard(|| body(inner));
        if let RErr(error) = &result {
            self.poisoned = error.code == ErrorCode::PANIC;
        }
        result
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let inner = self.inner.take();
        let dropped = guard(|| {
            drop(inner);
            Ok(())
        });
        if let RErr(error) = dropped {
            log::error!(
                "dropping an instance {} ({})",
                error.message,
                error.location
            );
        }
    }
}
