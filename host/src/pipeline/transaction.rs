//! A candidate while a plugin edits it: what it sees is what it wrote.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kmr_abi::{AbiResult, ErrorCode, OutputBuffer, PluginError, abi_stable::std_types::RSliceMut, guard};
use kmr_compute::{Engine, Program};
use kmr_model::{DType, Model, Patch, Tensor};
use kmr_sdk::Error;

use super::store::{TensorMemory, TensorStore};

/// The present state of a candidate.
struct State {
    model: Model,
    program: Option<Arc<dyn Program>>,
    committed: HashMap<u64, Tensor>,
    next: u64,
}

/// A candidate that is edited by one call of a plugin, shared with everything that the call holds.
#[derive(Clone)]
pub struct Transaction(Arc<Mutex<State>>);

impl Transaction {
    /// A transaction that begins at `model`.
    pub fn new(model: Model) -> Self {
        Self(Arc::new(Mutex::new(State {
            model,
            program: None,
            committed: HashMap::new(),
            next: 1,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model as it is now.
    pub fn model(&self) -> Model {
        self.state().model.clone()
    }

    /// The model as it is now, ready to run.
    pub fn program(&self, engine: &dyn Engine) -> Result<Arc<dyn Program>, kmr_compute::ComputeError> {
        let mut state = self.state();
        if let Some(program) = &state.program {
            return Ok(program.clone());
        }
        let program: Arc<dyn Program> = Arc::from(engine.load(&state.model)?);
        state.program = Some(program.clone());
        Ok(program)
    }

    /// Makes the edits of a patch.
    pub fn apply(&self, patch: &Patch) -> Result<(), Error> {
        let mut state = self.state();
        let graph = patch.apply(&state.model.graph)?;
        state.model = state.model.with_graph(graph);
        state.program = None;
        Ok(())
    }

    /// Takes the tensor that was committed under `number`.
    pub fn take(&self, number: u64) -> Result<Tensor, Error> {
        let taken = self.state().committed.remove(&number);
        taken.ok_or_else(|| {
            let message = format!("no committed buffer has the number {number}; each can be stored once");
            Error::new(ErrorCode::INVALID_REQUEST, message)
        })
    }

    fn commit(&self, tensor: Tensor) -> u64 {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.committed.insert(number, tensor);
        number
    }

    /// Memory of `store` for a tensor of this type and shape.
    pub fn buffer(&self, store: &TensorStore, dtype: DType, shape: Vec<usize>) -> Result<Buffer, PluginError> {
        let elements = shape
            .iter()
            .try_fold(1_usize, |product, &size| product.checked_mul(size));
        let length = elements.and_then(|count| dtype.byte_len(count)).ok_or_else(|| {
            PluginError::new(
                ErrorCode::SHAPE,
                format!("{dtype} of shape {shape:?} is no number of bytes"),
            )
        })?;
        let memory = store.memory(length).map_err(|error| {
            PluginError::new(
                ErrorCode::OUT_OF_MEMORY,
                format!("there is no memory for {length} bytes: {error}"),
            )
        })?;
        Ok(Buffer {
            memory: Some(memory),
            dtype,
            shape,
            transaction: self.clone(),
        })
    }
}

/// Memory that a plugin fills.
pub struct Buffer {
    memory: Option<TensorMemory>,
    dtype: DType,
    shape: Vec<usize>,
    transaction: Transaction,
}

fn committed() -> PluginError {
    PluginError::new(ErrorCode::INVALID_REQUEST, "the buffer was committed already")
}

impl OutputBuffer for Buffer {
    fn bytes<'a>(&'a mut self) -> AbiResult<RSliceMut<'a, u8>> {
        guard(|| {
            let memory = self.memory.as_mut().ok_or_else(committed)?;
            Ok(memory.bytes_mut().into())
        })
    }

    fn commit(&mut self) -> AbiResult<u64> {
        guard(|| {
            let memory = self.memory.take().ok_or_else(committed)?;
            let tensor = Tensor::new(self.dtype, self.shape.clone(), memory.into_bytes())
                .map_err(|error| PluginError::new(ErrorCode::SHAPE, error.to_string()))?;
            Ok(self.transaction.commit(tensor))
        })
    }
}
