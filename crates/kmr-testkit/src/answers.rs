//! A host of which a test says only what it cares for.

use kmr_abi::{
    AbiResult, Batch, BatchIterator, BatchIterator_TO, BatchIteratorBox, ErrorCode, Host_TO, HostRef, OutputBufferBox,
    PluginError, SessionBox, SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RErr, ROk, ROption, RSlice, RStr, RVec},
    },
};
use kmr_sdk::{
    Error, Result,
    model::Graph,
    serde_json,
    wire::{EditRequest, ObserveRequest, RunRequest, SessionRequest},
};
use serde::de::DeserializeOwned;

use crate::{Subject, fail, held};

/// What a host of tests answers; what it leaves out is refused. Models, tensors and edits are answered from its
/// [`Subject`].
pub trait Answers: Send + Sync {
    /// The models; none where plugins see none.
    fn subject(&self) -> Option<&Subject> {
        None
    }

    /// A run over data.
    fn run(&self, _: RunRequest) -> AbiResult<BatchIteratorBox<'_>> {
        fail(ErrorCode::UNSUPPORTED, "this host does not run models")
    }

    /// Statistics of inner values.
    fn observe(&self, _: &ObserveRequest) -> AbiResult<RVec<SharedTensorBox>> {
        fail(ErrorCode::UNSUPPORTED, "this host observes nothing")
    }

    /// A session on `graph`, which has the edits of the request already.
    fn open_session(&self, _: SessionRequest, _graph: Graph) -> AbiResult<SessionBox<'_>> {
        fail(ErrorCode::UNSUPPORTED, "this host trains nothing")
    }

    /// What is told of the call.
    fn progress(&self, _text: &str) {}

    /// Whether the call should end.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Lends `host` for a call.
pub fn lend<A: Answers, R>(host: &A, body: impl FnOnce(&kmr_sdk::Host<'_>) -> R) -> R {
    let served = Served(host);
    let raw: HostRef<'_> = Host_TO::from_ptr(RRef::new(&served), TD_Opaque);
    body(&kmr_sdk::Host::new(raw))
}

/// These batches, made one by one as they are asked for.
pub fn batches<'a>(batches: impl Iterator<Item = Batch> + Send + 'a) -> BatchIteratorBox<'a> {
    BatchIterator_TO::from_value(Played(batches), TD_Opaque)
}

struct Played<I>(I);

impl<I: Iterator<Item = Batch> + Send> BatchIterator for Played<I> {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        ROk(self.0.next().into())
    }
}

/// The contract's host around a test's.
struct Served<'h, A>(&'h A);

impl<A: Answers> Served<'_, A> {
    fn subject(&self) -> Result<&Subject> {
        let none = || Error::new(ErrorCode::DENIED, "this host shows no model");
        self.0.subject().ok_or_else(none)
    }
}

fn told<T>(result: Result<T>) -> AbiResult<T> {
    match result {
        Ok(value) => ROk(value),
        Err(error) => RErr(PluginError::from(error)),
    }
}

fn read<T: DeserializeOwned>(text: RStr<'_>) -> Result<T> {
    serde_json::from_str(text.as_str()).map_err(|error| Error::invalid_request(error.to_string()))
}

impl<A: Answers> kmr_abi::Host for Served<'_, A> {
    fn graph(&self, model: RStr<'_>) -> AbiResult<RVec<u8>> {
        let model = self.subject().and_then(|subject| subject.model(model.as_str()));
        told(model.map(|model| model.encode_without_tensors().into()))
    }

    fn tensor(&self, model: RStr<'_>, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        let subject = self.subject();
        let tensor = subject.and_then(|subject| subject.tensor(model.as_str(), name.as_str()));
        told(tensor.map(|tensor| held(name.as_str(), &tensor)))
    }

    fn output<'a>(&'a self, description: TensorDescription) -> AbiResult<OutputBufferBox<'a>> {
        match self.subject() {
            Ok(subject) => subject.buffers.buffer(description),
            Err(error) => told(Err(error)),
        }
    }

    fn edit(&self, operations: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        let edit = || {
            let (subject, request) = (self.subject()?, read::<EditRequest>(operations)?);
            subject.change(&subject.buffers.patch(request, attachments.as_slice())?)
        };
        told(edit())
    }

    fn run<'a>(&'a self, request: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        match read(request) {
            Ok(request) => self.0.run(request),
            Err(error) => told(Err(error)),
        }
    }

    fn observe(&self, request: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        match read(request) {
            Ok(request) => self.0.observe(&request),
            Err(error) => told(Err(error)),
        }
    }

    fn open_session<'a>(&'a self, request: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>> {
        let edited = || -> Result<(SessionRequest, Graph)> {
            let (subject, mut request) = (self.subject()?, read::<SessionRequest>(request)?);
            let mut graph = subject.model(&request.model)?.graph;
            if let Some(edits) = request.edits.take() {
                graph = subject.edited(&graph, edits, attachments.as_slice())?;
            }
            Ok((request, graph))
        };
        match edited() {
            Ok((request, graph)) => self.0.open_session(request, graph),
            Err(error) => told(Err(error)),
        }
    }

    fn progress(&self, _: f64, text: RStr<'_>) -> AbiResult<()> {
        self.0.progress(text.as_str());
        ROk(())
    }

    fn cancelled(&self) -> AbiResult<bool> {
        ROk(self.0.cancelled())
    }

    fn seed(&self) -> AbiResult<u64> {
        ROk(7)
    }

    fn threads(&self) -> AbiResult<u64> {
        ROk(1)
    }
}
