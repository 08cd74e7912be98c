//! The engine that is linked in: a run-time interpreter over Burn's tensors on the CPU.

mod call;
mod execution;
mod plan;
mod pullback;
mod value;
mod versions;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kmr_kernels::{Convolution, InstructionSet};
use kmr_model::{Dimension, Model, Node, Tensor};

use crate::{
    ComputeError, Engine, EngineIdentity, ErrorKind, Feeds, Mode, Program, Pullback, Refusal,
    operators::{self, Operator},
};

pub(crate) use call::{Call, Outputs, broadcast};
pub(crate) use value::{B, Float, Value, from_vec, indices, into_vec, is_tracked, mask, reshape, shape, with_slice};

/// The engine over Burn's tensors on the CPU, with convolutions of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interpreter;

impl Engine for Interpreter {
    fn identity(&self) -> EngineIdentity {
        EngineIdentity {
            name: "interpreter".into(),
            version: concat!(env!("CARGO_PKG_VERSION"), "+burn-0.22.1").into(),
            instruction_set: InstructionSet::detect().name().into(),
        }
    }

    fn supports(&self, model: &Model) -> Vec<Refusal> {
        let nodes = model.graph.nodes.iter();
        nodes.filter_map(|node| resolve(model, node).err()).collect()
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Program>, ComputeError> {
        model
            .graph
            .check()
            .map_err(|error| ComputeError::new(ErrorKind::Name, error.place(), error.to_string()))?;
        Ok(Box::new(Interpretation(Arc::new(Network::new(model)))))
    }
}

/// The operator of a node, or why it cannot be executed.
fn resolve(model: &Model, node: &Node) -> Result<&'static Operator, Refusal> {
    let refusal = || Refusal::new(model, node);
    if node.domain().is_empty()
        && let Some(reason) = versions::refusal(node, model.opset())
    {
        return Err(refusal().because(reason));
    }
    operators::find(node).ok_or_else(refusal)
}

/// Position of a value among all values of a graph.
type ValueId = usize;

/// A node with its operator and values found.
struct Prepared {
    node: Arc<Node>,
    operator: Result<&'static Operator, Refusal>,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
    /// The packed weights of a convolution with constant weights.
    packed: Mutex<Option<Arc<Convolution>>>,
}

/// What is remembered of a declared input, to refuse what does not fit it.
struct Declared {
    dtype: Option<kmr_model::DType>,
    shape: Option<Vec<Dimension>>,
}

/// A graph, ready for execution.
struct Network {
    opset: i64,
    nodes: Vec<Prepared>,
    names: Vec<String>,
    ids: HashMap<String, ValueId>,
    producers: Vec<Option<usize>>,
    initial: Vec<Option<Arc<Tensor>>>,
    declared: HashMap<ValueId, Declared>,
    outputs: Vec<ValueId>,
    plans: Mutex<HashMap<plan::Key, Arc<plan::Plan>>>,
    /// Initializers as they are executed, and what constant nodes made of them.
    constants: Mutex<HashMap<ValueId, Value>>,
}

/// Locks what stays whole even if a thread panicked: entries are inserted complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    fn new(model: &Model) -> Self {
        let mut network = Self {
            opset: model.opset(),
            nodes: Vec::with_capacity(model.graph.nodes.len()),
            names: Vec::new(),
            ids: HashMap::new(),
            producers: Vec::new(),
            initial: Vec::new(),
            declared: HashMap::new(),
            outputs: Vec::new(),
            plans: Mutex::default(),
            constants: Mutex::default(),
        };
        for input in model.graph.feeds() {
            let id = network.id(input.name());
            let declared = Declared {
                dtype: input.dtype(),
                shape: input.shape(),
            };
            network.declared.insert(id, declared);
        }
        for (name, initializer) in &model.graph.initializers {
            let id = network.id(name);
            network.initial[id] = Some(initializer.tensor.clone());
        }
        for (position, node) in model.graph.nodes.iter().enumerate() {
            let named = |name: &&String| !name.is_empty();
            let inputs = node.inputs().iter();
            let inputs = inputs.map(|name| Some(name).filter(named).map(|name| network.id(name)));
            let inputs = inputs.collect();
            let outputs = node.outputs().iter();
            let outputs = outputs.map(|name| Some(name).filter(named).map(|name| network.id(name)));
            let outputs: Vec<Option<ValueId>> = outputs.collect();
            for output in outputs.iter().flatten() {
                network.producers[*output] = Some(position);
            }
            network.nodes.push(Prepared {
                operator: resolve(model, node),
                node: node.clone(),
                inputs,
                outputs,
                packed: Mutex::default(),
            });
        }
        let outputs = model.graph.outputs.iter();
        network.outputs = outputs.map(|output| network.id(output.name())).collect();
        network
    }

    fn id(&mut self, name: &str) -> ValueId {
        if let Some(&id) = self.ids.get(name) {
            return id;
        }
        let id = self.names.len();
        self.ids.insert(name.to_owned(), id);
        self.names.push(name.to_owned());
        self.producers.push(None);
        self.initial.push(None);
        id
    }

    fn find(&self, name: &str) -> Result<ValueId, ComputeError> {
        self.ids.get(name).copied().ok_or_else(|| {
            ComputeError::new(
                ErrorKind::Name,
                format!("value `{name}`"),
                "does not exist in this model",
            )
        })
    }
}

/// The program of this engine.
struct Interpretation(Arc<Network>);

impl Program for Interpretation {
    fn forward(&self, feeds: &Feeds, outputs: &[&str], mode: Mode) -> Result<Vec<Tensor>, ComputeError> {
        execution::forward(&self.0, feeds, outputs, mode)
    }

    fn pullback(
        &self,
        feeds: &Feeds,
        outputs: &[&str],
        trainable: &[&str],
        mode: Mode,
    ) -> Result<Box<dyn Pullback>, ComputeError> {
        pullback::new(&self.0, feeds, outputs, trainable, mode)
    }
}
