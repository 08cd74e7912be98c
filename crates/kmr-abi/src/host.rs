//! What the host does for a plugin.

use abi_stable::{
    StableAbi,
    sabi_trait,
    sabi_types::RRef,
    std_types::{RBox, ROption, RStr, RString, RVec},
};

use crate::{AbiResult, NamedTensor, OutputBufferBox, SharedTensorBox, TensorDescription};

/// A log level: 1 error, 2 warning, 3 information, 4 debug, 5 trace.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(pub u32);

/// Some samples with what was computed on them.
#[repr(C)]
#[derive(StableAbi)]
pub struct Batch {
    /// How many samples.
    pub size: u64,
    /// The model's inputs.
    pub inputs: RVec<NamedTensor>,
    /// One int64 a sample, where the data has labels.
    pub labels: ROption<SharedTensorBox>,
    /// The values that were asked for.
    pub outputs: RVec<NamedTensor>,
}

/// Batches, one after the other.
#[sabi_trait]
pub trait Batches: Send {
    /// The next batch; none at the end.
    #[sabi(last_prefix_field)]
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>>;
}

/// An owned [`Batches`].
pub type BatchesBox = Batches_TO<'static, RBox<()>>;

/// Forward and backward passes with parameters of their own.
#[sabi_trait]
pub trait Session: Send {
    /// Takes the next batch of the session's split; none at the end of an epoch, after which the next
    /// epoch begins. `outputs` of the batch is empty.
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>>;
    /// Computes values on the batch taken last.
    fn forward(&mut self, outputs: RVec<RString>) -> AbiResult<RVec<NamedTensor>>;
    /// Pulls cotangents of the values computed last back to the trainable tensors.
    fn backward(&mut self, cotangents: RVec<OutputTensor>) -> AbiResult<()>;
    /// The gradient of a trainable tensor, from the last backward pass.
    fn gradient(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox>;
    /// The present values of a trainable tensor.
    #[sabi(last_prefix_field)]
    fn parameter(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox>;
}

/// An owned [`Session`].
pub type SessionBox = Session_TO<'static, RBox<()>>;

/// A tensor that a plugin hands to the host by value: small ones, such as cotangents of outputs.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct OutputTensor {
    /// Its name, element type and shape.
    pub description: TensorDescription,
    /// Its bytes.
    pub bytes: RVec<u8>,
}

/// The host's services during one call of a plugin. The forms of requests are documented in
/// `kmr-sdk`'s `wire` module.
#[sabi_trait]
pub trait Host: Send + Sync {
    /// The candidate as an ONNX `ModelProto` (a uint8 tensor), edits of this call included. Its
    /// initializers are external data at location `kmr:tensor`, key `tensor` the name to ask
    /// [`Host::tensor`] for.
    fn graph(&self) -> AbiResult<SharedTensorBox>;
    /// The initializer `name` of the candidate, edits of this call included.
    fn tensor(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox>;
    /// Memory for a tensor that becomes the initializer of its description's name when committed.
    fn output(&self, description: TensorDescription) -> AbiResult<OutputBufferBox>;
    /// Edits the candidate's graph: a JSON list of operations, and the messages that they refer to.
    fn edit(&self, operations: RStr<'_>, attachments: RVec<RVec<u8>>) -> AbiResult<()>;
    /// Runs a model on a split.
    fn run(&self, request: RStr<'_>) -> AbiResult<BatchesBox>;
    /// Statistics of inner values of the candidate, edits of this call included, on calibration data.
    fn observe(&self, request: RStr<'_>) -> AbiResult<RVec<NamedTensor>>;
    /// Opens a session for gradients.
    fn open_session(&self, request: RStr<'_>) -> AbiResult<SessionBox>;
    /// Tells how far the call has come, in [0, 1].
    fn progress(&self, fraction: f64, text: RStr<'_>) -> AbiResult<()>;
    /// Whether the user asked to stop.
    fn cancelled(&self) -> AbiResult<bool>;
    /// Logs a line.
    fn log(&self, level: LogLevel, text: RStr<'_>) -> AbiResult<()>;
    /// The seed for everything random in this call.
    fn seed(&self) -> AbiResult<u64>;
    /// How many threads the plugin may use.
    #[sabi(last_prefix_field)]
    fn threads(&self) -> AbiResult<u64>;
}

/// A borrowed [`Host`].
pub type HostRef<'a> = Host_TO<'a, RRef<'a, ()>>;
