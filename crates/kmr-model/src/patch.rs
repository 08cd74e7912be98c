//! Edits of a graph, applied copy-on-write.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{DType, Dimension, ErrorKind, Graph, Initializer, Layout, ModelError, Node, Tensor, proto};

/// One edit. Nodes are named by their [id](Node::id).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Edit {
    /// Stores a tensor as the initializer `name`, replacing or adding it.
    StoreTensor {
        /// The initializer.
        name: String,
        /// Its new values.
        tensor: Tensor,
    },
    /// Removes the initializer `name`, which nothing may read any more.
    RemoveTensor {
        /// The initializer.
        name: String,
    },
    /// Chooses how the initializer `name` is written.
    StoreSparse {
        /// The initializer.
        name: String,
        /// Whether it is written as a sparse tensor.
        sparse: bool,
    },
    /// Adds a node before the node `before`, or after all others.
    AddNode {
        /// The new node.
        node: Box<Node>,
        /// The id of the node that it goes before.
        before: Option<String>,
    },
    /// Removes a node, whose outputs nothing may read any more.
    RemoveNode {
        /// The node's id.
        node: String,
    },
    /// Makes input `input` of a node read `value`.
    Rewire {
        /// The node's id.
        node: String,
        /// The input's position; the first one past the end adds an input.
        input: usize,
        /// The value that it reads from now on; empty for none.
        value: String,
    },
    /// Sets an attribute of a node.
    SetAttribute {
        /// The node's id.
        node: String,
        /// The attribute.
        attribute: Box<proto::AttributeProto>,
    },
    /// Removes an attribute of a node.
    RemoveAttribute {
        /// The node's id.
        node: String,
        /// The attribute's name.
        name: String,
    },
    /// Declares a value's type anew.
    Retype {
        /// The value: an input, an output or an inner value.
        value: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<Dimension>,
    },
    /// Says that declared types of inner values stay true, but for those that the patch declares anew.
    KeepTypes,
}

/// A list of edits that apply together or not at all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// The edits, in order.
    pub edits: Vec<Edit>,
}

impl Patch {
    /// An empty patch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an edit.
    pub fn push(&mut self, edit: Edit) {
        self.edits.push(edit);
    }

    /// The graph with these edits made and checked. `graph` shares everything that did not change.
    ///
    /// Declared types of inner values stay as long as they are known to stay true: what comes after a tensor that
    /// changes its shape, and after a node that is new or reads or says something else, loses its declaration, unless
    /// the patch declares it anew or says [`Edit::KeepTypes`].
    ///
    /// # Errors
    /// [`ErrorKind::Name`] if an edit names what does not exist, or leaves a value undefined.
    pub fn apply(&self, graph: &Graph) -> Result<Graph, ModelError> {
        let mut work = Work::on(graph);
        for edit in &self.edits {
            work.apply(edit)?;
        }
        let result = work.finish();
        result.check()?;
        Ok(result)
    }
}

/// A graph while it is edited.
struct Work {
    /// Everything but the nodes.
    graph: Graph,
    nodes: Nodes,
    /// Initializers to be taken out at the end, all at once.
    removed: HashSet<String>,
    /// Values whose shape may be another one now.
    changed: HashSet<String>,
    /// Values whose type the patch declares.
    declared: HashSet<String>,
    keeps_types: bool,
}

impl Work {
    fn on(graph: &Graph) -> Self {
        let mut graph = graph.clone();
        let nodes = Nodes::of(std::mem::take(&mut graph.nodes));
        Self {
            graph,
            nodes,
            removed: HashSet::new(),
            changed: HashSet::new(),
            declared: HashSet::new(),
            keeps_types: false,
        }
    }

    fn apply(&mut self, edit: &Edit) -> Result<(), ModelError> {
        match edit {
            Edit::StoreTensor { name, tensor } => self.store(name, tensor),
            Edit::RemoveTensor { name } => {
                let exists = self.graph.initializers.contains_key(name);
                if !exists || !self.removed.insert(name.clone()) {
                    return Err(no_tensor(name));
                }
            }
            Edit::StoreSparse { name, sparse } => {
                let stored = self.graph.initializers.get_mut(name);
                let initializer = stored
                    .filter(|_| !self.removed.contains(name))
                    .ok_or_else(|| no_tensor(name))?;
                initializer.layout = if *sparse { Layout::Sparse } else { Layout::Dense };
            }
            Edit::AddNode { node, before } => {
                self.changed.extend(node.outputs().iter().cloned());
                self.nodes.add(Arc::new((**node).clone()), before.as_deref())?;
            }
            Edit::RemoveNode { node } => {
                let removed = self.nodes.remove(node)?;
                let outputs: HashSet<_> = removed.outputs().iter().map(String::as_str).collect();
                self.graph.value_info.retain(|value| !outputs.contains(value.name()));
            }
            Edit::Rewire { node, input, value } => {
                let node = self.nodes.get_mut(node)?;
                let label = node.label().to_owned();
                let inputs = &mut node.proto_mut().input;
                if *input == inputs.len() {
                    inputs.push(String::new());
                }
                let slot = inputs.get_mut(*input).ok_or_else(|| {
                    ModelError::new(
                        ErrorKind::Name,
                        format!("node `{label}`"),
                        format!("has no input {input}"),
                    )
                })?;
                slot.clone_from(value);
                self.changed.extend(node.outputs().iter().cloned());
            }
            Edit::SetAttribute { node, attribute } => {
                let node = self.nodes.get_mut(node)?;
                node.set_attribute((**attribute).clone());
                self.changed.extend(node.outputs().iter().cloned());
            }
            Edit::RemoveAttribute { node, name } => {
                let node = self.nodes.get_mut(node)?;
                let attributes = &mut node.proto_mut().attribute;
                attributes.retain(|attribute| attribute.name.as_deref() != Some(name));
                self.changed.extend(node.outputs().iter().cloned());
            }
            Edit::Retype { value, dtype, shape } => {
                let graph = &mut self.graph;
                let declared = graph
                    .inputs
                    .iter_mut()
                    .chain(&mut graph.outputs)
                    .chain(&mut graph.value_info);
                declared
                    .filter(|info| info.name() == value)
                    .for_each(|info| info.retype(*dtype, shape));
                self.declared.insert(value.clone());
            }
            Edit::KeepTypes => self.keeps_types = true,
        }
        Ok(())
    }

    fn store(&mut self, name: &str, tensor: &Tensor) {
        if self.removed.remove(name) {
            self.graph.initializers.shift_remove(name);
        }
        let before = self.graph.initializers.get(name);
        let reshaped = before.is_none_or(|b| b.tensor.shape() != tensor.shape() || b.tensor.dtype() != tensor.dtype());
        // Integers may be shapes, axes or sizes.
        let spelled = !tensor.dtype().is_float() && before.is_none_or(|b| b.tensor.bytes() != tensor.bytes());
        let after = match before {
            Some(before) => before.with_tensor(tensor.clone()),
            None => Initializer::from(tensor.clone()),
        };
        self.graph.initializers.insert(name.to_owned(), after);
        if reshaped && let Some(input) = self.graph.inputs.iter_mut().find(|input| input.name() == name) {
            let shape: Vec<_> = tensor.shape().iter().map(|&size| Dimension::Fixed(size)).collect();
            input.retype(tensor.dtype(), &shape);
        }
        if reshaped || spelled {
            self.changed.insert(name.to_owned());
        }
    }

    fn finish(self) -> Graph {
        let mut graph = self.graph;
        graph.nodes = self.nodes.into_order();
        if !self.removed.is_empty() {
            graph.initializers.retain(|name, _| !self.removed.contains(name));
            graph.inputs.retain(|input| !self.removed.contains(input.name()));
        }
        if !self.keeps_types && !self.changed.is_empty() && !graph.value_info.is_empty() {
            let mut changed = self.changed;
            for node in &graph.nodes {
                let reads = |name: &str| changed.contains(name);
                let unchanged_inside = || node.captures().is_ok_and(|names| !names.into_iter().any(reads));
                if node.inputs().iter().any(|name| reads(name)) || !unchanged_inside() {
                    changed.extend(node.outputs().iter().cloned());
                }
            }
            let declared = self.declared;
            graph
                .value_info
                .retain(|value| declared.contains(value.name()) || !changed.contains(value.name()));
        }
        graph
    }
}

/// Nodes by id, in an order that can be inserted into and removed from without moving the others.
struct Nodes {
    slots: Vec<Option<Arc<Node>>>,
    by_id: HashMap<String, usize>,
    order: Vec<usize>,
    /// By slot: the slots inserted before it.
    before: HashMap<usize, Vec<usize>>,
}

impl Nodes {
    fn of(nodes: Vec<Arc<Node>>) -> Self {
        let mut by_id = HashMap::with_capacity(nodes.len());
        for (slot, node) in nodes.iter().enumerate() {
            by_id.entry(node.id().to_owned()).or_insert(slot);
        }
        Self {
            order: (0..nodes.len()).collect(),
            slots: nodes.into_iter().map(Some).collect(),
            by_id,
            before: HashMap::new(),
        }
    }

    fn slot(&self, id: &str) -> Result<usize, ModelError> {
        self.by_id.get(id).copied().ok_or_else(|| {
            ModelError::new(ErrorKind::Name, format!("node `{id}`"), "does not exist")
                .with_help("a node is named by its first output")
        })
    }

    fn get_mut(&mut self, id: &str) -> Result<&mut Node, ModelError> {
        let slot = self.slot(id)?;
        let missing = || ModelError::new(ErrorKind::Name, format!("node `{id}`"), "does not exist");
        let node = self.slots.get_mut(slot).and_then(Option::as_mut);
        node.map(Arc::make_mut).ok_or_else(missing)
    }

    fn add(&mut self, node: Arc<Node>, before: Option<&str>) -> Result<(), ModelError> {
        let slot = self.slots.len();
        match before {
            Some(id) => {
                let place = self.slot(id)?;
                self.before.entry(place).or_default().push(slot);
            }
            None => self.order.push(slot),
        }
        self.by_id.entry(node.id().to_owned()).or_insert(slot);
        self.slots.push(Some(node));
        Ok(())
    }

    fn remove(&mut self, id: &str) -> Result<Arc<Node>, ModelError> {
        let slot = self.slot(id)?;
        self.by_id.remove(id);
        let missing = || ModelError::new(ErrorKind::Name, format!("node `{id}`"), "does not exist");
        self.slots.get_mut(slot).and_then(Option::take).ok_or_else(missing)
    }

    fn into_order(mut self) -> Vec<Arc<Node>> {
        let mut nodes = Vec::with_capacity(self.slots.len());
        let mut waiting: Vec<usize> = self.order.iter().rev().copied().collect();
        while let Some(&slot) = waiting.last() {
            match self.before.remove(&slot) {
                Some(inserted) => waiting.extend(inserted.into_iter().rev()),
                None => {
                    waiting.pop();
                    nodes.extend(self.slots.get_mut(slot).and_then(Option::take));
                }
            }
        }
        nodes
    }
}

fn no_tensor(name: &str) -> ModelError {
    ModelError::new(ErrorKind::Name, format!("tensor `{name}`"), "does not exist")
}
