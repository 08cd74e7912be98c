//! The error of this crate.

use thiserror::Error;

/// Numbers that a method cannot work with.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum MethodError {
    /// A parameter outside its domain.
    #[error("{what} must be {domain}; got {value}")]
    Domain {
        /// Which parameter.
        what: &'static str,
        /// Its domain.
        domain: &'static str,
        /// What was given.
        value: f64,
    },
    /// A slice of another length than its use needs.
    #[error("{what} must have {expected} elements; it has {got}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// How many it must have.
        expected: usize,
        /// How many it has.
        got: usize,
    },
    /// NaN or an infinity in a matrix.
    #[error("the {what} at row {row}, column {column} is {value}; only finite numbers can be compressed")]
    NotFinite {
        /// What the matrix holds.
        what: &'static str,
        /// Where.
        row: usize,
        /// Where.
        column: usize,
        /// NaN or an infinity.
        value: f64,
    },
    /// NaN or an infinity among observed values.
    #[error("the observed value at position {position} is {value}; only finite numbers can be calibrated on")]
    NotFiniteValue {
        /// Its position in the slice.
        position: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// A range of nothing.
    #[error("a range needs observed values; there are none")]
    NothingObserved,
    /// A Gram matrix that no damping makes positive definite.
    #[error("the Gram matrix is not positive semidefinite at column {column}; observe it again in higher precision")]
    NotPositive {
        /// The column whose pivot fails.
        column: usize,
    },
    /// A label that names no class.
    #[error("label {label} of row {row} is none of the {classes} classes, which count from 0")]
    Label {
        /// The label.
        label: i64,
        /// Its row.
        row: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// A code that its bits cannot hold.
    #[error("code {code} at position {position} does not fit into {bits} bits")]
    Code {
        /// The code.
        code: u8,
        /// Its position.
        position: usize,
        /// The bits there are.
        bits: u8,
    },
}

/// An error unless `got` is `expected`.
pub(crate) fn check_length(what: &'static str, expected: usize, got: usize) -> Result<(), MethodError> {
    if got == expected {
        Ok(())
    } else {
        Err(MethodError::Length { what, expected, got })
    }
}

/// An error at the first of `values`, a matrix of so many `columns`, that is not finite.
pub(crate) fn check_finite<G: Copy + Into<f64>>(
    what: &'static str,
    columns: usize,
    values: &[G],
) -> Result<(), MethodError> {
    match values.iter().position(|&value| !value.into().is_finite()) {
        Some(at) => Err(MethodError::NotFinite {
            what,
            row: at / columns,
            column: at % columns,
            value: values[at].into(),
        }),
        None => Ok(()),
    }
}
