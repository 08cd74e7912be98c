//! The part of a graph that lies between some values and others.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use kmr_compute::{ComputeError, ErrorKind};
use kmr_model::{DType, Dimension, Graph, ModelError, Node, ValueInfo};

/// What a session is for: from which values it computes which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The values that are given, with their types and ranks; the type is known of all but declared inputs.
    pub given: BTreeMap<String, (Option<DType>, usize)>,
    /// The values that are asked for, each once.
    pub asked: Vec<String>,
}

impl Question {
    /// All outputs from all inputs.
    pub fn whole(graph: &Graph) -> Self {
        let name = |value: &ValueInfo| value.name().to_owned();
        Self {
            given: graph.feeds().map(|input| (name(input), (None, 0))).collect(),
            asked: graph.outputs.iter().map(name).collect(),
        }
    }
}

/// The nodes and tensors of `graph` that answer `question`, its given values being inputs.
pub fn cut(graph: &Graph, question: &Question) -> Result<Graph, ComputeError> {
    let given = |value: &str| question.given.contains_key(value);
    let (needed, read) = needed(graph, question)?;
    let mut part = graph.clone();
    part.nodes = needed
        .iter()
        .map(|&position| without(&graph.nodes[position], given))
        .collect::<Result<_, _>>()?;
    part.initializers
        .retain(|name, _| read.contains(name.as_str()) && !given(name));
    // Old files declare initializers as inputs, too.
    part.inputs.retain(|input| read.contains(input.name()));
    for (name, (dtype, rank)) in &question.given {
        let declared = part.inputs.iter().any(|input| input.name() == name);
        if let Some(dtype) = dtype
            && read.contains(name.as_str())
            && !declared
        {
            part.inputs
                .push(ValueInfo::tensor(name, *dtype, &vec![Dimension::Unknown; *rank]));
        }
    }
    let declaration = |name: &String| {
        let mut known = graph.outputs.iter().chain(&graph.value_info);
        known
            .find(|value| value.name() == name)
            .cloned()
            .unwrap_or_else(|| ValueInfo::untyped(name))
    };
    part.outputs = question.asked.iter().map(declaration).collect();
    let made: HashSet<&str> = needed
        .iter()
        .flat_map(|&node| graph.nodes[node].outputs())
        .map(String::as_str)
        .collect();
    part.value_info.retain(|value| {
        let name = value.name();
        made.contains(name) && !given(name) && !question.asked.iter().any(|asked| asked == name)
    });
    Ok(part)
}

/// Positions of the nodes that answer `question`, in order, and the values that they read or make for it.
fn needed<'g>(graph: &'g Graph, question: &'g Question) -> Result<(Vec<usize>, HashSet<&'g str>), ComputeError> {
    let index = graph.index();
    let mut nodes = HashSet::new();
    let mut read: HashSet<&str> = HashSet::new();
    let mut open: Vec<&str> = question.asked.iter().map(String::as_str).collect();
    while let Some(value) = open.pop() {
        if !read.insert(value) || question.given.contains_key(value) {
            continue;
        }
        match index.producer(value) {
            Some(position) if nodes.insert(position) => {
                let node = &graph.nodes[position];
                open.extend(
                    node.inputs()
                        .iter()
                        .map(String::as_str)
                        .filter(|input| !input.is_empty()),
                );
                open.extend(node.captures().map_err(unreadable)?);
            }
            Some(_) => {}
            None if graph.initializers.contains_key(value) => {}
            None => {
                return Err(ComputeError::new(
                    ErrorKind::Name,
                    format!("input `{value}`"),
                    "is not fed",
                ));
            }
        }
    }
    let mut nodes: Vec<usize> = nodes.into_iter().collect();
    nodes.sort_unstable();
    Ok((nodes, read))
}

/// The node, what it makes of the given values being called otherwise.
fn without(node: &Arc<Node>, given: impl Fn(&str) -> bool) -> Result<Arc<Node>, ComputeError> {
    if !node.outputs().iter().any(|output| given(output)) {
        return Ok(node.clone());
    }
    let mut message = node.proto().clone();
    for output in message.output.iter_mut().filter(|output| given(output)) {
        output.push_str(" (not given)");
    }
    Node::from_proto(message).map(Arc::new).map_err(unreadable)
}

fn unreadable(error: ModelError) -> ComputeError {
    ComputeError::new(ErrorKind::Unsupported, error.place(), error.to_string())
}
