//! Runs a model in ONNX Runtime, whose kernels are those that most models are deployed on.
//!
//! [`find`] looks for the runtime's library and loads it; [`Found::engine`] is then an [`Engine`] like any other. What
//! is not found costs nothing: the library is opened at run time, and no build needs it.
//!
//! Results depend on the library's version and on the processor, and a value may differ in its last bits where another
//! set of values is asked for: the runtime fuses what nobody asked for.

mod cut;
mod library;
mod program;
mod values;

use std::num::NonZeroUsize;

use kmr_compute::{ComputeError, Engine, EngineIdentity, Program, Refusal};
use kmr_model::Model;
use ort::environment::Environment;

use cut::Question;
use program::Sessions;

pub use library::{Found, Origin, VARIABLE, find};

/// How sessions of the runtime compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads within an operator.
    pub threads: NonZeroUsize,
    /// Whether the runtime fuses and folds nodes, as it does where models are deployed.
    pub optimize: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: NonZeroUsize::MIN,
            optimize: true,
        }
    }
}

/// The engine.
#[derive(Clone, Debug)]
pub struct OnnxRuntime {
    version: String,
    environment: Environment,
    options: Options,
}

impl Found {
    /// The engine over this library.
    pub fn engine(&self, options: Options) -> OnnxRuntime {
        OnnxRuntime {
            version: self.version.clone(),
            environment: self.environment.clone(),
            options,
        }
    }
}

impl Engine for OnnxRuntime {
    fn identity(&self) -> EngineIdentity {
        EngineIdentity {
            name: "onnxruntime".into(),
            version: self.version.clone(),
            instruction_set: kmr_platform::instruction_set(),
        }
    }

    fn supports(&self, model: &Model) -> Vec<Refusal> {
        let Err(error) = Sessions::new(self.clone(), model.clone()).open(&Question::whole(&model.graph)) else {
            return Vec::new();
        };
        let nodes = &model.graph.nodes;
        let node = program::blamed(model, &error.to_string()).or(nodes.first());
        node.map(|node| Refusal::new(model, node).because(error.to_string()))
            .into_iter()
            .collect()
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Program>, ComputeError> {
        let disorder = |error: kmr_model::ModelError| {
            ComputeError::new(kmr_compute::ErrorKind::Name, error.place(), error.to_string())
        };
        model.graph.check().map_err(disorder)?;
        Ok(Box::new(Sessions::new(self.clone(), model.clone())))
    }
}
