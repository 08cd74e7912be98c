//! What the host offers to a plugin during a call.
#![allow(
    missing_docs,
    non_local_definitions,
    clippy::all,
    reason = "sabi_trait and the StableAbi derive write items that the comments here do not reach"
)]

use abi_stable::{
    StableAbi, sabi_trait,
    sabi_types::RRef,
    std_types::{RBox, RErr, ROption, RSlice, RStr, RString, RVec},
};

use crate::{AbiResult, BorrowedTensor, ErrorCode, OutputBufferBox, PluginError, SharedTensorBox, TensorDescription};

/// Names the model that is being changed, as the edits of this call left it.
pub const CANDIDATE: &str = "candidate";
/// Names the model as it was before anything changed it.
pub const REFERENCE: &str = "reference";

/// Samples with what was asked for about them. Frozen. Dimension 0 of every tensor is the sample.
///
/// Where the data's samples are whole calls of the model, a batch is one sample, and its inputs are the call's
/// own, without a dimension that counts samples.
#[repr(C)]
#[derive(StableAbi)]
pub struct Batch {
    /// Number of samples.
    pub size: u64,
    /// The model's inputs, each under its name.
    pub inputs: RVec<SharedTensorBox>,
    /// What samples are judged by, where the data says it and the caller may see it: one int64 label per sample; one
    /// int64 class per sample and position, below 0 where it is not judged; or one float64 score per sample.
    pub labels: ROption<SharedTensorBox>,
    /// The values asked for, each under its name, in the order asked for.
    pub outputs: RVec<SharedTensorBox>,
}

/// Batches, made one by one as they are asked for.
#[sabi_trait]
pub trait BatchIterator: Send {
    /// The next batch; none after the last.
    ///
    /// # Errors
    /// If the model cannot be run on it. The iterator has then ended.
    #[sabi(last_prefix_field)]
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>>;
}

/// An owned [`BatchIterator`], bounded by the host that lent it.
pub type BatchIteratorBox<'a> = BatchIterator_TO<'a, RBox<()>>;

/// A model being differentiated. The plugin owns the loss; the host owns forward and backward.
#[sabi_trait]
pub trait Session: Send {
    /// Draws the next batch: inputs and labels, no outputs. None at the end of a pass over the data; the
    /// call after that begins the next pass. The order follows the seed of the request.
    ///
    /// # Errors
    /// If the data cannot be read.
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>>;

    /// Runs the model on the batch drawn last and gives the named values (none named: the model's outputs).
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) if no batch was drawn,
    /// [`ErrorCode::NOT_FOUND`](crate::ErrorCode::NOT_FOUND) for an unknown value.
    fn forward(&mut self, outputs: RSlice<'_, RString>) -> AbiResult<RVec<SharedTensorBox>>;

    /// Pulls cotangents of values of the last `forward` back to the trainable tensors: for each value under
    /// its name the derivative of the loss by it, float32 and shaped as the value. Gradients add up over
    /// calls of `backward` until `step` or `clear`.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) without a `forward`,
    /// [`ErrorCode::SHAPE`](crate::ErrorCode::SHAPE) if a cotangent does not fit its value.
    fn backward(&mut self, cotangents: RVec<BorrowedTensor<'_>>) -> AbiResult<()>;

    /// The gradient of the loss by a trainable tensor, after `backward`.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`](crate::ErrorCode::NOT_FOUND) if the tensor is not trainable,
    /// [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) without a `backward`.
    fn gradient(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox>;

    /// A tensor of the model as the session has it now.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`](crate::ErrorCode::NOT_FOUND) if the model has no such tensor.
    fn parameter(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox>;

    /// Gives a tensor of the session's model other values, of the same type and shape.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`](crate::ErrorCode::NOT_FOUND) if the model has no such tensor,
    /// [`ErrorCode::SHAPE`](crate::ErrorCode::SHAPE) if type or shape differ.
    fn assign(&mut self, tensor: BorrowedTensor<'_>) -> AbiResult<()> {
        let _ = tensor;
        not_offered()
    }

    /// Forgets the gradients that have added up.
    ///
    /// # Errors
    /// If the host is gone.
    fn clear(&mut self) -> AbiResult<()> {
        not_offered()
    }

    /// Whether the model is being trained: batch normalization then uses each batch's own statistics and
    /// moves its running ones, and dropout drops. Off at first.
    ///
    /// # Errors
    /// If the host is gone.
    fn train(&mut self, on: bool) -> AbiResult<()> {
        let _ = on;
        not_offered()
    }

    /// Moves the trainable tensors along the gradients that have added up, by the optimizer of the request,
    /// and forgets these: JSON `{"learning_rate"}`. Gives JSON `{"gradient_norm"}`, the norm of the whole
    /// gradient before it was clipped.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) without a `backward`, or if a
    /// gradient is not finite: then nothing moves.
    fn step(&mut self, update: RStr<'_>) -> AbiResult<RString> {
        let _ = update;
        not_offered()
    }

    /// Remembers the tensors and the optimizer's state, in place of what was remembered before.
    ///
    /// # Errors
    /// If the host is gone.
    fn save(&mut self) -> AbiResult<()> {
        not_offered()
    }

    /// Goes back to what was saved last; at first, to the beginning.
    ///
    /// # Errors
    /// If the host is gone.
    fn restore(&mut self) -> AbiResult<()> {
        not_offered()
    }

    /// Writes tensors, optimizer state and the place in the data where a run that is started again finds
    /// them, with a note of the plugin's own. Meant for the end of a pass over the data.
    ///
    /// # Errors
    /// If it cannot be written.
    fn checkpoint(&mut self, note: RStr<'_>) -> AbiResult<()> {
        let _ = note;
        not_offered()
    }

    /// Goes on from the checkpoint that the same session of an interrupted run wrote last, if there is one,
    /// and gives its note.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    fn resume(&mut self) -> AbiResult<ROption<RString>> {
        not_offered()
    }

    /// Stores tensors of the session in the candidate, as an edit does (none named: every one that the
    /// candidate has and training may have changed, running statistics included).
    ///
    /// # Errors
    /// As [`Host::edit`].
    #[sabi(last_prefix_field)]
    fn store(&mut self, names: RSlice<'_, RString>) -> AbiResult<()> {
        let _ = names;
        not_offered()
    }
}

fn not_offered<T>() -> AbiResult<T> {
    RErr(PluginError::new(
        ErrorCode::UNSUPPORTED,
        "sessions of this host do not offer this",
    ))
}

/// An owned [`Session`], bounded by the host that lent it.
pub type SessionBox<'a> = Session_TO<'a, RBox<()>>;

/// The host, lent to a plugin for one call. Any thread of the plugin may use it until the call returns.
///
/// A rule's call is a transaction: its edits are visible to itself at once, in the graph, the tensors,
/// observations, runs and sessions of the candidate; the host keeps them only if the call succeeds and
/// shapes and types check. A meter's calls cannot edit. Methods that take a model know [`CANDIDATE`] and
/// [`REFERENCE`]; other names are models of the manifest.
#[sabi_trait]
pub trait Host: Send + Sync {
    /// A model's graph: an ONNX `ModelProto` in which each initializer is external data with `location`
    /// `kmr:tensor` and the entry `tensor` = its name, to be read by [`tensor`](Host::tensor).
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`](crate::ErrorCode::NOT_FOUND) for an unknown model.
    fn graph(&self, model: RStr<'_>) -> AbiResult<RVec<u8>>;

    /// An initializer of a model.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`](crate::ErrorCode::NOT_FOUND) for an unknown model or initializer.
    fn tensor(&self, model: RStr<'_>, name: RStr<'_>) -> AbiResult<SharedTensorBox>;

    /// Memory for a new tensor.
    ///
    /// # Errors
    /// [`ErrorCode::SHAPE`](crate::ErrorCode::SHAPE) if type and shape name no number of bytes,
    /// [`ErrorCode::OUT_OF_MEMORY`](crate::ErrorCode::OUT_OF_MEMORY) if there is not so much.
    fn output<'a>(&'a self, description: TensorDescription) -> AbiResult<OutputBufferBox<'a>>;

    /// Edits the candidate: JSON `{"version": 1, "operations": [...]}`, with encoded `NodeProto` and
    /// `AttributeProto` messages as attachments. All of them happen in order, or none.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`](crate::ErrorCode::NOT_FOUND) if an operation names what does not exist,
    /// [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) if it is malformed or leaves a
    /// value undefined, [`ErrorCode::DENIED`](crate::ErrorCode::DENIED) outside of a rule's `apply`.
    fn edit(&self, operations: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<()>;

    /// Runs a model over data: JSON `{"model", "split", "outputs", "batch", "limit"}`.
    ///
    /// # Errors
    /// [`ErrorCode::DENIED`](crate::ErrorCode::DENIED) if a rule asks for another split than `calibration`,
    /// [`ErrorCode::NOT_FOUND`](crate::ErrorCode::NOT_FOUND) for unknown values,
    /// [`ErrorCode::UNSUPPORTED`](crate::ErrorCode::UNSUPPORTED) if the model cannot be run.
    fn run<'a>(&'a self, request: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>>;

    /// Statistics of inner values of the candidate over the calibration data: JSON `{"values",
    /// "statistics", "channel_axis", "samples", "batch_norm"}`. Gives float32 tensors named
    /// `<value>/<statistic>`, of one element per channel; `gram` is channels × channels.
    ///
    /// # Errors
    /// As [`run`](Host::run).
    fn observe(&self, request: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>>;

    /// Opens a session: JSON `{"model", "split", "trainable", "batch", "seed", "samples", "whole_batches",
    /// "augment", "straight_through", "optimizer", "edits"}`. The edits are the session's alone, with
    /// attachments as for [`edit`](Host::edit).
    ///
    /// # Errors
    /// As [`run`](Host::run), and as [`edit`](Host::edit) for the edits.
    fn open_session<'a>(&'a self, request: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>>;

    /// Says how much of the call is done, from 0 to 1, and what is being done.
    ///
    /// # Errors
    /// If the host is gone.
    fn progress(&self, fraction: f64, text: RStr<'_>) -> AbiResult<()>;

    /// Whether the call should end early, with [`ErrorCode::CANCELLED`](crate::ErrorCode::CANCELLED).
    ///
    /// # Errors
    /// If the host is gone.
    fn cancelled(&self) -> AbiResult<bool>;

    /// The seed of everything random in this call. The same seed must give the same bytes.
    ///
    /// # Errors
    /// If the host is gone.
    fn seed(&self) -> AbiResult<u64>;

    /// How many threads this call may keep busy, at least 1. The result must not depend on it.
    ///
    /// # Errors
    /// If the host is gone.
    #[sabi(last_prefix_field)]
    fn threads(&self) -> AbiResult<u64>;
}

/// A borrowed [`Host`].
pub type HostRef<'a> = Host_TO<'a, RRef<'a, ()>>;
