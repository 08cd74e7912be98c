//! The parts of a host that tests of plugins have in common: models that are read and edited, handles to tensors,
//! buffers that are filled and committed. What the host answers beside these, each test's own host says as its
//! [`Answers`].

mod answers;
mod subject;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use kmr_abi::{
    AbiResult, ErrorCode, OutputBuffer, OutputBuffer_TO, OutputBufferBox, PluginError, SharedTensor, SharedTensor_TO,
    SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        std_types::{RErr, ROk, RSlice, RSliceMut, RVec},
    },
    guard,
};
use kmr_sdk::{
    Error, Result,
    model::{Build, DType, Graph, Patch, Tensor, stored::store_half},
    tensors::{describe, read_description},
    wire::EditRequest,
};

pub use answers::{Answers, batches, lend};
pub use subject::Subject;

struct Held(String, Tensor);

impl SharedTensor for Held {
    fn description(&self) -> AbiResult<TensorDescription> {
        ROk(describe(&self.0, self.1.dtype(), self.1.shape()))
    }

    fn bytes(&self) -> AbiResult<RSlice<'_, u8>> {
        ROk(RSlice::from_slice(self.1.bytes()))
    }
}

/// `graph` with those of its float32 initializers that are meant in bfloat16, and a Cast behind each.
///
/// # Panics
/// If the graph cannot be edited.
pub fn halved(graph: &Graph, is_meant: impl Fn(&str) -> bool) -> Graph {
    let mut build = Build::on(graph);
    build.place(graph.nodes.first().map(|node| node.id()));
    for (name, held) in graph.initializers.iter().filter(|(name, _)| is_meant(name)) {
        if let Ok(values) = held.tensor.values::<f32>() {
            let half = Tensor::from_f32(DType::BFLOAT16, held.tensor.shape().to_vec(), values.into_owned());
            store_half(&mut build, name, half.expect("bfloat16 holds real numbers"));
        }
    }
    build.finish().apply(graph).expect("what is read stays")
}

/// A handle to a tensor.
pub fn held(name: &str, tensor: &Tensor) -> SharedTensorBox {
    SharedTensor_TO::from_value(Held(name.into(), tensor.clone()), TD_Opaque)
}

/// A failure of the host.
pub fn fail<T>(code: ErrorCode, error: impl ToString) -> AbiResult<T> {
    RErr(PluginError::new(code, error.to_string()))
}

/// Buffers that a plugin fills, by the number that their commit gave.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Committed>>);

#[derive(Default)]
struct Committed {
    tensors: HashMap<u64, Tensor>,
    next: u64,
}

impl Buffers {
    /// Memory for a tensor.
    pub fn buffer<'a>(&self, description: TensorDescription) -> AbiResult<OutputBufferBox<'a>> {
        guard(|| {
            let (dtype, shape) = read_description(&description)?;
            let length = dtype.byte_len(shape.iter().product());
            let buffer = Buffer {
                bytes: vec![0; length.ok_or_else(|| Error::unsupported("is no number of bytes"))?],
                description,
                buffers: self.clone(),
            };
            Ok(OutputBuffer_TO::from_value(buffer, TD_Opaque))
        })
    }

    /// The patch of an edit, whose buffers are taken.
    ///
    /// # Errors
    /// If a buffer was not committed, or an attachment is malformed.
    pub fn patch(&self, request: EditRequest, attachments: &[RVec<u8>]) -> Result<Patch> {
        request.to_patch(attachments, |number| {
            let mut committed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let tensor = committed.tensors.remove(&number);
            tensor.ok_or_else(|| Error::not_found(format!("no committed buffer has the number {number}")))
        })
    }
}

struct Buffer {
    description: TensorDescription,
    bytes: Vec<u8>,
    buffers: Buffers,
}

impl OutputBuffer for Buffer {
    fn bytes(&mut self) -> AbiResult<RSliceMut<'_, u8>> {
        ROk(RSliceMut::from_mut_slice(&mut self.bytes))
    }

    fn commit(&mut self) -> AbiResult<u64> {
        guard(|| {
            let (dtype, shape) = read_description(&self.description)?;
            let tensor = Tensor::new(dtype, shape, std::mem::take(&mut self.bytes).into()).map_err(Error::from)?;
            let mut committed = self.buffers.0.lock().unwrap_or_else(PoisonError::into_inner);
            let number = committed.next;
            committed.next += 1;
            committed.tensors.insert(number, tensor);
            Ok(number)
        })
    }
}

/// Numbers that look random, the same for the same seed, between -1 and 1.
pub fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Samples of a tensor: a part of its first axis.
///
/// # Panics
/// If they are not there.
pub fn rows(tensor: &Tensor, range: Range<usize>) -> Tensor {
    let indices: Vec<usize> = range.collect();
    tensor.taken(0, &indices).expect("a part of the first axis")
}
