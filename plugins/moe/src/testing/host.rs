//! A host for tests: holds a model, takes edits, and runs by the interpreter.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use kmr_abi::{
    AbiResult, Batch, BatchIterator, BatchIterator_TO, BatchIteratorBox, ErrorCode, Host_TO, HostRef, OutputBufferBox,
    SessionBox, SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RNone, ROk, ROption, RSlice, RSome, RStr, RVec},
    },
};
use kmr_sdk::{
    model::{Model, Tensor},
    wire::{EditRequest, RunRequest},
};
use kmr_testkit::{Buffers, fail, held};

use super::interpreter::values;

/// A host around one model, with data of its own.
pub struct ModelHost {
    candidate: Mutex<Model>,
    buffers: Buffers,
    /// Samples along the first axis.
    data: Tensor,
    /// How often the model was run over data.
    pub runs: AtomicUsize,
}

impl ModelHost {
    pub fn new(model: Model) -> Self {
        Self::with_data(model, Tensor::from_vec(vec![8, 5, 6], super::noise(240, 99)))
    }

    pub fn with_data(model: Model, data: Tensor) -> Self {
        Self {
            candidate: Mutex::new(model),
            buffers: Buffers::default(),
            data,
            runs: AtomicUsize::new(0),
        }
    }

    pub fn candidate(&self) -> Model {
        self.candidate.lock().unwrap().clone()
    }

    /// Puts another model there.
    pub fn replace(&self, model: Model) {
        *self.candidate.lock().unwrap() = model;
    }

    /// Lends the host for a call.
    pub fn with<R>(&self, body: impl FnOnce(&kmr_sdk::Host<'_>) -> R) -> R {
        let raw: HostRef<'_> = Host_TO::from_ptr(RRef::new(self), TD_Opaque);
        body(&kmr_sdk::Host::new(raw))
    }
}

/// Two samples to a batch.
struct Runs {
    model: Model,
    data: Tensor,
    request: RunRequest,
    at: usize,
}

impl BatchIterator for Runs {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        let samples = self.data.shape()[0];
        let end = (self.at + 2).min(self.request.limit.unwrap_or(samples)).min(samples);
        if self.at >= end {
            return ROk(RNone);
        }
        let each = self.data.byte_len() / samples;
        let bytes = self.data.bytes().slice(self.at * each..end * each);
        let mut shape = self.data.shape().to_vec();
        shape[0] = end - self.at;
        let input = Tensor::new(self.data.dtype(), shape, bytes).unwrap();
        let values = values(&self.model, &input);
        let output = |name: &String| held(name, &values[name].tensor());
        let batch = Batch {
            size: (end - self.at) as u64,
            inputs: RVec::new(),
            labels: RNone,
            outputs: self.request.outputs.iter().map(output).collect(),
        };
        self.at = end;
        ROk(RSome(batch))
    }
}

impl kmr_abi::Host for ModelHost {
    fn graph(&self, _: RStr<'_>) -> AbiResult<RVec<u8>> {
        ROk(self.candidate().encode_without_tensors().into())
    }

    fn tensor(&self, _: RStr<'_>, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        match self.candidate().graph.tensor(name.as_str()) {
            Some(tensor) => ROk(held(name.as_str(), tensor)),
            None => fail(ErrorCode::NOT_FOUND, format!("no tensor `{name}`")),
        }
    }

    fn output(&self, description: TensorDescription) -> AbiResult<OutputBufferBox<'_>> {
        self.buffers.buffer(description)
    }

    fn edit(&self, operations: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        let request: EditRequest = serde_json::from_str(operations.as_str()).unwrap();
        let patch = self.buffers.patch(request, attachments.as_slice()).unwrap();
        let mut candidate = self.candidate.lock().unwrap();
        match patch.apply(&candidate.graph) {
            Ok(graph) => *candidate = candidate.with_graph(graph),
            Err(error) => return fail(ErrorCode::INVALID_REQUEST, error),
        }
        ROk(())
    }

    fn run<'a>(&'a self, request: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let runs = Runs {
            model: self.candidate(),
            data: self.data.clone(),
            request: serde_json::from_str(request.as_str()).unwrap(),
            at: 0,
        };
        ROk(BatchIterator_TO::from_value(runs, TD_Opaque))
    }

    fn observe(&self, _: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        fail(ErrorCode::UNSUPPORTED, "this host observes nothing")
    }

    fn open_session<'a>(&'a self, _: RStr<'_>, _: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>> {
        fail(ErrorCode::UNSUPPORTED, "this host trains nothing")
    }

    fn progress(&self, _: f64, _: RStr<'_>) -> AbiResult<()> {
        ROk(())
    }

    fn cancelled(&self) -> AbiResult<bool> {
        ROk(false)
    }

    fn seed(&self) -> AbiResult<u64> {
        ROk(7)
    }

    fn threads(&self) -> AbiResult<u64> {
        ROk(1)
    }
}
