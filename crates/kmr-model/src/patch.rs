//! Edits of a graph, applied copy-on-write.

use std::{collections::HashSet, sync::Arc};

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
    /// Where a tensor changes shape, declared types of inner values are dropped: they are derived
    /// information, and would be wrong.
    ///
    /// # Errors
    /// [`ErrorKind::Name`] if an edit names what does not exist, or leaves a value undefined.
    pub fn apply(&self, graph: &Graph) -> Result<Graph, ModelError> {
        let mut result = graph.clone();
        let mut reshaped = false;
        for edit in &self.edits {
            reshaped |= apply_edit(&mut result, edit)?;
        }
        if reshaped {
            result.value_info.clear();
        }
        result.check()?;
        Ok(result)
    }
}

/// Makes one edit; says whether shapes of inner values may have changed by it.
fn apply_edit(graph: &mut Graph, edit: &Edit) -> Result<bool, ModelError> {
    match edit {
        Edit::StoreTensor { name, tensor } => {
            let before = graph.initializers.get(name);
            let reshaped =
                before.is_none_or(|b| b.tensor.shape() != tensor.shape() || b.tensor.dtype() != tensor.dtype());
            let after = match before {
                Some(before) => before.with_tensor(tensor.clone()),
                None => Initializer::from(tensor.clone()),
            };
            graph.initializers.insert(name.clone(), after);
            if reshaped && let Some(input) = graph.inputs.iter_mut().find(|input| input.name() == name) {
                let shape: Vec<_> = tensor.shape().iter().map(|&size| Dimension::Fixed(size)).collect();
                input.retype(tensor.dtype(), &shape);
            }
            return Ok(reshaped);
        }
        Edit::RemoveTensor { name } => {
            graph.initializers.shift_remove(name).ok_or_else(|| no_tensor(name))?;
            graph.inputs.retain(|input| input.name() != name);
        }
        Edit::StoreSparse { name, sparse } => {
            let initializer = graph.initializers.get_mut(name).ok_or_else(|| no_tensor(name))?;
            initializer.layout = if *sparse { Layout::Sparse } else { Layout::Dense };
        }
        Edit::AddNode { node, before } => {
            let position = match before {
                Some(id) => position(graph, id)?,
                None => graph.nodes.len(),
            };
            graph.nodes.insert(position, Arc::new((**node).clone()));
            return Ok(true);
        }
        Edit::RemoveNode { node } => {
            let removed = graph.nodes.remove(position(graph, node)?);
            let outputs: HashSet<_> = removed.outputs().iter().map(String::as_str).collect();
            graph.value_info.retain(|value| !outputs.contains(value.name()));
        }
        Edit::Rewire { node, input, value } => {
            let node = node_mut(graph, node)?;
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
        }
        Edit::SetAttribute { node, attribute } => {
            node_mut(graph, node)?.set_attribute((**attribute).clone());
            return Ok(true);
        }
        Edit::RemoveAttribute { node, name } => {
            let attributes = &mut node_mut(graph, node)?.proto_mut().attribute;
            attributes.retain(|attribute| attribute.name.as_deref() != Some(name));
            return Ok(true);
        }
        Edit::Retype { value, dtype, shape } => {
            let declared = graph
                .inputs
                .iter_mut()
                .chain(&mut graph.outputs)
                .chain(&mut graph.value_info);
            declared
                .filter(|info| info.name() == value)
                .for_each(|info| info.retype(*dtype, shape));
        }
    }
    Ok(false)
}

fn position(graph: &Graph, id: &str) -> Result<usize, ModelError> {
    graph.nodes.iter().position(|node| node.id() == id).ok_or_else(|| {
        ModelError::new(ErrorKind::Name, format!("node `{id}`"), "does not exist")
            .with_help("a node is named by its first output")
    })
}

fn node_mut<'g>(graph: &'g mut Graph, id: &str) -> Result<&'g mut Node, ModelError> {
    let position = position(graph, id)?;
    Ok(Arc::make_mut(&mut graph.nodes[position]))
}

fn no_tensor(name: &str) -> ModelError {
    ModelError::new(ErrorKind::Name, format!("tensor `{name}`"), "does not exist")
}
