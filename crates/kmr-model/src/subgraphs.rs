//! Graphs in attributes, as those of If, Loop and Scan: their branches and bodies.

use std::collections::HashMap;

use buffa::{Message, MessageField};

use crate::{
    ErrorKind, Graph, ModelError, Node,
    codec::{Decoder, Place},
    proto,
};

/// How deep graphs may stand in each other. A file cannot exceed it, because messages nest three times as fast.
const NESTING_LIMIT: u32 = 100;

/// The ONNX number of the attribute type GRAPH.
const GRAPH: i32 = 5;

/// Counts how deep a function has gone into graphs within graphs, so that none goes until the stack ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NestingGuard(u32);

impl NestingGuard {
    /// One graph deeper.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where that is too deep.
    pub(crate) fn enter(self) -> Result<Self, ModelError> {
        if self.0 >= NESTING_LIMIT {
            return Err(ModelError::new(
                ErrorKind::Unsupported,
                "a subgraph",
                format!("stands more than {NESTING_LIMIT} graphs deep"),
            ));
        }
        Ok(Self(self.0 + 1))
    }
}

/// The graphs in a node's attributes, in order.
pub(crate) fn messages(node: &proto::NodeProto) -> impl Iterator<Item = &proto::GraphProto> {
    node.attribute
        .iter()
        .flat_map(|attribute| attribute.g.as_option().into_iter().chain(&attribute.graphs))
}

/// The graphs in a node's attributes, in order, to be changed.
pub(crate) fn messages_mut(node: &mut proto::NodeProto) -> impl Iterator<Item = &mut proto::GraphProto> {
    node.attribute
        .iter_mut()
        .flat_map(|attribute| attribute.g.as_option_mut().into_iter().chain(&mut attribute.graphs))
}

impl Node {
    /// The graphs in this node's attributes with the attributes' names, in order. Their tensors share the model's
    /// bytes.
    ///
    /// Such a graph reads values of the graphs around it, too: [`Graph::captures`].
    ///
    /// # Errors
    /// As [`Node::subgraph`].
    pub fn subgraphs(&self) -> Result<Vec<(&str, Graph)>, ModelError> {
        let attributes = self.proto().attribute.iter();
        let named = attributes.flat_map(|attribute| {
            let name = attribute.name.as_deref().unwrap_or_default();
            let graphs = attribute.g.as_option().into_iter().chain(&attribute.graphs);
            graphs.map(move |graph| (name, graph))
        });
        named
            .map(|(name, graph)| Ok((name, self.read_subgraph(name, graph)?)))
            .collect()
    }

    /// The graph in the attribute `name` (`then_branch`, `body`, …), if there is one.
    ///
    /// # Errors
    /// If the graph contradicts itself, as [`Model::decode`](crate::Model::decode) has it for the main graph.
    pub fn subgraph(&self, name: &str) -> Result<Option<Graph>, ModelError> {
        let graph = self.attribute(name).and_then(|attribute| attribute.g.as_option());
        graph.map(|graph| self.read_subgraph(name, graph)).transpose()
    }

    fn read_subgraph(&self, name: &str, message: &proto::GraphProto) -> Result<Graph, ModelError> {
        let length = match message.sparse_initializer.is_empty() {
            true => 0,
            false => message.try_encoded_len().map_or(0, |length| length as usize),
        };
        let graph = Decoder::new(length).graph(message.clone(), Place::Inner);
        graph.map_err(|error| {
            let place = format!("node `{}`, `{name}`", self.label());
            let place = match error.place() {
                "" => place,
                inner => format!("{place}: {inner}"),
            };
            error.with_place(place)
        })
    }

    /// This node with `graph` in the attribute `name`.
    #[must_use]
    pub fn with_subgraph(mut self, name: &str, graph: &Graph) -> Self {
        self.set_attribute(proto::AttributeProto {
            name: Some(name.into()),
            r#type: Some(GRAPH),
            g: MessageField::some(graph.to_message()),
            ..Default::default()
        });
        self
    }

    /// The values that this node's subgraphs read from the graphs around them, in order of first use.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where graphs stand too deep in each other.
    pub fn captures(&self) -> Result<Vec<&str>, ModelError> {
        let mut scopes = Scopes::default();
        for graph in messages(self.proto()) {
            scopes.visit(graph, NestingGuard::default())?;
        }
        Ok(scopes.captured)
    }

    /// The values that this node and its subgraphs read. Subgraphs that stand too deep in each other count as reading
    /// nothing: whoever runs or infers the graph refuses them.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        let captured = self.captures().unwrap_or_default();
        self.inputs().iter().map(String::as_str).chain(captured)
    }
}

impl Graph {
    /// The values that this graph reads and does not make, in order of first use: of a subgraph, those of the graphs
    /// around it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where graphs stand too deep in each other.
    pub fn captures(&self) -> Result<Vec<String>, ModelError> {
        let mut scopes = Scopes::default();
        let declared = self.inputs.iter().map(|input| input.name());
        let begin = declared.chain(self.initializers.keys().map(String::as_str));
        scopes.define(begin);
        for node in &self.nodes {
            scopes.node(node.proto(), NestingGuard::default())?;
        }
        self.outputs.iter().for_each(|output| scopes.read(output.name()));
        Ok(scopes.captured.into_iter().map(str::to_owned).collect())
    }
}

/// The values in sight while graphs are read in order.
#[derive(Default)]
struct Scopes<'m> {
    /// How many of the graphs around the present place define each name.
    defined: HashMap<&'m str, u32>,
    seen: std::collections::HashSet<&'m str>,
    captured: Vec<&'m str>,
}

impl<'m> Scopes<'m> {
    fn define(&mut self, names: impl IntoIterator<Item = &'m str>) {
        for name in names {
            *self.defined.entry(name).or_default() += 1;
        }
    }

    fn read(&mut self, name: &'m str) {
        let inside = self.defined.get(name).is_some_and(|&count| count > 0);
        if !name.is_empty() && !inside && self.seen.insert(name) {
            self.captured.push(name);
        }
    }

    fn visit(&mut self, graph: &'m proto::GraphProto, guard: NestingGuard) -> Result<(), ModelError> {
        let guard = guard.enter()?;
        self.define(start(graph));
        for node in &graph.node {
            self.node(node, guard)?;
        }
        for output in &graph.output {
            self.read(output.name.as_deref().unwrap_or_default());
        }
        let made = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
        for name in start(graph).chain(made) {
            if let Some(count) = self.defined.get_mut(name) {
                *count -= 1;
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &'m proto::NodeProto, guard: NestingGuard) -> Result<(), ModelError> {
        node.input.iter().for_each(|input| self.read(input));
        for graph in messages(node) {
            self.visit(graph, guard)?;
        }
        self.define(node.output.iter().map(String::as_str));
        Ok(())
    }
}

/// The values that a graph begins with: its inputs and initializers.
pub(crate) fn start(graph: &proto::GraphProto) -> impl Iterator<Item = &str> {
    let inputs = graph.input.iter().map(|input| input.name.as_deref());
    let dense = graph.initializer.iter().map(|tensor| tensor.name.as_deref());
    let sparse = graph
        .sparse_initializer
        .iter()
        .map(|tensor| tensor.values.as_option().and_then(|values| values.name.as_deref()));
    inputs.chain(dense).chain(sparse).map(Option::unwrap_or_default)
}
