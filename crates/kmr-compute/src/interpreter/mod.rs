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
    collections::{HashMap, HashSet},
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

/// Bytes of a graph's initializers, as float32, up to which what they and constant nodes are made into is kept; what is
/// float32 already is shared with the model anyway. Beyond it, every execution makes anew what large ones are made into,
/// and drops it after its last use.
const KEPT_BYTES: usize = 1 << 30;
/// Initializers of this many bytes, as float32, are large.
const LARGE: usize = 64 << 10;

/// What the nodes of a graph mean: the imported operator sets, and how deep the graph lies within others.
struct Scope {
    sets: Arc<[OperatorSet]>,
    opset: i64,
    depth: usize,
    kept_bytes: usize,
}

impl Scope {
    fn new(model: &Model) -> Self {
        Self {
            sets: model.operator_sets().into(),
            opset: model.opset(),
            depth: 0,
            kept_bytes: KEPT_BYTES,
        }
    }

    fn inner(&self) -> Self {
        Self {
            sets: self.sets.clone(),
            opset: self.opset,
            depth: self.depth + 1,
            kept_bytes: self.kept_bytes,
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
    /// Initializers of which nothing is kept from one execution to the next.
    passing: HashSet<ValueId>,
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
            passing: HashSet::new(),
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
        network.passing = network.too_much(scope.kept_bytes);
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

    /// The large initializers, if all of them take more than `kept_bytes` as float32.
    fn too_much(&self, kept_bytes: usize) -> HashSet<ValueId> {
        let initial = self.initial.iter().enumerate();
        let sizes = initial.filter_map(|(id, tensor)| Some((id, tensor.as_ref()?.len().saturating_mul(4))));
        let sizes: Vec<(ValueId, usize)> = sizes.collect();
        match sizes.iter().map(|(_, bytes)| bytes).sum::<usize>() > kept_bytes {
            true => sizes
                .into_iter()
                .filter(|(_, bytes)| *bytes >= LARGE)
                .map(|(id, _)| id)
                .collect(),
            false => HashSet::new(),
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

#[cfg(test)]
mod tests {
    use kmr_model::Dimension;

    use super::*;

    /// A product with a weight of 16 bits, one with codes and their scales, and a sum.
    fn model() -> Model {
        let mut graph = Graph::new("large");
        let shape = [Dimension::Unknown, Dimension::Fixed(160)];
        graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &shape)];
        graph.outputs = vec![ValueInfo::tensor("y", DType::FLOAT, &shape)];
        let numbers = (0..160 * 160).map(|at| (at * 37 % 101) as f32 / 64.0 - 0.7);
        let halves = numbers.clone().map(half::bf16::from_f32).collect::<Vec<_>>();
        let codes = (0..160 * 160).map(|at| (at * 53 % 251) as u8 as i8).collect::<Vec<_>>();
        for (name, tensor) in [
            ("first", Tensor::from_vec(vec![160, 160], halves)),
            ("codes", Tensor::from_vec(vec![160, 160], codes)),
            ("scale", Tensor::from_vec(vec![160, 1], vec![0.01_f32; 160])),
            ("third", Tensor::from_vec(vec![160, 160], numbers.collect::<Vec<_>>())),
        ] {
            graph.initializers.insert(name.into(), tensor.into());
        }
        for node in [
            Node::new("Cast", "", &["first"], &["first_wide"]).with_int("to", 1),
            Node::new("MatMul", "", &["x", "first_wide"], &["a"]),
            Node::new("Cast", "", &["codes"], &["real"]).with_int("to", 1),
            Node::new("Mul", "", &["real", "scale"], &["second"]),
            Node::new("Gemm", "", &["a", "second"], &["b"]).with_int("transB", 1),
            Node::new("MatMul", "", &["b", "third"], &["y"]),
        ] {
            graph.nodes.push(Arc::new(node));
        }
        Model::new(graph, 10, 21)
    }

    #[test]
    fn of_large_weights_nothing_is_kept_and_answers_stay() {
        let model = model();
        let loaded = |kept_bytes: usize| {
            let scope = Scope {
                kept_bytes,
                ..Scope::new(&model)
            };
            Arc::new(Network::new(Source::new(&model.graph), &scope))
        };
        let x = (0..3 * 160).map(|at| (at % 17) as f32 - 8.0).collect::<Vec<_>>();
        let feeds = Feeds::from([("x".to_owned(), Tensor::from_vec(vec![3, 160], x))]);
        let answer = |network: &Arc<Network>| {
            let program = Interpretation(network.clone());
            program.forward(&feeds, &[], Mode::default()).unwrap()
        };
        let (all, none) = (loaded(usize::MAX), loaded(3 * 4 * 160 * 160));
        let first = answer(&none);
        assert_eq!(first, answer(&all));
        assert_eq!(first, answer(&none));
        let kept = |network: &Network, name: &str| lock(&network.constants).contains_key(&network.ids[name]);
        for name in ["first", "first_wide", "codes", "real", "second", "third"] {
            assert!(!kept(&none, name), "{name}");
        }
        assert!(kept(&none, "scale"), "what is small is kept");
        for name in ["first_wide", "second", "third"] {
            assert!(kept(&all, name), "{name}");
        }
        // Derivatives read the same values.
        let gradient = |network: &Arc<Network>| {
            let program = Interpretation(network.clone());
            let pullback = program.pullback(&feeds, &["y"], &["scale"], Mode::default()).unwrap();
            let outputs = pullback.outputs().to_vec();
            pullback.pull(outputs).unwrap()
        };
        assert_eq!(gradient(&none), gradient(&all));
    }
}
