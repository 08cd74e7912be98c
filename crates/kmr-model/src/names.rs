//! Names of values over a whole model, its subgraphs included.

use std::collections::HashMap;

use crate::{Model, ModelError, proto, subgraphs, subgraphs::NestingGuard};

/// How often each name is given to a value, in the main graph and in all subgraphs.
pub(crate) struct Names(HashMap<String, usize>);

impl Names {
    /// The names of a model's values.
    ///
    /// # Errors
    /// Where graphs stand too deep in each other.
    pub(crate) fn of(model: &Model) -> Result<Self, ModelError> {
        let mut names = Self(HashMap::new());
        let graph = &model.graph;
        let inputs = graph.inputs.iter().map(|input| input.name());
        let inputs = inputs.filter(|name| !graph.initializers.contains_key(*name));
        let begin = inputs.chain(graph.initializers.keys().map(String::as_str));
        begin.for_each(|name| names.add(name));
        for node in &graph.nodes {
            names.node(node.proto(), NestingGuard::default())?;
        }
        Ok(names)
    }

    fn add(&mut self, name: &str) {
        *self.0.entry(name.to_owned()).or_default() += 1;
    }

    fn node(&mut self, node: &proto::NodeProto, guard: NestingGuard) -> Result<(), ModelError> {
        node.output.iter().for_each(|name| self.add(name));
        for graph in subgraphs::messages(node) {
            let guard = guard.enter()?;
            subgraphs::start(graph).for_each(|name| self.add(name));
            for node in &graph.node {
                self.node(node, guard)?;
            }
        }
        Ok(())
    }

    /// Whether exactly one value has this name.
    pub(crate) fn is_unique(&self, name: &str) -> bool {
        self.0.get(name) == Some(&1)
    }

    /// A name like `wanted` that no value has, taken from now on.
    pub(crate) fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        // The count of the wanted name is where to go on looking: many values may want the same.
        while self.0.contains_key(&name) {
            let count = self.0.entry(wanted.to_owned()).or_default();
            *count += 1;
            name = format!("{wanted}_{count}");
        }
        self.add(&name);
        name
    }
}
