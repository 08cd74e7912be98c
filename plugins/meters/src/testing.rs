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
use kmr_sdk::{RunRequest, model::Tensor};
use kmr_testkit::held;

/// A host whose models have one output, `logits`.
pub struct CannedHost {
    candidate: Tensor,
    reference: Tensor,
    labels: Option<Vec<i64>>,
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
            cancelled: false,
            requests: Mutex::default(),
        }
    }

    pub fn labeled(mut self, labels: Vec<i64>) -> Self {
        self.labels = Some(labels);
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
    host: &'h CannedHost,
    output: &'h Tensor,
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
        let mut shape = self.output.shape().to_vec();
        let bytes = self.output.byte_len() / shape[0];
        shape[0] = range.len();
        let bytes = self.output.bytes().slice(range.start * bytes..range.end * bytes);
        let output = Tensor::new(self.output.dtype(), shape, bytes).unwrap();
        let labels = self.host.labels.as_ref().map(|labels| {
            let labels = labels[range.clone()].to_vec();
            held("labels", &Tensor::from_vec(vec![labels.len()], labels))
        });
        ROk(RSome(Batch {
            size: range.len() as u64,
            inputs: RVec::new(),
            labels: labels.into(),
            outputs: RVec::from(vec![held("logits", &output)]),
        }))
    }
}

fn absent<T>() -> AbiResult<T> {
    RErr(PluginError::new(ErrorCode::DENIED, "not for meters"))
}

impl kmr_abi::Host for CannedHost {
    fn run<'a>(&'a self, request: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        let request: RunRequest = kmr_sdk::serde_json::from_str(request.as_str()).unwrap();
        let output = if request.model == REFERENCE {
            &self.reference
        } else {
            &self.candidate
        };
        let end = request.limit.unwrap_or(usize::MAX).min(output.shape()[0]);
        self.requests.lock().unwrap().push(request);
        let player = Player {
            host: self,
            output,
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
