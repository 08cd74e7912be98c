//! What every reader of `kmr` has to survive.
//!
//! Each reader has one function here that does with some bytes everything that the program does with
//! a file: it reads them, and uses and writes what it has read. The function panics where a rule is
//! broken: a reader that panics, a message that is no message, an answer that changes when it is
//! written and read. The fuzz targets in `fuzz/` call these functions, and so do the tests of this
//! crate, with the kept corpus and with [mutations](mutation) of it.
//!
//! This crate is for tests; nothing depends on it but the tests of other crates.

pub mod arrays;
pub mod files;
pub mod gguf;
pub mod manifest;
mod message;
pub mod mutation;
pub mod onnx;
pub mod specimen;
pub mod wire;

/// What a reader said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One error, which kept the rules for messages.
    Refused,
    /// The bytes were read, and everything that follows has kept its rules.
    Read,
}
