//! The host behind the binary contract: every function guarded, tensors as handles, documents read.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use kmr_abi::{
    AbiResult, BatchIterator_TO, BatchIteratorBox, BorrowedTensor, DropGuarded, Host_TO, HostRef,
    OutputBuffer_TO, OutputBufferBox, PluginError, Session_TO, SessionBox, SharedTensor_TO,
    SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RNone, ROption, RSlice, RSliceMut, RSome, RStr, RString, RVec},
    },
    guard,
};
use kmr_model::Tensor;
use kmr_sdk::{
    Batch, Error, Result,
    tensors::{describe, read_description},
    wire::EditRequest,
};
use serde::de::DeserializeOwned;

use crate::{BatchStream, HostServices, TrainingSession, output::Allocation};

/// Lends `services` to `call` as the contract's host.
pub fn lend<R>(services: &dyn HostServices, call: impl FnOnce(HostRef<'_>) -> R) -> R {
    let host = AbiHost {
        services,
        committed: Mutex::default(),
    };
    call(Host_TO::from_ptr(RRef::new(&host), TD_Opaque))
}

struct AbiHost<'a> {
    services: &'a dyn HostServices,
    committed: Mutex<Committed>,
}

/// Tensors that were committed and not stored yet.
#[derive(Default)]
struct Committed {
    count: u64,
    tensors: HashMap<u64, Tensor>,
}

impl AbiHost<'_> {
    fn committed(&self) -> MutexGuard<'_, Committed> {
        lock(&self.committed)
    }
}

/// Nothing that is done under the lock leaves it half done.
fn lock(committed: &Mutex<Committed>) -> MutexGuard<'_, Committed> {
    committed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T: DeserializeOwned>(json: RStr<'_>) -> Result<T> {
    serde_json::from_str(json.as_str()).map_err(|error| Error::invalid_request(error.to_string()))
}

/// A destructor of the host's that panics while a plugin drops the handle.
fn report(error: &PluginError) {
    log::error!(
        "the host {} while a plugin dropped a handle, at {}",
        error.message,
        error.location
    );
}

impl kmr_abi::Host for AbiHost<'_> {
    fn graph(&self, model: RStr<'_>) -> AbiResult<RVec<u8>> {
        guard(|| Ok(self.services.graph(model.as_str())?.into()))
    }

    fn tensor(&self, model: RStr<'_>, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| {
            Ok(handle(
                name.as_str(),
                self.services.tensor(model.as_str(), name.as_str())?,
            ))
        })
    }

    fn output<'a>(&'a self, description: TensorDescription) -> AbiResult<OutputBufferBox<'a>> {
        guard(|| {
            let buffer = AbiBuffer {
                allocation: Some(Allocation::new(&description)?),
                committed: &self.committed,
            };
            Ok(OutputBuffer_TO::from_value(buffer, TD_Opaque))
        })
    }

    fn edit(&self, operations: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        guard(|| {
            let request: EditRequest = read(operations)?;
            let patch = request.to_patch(attachments.as_slice(), |number| {
                let tensor = self.committed().tensors.remove(&number);
                tensor.ok_or_else(|| {
                    Error::invalid_request(format!("no buffer {number} waits to be stored"))
                })
            })?;
            Ok(self.services.edit(patch)?)
        })
    }

    fn run<'a>(&'a self, request: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        guard(|| {
            let batches = AbiBatches {
                stream: DropGuarded::new(self.services.run(read(request)?)?, report),
                ended: false,
            };
            Ok(BatchIterator_TO::from_value(batches, TD_Opaque))
        })
    }

    fn observe(&self, request: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        guard(|| Ok(handles(self.services.observe(read(request)?)?)))
    }

    fn open_session<'a>(&'a self, request: RStr<'_>) -> AbiResult<SessionBox<'a>> {
        guard(|| {
            let session = AbiSession(DropGuarded::new(
                self.services.open_session(read(request)?)?,
                report,
            ));
            Ok(Session_TO::from_value(session, TD_Opaque))
        })
    }

    fn progress(&self, fraction: f64, text: RStr<'_>) -> AbiResult<()> {
        guard(|| {
            self.services
                .progress(fraction.clamp(0.0, 1.0), text.as_str());
            Ok(())
        })
    }

    fn cancelled(&self) -> AbiResult<bool> {
        guard(|| Ok(self.services.cancelled()))
    }

    fn seed(&self) -> AbiResult<u64> {
        guard(|| Ok(self.services.seed()))
    }

    fn threads(&self) -> AbiResult<u64> {
        guard(|| Ok(self.services.threads().max(1) as u64))
    }
}

struct AbiTensor {
    name: String,
    tensor: DropGuarded<Tensor>,
}

impl kmr_abi::SharedTensor for AbiTensor {
    fn description(&self) -> AbiResult<TensorDescription> {
        guard(|| {
            Ok(describe(
                &self.name,
                self.tensor.dtype(),
                self.tensor.shape(),
            ))
        })
    }

    fn bytes<'a>(&'a self) -> AbiResult<RSlice<'a, u8>> {
        guard(|| Ok(RSlice::from_slice(self.tensor.bytes())))
    }
}

fn handle(name: &str, tensor: Tensor) -> SharedTensorBox {
    let tensor = AbiTensor {
        name: name.into(),
        tensor: DropGuarded::new(tensor, report),
    };
    SharedTensor_TO::from_value(tensor, TD_Opaque)
}

fn handles(tensors: Vec<(String, Tensor)>) -> RVec<SharedTensorBox> {
    tensors
        .into_iter()
        .map(|(name, tensor)| handle(&name, tensor))
        .collect()
}

struct AbiBuffer<'a> {
    /// None once it is committed.
    allocation: Option<Allocation>,
    committed: &'a Mutex<Committed>,
}

fn committed_before() -> PluginError {
    Error::invalid_request("the buffer was committed before").into()
}

impl kmr_abi::OutputBuffer for AbiBuffer<'_> {
    fn bytes<'a>(&'a mut self) -> AbiResult<RSliceMut<'a, u8>> {
        guard(|| {
            let allocation = self.allocation.as_mut().ok_or_else(committed_before)?;
            Ok(RSliceMut::from_mut_slice(allocation.bytes()))
        })
    }

    fn commit(&mut self) -> AbiResult<u64> {
        guard(|| {
            let tensor = self
                .allocation
                .take()
                .ok_or_else(committed_before)?
                .into_tensor()?;
            let mut committed = lock(self.committed);
            let number = committed.count;
            committed.count += 1;
            committed.tensors.insert(number, tensor);
            Ok(number)
        })
    }
}

fn batch_handles(batch: Batch) -> kmr_abi::Batch {
    kmr_abi::Batch {
        size: batch.size as u64,
        inputs: handles(batch.inputs),
        labels: batch.labels.map(|labels| handle("labels", labels)).into(),
        outputs: handles(batch.outputs),
    }
}

struct AbiBatches<'a> {
    stream: DropGuarded<BatchStream<'a>>,
    /// Also after an error or a panic: the stream is not asked again.
    ended: bool,
}

impl kmr_abi::BatchIterator for AbiBatches<'_> {
    fn next_batch(&mut self) -> AbiResult<ROption<kmr_abi::Batch>> {
        if std::mem::replace(&mut self.ended, true) {
            return kmr_abi::abi_stable::std_types::ROk(RNone);
        }
        guard(|| match self.stream.next() {
            Some(batch) => {
                let batch = batch_handles(batch?);
                self.ended = false;
                Ok(RSome(batch))
            }
            None => Ok(RNone),
        })
    }
}

struct AbiSession<'a>(DropGuarded<Box<dyn TrainingSession + 'a>>);

impl kmr_abi::Session for AbiSession<'_> {
    fn next_batch(&mut self) -> AbiResult<ROption<kmr_abi::Batch>> {
        guard(|| Ok(self.0.next_batch()?.map(batch_handles).into()))
    }

    fn forward(&mut self, outputs: RSlice<'_, RString>) -> AbiResult<RVec<SharedTensorBox>> {
        guard(|| {
            let names: Vec<String> = outputs
                .iter()
                .map(|name| name.as_str().to_owned())
                .collect();
            Ok(handles(self.0.forward(&names)?))
        })
    }

    fn backward(&mut self, cotangents: RVec<BorrowedTensor<'_>>) -> AbiResult<()> {
        guard(|| {
            let cotangents = cotangents.iter().map(owned).collect::<Result<_>>()?;
            Ok(self.0.backward(cotangents)?)
        })
    }

    fn gradient(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| Ok(handle(name.as_str(), self.0.gradient(name.as_str())?)))
    }

    fn parameter(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| Ok(handle(name.as_str(), self.0.parameter(name.as_str())?)))
    }
}

/// What a plugin lends for a call is copied: the host may keep it for longer.
fn owned(lent: &BorrowedTensor<'_>) -> Result<(String, Tensor)> {
    let name = lent.description.name.as_str().to_owned();
    let (dtype, shape) = read_description(&lent.description)?;
    let bytes = Bytes::copy_from_slice(lent.bytes.as_slice());
    let tensor =
        Tensor::new(dtype, shape, bytes).map_err(|error| Error::from(error).at(name.as_str()))?;
    Ok((name, tensor))
}
