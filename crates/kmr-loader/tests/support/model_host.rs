//! A host with a model that rules can edit, and no data.

use std::sync::{Arc, Mutex};

use kmr_abi::{
    AbiResult, BatchIteratorBox, ErrorCode, Host, Host_TO, HostRef, OutputBuffer, OutputBuffer_TO, OutputBufferBox,
    PluginError, SessionBox, SharedTensor, SharedTensor_TO, SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RErr, ROk, RSlice, RSliceMut, RStr, RVec},
    },
    guard,
};
use kmr_model::{Model, Tensor};
use kmr_sdk::{
    tensors::{describe, read_description},
    wire::EditRequest,
};

pub struct ModelHost {
    candidate: Mutex<Model>,
    committed: Arc<Mutex<Vec<Tensor>>>,
}

impl ModelHost {
    pub fn new(model: Model) -> Self {
        Self {
            candidate: Mutex::new(model),
            committed: Arc::default(),
        }
    }

    /// Lends the host for a call.
    pub fn lend(&self) -> HostRef<'_> {
        Host_TO::from_ptr(RRef::new(self), TD_Opaque)
    }

    /// The model as the edits left it.
    pub fn candidate(&self) -> Model {
        self.candidate.lock().unwrap().clone()
    }
}

impl Host for ModelHost {
    fn graph(&self, _: RStr<'_>) -> AbiResult<RVec<u8>> {
        guard(|| Ok(self.candidate().encode_without_tensors().into()))
    }

    fn tensor(&self, _: RStr<'_>, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| {
            let candidate = self.candidate();
            let tensor = candidate.graph.tensor(name.as_str());
            let tensor = tensor.ok_or_else(|| PluginError::new(ErrorCode::NOT_FOUND, "no such tensor"))?;
            let shared = Shared {
                name: name.into(),
                tensor: Tensor::clone(tensor),
            };
            Ok(SharedTensor_TO::from_value(shared, TD_Opaque))
        })
    }

    fn output<'a>(&'a self, description: TensorDescription) -> AbiResult<OutputBufferBox<'a>> {
        guard(|| {
            let (dtype, shape) = read_description(&description)?;
            let elements = shape.iter().product();
            let bytes = vec![0; dtype.byte_len(elements).expect("a small tensor")];
            let buffer = Buffer {
                description,
                bytes,
                committed: Arc::clone(&self.committed),
            };
            Ok(OutputBuffer_TO::from_value(buffer, TD_Opaque))
        })
    }

    fn edit(&self, operations: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        guard(|| {
            let request: EditRequest = serde_json::from_str(operations.as_str()).unwrap();
            let committed = self.committed.lock().unwrap();
            let patch = request.to_patch(attachments.as_slice(), |number| {
                Ok(committed[usize::try_from(number).unwrap()].clone())
            })?;
            let mut candidate = self.candidate.lock().unwrap();
            let graph = patch.apply(&candidate.graph).unwrap();
            *candidate = candidate.with_graph(graph);
            Ok(())
        })
    }

    fn run<'a>(&'a self, _: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        no_data()
    }

    fn observe(&self, _: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        no_data()
    }

    fn open_session<'a>(&'a self, _: RStr<'_>, _: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>> {
        no_data()
    }

    fn progress(&self, _: f64, _: RStr<'_>) -> AbiResult<()> {
        ROk(())
    }

    fn cancelled(&self) -> AbiResult<bool> {
        ROk(false)
    }

    fn seed(&self) -> AbiResult<u64> {
        ROk(0)
    }

    fn threads(&self) -> AbiResult<u64> {
        ROk(1)
    }
}

fn no_data<T>() -> AbiResult<T> {
    RErr(PluginError::new(ErrorCode::UNSUPPORTED, "this host has no data"))
}

struct Shared {
    name: String,
    tensor: Tensor,
}

impl SharedTensor for Shared {
    fn description(&self) -> AbiResult<TensorDescription> {
        ROk(describe(&self.name, self.tensor.dtype(), self.tensor.shape()))
    }

    fn bytes<'a>(&'a self) -> AbiResult<RSlice<'a, u8>> {
        ROk(RSlice::from_slice(self.tensor.bytes()))
    }
}

struct Buffer {
    description: TensorDescription,
    bytes: Vec<u8>,
    committed: Arc<Mutex<Vec<Tensor>>>,
}

impl OutputBuffer for Buffer {
    fn bytes<'a>(&'a mut self) -> AbiResult<RSliceMut<'a, u8>> {
        ROk(RSliceMut::from_mut_slice(&mut self.bytes))
    }

    fn commit(&mut self) -> AbiResult<u64> {
        guard(|| {
            let (dtype, shape) = read_description(&self.description)?;
            let tensor = Tensor::new(dtype, shape, std::mem::take(&mut self.bytes).into()).unwrap();
            let mut committed = self.committed.lock().unwrap();
            committed.push(tensor);
            Ok(committed.len() as u64 - 1)
        })
    }
}
