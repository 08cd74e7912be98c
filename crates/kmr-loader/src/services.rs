//! What the host does for a plugin during a call, in the host's own terms.

use kmr_model::{Patch, Tensor};
use kmr_sdk::{Batch, ObserveRequest, Result, RunRequest, SessionRequest};

/// Batches, made one by one as they are asked for.
pub type BatchStream<'a> = Box<dyn Iterator<Item = Result<Batch>> + Send + 'a>;

/// The host during one call of a plugin. The plugin may use it from several threads.
///
/// Models are named `candidate`, `reference` or as in the manifest. A panic in here reaches the plugin as an
/// error and nothing else.
pub trait HostServices: Send + Sync {
    /// The graph of a model as an ONNX message without its tensors' bytes:
    /// [`Model::encode_without_tensors`](kmr_model::Model::encode_without_tensors).
    ///
    /// # Errors
    /// `NOT_FOUND` for an unknown model.
    fn graph(&self, model: &str) -> Result<Vec<u8>>;

    /// An initializer of a model. The plugin reads its bytes where they are.
    ///
    /// # Errors
    /// `NOT_FOUND` for an unknown model or initializer.
    fn tensor(&self, model: &str, name: &str) -> Result<Tensor>;

    /// Edits the candidate: all of `patch` or nothing, visible to every later call of this trait.
    ///
    /// # Errors
    /// `DENIED` outside of a rule's `apply`; `NOT_FOUND` or `INVALID_REQUEST` if the patch does not fit.
    fn edit(&self, patch: Patch) -> Result<()>;

    /// Runs a model over data.
    ///
    /// # Errors
    /// `DENIED` if the caller may not see the split, `NOT_FOUND` for unknown values, `UNSUPPORTED` if the
    /// model cannot be run.
    fn run<'a>(&'a self, request: RunRequest) -> Result<BatchStream<'a>>;

    /// Statistics of values of the candidate over the calibration data, named `<value>/<statistic>`.
    ///
    /// # Errors
    /// As [`run`](HostServices::run).
    fn observe(&self, request: ObserveRequest) -> Result<Vec<(String, Tensor)>>;

    /// Opens a session that differentiates a model.
    ///
    /// # Errors
    /// As [`run`](HostServices::run).
    fn open_session<'a>(&'a self, request: SessionRequest)
    -> Result<Box<dyn TrainingSession + 'a>>;

    /// Takes note of how much of the call is done, from 0 to 1, and of what is being done.
    fn progress(&self, fraction: f64, text: &str);

    /// Whether the call should end early.
    fn cancelled(&self) -> bool;

    /// The seed of everything random in this call.
    fn seed(&self) -> u64;

    /// How many threads the call may keep busy, at least 1.
    fn threads(&self) -> usize;
}

/// A model being differentiated. What each function does, `kmr_abi::Session` says.
pub trait TrainingSession: Send {
    /// Draws the next batch; none at the end of a pass over the data, after which the next pass begins.
    ///
    /// # Errors
    /// If the data cannot be read.
    fn next_batch(&mut self) -> Result<Option<Batch>>;

    /// Runs the model on the batch drawn last; no names mean the model's outputs.
    ///
    /// # Errors
    /// `INVALID_REQUEST` if no batch was drawn, `NOT_FOUND` for an unknown value.
    fn forward(&mut self, outputs: &[String]) -> Result<Vec<(String, Tensor)>>;

    /// Pulls cotangents of values back to the trainable tensors.
    ///
    /// # Errors
    /// `INVALID_REQUEST` without a forward, `SHAPE` if a cotangent does not fit its value.
    fn backward(&mut self, cotangents: Vec<(String, Tensor)>) -> Result<()>;

    /// The gradient by a trainable tensor.
    ///
    /// # Errors
    /// `NOT_FOUND` if it is not trainable, `INVALID_REQUEST` without a backward.
    fn gradient(&self, name: &str) -> Result<Tensor>;

    /// A tensor as the session has it now.
    ///
    /// # Errors
    /// `NOT_FOUND` if the model has no such tensor.
    fn parameter(&self, name: &str) -> Result<Tensor>;
}
