//! The host for tests.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use kmr_abi::{
    AbiResult, BatchIteratorBox, CANDIDATE, ErrorCode, Host_TO, HostRef, OutputBuffer, OutputBuffer_TO,
    OutputBufferBox, PluginError, REFERENCE, Session_TO, SessionBox, SharedTensor, SharedTensor_TO, SharedTensorBox,
    TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RErr, ROk, RSlice, RSliceMut, RStr, RVec},
    },
};
use kmr_sdk::{
    model::{Model, Patch, Tensor},
    tensors::{describe, read_description},
    wire::{EditRequest, SessionRequest},
};

use super::session::{State, ToySession};

/// A row of numbers, and its label.
pub type Sample = (Vec<f32>, Option<i64>);

/// What sessions did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// The requests of sessions.
    pub sessions: Vec<SessionRequest>,
    /// Batches drawn, by model.
    pub batches: HashMap<String, usize>,
    /// The learning rate of each step.
    pub rates: Vec<f64>,
    pub restores: usize,
    pub told: Vec<String>,
}

/// A host with a candidate, a reference and data.
pub struct ToyHost {
    candidate: Mutex<Model>,
    reference: Model,
    committed: Arc<Mutex<HashMap<u64, Tensor>>>,
    next_buffer: Arc<AtomicU64>,
    pub samples: Vec<Sample>,
    pub checkpoints: Mutex<HashMap<String, (String, State)>>,
    seen: Mutex<Seen>,
    /// After so many calls of progress, the run is cancelled.
    pub patience: usize,
}

impl ToyHost {
    pub fn new(candidate: Model, reference: Model, samples: Vec<Sample>) -> Self {
        Self {
            candidate: Mutex::new(candidate),
            reference,
            committed: Arc::default(),
            next_buffer: Arc::default(),
            samples,
            checkpoints: Mutex::default(),
            seen: Mutex::default(),
            patience: usize::MAX,
        }
    }

    pub fn candidate(&self) -> Model {
        self.candidate.lock().unwrap().clone()
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub fn change(&self, patch: &Patch) {
        let mut candidate = self.candidate.lock().unwrap();
        let graph = patch.apply(&candidate.graph).unwrap();
        *candidate = candidate.with_graph(graph);
    }

    pub fn count_batch(&self, model: &str) {
        *self.seen.lock().unwrap().batches.entry(model.into()).or_default() += 1;
    }

    pub fn count_step(&self, rate: f64) {
        self.seen.lock().unwrap().rates.push(rate);
    }

    pub fn count_restore(&self) {
        self.seen.lock().unwrap().restores += 1;
    }

    /// Lends the host for a call.
    pub fn with<R>(&self, body: impl FnOnce(&kmr_sdk::Host<'_>) -> R) -> R {
        let raw: HostRef<'_> = Host_TO::from_ptr(RRef::new(self), TD_Opaque);
        body(&kmr_sdk::Host::new(raw))
    }

    fn model(&self, name: &str) -> AbiResult<Model> {
        match name {
            CANDIDATE => ROk(self.candidate()),
            REFERENCE => ROk(self.reference.clone()),
            other => RErr(PluginError::new(ErrorCode::NOT_FOUND, format!("no model `{other}`"))),
        }
    }

    fn patch(&self, request: EditRequest, attachments: &RSlice<'_, RVec<u8>>) -> Patch {
        let take = |number| Ok(self.committed.lock().unwrap().remove(&number).unwrap());
        request.to_patch(attachments.as_slice(), take).unwrap()
    }
}

struct Held(String, Tensor);

impl SharedTensor for Held {
    fn description(&self) -> AbiResult<TensorDescription> {
        ROk(describe(&self.0, self.1.dtype(), self.1.shape()))
    }

    fn bytes(&self) -> AbiResult<RSlice<'_, u8>> {
        ROk(RSlice::from_slice(self.1.bytes()))
    }
}

pub fn held(name: &str, tensor: &Tensor) -> SharedTensorBox {
    SharedTensor_TO::from_value(Held(name.into(), tensor.clone()), TD_Opaque)
}

struct Buffer {
    description: TensorDescription,
    bytes: Vec<u8>,
    committed: Arc<Mutex<HashMap<u64, Tensor>>>,
    next: Arc<AtomicU64>,
}

impl OutputBuffer for Buffer {
    fn bytes(&mut self) -> AbiResult<RSliceMut<'_, u8>> {
        ROk(RSliceMut::from_mut_slice(&mut self.bytes))
    }

    fn commit(&mut self) -> AbiResult<u64> {
        let (dtype, shape) = read_description(&self.description).unwrap();
        let tensor = Tensor::new(dtype, shape, Bytes::from(std::mem::take(&mut self.bytes))).unwrap();
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        self.committed.lock().unwrap().insert(number, tensor);
        ROk(number)
    }
}

impl kmr_abi::Host for ToyHost {
    fn graph(&self, model: RStr<'_>) -> AbiResult<RVec<u8>> {
        self.model(model.as_str())
            .map(|model| model.encode_without_tensors().into())
    }

    fn tensor(&self, model: RStr<'_>, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        self.model(model.as_str())
            .map(|model| held(name.as_str(), model.graph.tensor(name.as_str()).unwrap()))
    }

    fn output(&self, description: TensorDescription) -> AbiResult<OutputBufferBox<'_>> {
        let (dtype, shape) = read_description(&description).unwrap();
        let buffer = Buffer {
            bytes: vec![0; dtype.byte_len(shape.iter().product()).unwrap()],
            description,
            committed: self.committed.clone(),
            next: self.next_buffer.clone(),
        };
        ROk(OutputBuffer_TO::from_value(buffer, TD_Opaque))
    }

    fn edit(&self, operations: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        let request: EditRequest = kmr_sdk::serde_json::from_str(operations.as_str()).unwrap();
        self.change(&self.patch(request, &attachments));
        ROk(())
    }

    fn run<'a>(&'a self, _: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        RErr(PluginError::new(
            ErrorCode::UNSUPPORTED,
            "this host does not run models",
        ))
    }

    fn observe(&self, _: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        RErr(PluginError::new(ErrorCode::UNSUPPORTED, "this host does not observe"))
    }

    fn open_session<'a>(&'a self, request: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>> {
        let mut request: SessionRequest = kmr_sdk::serde_json::from_str(request.as_str()).unwrap();
        let model = match self.model(&request.model) {
            ROk(model) => model,
            RErr(error) => return RErr(error),
        };
        let mut graph = model.graph;
        if let Some(edits) = request.edits.take() {
            graph = self.patch(edits, &attachments).apply(&graph).unwrap();
        }
        if request.whole_batches && self.samples.len() < request.batch.unwrap_or(1) {
            return RErr(PluginError::new(ErrorCode::INVALID_REQUEST, "no batch is full"));
        }
        for name in &request.trainable {
            assert!(
                graph.tensor(name).is_some_and(|tensor| tensor.dtype().is_float()),
                "{name}"
            );
        }
        self.seen.lock().unwrap().sessions.push(request.clone());
        ROk(Session_TO::from_value(ToySession::new(self, request, graph), TD_Opaque))
    }

    fn progress(&self, _: f64, text: RStr<'_>) -> AbiResult<()> {
        self.seen.lock().unwrap().told.push(text.as_str().to_owned());
        ROk(())
    }

    fn cancelled(&self) -> AbiResult<bool> {
        ROk(self.seen.lock().unwrap().told.len() > self.patience)
    }

    fn seed(&self) -> AbiResult<u64> {
        ROk(7)
    }

    fn threads(&self) -> AbiResult<u64> {
        ROk(1)
    }
}
