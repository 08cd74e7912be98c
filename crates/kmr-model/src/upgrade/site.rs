//! A node that is being adapted, and the nodes that come to stand around it.

use buffa::MessageField;

use super::facts::Facts;
use crate::{DType, Node, Tensor, codec, proto};

/// Why a node cannot be adapted.
pub(super) type Refusal = String;

/// One node at one step.
pub(super) struct Site<'f> {
    /// The node; an adapter leaves it as it is to be.
    pub node: Node,
    /// The operator set that the whole model is to have in the end.
    pub to: i64,
    pub facts: &'f mut Facts,
    before: Vec<Node>,
    after: Vec<Node>,
    done: Vec<String>,
}

impl<'f> Site<'f> {
    pub fn new(node: Node, to: i64, facts: &'f mut Facts) -> Self {
        Self {
            node,
            to,
            facts,
            before: Vec::new(),
            after: Vec::new(),
            done: Vec::new(),
        }
    }

    /// All nodes in order, and what was done, in words.
    pub fn finish(self) -> (impl Iterator<Item = proto::NodeProto>, String) {
        let nodes = self.before.into_iter().chain([self.node]).chain(self.after);
        (nodes.map(|node| node.proto().clone()), self.done.join("; "))
    }

    /// Notes what was done.
    pub fn note(&mut self, what: impl Into<String>) {
        self.done.push(what.into());
    }

    /// A new name for a value that belongs to this node.
    pub fn fresh(&mut self, role: &str) -> String {
        let wanted = format!("{}_{role}", self.node.id());
        self.facts.fresh(&wanted)
    }

    /// Removes the attribute `name` and returns it.
    ///
    /// # Errors
    /// If its value is a reference to an attribute of a function.
    pub fn take(&mut self, name: &str) -> Result<Option<proto::AttributeProto>, Refusal> {
        let attributes = &mut self.node.proto_mut().attribute;
        let Some(position) = attributes.iter().position(|a| a.name.as_deref() == Some(name)) else {
            return Ok(None);
        };
        let attribute = attributes.remove(position);
        if attribute.ref_attr_name.as_deref().is_some_and(|name| !name.is_empty()) {
            return Err(format!("its attribute `{name}` is set by the calls of a function"));
        }
        Ok(Some(attribute))
    }

    /// Removes the list of integers `name`.
    pub fn take_ints(&mut self, name: &str) -> Result<Option<Vec<i64>>, Refusal> {
        Ok(self.take(name)?.map(|attribute| attribute.ints))
    }

    /// Removes the integer `name`.
    pub fn take_int(&mut self, name: &str) -> Result<Option<i64>, Refusal> {
        Ok(self.take(name)?.and_then(|attribute| attribute.i))
    }

    /// Removes the float `name`.
    pub fn take_float(&mut self, name: &str) -> Result<Option<f32>, Refusal> {
        Ok(self.take(name)?.and_then(|attribute| attribute.f))
    }

    /// Sets input `position` to the value `name`; inputs before it that are not there are left out.
    pub fn set_input(&mut self, position: usize, name: String) {
        let inputs = &mut self.node.proto_mut().input;
        if inputs.len() <= position {
            inputs.resize(position + 1, String::new());
        }
        inputs[position] = name;
    }

    /// A new Constant node in front of this one; returns its output.
    pub fn constant(&mut self, role: &str, tensor: &Tensor) -> String {
        let name = self.fresh(role);
        let mut node = Node::new("Constant", "", &[], &[&name]);
        const TENSOR: i32 = 4;
        node.set_attribute(proto::AttributeProto {
            name: Some("value".into()),
            r#type: Some(TENSOR),
            t: MessageField::some(codec::tensor_to_message("", tensor)),
            ..Default::default()
        });
        self.before.push(node);
        name
    }

    /// A new Constant of integers, one-dimensional.
    pub fn integers(&mut self, role: &str, values: Vec<i64>) -> String {
        self.constant(role, &Tensor::from_vec(vec![values.len()], values))
    }

    /// A new scalar Constant of `value` in the element type of input `input`.
    ///
    /// # Errors
    /// If that type is not known, or cannot hold the value.
    pub fn scalar_like(&mut self, role: &str, input: usize, value: f32) -> Result<String, Refusal> {
        let name = self.node.input(input).unwrap_or_default();
        let tensor = match self.facts.float_type(name) {
            Some(DType::FLOAT) => Tensor::scalar(value),
            Some(DType::DOUBLE) => Tensor::scalar(f64::from(value)),
            Some(DType::FLOAT16) => Tensor::scalar(half::f16::from_f32(value)),
            Some(DType::BFLOAT16) => Tensor::scalar(half::bf16::from_f32(value)),
            Some(other) => return Err(format!("its input `{name}` is {other}")),
            None => return Err(format!("the element type of its input `{name}` is not known")),
        };
        Ok(self.constant(role, &tensor))
    }

    /// Puts a node in front of this one.
    pub fn precede(&mut self, node: Node) {
        self.before.push(node);
    }

    /// Puts a node behind this one.
    pub fn follow(&mut self, node: Node) {
        self.after.push(node);
    }

    /// How many outputs the node has that are read by name.
    pub fn named_outputs(&self) -> usize {
        self.node.outputs().iter().filter(|output| !output.is_empty()).count()
    }
}
