//! Graphs inside of nodes: the branches of `If`, the bodies of `Loop` and `Scan`.

use std::{collections::BTreeSet, sync::Arc};

use kmr_model::Node;

use super::{
    Datum, Declared, Network, Scope, Source, ValueId, execution,
    plan::{Key, Plan},
};
use crate::{ComputeError, Mode};

/// How deep graphs may lie within each other: each level takes a part of the stack.
pub const DEPTH: usize = 48;

/// A graph inside of a node, ready for execution.
pub struct Subgraph {
    attribute: String,
    network: Network,
    /// Values that it reads from the graph around it, as their ids there and here.
    pub captured: Vec<(ValueId, ValueId)>,
}

impl Subgraph {
    /// The subgraphs of `node`; `outer` gives the ids of values around it.
    ///
    /// # Errors
    /// Why one of them cannot be prepared.
    pub(super) fn all(node: &Node, scope: &Scope, mut outer: impl FnMut(&str) -> ValueId) -> Result<Vec<Self>, String> {
        if !node.has_subgraph() {
            return Ok(Vec::new());
        }
        if scope.depth >= DEPTH {
            return Err(format!("graphs lie more than {DEPTH} deep within each other"));
        }
        let graphs = node.subgraphs().map_err(|error| error.to_string())?;
        let prepared = graphs.into_iter().map(|(attribute, graph)| {
            let network = Network::new(Source::new(&graph), &scope.inner());
            let captured = network.captured();
            let captured = captured.map(|id| (outer(&network.names[id]), id)).collect();
            Self {
                attribute: attribute.to_owned(),
                network,
                captured,
            }
        });
        Ok(prepared.collect())
    }

    /// Adds the nodes that cannot be executed.
    pub fn refusals(&self, refusals: &mut Vec<crate::Refusal>) {
        self.network.refusals(refusals);
    }

    /// Whether the results depend on the mode of execution.
    pub fn has_modes(&self) -> bool {
        let has_modes =
            |node: &super::Prepared| node.node.is("BatchNormalization") || node.subgraphs.iter().any(Self::has_modes);
        self.network.nodes.iter().any(has_modes)
    }
}

/// A subgraph with the values that it reads from around its node, for one execution of the node.
pub struct Body<'a> {
    subgraph: &'a Subgraph,
    captured: Vec<(ValueId, Datum)>,
    mode: Mode,
    merge: bool,
}

impl<'a> Body<'a> {
    pub fn new(
        subgraph: &'a Subgraph,
        mode: Mode,
        merge: bool,
        mut outer: impl FnMut(ValueId) -> Option<Datum>,
    ) -> Self {
        let captured = subgraph.captured.iter();
        let captured = captured.filter_map(|&(there, here)| Some((here, outer(there)?)));
        Self {
            subgraph,
            captured: captured.collect(),
            mode,
            merge,
        }
    }

    /// The attribute that holds the subgraph.
    pub fn attribute(&self) -> &str {
        &self.subgraph.attribute
    }

    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.subgraph.network.inputs.len()
    }

    /// The declared outputs.
    pub fn outputs(&self) -> &[Declared] {
        &self.subgraph.network.declared_outputs
    }

    /// Prepares executions that compute the outputs at the positions `wanted`.
    ///
    /// # Errors
    /// If a value is missing or a constant cannot be computed.
    pub fn ready(&self, wanted: &[usize]) -> Result<Ready<'_>, ComputeError> {
        let network = &self.subgraph.network;
        let captured = self.captured.iter().map(|(id, _)| *id);
        let key = Key {
            fed: network.inputs.iter().copied().chain(captured).collect(),
            outputs: wanted.iter().map(|&position| network.outputs[position]).collect(),
            trainable: BTreeSet::new(),
            merge: self.merge,
        };
        let plan = execution::plan(network, &key);
        execution::begin(network, &plan, self.mode)?;
        Ok(Ready { body: self, key, plan })
    }
}

/// A subgraph whose execution is decided.
pub struct Ready<'a> {
    body: &'a Body<'a>,
    key: Key,
    plan: Arc<Plan>,
}

impl Ready<'_> {
    /// The wanted outputs for `inputs`, which are as many as the subgraph has.
    ///
    /// # Errors
    /// Those of its nodes.
    pub fn run(&self, inputs: Vec<Datum>) -> Result<Vec<Datum>, ComputeError> {
        let network = &self.body.subgraph.network;
        let captured = self.body.captured.iter().cloned();
        let values = network.inputs.iter().copied().zip(inputs).chain(captured).collect();
        let (mode, key) = (self.body.mode, &self.key);
        let values = execution::steps(network, key, &self.plan, values, mode)?;
        execution::collect(network, values, &key.outputs)
    }
}
