//! A graph as costs are counted on it: the main one, and those inside its nodes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{constant_tensor, uncountable};
use crate::{Graph, ModelError, Node, Tensor};

/// Subgraphs nested deeper than this are not counted.
const DEEPEST: usize = 24;

/// One graph, with the tensors of its initializers and Constant nodes.
pub(super) struct Level {
    /// The operators, in execution order.
    pub nodes: Vec<Arc<Node>>,
    /// The tensors, by the names of their values.
    pub tensors: Vec<(String, Arc<Tensor>)>,
    /// The inputs that are fed.
    pub feeds: Vec<String>,
    /// The outputs.
    pub outputs: Vec<String>,
    /// The subgraphs of each node that has some, by attribute.
    inner: BTreeMap<usize, Vec<(String, Level)>>,
}

impl Level {
    /// The levels of a model's main graph.
    ///
    /// # Errors
    /// If a subgraph or a Constant node's tensor cannot be read, or subgraphs are nested too deep.
    pub fn main(graph: &Graph) -> Result<Self, ModelError> {
        Self::read(graph, 0)
    }

    fn read(graph: &Graph, depth: usize) -> Result<Self, ModelError> {
        let initializers = graph.initializers.iter();
        let mut level = Self {
            nodes: graph.nodes.clone(),
            tensors: initializers
                .map(|(name, i)| (name.clone(), Arc::clone(&i.tensor)))
                .collect(),
            feeds: graph.feeds().map(|feed| feed.name().to_owned()).collect(),
            outputs: graph.outputs.iter().map(|output| output.name().to_owned()).collect(),
            inner: BTreeMap::new(),
        };
        for (position, node) in graph.nodes.iter().enumerate() {
            if let Some(tensor) = constant_tensor(node)? {
                level.tensors.push((node.id().to_owned(), Arc::new(tensor)));
            }
            if !node.has_subgraph() {
                continue;
            }
            if depth >= DEEPEST {
                return Err(uncountable(node, format!("has subgraphs nested deeper than {DEEPEST}")));
            }
            let subgraphs = node.subgraphs()?.into_iter();
            let subgraphs = subgraphs.map(|(name, graph)| Ok((name.to_owned(), Self::read(&graph, depth + 1)?)));
            level
                .inner
                .insert(position, subgraphs.collect::<Result<_, ModelError>>()?);
        }
        Ok(level)
    }

    /// The subgraphs of the node at `position`, with the names of their attributes.
    pub fn inner(&self, position: usize) -> &[(String, Level)] {
        self.inner.get(&position).map_or(&[], Vec::as_slice)
    }

    /// The values that do not depend on what is fed: tensors, what Constant nodes hold, and what nodes make of these
    /// alone. Runtimes compute them once.
    pub fn constants(&self) -> HashSet<&str> {
        let mut constants: HashSet<&str> = self.tensors.iter().map(|(name, _)| name.as_str()).collect();
        for node in &self.nodes {
            let inputs = || node.inputs().iter().filter(|input| !input.is_empty());
            let made = inputs().next().is_some() && inputs().all(|input| constants.contains(input.as_str()));
            if node.is("Constant") || (made && !node.has_subgraph()) {
                constants.extend(node.outputs().iter().map(String::as_str));
            }
        }
        constants
    }

    /// The names that this graph gives to values.
    pub fn defined(&self) -> impl Iterator<Item = &str> {
        let made = self.nodes.iter().flat_map(|node| node.outputs());
        let tensors = self.tensors.iter().map(|(name, _)| name);
        self.feeds.iter().chain(tensors).chain(made).map(String::as_str)
    }

    /// The values that the node at `position` reads, in its subgraphs too.
    pub fn reads(&self, position: usize) -> Vec<&str> {
        let mut names: Vec<&str> = self.nodes[position].inputs().iter().map(String::as_str).collect();
        for (_, inner) in self.inner(position) {
            let own: HashSet<&str> = inner.defined().collect();
            let read = (0..inner.nodes.len()).flat_map(|position| inner.reads(position));
            let read = read.chain(inner.outputs.iter().map(String::as_str));
            names.extend(read.filter(|name| !own.contains(name)));
        }
        names.retain(|name| !name.is_empty());
        names
    }
}
