//! The host for tests.

use std::{collections::HashMap, sync::Mutex};

use kmr_abi::{
    AbiResult, BatchIteratorBox, CANDIDATE, ErrorCode, Host_TO, HostRef, OutputBufferBox, PluginError, REFERENCE,
    Session_TO, SessionBox, SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RErr, ROk, RSlice, RStr, RVec},
    },
};
use kmr_sdk::{
    model::{Model, Patch},
    wire::{EditRequest, SessionRequest},
};
use kmr_testkit::{Buffers, held};

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
    buffers: Buffers,
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
            buffers: Buffers::default(),
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
        self.buffers.patch(request, attachments.as_slice()).unwrap()
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
        self.buffers.buffer(description)
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
