//! Which engine runs models.

use std::num::NonZeroUsize;

use clap::ValueEnum;
use kmr_compute::ComputeError;
use kmr_onnxruntime::{Found, Options};

use crate::{exit, failure::Failure};

/// Which engine runs models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// The built-in engine for the search, ONNX Runtime for the holdout where it is found
    #[default]
    Auto,
    /// The built-in engine for everything
    Builtin,
    /// ONNX Runtime for everything but what rules observe; an error where it is not found
    Onnxruntime,
}

/// ONNX Runtime, as far as `choice` asks for it.
pub fn find(choice: EngineChoice) -> Result<Option<&'static Found>, Failure> {
    match choice {
        EngineChoice::Auto => kmr_onnxruntime::find().map_err(|error| unusable(&error)),
        EngineChoice::Builtin => Ok(None),
        EngineChoice::Onnxruntime => required().map(Some),
    }
}

/// ONNX Runtime, or why there is none.
pub fn required() -> Result<&'static Found, Failure> {
    let found = kmr_onnxruntime::find().map_err(|error| unusable(&error))?;
    found.ok_or_else(|| {
        Failure::new(exit::USAGE, "ONNX Runtime is not found").help(format!(
            "`pip install onnxruntime`, or let {} name its library",
            kmr_onnxruntime::VARIABLE
        ))
    })
}

/// How ONNX Runtime judges quality: with as many threads as the rest of kmr.
pub fn options() -> Options {
    Options {
        threads: NonZeroUsize::new(rayon::current_num_threads()).unwrap_or(NonZeroUsize::MIN),
        ..Options::default()
    }
}

fn unusable(error: &ComputeError) -> Failure {
    let failure = Failure::new(exit::USAGE, error.to_string());
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}
