//! Taking blocks out of a graph.

use std::collections::{HashMap, HashSet};

use kmr_sdk::{
    Result,
    model::{Edit, Graph, Node, Patch},
};

use super::blocks::Block;

/// The edits that let everyone who reads what one of `blocks` makes read what goes past it. Nothing is removed: this is
/// what the blocks are judged by, one by one.
pub fn detour(graph: &Graph, blocks: &[&Block]) -> Patch {
    let inputs: HashMap<&str, &str> = blocks
        .iter()
        .map(|block| (block.output.as_str(), block.input.as_str()))
        .collect();
    // The input of a block may be the output of another one that goes, too.
    let source = |value: &str| -> Option<&str> {
        let mut value = *inputs.get(value)?;
        while let Some(before) = inputs.get(value) {
            value = before;
        }
        Some(value)
    };
    let index = graph.index();
    let mut patch = Patch::new();
    for node in &graph.nodes {
        for (slot, value) in node.inputs().iter().enumerate() {
            if let Some(value) = source(value) {
                patch.push(Edit::Rewire {
                    node: node.id().to_owned(),
                    input: slot,
                    value: value.to_owned(),
                });
            }
        }
    }
    // What is seen from outside of the graph keeps its name.
    for block in blocks.iter().filter(|block| !index.is_inner(&block.output)) {
        if let Some(value) = source(&block.output) {
            patch.push(Edit::AddNode {
                node: Box::new(Node::new("Identity", "", &[value], &[&block.output])),
                before: Some(block.output.clone()),
            });
            patch.push(Edit::RemoveNode {
                node: block.output.clone(),
            });
        }
    }
    // Shapes stay as they are.
    if !graph.value_info.is_empty() {
        patch.push(Edit::KeepTypes);
    }
    patch
}

/// The edits that take `blocks` out, with every node and tensor that nothing needs any more.
///
/// # Errors
/// If the graph does not hold together without them.
pub fn patch(graph: &Graph, blocks: &[Block]) -> Result<Patch> {
    let mut patch = detour(graph, &blocks.iter().collect::<Vec<_>>());
    let around = patch.apply(graph)?;
    let unneeded_before: HashSet<&str> = unneeded(graph).into_iter().collect();
    let mut read: HashSet<&str> = around.outputs.iter().map(|output| output.name()).collect();
    let gone: HashSet<&str> = unneeded(&around).into_iter().collect();
    for node in around.nodes.iter().filter(|node| !gone.contains(node.id())) {
        read.extend(node.inputs().iter().map(String::as_str));
        read.extend(node.captures()?);
    }
    let mut was_read: HashSet<&str> = HashSet::new();
    for node in &graph.nodes {
        was_read.extend(node.inputs().iter().map(String::as_str));
        was_read.extend(node.captures()?);
    }
    // What was of no use before is none of this rule's business.
    for node in around.nodes.iter().rev() {
        if gone.contains(node.id()) && !unneeded_before.contains(node.id()) {
            patch.push(Edit::RemoveNode {
                node: node.id().to_owned(),
            });
        }
    }
    let needed_by_unneeded: HashSet<&str> = graph
        .nodes
        .iter()
        .filter(|node| unneeded_before.contains(node.id()))
        .flat_map(|node| node.inputs().iter().map(String::as_str))
        .collect();
    for name in graph.initializers.keys().map(String::as_str) {
        if was_read.contains(name) && !read.contains(name) && !needed_by_unneeded.contains(name) {
            patch.push(Edit::RemoveTensor { name: name.to_owned() });
        }
    }
    Ok(patch)
}

/// The ids of nodes that no output of the graph needs.
fn unneeded(graph: &Graph) -> Vec<&str> {
    let mut needed: HashSet<&str> = graph.outputs.iter().map(|output| output.name()).collect();
    let mut unneeded = Vec::new();
    for node in graph.nodes.iter().rev() {
        if node.outputs().iter().any(|output| needed.contains(output.as_str())) {
            needed.extend(node.reads());
        } else {
            unneeded.push(node.id());
        }
    }
    unneeded
}
