//! What adapters may ask about a model's values.

use std::collections::{HashMap, HashSet};

use crate::{
    DType, Model, ModelError, Tensor, ValueInfo, codec, proto, shapes,
    subgraphs::{self, NestingGuard},
};

/// What is known of the values of a model.
pub(super) struct Facts {
    names: HashSet<String>,
    /// Small stored tensors; `None` where values of one name differ between subgraphs.
    constants: HashMap<String, Option<Tensor>>,
    types: HashMap<String, DType>,
    ranks: HashMap<String, usize>,
    /// The floating-point type of the model, if it has but one.
    float: Option<DType>,
}

/// Constants with more elements than this say nothing that an adapter asks for.
const SMALL: usize = 64;

impl Facts {
    pub fn of(model: &Model) -> Result<Self, ModelError> {
        let mut facts = Self {
            names: HashSet::new(),
            constants: HashMap::new(),
            types: HashMap::new(),
            ranks: HashMap::new(),
            float: None,
        };
        let graph = &model.graph;
        let mut floats: HashSet<DType> = HashSet::new();
        for (name, initializer) in &graph.initializers {
            facts.constant(name, &initializer.tensor);
            facts.types.insert(name.clone(), initializer.tensor.dtype());
            facts.names.insert(name.clone());
            floats.insert(initializer.tensor.dtype());
        }
        for value in graph.inputs.iter().chain(&graph.outputs).chain(&graph.value_info) {
            facts.declared(value);
            floats.extend(value.dtype());
        }
        for node in &graph.nodes {
            facts.node(node.proto(), &mut floats, NestingGuard::default())?;
        }
        for function in &model.shell.functions {
            facts.names.extend(function.input.iter().cloned());
            for node in &function.node {
                facts.node(node, &mut floats, NestingGuard::default())?;
            }
        }
        // Shapes are a help, not a need: a model that contradicts itself is judged elsewhere.
        if let Ok(shapes) = shapes::infer(model, &shapes::default_feeds(model)) {
            for node in &graph.nodes {
                for output in node.outputs() {
                    if let Some(dtype) = shapes.dtype(output) {
                        facts.types.insert(output.clone(), dtype);
                    }
                    if let Some(shape) = shapes.shape(output) {
                        facts.ranks.insert(output.clone(), shape.len());
                    }
                }
            }
        }
        floats.retain(|dtype| dtype.is_float());
        facts.float = match floats.into_iter().collect::<Vec<_>>().as_slice() {
            [one] => Some(*one),
            _ => None,
        };
        Ok(facts)
    }

    fn declared(&mut self, value: &ValueInfo) {
        self.names.insert(value.name().to_owned());
        if let Some(dtype) = value.dtype() {
            self.types.insert(value.name().to_owned(), dtype);
        }
        if let Some(shape) = value.shape() {
            self.ranks.insert(value.name().to_owned(), shape.len());
        }
    }

    fn node(
        &mut self,
        node: &proto::NodeProto,
        floats: &mut HashSet<DType>,
        guard: NestingGuard,
    ) -> Result<(), ModelError> {
        self.names.extend(node.input.iter().chain(&node.output).cloned());
        for attribute in &node.attribute {
            let Some(message) = attribute.t.as_option() else {
                continue;
            };
            floats.insert(DType::from_number(message.data_type.unwrap_or_default()));
            if let (Some("Constant"), Some(output)) = (node.op_type.as_deref(), node.output.first())
                && let Ok(tensor) = codec::tensor_from_message(message)
            {
                self.constant(output, &tensor);
                self.types.insert(output.clone(), tensor.dtype());
            }
        }
        if node.op_type.as_deref() == Some("Cast") {
            let to = node
                .attribute
                .iter()
                .find(|attribute| attribute.name.as_deref() == Some("to"));
            let to = to
                .and_then(|attribute| attribute.i)
                .and_then(|number| i32::try_from(number).ok());
            floats.extend(to.map(DType::from_number));
        }
        for graph in subgraphs::messages(node) {
            let guard = guard.enter()?;
            for value in graph.input.iter().chain(&graph.output).chain(&graph.value_info) {
                let value = ValueInfo(value.clone());
                floats.extend(value.dtype());
                self.names.insert(value.name().to_owned());
            }
            for message in &graph.initializer {
                floats.insert(DType::from_number(message.data_type.unwrap_or_default()));
                if let Some(name) = &message.name {
                    self.names.insert(name.clone());
                    self.constants.insert(name.clone(), None);
                }
            }
            for node in &graph.node {
                self.node(node, floats, guard)?;
            }
        }
        Ok(())
    }

    fn constant(&mut self, name: &str, tensor: &Tensor) {
        let small = tensor.byte_len() <= 8 * SMALL;
        let differs = self
            .constants
            .get(name)
            .is_some_and(|known| known.as_ref() != Some(tensor));
        let known = (small && !differs).then(|| tensor.clone());
        self.constants.insert(name.to_owned(), known);
    }

    /// The values of a small constant.
    pub fn floats(&self, value: &str) -> Option<Vec<f32>> {
        let tensor = self.constants.get(value)?.as_ref()?;
        tensor.to_f32().ok().map(|values| values.into_owned())
    }

    /// The element type of a floating-point value.
    pub fn float_type(&self, value: &str) -> Option<DType> {
        self.types.get(value).copied().or(self.float)
    }

    /// The rank of a value.
    pub fn rank(&self, value: &str) -> Option<usize> {
        self.ranks.get(value).copied()
    }

    /// A name like `wanted` that no value has, taken from now on.
    pub fn fresh(&mut self, wanted: &str) -> String {
        let mut name = wanted.to_owned();
        let mut count = 1;
        while !self.names.insert(name.clone()) {
            count += 1;
            name = format!("{wanted}_{count}");
        }
        name
    }
}
