//! Values that remember where they were written.

use std::fmt;
use std::ops::{Deref, Range};

/// A value and the byte range of the manifest's text that it was read from.
///
/// Two placed values are equal when their values are, wherever they stand. A default value has
/// the place of the table that lacks it.
#[derive(Clone, Default)]
pub struct Placed<T> {
    /// The value itself.
    pub value: T,
    /// Byte offsets into the manifest's text.
    pub span: Range<usize>,
}

impl<T> Placed<T> {
    /// Puts a value at a place.
    pub fn new(value: T, span: Range<usize>) -> Self {
        Self { value, span }
    }

    /// The same place with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Placed<U> {
        Placed {
            value: change(self.value),
            span: self.span,
        }
    }
}

impl<T> Deref for Placed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Placed<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(formatter)
    }
}
