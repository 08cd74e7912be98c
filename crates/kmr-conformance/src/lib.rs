//! The conformance cases of the ONNX project, and the judgment of any engine by them.
//!
//! [`cases`] reads them: models with inputs and the outputs that are expected of them. [`judge`] runs one
//! with an engine, which is a closure from a model and its inputs to outputs. [`Record`] is the list of what
//! an engine passes and refuses, kept in a file so that it can only improve.

mod archive;
mod case;
mod comparison;
mod record;
mod verdict;

pub use archive::{ArchiveError, cases};
pub use case::{Case, DataSet};
pub use record::{Comparison, Record};
pub use verdict::{Failure, Feeds, Verdict, judge};
