//! A host for tests: plays canned outputs of candidate and reference, in batches of two samples.

use std::sync::Mutex;

use kmr_abi::{
    AbiResult, Batch, BatchIteratorBox, REFERENCE,
    abi_stable::std_types::{ROk, RVec},
};
use kmr_sdk::{RunRequest, Split, model::Tensor};
use kmr_testkit::{Answers, batches, held, lend, rows};

/// A host whose models have one output, `logits` unless it is given another name.
pub struct CannedHost {
    output: &'static str,
    candidate: Tensor,
    reference: Tensor,
    labels: Option<Tensor>,
    inputs: Vec<(String, Tensor)>,
    /// What training data are answered, with their labels.
    training: Option<(Tensor, Tensor)>,
    cancelled: bool,
    requests: Mutex<Vec<RunRequest>>,
}

impl CannedHost {
    /// Dimension 0 of both is the sample.
    pub fn new(candidate: Tensor, reference: Tensor) -> Self {
        Self {
            output: "logits",
            candidate,
            reference,
            labels: None,
            inputs: Vec::new(),
            training: None,
            cancelled: false,
            requests: Mutex::default(),
        }
    }

    pub fn labeled(self, labels: Vec<i64>) -> Self {
        self.judged_by(Tensor::from_vec(vec![labels.len()], labels))
    }

    /// What samples are judged by, in any form.
    pub fn judged_by(mut self, labels: Tensor) -> Self {
        self.labels = Some(labels);
        self
    }

    /// Gives the output this name.
    pub fn giving(mut self, output: &'static str) -> Self {
        self.output = output;
        self
    }

    /// An input that batches come with.
    pub fn with_input(mut self, name: &str, input: Tensor) -> Self {
        self.inputs.push((name.to_owned(), input));
        self
    }

    pub fn trained_on(mut self, answers: Tensor, labels: Vec<i64>) -> Self {
        self.training = Some((answers, Tensor::from_vec(vec![labels.len()], labels)));
        self
    }

    pub fn unlabeled(mut self) -> Self {
        self.labels = None;
        self
    }

    pub fn cancelled(mut self) -> Self {
        self.cancelled = true;
        self
    }

    /// Every run that was asked for.
    pub fn requests(&self) -> Vec<RunRequest> {
        self.requests.lock().unwrap().clone()
    }

    /// Lends the host for a call.
    pub fn with<R>(&self, body: impl FnOnce(&kmr_sdk::Host<'_>) -> R) -> R {
        lend(self, body)
    }
}

impl Answers for CannedHost {
    fn run(&self, request: RunRequest) -> AbiResult<BatchIteratorBox<'_>> {
        let (output, labels, inputs): (_, _, &[(String, Tensor)]) = match (&self.training, request.split) {
            (Some((answers, labels)), Split::Training) => (answers, Some(labels), &[]),
            _ if request.model == REFERENCE => (&self.reference, self.labels.as_ref(), &self.inputs),
            _ => (&self.candidate, self.labels.as_ref(), &self.inputs),
        };
        let end = request.limit.unwrap_or(usize::MAX).min(output.shape()[0]);
        self.requests.lock().unwrap().push(request);
        let name = self.output;
        let played = (0..end).step_by(2).map(move |at| {
            let range = at..(at + 2).min(end);
            let part = |name: &str, tensor: &Tensor| held(name, &rows(tensor, range.clone()));
            Batch {
                size: range.len() as u64,
                inputs: inputs.iter().map(|(name, input)| part(name, input)).collect(),
                labels: labels.map(|labels| part("labels", labels)).into(),
                outputs: RVec::from(vec![part(name, output)]),
            }
        });
        ROk(batches(played))
    }

    fn cancelled(&self) -> bool {
        self.cancelled
    }
}
