//! A host for tests: holds a model, takes edits, and runs by the interpreter.

use std::sync::atomic::{AtomicUsize, Ordering};

use kmr_abi::{
    AbiResult, Batch, BatchIteratorBox,
    abi_stable::std_types::{RNone, ROk, RVec},
};
use kmr_sdk::{
    RunRequest,
    model::{Model, Tensor},
};
use kmr_testkit::{Answers, Subject, batches, held, lend, noise, rows};

use super::interpreter::values;

/// A host around one model, with data of its own.
pub struct ModelHost {
    subject: Subject,
    /// Samples along the first axis.
    data: Tensor,
    /// How often the model was run over data.
    pub runs: AtomicUsize,
}

impl ModelHost {
    pub fn new(model: Model) -> Self {
        Self::with_data(model, Tensor::from_vec(vec![8, 5, 6], noise(240, 99)))
    }

    pub fn with_data(model: Model, data: Tensor) -> Self {
        Self {
            subject: Subject::new(model),
            data,
            runs: AtomicUsize::new(0),
        }
    }

    pub fn candidate(&self) -> Model {
        self.subject.candidate()
    }

    /// Puts another model there.
    pub fn replace(&self, model: Model) {
        self.subject.replace(model);
    }

    /// Lends the host for a call.
    pub fn with<R>(&self, body: impl FnOnce(&kmr_sdk::Host<'_>) -> R) -> R {
        lend(self, body)
    }
}

impl Answers for ModelHost {
    fn subject(&self) -> Option<&Subject> {
        Some(&self.subject)
    }

    /// Two samples to a batch.
    fn run(&self, request: RunRequest) -> AbiResult<BatchIteratorBox<'_>> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let model = self.candidate();
        let samples = self.data.shape()[0];
        let end = request.limit.unwrap_or(samples).min(samples);
        let ran = (0..end).step_by(2).map(move |at| {
            let input = rows(&self.data, at..(at + 2).min(end));
            let values = values(&model, &input);
            let output = |name: &String| held(name, &values[name].tensor());
            Batch {
                size: input.shape()[0] as u64,
                inputs: RVec::new(),
                labels: RNone,
                outputs: request.outputs.iter().map(output).collect(),
            }
        });
        ROk(batches(ran))
    }
}
