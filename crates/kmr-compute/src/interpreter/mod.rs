//! The engine that is linked in: a run-time interpreter over Burn's tensors on the CPU.

mod call;
mod datum;
mod execution;
mod plan;
mod reverse;
mod subgraph;
mod value;
mod versions;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kmr_kernels::{Convolution, InstructionSet};
use kmr_model::{DType, Dimension, Graph, Model, Node, OperatorSet, Tensor, ValueInfo};

use crate::{
    ComputeError, Engine, EngineIdentity, ErrorKind, Feeds, Mode, Program, Pullback, Refusal,
    operators::{self, Operator},
};

use subgraph::Subgraph;

pub(crate) use call::{Call, Data, Outputs, broadcast};
pub(crate) use datum::Datum;
pub(crate) use reverse::{Recorded, kernel_error};
pub(crate) use subgraph::Body;
pub(crate) use value::{
    B, Float, Value, canonical, from_vec, indices, into_vec, is_tracked, mask, reshape, shape, with_slice,
};

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
        let mut refusals = Vec::new();
        // Where a function cannot be inlined, its calls are refused.
        let inlined = inlined(model).unwrap_or_else(|_| model.clone());
        Network::new(Source::new(&inlined.graph), &Scope::new(&inlined)).refusals(&mut refusals);
        refusals
    }

    fn load(&self, model: &Model) -> Result<Box<dyn Program>, ComputeError> {
        model
            .graph
            .check()
            .map_err(|error| ComputeError::new(ErrorKind::Name, error.place(), error.to_string()))?;
        let model = inlined(model)?;
        let network = Network::new(Source::new(&model.graph), &Scope::new(&model));
        Ok(Box::new(Interpretation(Arc::new(network))))
    }
}

/// The model without functions of its own.
fn inlined(model: &Model) -> Result<Model, ComputeError> {
    if !model.has_functions() {
        return Ok(model.clone());
    }
    let inlined = model.inline_functions().map_err(|error| {
        let kind = match error.kind() {
            kmr_model::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Name,
        };
        ComputeError::new(kind, error.place(), error.to_string())
    })?;
    Ok(inlined.0)
}

/// What the nodes of a graph mean: the imported operator sets, and how deep the graph lies within others.
struct Scope {
    sets: Arc<[OperatorSet]>,
    opset: i64,
    depth: usize,
}

impl Scope {
    fn new(model: &Model) -> Self {
        Self {
            sets: model.operator_sets().into(),
            opset: model.opset(),
            depth: 0,
        }
    }

    fn inner(&self) -> Self {
        Self {
            sets: self.sets.clone(),
            opset: self.opset,
            depth: self.depth + 1,
        }
    }

    /// The operator of a node, or why it cannot be executed.
    fn resolve(&self, node: &Node) -> Result<&'static Operator, Refusal> {
        if node.domain().is_empty()
            && let Some(reason) = versions::refusal(node, self.opset)
        {
            return Err(self.refuse(node).because(reason));
        }
        operators::find(node).ok_or_else(|| self.refuse(node))
    }

    fn refuse(&self, node: &Node) -> Refusal {
        Refusal::among(&self.sets, node)
    }
}

/// What a graph consists of, be it a model's own or one inside of a node.
struct Source {
    nodes: Vec<Arc<Node>>,
    initializers: Vec<(String, Arc<Tensor>)>,
    /// The inputs that must be fed.
    inputs: Vec<(String, Declared)>,
    outputs: Vec<(String, Declared)>,
}

impl Source {
    fn new(graph: &Graph) -> Self {
        let named = |value: &ValueInfo| (value.name().to_owned(), Declared::new(value));
        let initializers = graph.initializers.iter();
        Self {
            nodes: graph.nodes.clone(),
            initializers: initializers
                .map(|(name, initializer)| (name.clone(), initializer.tensor.clone()))
                .collect(),
            inputs: graph.feeds().map(named).collect(),
            outputs: graph.outputs.iter().map(named).collect(),
        }
    }
}

/// Position of a value among all values of a graph.
type ValueId = usize;

/// A node with its operator and values found.
struct Prepared {
    node: Arc<Node>,
    operator: Result<&'static Operator, Refusal>,
    inputs: Vec<Option<ValueId>>,
    outputs: Vec<Option<ValueId>>,
    /// Version of the node's operator set, where that is not the standard one.
    version: Option<i64>,
    subgraphs: Vec<Subgraph>,
    /// The packed weights of a convolution with constant weights.
    packed: Mutex<Option<Arc<Convolution>>>,
}

impl Prepared {
    /// The values that the node needs: its inputs, and what its subgraphs read.
    fn reads(&self) -> impl Iterator<Item = &ValueId> {
        let captured = self.subgraphs.iter().flat_map(|subgraph| &subgraph.captured);
        self.inputs.iter().flatten().chain(captured.map(|(outer, _)| outer))
    }
}

/// What is declared of an input or an output.
pub(crate) struct Declared {
    pub dtype: Option<DType>,
    pub shape: Option<Vec<Dimension>>,
}

impl Declared {
    fn new(value: &ValueInfo) -> Self {
        Self {
            dtype: value.dtype(),
            shape: value.shape(),
        }
    }
}

/// A graph, ready for execution.
struct Network {
    opset: i64,
    nodes: Vec<Prepared>,
    names: Vec<String>,
    ids: HashMap<String, ValueId>,
    producers: Vec<Option<usize>>,
    initial: Vec<Option<Arc<Tensor>>>,
    inputs: Vec<ValueId>,
    /// Of the inputs, to refuse what does not fit them.
    declared: HashMap<ValueId, Declared>,
    outputs: Vec<ValueId>,
    declared_outputs: Vec<Declared>,
    plans: Mutex<HashMap<plan::Key, Arc<plan::Plan>>>,
    /// Initializers as they are executed, and what constant nodes made of them.
    constants: Mutex<HashMap<ValueId, Datum>>,
}

/// Locks what stays whole even if a thread panicked: entries are inserted complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Network {
    fn new(source: Source, scope: &Scope) -> Self {
        let mut network = Self {
            opset: scope.opset,
            nodes: Vec::with_capacity(source.nodes.len()),
            names: Vec::new(),
            ids: HashMap::new(),
            producers: Vec::new(),
            initial: Vec::new(),
            inputs: Vec::new(),
            declared: HashMap::new(),
            outputs: Vec::new(),
            declared_outputs: Vec::new(),
            plans: Mutex::default(),
            constants: Mutex::default(),
        };
        for (name, declared) in source.inputs {
            let id = network.id(&name);
            network.inputs.push(id);
            network.declared.insert(id, declared);
        }
        for (name, tensor) in source.initializers {
            let id = network.id(&name);
            network.initial[id] = Some(tensor);
        }
        for node in source.nodes {
            network.add(node, scope);
        }
        for (name, declared) in source.outputs {
            let id = network.id(&name);
            network.outputs.push(id);
            network.declared_outputs.push(declared);
        }
        network.refuse_disorder(scope);
        network
    }

    fn add(&mut self, node: Arc<Node>, scope: &Scope) {
        let position = self.nodes.len();
        let mut operator = scope.resolve(&node);
        let subgraphs = match &operator {
            Ok(_) => Subgraph::all(&node, scope, |name| self.id(name)).unwrap_or_else(|reason| {
                operator = Err(scope.refuse(&node).because(reason));
                Vec::new()
            }),
            Err(_) => Vec::new(),
        };
        let mut ids = |names: &[String]| -> Vec<Option<ValueId>> {
            let names = names.iter();
            names.map(|name| (!name.is_empty()).then(|| self.id(name))).collect()
        };
        let (inputs, outputs) = (ids(node.inputs()), ids(node.outputs()));
        for &output in outputs.iter().flatten() {
            if self.producers[output].replace(position).is_some() || self.initial[output].is_some() {
                let reason = format!("writes `{}`, which exists already", self.names[output]);
                operator = Err(scope.refuse(&node).because(reason));
            }
        }
        let foreign = |set: &&OperatorSet| !set.domain.is_empty() && set.domain == node.domain();
        self.nodes.push(Prepared {
            version: scope.sets.iter().find(foreign).map(|set| set.version),
            node,
            operator,
            inputs,
            outputs,
            subgraphs,
            packed: Mutex::default(),
        });
    }

    /// Refuses nodes that read what is made only after them.
    fn refuse_disorder(&mut self, scope: &Scope) {
        for (position, node) in self.nodes.iter_mut().enumerate() {
            let early = |id: &&ValueId| self.producers[**id].is_some_and(|producer| producer >= position);
            let early = node.reads().find(early).copied();
            if let Some(id) = early {
                let reason = format!("reads `{}`, which no node before it makes", self.names[id]);
                node.operator = Err(scope.refuse(&node.node).because(reason));
            }
        }
    }

    /// The values that are neither made nor given here.
    fn captured(&self) -> impl Iterator<Item = ValueId> {
        (0..self.names.len()).filter(|id| {
            self.producers[*id].is_none() && self.initial[*id].is_none() && !self.declared.contains_key(id)
        })
    }

    /// Adds the nodes that cannot be executed, here and in subgraphs.
    fn refusals(&self, refusals: &mut Vec<Refusal>) {
        for node in &self.nodes {
            refusals.extend(node.operator.as_ref().err().cloned());
            for subgraph in &node.subgraphs {
                subgraph.refusals(refusals);
            }
        }
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
        reverse::new(&self.0, feeds, outputs, trainable, mode)
    }
}
