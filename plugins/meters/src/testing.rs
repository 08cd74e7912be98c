//! A host for tests: plays canned outputs of candidate and reference, in batches of two samples.

use std::sync::Mutex;

use kmr_abi::{
    AbiResult, Batch, BatchIterator, BatchIterator_TO, BatchIteratorBox, ErrorCode, Host_TO, HostRef, OutputBufferBox,
    PluginError, REFERENCE, SessionBox, SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RErr, RNone, ROk, ROption, RSlice, RSome, RStr, RVec},
    },
};
use kmr_sdk::{RunRequest, Split, model::Tensor};
use kmr_testkit::held;

/// A host whose models have one output, `logits`.
pub struct CannedHost {
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
        let raw: HostRef<'_> = Host_TO::from_ptr(RRef::new(self), TD_Opaque);
        body(&kmr_sdk::Host::new(raw))
    }
}

struct Player<'h> {
    output: &'h Tensor,
    labels: Option<&'h Tensor>,
    inputs: &'h [(String, Tensor)],
    at: usize,
    end: usize,
}

impl BatchIterator for Player<'_> {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        let range = self.at..(self.at + 2).min(self.end);
        if range.is_empty() {
            return ROk(RNone);
        }
        self.at = range.end;
        let part = |name: &str, tensor: &Tensor| held(name, &rows(tensor, range.clone()));
        ROk(RSome(Batch {
            size: range.len() as u64,
            inputs: self.inputs.iter().map(|(name, input)| part(name, input)).collect(),
            labels: self.labels.map(|labels| part("labels", labels)).into(),
            outputs: RVec::from(vec![part("logits", self.output)]),
        }))
    }
}

/// Samples of a tensor.
fn rows(tensor: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    let mut shape = tensor.shape().to_vec();
    let bytes = tensor.byte_len() / shape[0];
    shape[0] = range.len();
    let bytes = tensor.bytes().slice(range.start * bytes..range.end * bytes);
    Tensor::new(tensor.dtype(), shape, bytes).unwrap()
}

fn absent<T>() -> AbiResult<T> {
    RErr(PluginError::new(ErrorCode::DENIED, "not for meters"))
}

impl kmr_abi::Host for CannedHost {
    fn run<'a>(&'a self, request: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        let request: RunRequest = kmr_sdk::serde_json::from_str(request.as_str()).unwrap();
        let (output, labels, inputs) = match (&self.training, request.split) {
            (Some((answers, labels)), Split::Training) => (answers, Some(labels), &[][..]),
            _ if request.model == REFERENCE => (&self.reference, self.labels.as_ref(), &self.inputs[..]),
            _ => (&self.candidate, self.labels.as_ref(), &self.inputs[..]),
        };
        let end = request.limit.unwrap_or(usize::MAX).min(output.shape()[0]);
        self.requests.lock().unwrap().push(request);
        let player = Player {
            output,
            labels,
            inputs,
            at: 0,
            end,
        };
        ROk(BatchIterator_TO::from_value(player, TD_Opaque))
    }

    fn graph(&self, _: RStr<'_>) -> AbiResult<RVec<u8>> {
        absent()
    }

    fn tensor(&self, _: RStr<'_>, _: RStr<'_>) -> AbiResult<SharedTensorBox> {
        absent()
    }

    fn output<'a>(&'a self, _: TensorDescription) -> AbiResult<OutputBufferBox<'a>> {
        absent()
    }

    fn edit(&self, _: RStr<'_>, _: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        absent()
    }

    fn observe(&self, _: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        absent()
    }

    fn open_session<'a>(&'a self, _: RStr<'_>, _: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>> {
        absent()
    }

    fn progress(&self, _: f64, _: RStr<'_>) -> AbiResult<()> {
        ROk(())
    }

    fn cancelled(&self) -> AbiResult<bool> {
        ROk(self.cancelled)
    }

    fn seed(&self) -> AbiResult<u64> {
        ROk(0)
    }

    fn threads(&self) -> AbiResult<u64> {
        ROk(1)
    }
}
