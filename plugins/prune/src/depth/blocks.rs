//! Residual blocks, found by structure: a sum of what layers make and what they read.

use std::collections::HashSet;

use kmr_sdk::model::{Graph, GraphIndex, Node, shapes::Shapes};

/// A block that the model is still a model without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The value that goes past it.
    pub input: String,
    /// The value that it makes; without it, whoever reads this reads the input.
    pub output: String,
    /// The id of the sum.
    pub sum: String,
    /// The ids of its nodes that read stored weights of two axes or more, in the order of the graph.
    pub layers: Vec<String>,
    /// These weights.
    pub tensors: Vec<String>,
    /// Whether it lets places look at each other, by products of two values.
    attends: bool,
}

impl Block {
    /// What people call it.
    pub fn kind(&self) -> &'static str {
        match (self.attends, self.layers.len()) {
            (true, _) => "attention",
            (false, 1) => "1 layer",
            (false, _) => "layers",
        }
    }
}

/// The residual blocks of `graph` that hold no other one, in the order of the graph: an Add of which one operand is
/// made, by products with stored weights, from the other, which has the sum's shape.
///
/// Where a normalization alone reads the sum and another one of its kind makes the shortcut, as in BERT, it belongs to
/// the block: without it, the block after reads what the block before has normalized.
pub fn blocks(graph: &Graph, shapes: &Shapes) -> Vec<Block> {
    let index = graph.index();
    let mut found: Vec<Block> = Vec::new();
    let mut ends: Vec<usize> = Vec::new();
    for (position, node) in graph.nodes.iter().enumerate().filter(|(_, node)| node.is("Add")) {
        let (Some(left), Some(right)) = (node.input(0), node.input(1)) else {
            continue;
        };
        for (shortcut, made) in [(left, right), (right, left)] {
            let Some(between) = between(graph, &index, shortcut, made) else {
                continue;
            };
            // A block around others would take them along.
            if ends.iter().any(|end| between.contains(end)) {
                continue;
            }
            if let Some(block) = block(graph, &index, shapes, shortcut, node, &between) {
                found.push(block);
                ends.push(position);
                break;
            }
        }
    }
    found
}

/// Two blocks in a row as one, from the first on; what is left over stays as it is.
pub fn layers(blocks: Vec<Block>) -> Vec<Block> {
    let mut joined: Vec<Block> = Vec::new();
    let mut waiting: Option<Block> = None;
    for block in blocks {
        match waiting.take() {
            Some(first) if first.output == block.input => joined.push(Block {
                input: first.input,
                layers: [first.layers, block.layers].concat(),
                tensors: [first.tensors, block.tensors].concat(),
                attends: first.attends || block.attends,
                ..block
            }),
            Some(alone) => {
                joined.push(alone);
                waiting = Some(block);
            }
            None => waiting = Some(block),
        }
    }
    joined.extend(waiting);
    joined
}

/// The positions of the nodes on the ways from `start` to `end`; none if there is no way.
fn between(graph: &Graph, index: &GraphIndex<'_>, start: &str, end: &str) -> Option<HashSet<usize>> {
    let first = index.producer(start);
    if start == end || graph.tensor(start).is_some() {
        return None;
    }
    // Nodes that `end` needs, from the last on, as far back as `start` is made.
    let mut needed: Vec<usize> = Vec::new();
    let mut seen: HashSet<usize> = HashSet::new();
    let mut waiting: Vec<usize> = index.producer(end).into_iter().collect();
    while let Some(position) = waiting.pop() {
        if first.is_some_and(|first| position <= first) || !seen.insert(position) {
            continue;
        }
        needed.push(position);
        waiting.extend(graph.nodes[position].reads().filter_map(|value| index.producer(value)));
    }
    needed.sort_unstable();
    let mut reached: HashSet<usize> = HashSet::new();
    for position in needed {
        let mut sources = graph.nodes[position].reads();
        if sources.any(|value| value == start || index.producer(value).is_some_and(|source| reached.contains(&source)))
        {
            reached.insert(position);
        }
    }
    index
        .producer(end)
        .is_some_and(|last| reached.contains(&last))
        .then_some(reached)
}

fn block(
    graph: &Graph,
    index: &GraphIndex<'_>,
    shapes: &Shapes,
    shortcut: &str,
    sum: &Node,
    between: &HashSet<usize>,
) -> Option<Block> {
    let shape = shapes.shape(shortcut)?;
    if shape.is_empty() || shapes.shape(sum.id()) != Some(shape) || shapes.dtype(shortcut) != shapes.dtype(sum.id()) {
        return None;
    }
    let mut nodes: Vec<usize> = between.iter().copied().collect();
    nodes.sort_unstable();
    let (mut layers, mut tensors, mut attends) = (Vec::new(), Vec::new(), false);
    for node in nodes.into_iter().map(|position| &graph.nodes[position]) {
        let stored = node.inputs().iter().filter_map(|input| weight(graph, index, input));
        let stored: Vec<String> = stored.map(str::to_owned).collect();
        attends |= node.is("MatMul") && stored.is_empty();
        if !stored.is_empty() {
            layers.push(node.id().to_owned());
            tensors.extend(stored);
        }
    }
    if layers.is_empty() {
        return None;
    }
    let normalization = index.sole_consumer(sum.id()).map(|(reader, _)| &graph.nodes[reader]);
    let normalization = normalization.filter(|norm| {
        let maker = maker(graph, index, shortcut);
        is_normalization(norm) && maker.is_some_and(|maker| maker.op_type() == norm.op_type())
    });
    Some(Block {
        input: shortcut.to_owned(),
        output: normalization.map_or(sum.id(), |norm| norm.id()).to_owned(),
        sum: sum.id().to_owned(),
        layers,
        tensors,
        attends,
    })
}

/// The node that computes `value`, of which nodes that give the same numbers another shape make no other.
fn maker<'g>(graph: &'g Graph, index: &GraphIndex<'_>, value: &str) -> Option<&'g Node> {
    let mut maker = &graph.nodes[index.producer(value)?];
    while maker.domain().is_empty() && matches!(maker.op_type(), "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze") {
        maker = &graph.nodes[index.producer(maker.input(0)?)?];
    }
    Some(maker)
}

/// The stored tensor of two axes or more that `value` is, or is another form of.
fn weight<'g>(graph: &'g Graph, index: &GraphIndex<'_>, value: &'g str) -> Option<&'g str> {
    let mut value = value;
    loop {
        if let Some(tensor) = graph.tensor(value) {
            return (tensor.shape().len() > 1 && tensor.dtype().is_float()).then_some(value);
        }
        let maker = &graph.nodes[index.producer(value)?];
        if !maker.domain().is_empty() || !matches!(maker.op_type(), "Transpose" | "Cast" | "Identity") {
            return None;
        }
        value = maker.input(0)?;
    }
}

fn is_normalization(node: &Node) -> bool {
    node.domain().is_empty()
        && matches!(
            node.op_type(),
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization"
        )
}
