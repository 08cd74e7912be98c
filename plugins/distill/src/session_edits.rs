//! Edits that a session alone sees, gathered into one patch.

use kmr_sdk::model::{Build, Graph, GraphIndex, Node, Patch, Tensor};

/// Edits of a graph for a session.
pub struct SessionEdits<'g> {
    graph: &'g Graph,
    index: GraphIndex<'g>,
    build: Build,
}

impl<'g> SessionEdits<'g> {
    /// Begins edits of `graph`.
    pub fn on(graph: &'g Graph) -> Self {
        Self {
            graph,
            index: graph.index(),
            build: Build::on(graph),
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
        self.build.tensor(wanted, tensor)
    }

    /// An initializer of these contents, the same for all who ask.
    pub fn constant(&mut self, wanted: &str, tensor: Tensor) -> String {
        self.build.constant(wanted, tensor)
    }

    /// New nodes go before this one from now on; to the end if there is none.
    pub fn place(&mut self, before: Option<&str>) {
        self.build.place(before);
    }

    /// Adds a node with one output of a free name.
    pub fn node(&mut self, op_type: &str, inputs: &[&str], wanted: &str) -> String {
        self.build.node(op_type, inputs, wanted, |node: Node| node)
    }

    /// The id of the first node that reads `value`.
    pub fn first_reader(&self, value: &str) -> Option<&'g str> {
        let first = self.index.consumers(value).iter().map(|&(node, _)| node).min()?;
        Some(self.graph.nodes[first].id())
    }

    /// Makes input `input` of `node` read `value`.
    pub fn rewire(&mut self, node: &str, input: usize, value: &str) {
        self.build.rewire(node, input, value);
    }

    /// Makes every node that reads `value` read `instead`.
    pub fn redirect(&mut self, value: &str, instead: &str) {
        for &(node, input) in self.index.consumers(value) {
            self.build.rewire(self.graph.nodes[node].id(), input, instead);
        }
    }

    /// The edits.
    pub fn finish(self) -> Patch {
        self.build.finish()
    }
}
