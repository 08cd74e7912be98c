//! The host for tests.

use std::{collections::HashMap, sync::Mutex};

use kmr_abi::{
    AbiResult, ErrorCode, Session_TO, SessionBox,
    abi_stable::{erased_types::TD_Opaque, std_types::ROk},
};
use kmr_sdk::{
    model::{Graph, Model, Patch},
    wire::SessionRequest,
};
use kmr_testkit::{Answers, Subject, fail, lend};

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
    subject: Subject,
    pub samples: Vec<Sample>,
    pub checkpoints: Mutex<HashMap<String, (String, State)>>,
    seen: Mutex<Seen>,
    /// After so many calls of progress, the run is cancelled.
    pub patience: usize,
}

impl ToyHost {
    pub fn new(candidate: Model, reference: Model, samples: Vec<Sample>) -> Self {
        Self {
            subject: Subject::new(candidate).beside(reference),
            samples,
            checkpoints: Mutex::default(),
            seen: Mutex::default(),
            patience: usize::MAX,
        }
    }

    pub fn candidate(&self) -> Model {
        self.subject.candidate()
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    pub fn change(&self, patch: &Patch) {
        self.subject.change(patch).unwrap();
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
        lend(self, body)
    }
}

impl Answers for ToyHost {
    fn subject(&self) -> Option<&Subject> {
        Some(&self.subject)
    }

    fn open_session(&self, request: SessionRequest, graph: Graph) -> AbiResult<SessionBox<'_>> {
        if request.whole_batches && self.samples.len() < request.batch.unwrap_or(1) {
            return fail(ErrorCode::INVALID_REQUEST, "no batch is full");
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

    fn progress(&self, text: &str) {
        self.seen.lock().unwrap().told.push(text.to_owned());
    }

    fn cancelled(&self) -> bool {
        self.seen.lock().unwrap().told.len() > self.patience
    }
}
