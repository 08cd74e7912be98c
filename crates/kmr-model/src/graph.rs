//! The graph: nodes over named values, and the tensors they start from.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use indexmap::IndexMap;

use crate::{ErrorKind, ModelError, Node, Tensor, ValueInfo, codec::TensorShell, proto};

/// How an initializer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Every element.
    Dense,
    /// ONNX's `sparse_initializer`: the nonzero values and their linear int64 indices.
    Sparse,
}

/// A tensor that the graph starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct Initializer {
    /// The values.
    pub tensor: Arc<Tensor>,
    /// How they are written.
    pub layout: Layout,
    /// What else the file said about this tensor.
    pub(crate) shell: Option<Arc<TensorShell>>,
}

impl From<Tensor> for Initializer {
    fn from(tensor: Tensor) -> Self {
        Self {
            tensor: Arc::new(tensor),
            layout: Layout::Dense,
            shell: None,
        }
    }
}

/// A graph in static single-assignment form, its nodes in an order in which they can be executed.
///
/// Nodes and tensors are shared, so cloning a graph costs pointers, not data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// The operators, in execution order.
    pub nodes: Vec<Arc<Node>>,
    /// The tensors the graph starts from, by name, in file order.
    pub initializers: IndexMap<String, Initializer>,
    /// Declared inputs (old files declare initializers here too: see [`Graph::feeds`]).
    pub inputs: Vec<ValueInfo>,
    /// Declared outputs.
    pub outputs: Vec<ValueInfo>,
    /// Declared types of inner values.
    pub value_info: Vec<ValueInfo>,
    /// The rest of the message: name, documentation, annotations, unknown fields.
    pub(crate) shell: Arc<proto::GraphProto>,
}

impl Graph {
    /// An empty graph of this name.
    pub fn new(name: &str) -> Self {
        Self {
            shell: Arc::new(proto::GraphProto {
                name: Some(name.into()),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The graph's name.
    pub fn name(&self) -> &str {
        self.shell.name.as_deref().unwrap_or_default()
    }

    /// The inputs that must be fed: those that are not initializers.
    pub fn feeds(&self) -> impl Iterator<Item = &ValueInfo> {
        self.inputs
            .iter()
            .filter(|input| !self.initializers.contains_key(input.name()))
    }

    /// The tensor of the initializer `name`.
    pub fn tensor(&self, name: &str) -> Option<&Arc<Tensor>> {
        self.initializers.get(name).map(|initializer| &initializer.tensor)
    }

    /// The node of this [id](Node::id), in linear time; use [`Graph::index`] for many.
    pub fn node(&self, id: &str) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.id() == id)
    }

    /// Who makes and who reads each value.
    pub fn index(&self) -> GraphIndex<'_> {
        GraphIndex::new(self)
    }

    /// Checks what everything else relies on: unique names, and values defined before they are read.
    ///
    /// # Errors
    /// The first violation, with the node and value.
    pub fn check(&self) -> Result<(), ModelError> {
        self.check_names(true)
    }

    /// [`Graph::check`] for a graph in an attribute, which reads values of the graphs around it, too.
    pub(crate) fn check_inner(&self) -> Result<(), ModelError> {
        self.check_names(false)
    }

    fn check_names(&self, closed: bool) -> Result<(), ModelError> {
        let mut defined: HashSet<&str> = HashSet::new();
        for input in &self.inputs {
            if !defined.insert(input.name()) {
                return Err(ModelError::new(
                    ErrorKind::Name,
                    format!("input `{}`", input.name()),
                    "is declared twice",
                ));
            }
        }
        defined.extend(self.initializers.keys().map(String::as_str));
        for node in &self.nodes {
            let mut read: Vec<&str> = node.inputs().iter().map(String::as_str).collect();
            if node.has_subgraph() {
                read.extend(node.captures()?);
            }
            for input in read.into_iter().filter(|input| closed && !input.is_empty()) {
                if !defined.contains(input) {
                    return Err(ModelError::new(
                        ErrorKind::Name,
                        format!("node `{}`", node.label()),
                        format!("reads `{input}`, which nothing before it produces"),
                    ));
                }
            }
            for output in node.outputs().iter().filter(|o| !o.is_empty()) {
                if !defined.insert(output) {
                    return Err(ModelError::new(
                        ErrorKind::Name,
                        format!("node `{}`", node.label()),
                        format!("writes `{output}`, which exists already"),
                    ));
                }
            }
        }
        let undefined = |output: &&ValueInfo| closed && !defined.contains(output.name());
        match self.outputs.iter().find(undefined) {
            Some(output) => Err(ModelError::new(
                ErrorKind::Name,
                format!("output `{}`", output.name()),
                "is produced by nothing",
            )),
            None => Ok(()),
        }
    }
}

/// Who makes and who reads each value of a graph.
pub struct GraphIndex<'g> {
    producers: HashMap<&'g str, usize>,
    consumers: HashMap<&'g str, Vec<(usize, usize)>>,
    captured: HashSet<&'g str>,
    outputs: HashSet<&'g str>,
}

impl<'g> GraphIndex<'g> {
    fn new(graph: &'g Graph) -> Self {
        let mut index = Self {
            producers: HashMap::new(),
            consumers: HashMap::new(),
            captured: HashSet::new(),
            outputs: graph.outputs.iter().map(ValueInfo::name).collect(),
        };
        for (position, node) in graph.nodes.iter().enumerate() {
            for output in node.outputs().iter().filter(|o| !o.is_empty()) {
                index.producers.insert(output, position);
            }
            for (slot, input) in node.inputs().iter().enumerate().filter(|(_, i)| !i.is_empty()) {
                index.consumers.entry(input).or_default().push((position, slot));
            }
            index.captured.extend(node.captures().unwrap_or_default());
        }
        index
    }

    /// Position of the node that makes `value`; `None` for inputs and initializers.
    pub fn producer(&self, value: &str) -> Option<usize> {
        self.producers.get(value).copied()
    }

    /// The nodes that read `value`, as (node position, input slot).
    pub fn consumers(&self, value: &str) -> &[(usize, usize)] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// Whether a subgraph (of If, Loop, Scan) reads `value`.
    pub fn is_captured(&self, value: &str) -> bool {
        self.captured.contains(value)
    }

    /// Whether [`consumers`](Self::consumers) are all who read `value`: no subgraph does, and the graph does not put it
    /// out.
    pub fn is_inner(&self, value: &str) -> bool {
        !self.is_captured(value) && !self.outputs.contains(value)
    }

    /// The one who reads `value`, as (node position, input slot); none if there are others of any kind.
    pub fn sole_consumer(&self, value: &str) -> Option<(usize, usize)> {
        match self.consumers(value) {
            &[only] if self.is_inner(value) => Some(only),
            _ => None,
        }
    }
}
