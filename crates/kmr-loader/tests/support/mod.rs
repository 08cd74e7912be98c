//! Builds plugins as their authors would, and a host for them.

pub mod build;
pub mod host;
pub mod model_host;
