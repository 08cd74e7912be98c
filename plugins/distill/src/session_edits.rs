//! Edits that a session alone sees, gathered into one patch.

use std::collections::HashSet;

use kmr_sdk::model::{Edit, Graph, GraphIndex, Node, Patch, Tensor};

/// Edits of a graph for a session, with names that nothing else has.
pub struct SessionEdits<'g> {
    graph: &'g Graph,
    index: GraphIndex<'g>,
    taken: HashSet<String>,
    patch: Patch,
}

impl<'g> SessionEdits<'g> {
    /// Begins edits of `graph`.
    pub fn on(graph: &'g Graph) -> Self {
        let values = graph
            .nodes
            .iter()
            .flat_map(|node| node.outputs().iter().chain(node.inputs()));
        let mut taken: HashSet<String> = values.cloned().collect();
        taken.extend(graph.initializers.keys().cloned());
        taken.extend(graph.inputs.iter().map(|input| input.name().to_owned()));
        Self {
            graph,
            index: graph.index(),
            taken,
            patch: Patch::new(),
        }
    }

    /// The graph as it is without these edits.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Who makes and who reads each value of it.
    pub fn index(&self) -> &GraphIndex<'g> {
        &self.index
    }

    /// Adds an initializer and gives its name.
    pub fn tensor(&mut self, wanted: &str, tensor: Tensor) -> String {
        let name = self.name(wanted);
        self.patch.push(Edit::StoreTensor {
            name: name.clone(),
            tensor,
        });
        name
    }

    /// Adds a node with one output of a free name before the node `before`, or at the end. `with` sets its attributes.
    pub fn node(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        wanted: &str,
        before: Option<&str>,
        with: impl FnOnce(Node) -> Node,
    ) -> String {
        let output = self.name(wanted);
        let node = with(Node::new(op_type, "", inputs, &[&output]));
        self.patch.push(Edit::AddNode {
            node: Box::new(node),
            before: before.map(str::to_owned),
        });
        output
    }

    /// The id of the first node that reads `value`.
    pub fn first_reader(&self, value: &str) -> Option<&'g str> {
        let first = self.index.consumers(value).iter().map(|&(node, _)| node).min()?;
        Some(self.graph.nodes[first].id())
    }

    /// Makes every node that reads `value` read `instead`.
    pub fn redirect(&mut self, value: &str, instead: &str) {
        for &(node, input) in self.index.consumers(value) {
            self.patch.push(Edit::Rewire {
                node: self.graph.nodes[node].id().to_owned(),
                input,
                value: instead.to_owned(),
            });
        }
    }

    /// The edits.
    pub fn finish(self) -> Patch {
        self.patch
    }

    fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut count = 1;
        while !self.taken.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}_{count}");
        }
        name
    }
}
