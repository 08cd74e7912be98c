//! Runs a model.
//!
//! [`Engine`] is the trait behind which an executor stands; tensors cross it as [`kmr_model::Tensor`],
//! so that an engine may live in another library or on another device. [`Interpreter`] is the one that
//! is linked in: it walks the graph at run time over Burn's rank-erased tensors on the CPU.
//!
//! Two rules hold for the interpreter. Results are exact outputs of the asked values' nodes: asking for
//! more inner values, or starting from fed ones, never changes a bit of the others. And results do not
//! depend on the number of threads.

mod engine;
mod error;
mod interpreter;
mod observe;
mod operators;
mod optimizer;

pub use engine::{BatchNorm, Engine, EngineIdentity, Feeds, Mode, Program, Pullback, Refusal, operator_label};
pub use error::{ComputeError, ErrorKind};
pub use interpreter::Interpreter;
pub use observe::{Observation, Statistic, observe};
pub use optimizer::{Method, NotFinite, Optimizer, OptimizerState};
