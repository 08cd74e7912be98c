//! New nodes and initializers, gathered into one patch.

use std::collections::HashSet;

use crate::{Edit, Graph, Node, Patch, Tensor};

/// Edits of a graph, with names that nothing else has.
pub struct Build {
    taken: HashSet<String>,
    /// Small tensors that several nodes read, by what is in them.
    constants: Vec<(Tensor, String)>,
    patch: Patch,
    /// The node that new nodes go before.
    before: Option<String>,
}

impl Build {
    /// Begins edits of `graph`.
    pub fn on(graph: &Graph) -> Self {
        let nodes = graph
            .nodes
            .iter()
            .flat_map(|node| node.outputs().iter().chain(node.inputs()));
        let mut taken: HashSet<String> = nodes.cloned().collect();
        taken.extend(graph.initializers.keys().cloned());
        taken.extend(graph.inputs.iter().map(|input| input.name().to_owned()));
        Self {
            taken,
            constants: Vec::new(),
            patch: Patch::new(),
            before: None,
        }
    }

    /// New nodes go before this one from now on; to the end if there is none.
    pub fn place(&mut self, before: Option<&str>) {
        self.before = before.map(str::to_owned);
    }

    /// `wanted`, or the first name like it that is free.
    pub fn name(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut count = 1;
        while !self.taken.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}_{count}");
        }
        name
    }

    /// Adds an initializer and gives its name.
    pub fn tensor(&mut self, wanted: &str, tensor: Tensor) -> String {
        let name = self.name(wanted);
        self.store(&name, tensor);
        name
    }

    /// An initializer of these contents, the same for all who ask.
    pub fn constant(&mut self, wanted: &str, tensor: Tensor) -> String {
        if let Some((_, name)) = self.constants.iter().find(|(known, _)| *known == tensor) {
            return name.clone();
        }
        let name = self.tensor(wanted, tensor.clone());
        self.constants.push((tensor, name.clone()));
        name
    }

    /// Replaces an initializer.
    pub fn store(&mut self, name: &str, tensor: Tensor) {
        self.patch.push(Edit::StoreTensor {
            name: name.to_owned(),
            tensor,
        });
    }

    /// Adds a node with one output of a free name, and gives that name. `with` sets its attributes.
    pub fn node(&mut self, op_type: &str, inputs: &[&str], wanted: &str, with: impl FnOnce(Node) -> Node) -> String {
        let output = self.name(wanted);
        self.node_into(op_type, inputs, &[&output], with);
        output
    }

    /// Adds a node with these outputs.
    pub fn node_into(&mut self, op_type: &str, inputs: &[&str], outputs: &[&str], with: impl FnOnce(Node) -> Node) {
        let node = with(Node::new(op_type, "", inputs, outputs));
        self.patch.push(Edit::AddNode {
            node: Box::new(node),
            before: self.before.clone(),
        });
    }

    /// Adds any other edit.
    pub fn edit(&mut self, edit: Edit) {
        self.patch.push(edit);
    }

    /// Makes input `input` of `node` read `value`.
    pub fn rewire(&mut self, node: &str, input: usize, value: &str) {
        self.patch.push(Edit::Rewire {
            node: node.to_owned(),
            input,
            value: value.to_owned(),
        });
    }

    /// The bytes of the tensors that the edits so far store.
    pub fn tensor_bytes(&self) -> usize {
        let edits = self.patch.edits.iter();
        let bytes = edits.map(|edit| match edit {
            Edit::StoreTensor { tensor, .. } => tensor.byte_len(),
            _ => 0,
        });
        bytes.sum()
    }

    /// The edits so far, to be made by themselves; what comes after them goes on from there, names included.
    pub fn take(&mut self) -> Patch {
        std::mem::take(&mut self.patch)
    }

    /// The edits.
    pub fn finish(self) -> Patch {
        self.patch
    }
}
