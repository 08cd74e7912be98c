//! Nodes of a graph.

use crate::{ErrorKind, ModelError, proto};

/// The numbers of ONNX's `AttributeProto.AttributeType` that kmr writes.
mod attribute_type {
    pub const FLOAT: i32 = 1;
    pub const INT: i32 = 2;
    pub const STRING: i32 = 3;
    pub const FLOATS: i32 = 6;
    pub const INTS: i32 = 7;
}

/// One operator of a graph.
///
/// A node's [id](Node::id) is the name of its first output: unique, because ONNX graphs are in static
/// single-assignment form, and readable in any language without an extension of the format.
#[derive(Clone, Debug, PartialEq)]
pub struct Node(proto::NodeProto);

impl Node {
    /// A node over its wire message.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if it has no operator or no named output.
    pub fn from_proto(proto: proto::NodeProto) -> Result<Self, ModelError> {
        let place = || format!("node `{}`", proto.name.as_deref().unwrap_or_default());
        if proto.op_type.as_deref().unwrap_or_default().is_empty() {
            return Err(ModelError::new(ErrorKind::Malformed, place(), "has no operator type"));
        }
        if proto.output.iter().all(String::is_empty) {
            return Err(ModelError::new(ErrorKind::Malformed, place(), "has no output"));
        }
        Ok(Self(proto))
    }

    /// A node of the standard operator set.
    ///
    /// # Panics
    /// If `outputs` has no name in it.
    pub fn new(op_type: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> Self {
        assert!(outputs.iter().any(|o| !o.is_empty()), "a node needs a named output");
        Self(proto::NodeProto {
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: outputs.iter().map(|&o| o.into()).collect(),
            name: (!name.is_empty()).then(|| name.into()),
            op_type: Some(op_type.into()),
            ..Default::default()
        })
    }

    /// The wire message.
    pub fn proto(&self) -> &proto::NodeProto {
        &self.0
    }

    pub(crate) fn proto_mut(&mut self) -> &mut proto::NodeProto {
        &mut self.0
    }

    /// The name of the first output that has one: this node's identity.
    pub fn id(&self) -> &str {
        self.0.output.iter().find(|o| !o.is_empty()).map_or("", String::as_str)
    }

    /// The node's own name; may be empty, and need not be unique.
    pub fn name(&self) -> &str {
        self.0.name.as_deref().unwrap_or_default()
    }

    /// What people call this node: its name, or its id where it has none.
    pub fn label(&self) -> &str {
        if self.name().is_empty() { self.id() } else { self.name() }
    }

    /// The operator.
    pub fn op_type(&self) -> &str {
        self.0.op_type.as_deref().unwrap_or_default()
    }

    /// The operator's domain, `""` for the standard one (also when it is spelled `ai.onnx`).
    pub fn domain(&self) -> &str {
        match self.0.domain.as_deref() {
            None | Some("ai.onnx") => "",
            Some(domain) => domain,
        }
    }

    /// Whether this is the standard operator `op_type`.
    pub fn is(&self, op_type: &str) -> bool {
        self.op_type() == op_type && self.domain().is_empty()
    }

    /// Names of the inputs; an absent optional input is empty.
    pub fn inputs(&self) -> &[String] {
        &self.0.input
    }

    /// Names of the outputs; an absent optional output is empty.
    pub fn outputs(&self) -> &[String] {
        &self.0.output
    }

    /// Input `position`, if it is present.
    pub fn input(&self, position: usize) -> Option<&str> {
        self.0.input.get(position).map(String::as_str).filter(|i| !i.is_empty())
    }

    /// The attribute `name`.
    pub fn attribute(&self, name: &str) -> Option<&proto::AttributeProto> {
        self.0.attribute.iter().find(|a| a.name.as_deref() == Some(name))
    }

    /// The integer attribute `name`.
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).and_then(|a| a.i)
    }

    /// The float attribute `name`.
    pub fn float(&self, name: &str) -> Option<f32> {
        self.attribute(name).and_then(|a| a.f)
    }

    /// The string attribute `name`, if it is UTF-8.
    pub fn string(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.attribute(name)?.s.as_deref()?).ok()
    }

    /// The list of integers `name`.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    /// The list of floats `name`.
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        self.attribute(name).map(|a| a.floats.as_slice())
    }

    /// Whether an attribute holds a subgraph.
    pub fn has_subgraph(&self) -> bool {
        self.0.attribute.iter().any(|a| a.g.is_set() || !a.graphs.is_empty())
    }

    /// This node with the integer attribute `name`.
    #[must_use]
    pub fn with_int(mut self, name: &str, value: i64) -> Self {
        let mut attribute = attribute(name, attribute_type::INT);
        attribute.i = Some(value);
        self.set_attribute(attribute);
        self
    }

    /// This node with the float attribute `name`.
    #[must_use]
    pub fn with_float(mut self, name: &str, value: f32) -> Self {
        let mut attribute = attribute(name, attribute_type::FLOAT);
        attribute.f = Some(value);
        self.set_attribute(attribute);
        self
    }

    /// This node with the string attribute `name`.
    #[must_use]
    pub fn with_string(mut self, name: &str, value: &str) -> Self {
        let mut attribute = attribute(name, attribute_type::STRING);
        attribute.s = Some(value.to_owned().into());
        self.set_attribute(attribute);
        self
    }

    /// This node with the list of integers `name`.
    #[must_use]
    pub fn with_ints(mut self, name: &str, values: &[i64]) -> Self {
        let mut attribute = attribute(name, attribute_type::INTS);
        attribute.ints = values.to_vec();
        self.set_attribute(attribute);
        self
    }

    /// This node with the list of floats `name`.
    #[must_use]
    pub fn with_floats(mut self, name: &str, values: &[f32]) -> Self {
        let mut attribute = attribute(name, attribute_type::FLOATS);
        attribute.floats = values.to_vec();
        self.set_attribute(attribute);
        self
    }

    /// Sets an attribute, replacing one of the same name in its place.
    pub fn set_attribute(&mut self, attribute: proto::AttributeProto) {
        match self.0.attribute.iter_mut().find(|a| a.name == attribute.name) {
            Some(existing) => *existing = attribute,
            None => self.0.attribute.push(attribute),
        }
    }
}

fn attribute(name: &str, kind: i32) -> proto::AttributeProto {
    proto::AttributeProto {
        name: Some(name.into()),
        r#type: Some(kind),
        ..Default::default()
    }
}
