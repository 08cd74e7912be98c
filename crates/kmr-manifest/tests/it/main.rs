//! The crate's behavior as its callers see it.

mod good;
mod messages;
mod robustness;
mod sample;
