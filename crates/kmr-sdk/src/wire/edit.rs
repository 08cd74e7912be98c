//! Edits of the candidate: operations that cross as JSON, and the model's own patches.

use buffa::Message;
use kmr_model::{DType, Dimension, Edit, Node, Patch, Tensor, proto};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The version of the list of operations.
pub const EDIT_VERSION: u32 = 1;

/// A node or attribute that nests deeper than this is refused.
const NESTING_LIMIT: u32 = 200;

/// The document of an edit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditRequest {
    /// [`EDIT_VERSION`].
    pub version: u32,
    /// What to do, in order.
    pub operations: Vec<Operation>,
}

/// One operation. Nodes are named by their id, which is their first named output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Operation {
    /// Stores a committed buffer as the initializer `name`, replacing or adding it.
    StoreTensor {
        /// The initializer.
        name: String,
        /// The number that the buffer's commit gave.
        buffer: u64,
    },
    /// Removes an initializer that nothing reads any more.
    RemoveTensor {
        /// The initializer.
        name: String,
    },
    /// Chooses how an initializer is written.
    StoreSparse {
        /// The initializer.
        name: String,
        /// Whether as a sparse tensor.
        sparse: bool,
    },
    /// Adds a node.
    AddNode {
        /// The attachment with its `NodeProto`.
        node: usize,
        /// The node that it goes before; the end if there is none.
        before: Option<String>,
    },
    /// Removes a node whose outputs nothing reads any more.
    RemoveNode {
        /// The node.
        node: String,
    },
    /// Makes an input of a node read another value.
    Rewire {
        /// The node.
        node: String,
        /// The input's position.
        input: usize,
        /// The value; empty for none.
        value: String,
    },
    /// Sets an attribute of a node.
    SetAttribute {
        /// The node.
        node: String,
        /// The attachment with its `AttributeProto`.
        attribute: usize,
    },
    /// Removes an attribute of a node.
    RemoveAttribute {
        /// The node.
        node: String,
        /// The attribute's name.
        name: String,
    },
    /// Declares the type of a value anew.
    Retype {
        /// The value.
        value: String,
        /// The element type, by its ONNX number.
        dtype: i32,
        /// Its shape.
        shape: Vec<Size>,
    },
    /// Says that declared types of inner values stay true, but for those that are declared anew here.
    KeepTypes,
}

/// The size of a dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Known.
    Fixed(usize),
    /// Known at run time, by this name; empty for none.
    Named(String),
}

impl EditRequest {
    /// The operations and attachments of `patch`. `store` commits a tensor and gives its number.
    ///
    /// # Errors
    /// Those of `store`; [`ErrorCode::UNSUPPORTED`](crate::ErrorCode::UNSUPPORTED) for an edit newer than
    /// this version.
    pub fn from_patch(
        patch: &Patch,
        mut store: impl FnMut(&str, &Tensor) -> Result<u64>,
    ) -> Result<(Self, Vec<Vec<u8>>)> {
        let mut attachments = Vec::new();
        let mut attach = |bytes: Vec<u8>| {
            attachments.push(bytes);
            attachments.len() - 1
        };
        let mut operations = Vec::with_capacity(patch.edits.len());
        for edit in &patch.edits {
            operations.push(match edit {
                Edit::StoreTensor { name, tensor } => Operation::StoreTensor {
                    name: name.clone(),
                    buffer: store(name, tensor)?,
                },
                Edit::RemoveTensor { name } => Operation::RemoveTensor { name: name.clone() },
                Edit::StoreSparse { name, sparse } => Operation::StoreSparse {
                    name: name.clone(),
                    sparse: *sparse,
                },
                Edit::AddNode { node, before } => Operation::AddNode {
                    node: attach(encode_message(node.proto())),
                    before: before.clone(),
                },
                Edit::RemoveNode { node } => Operation::RemoveNode { node: node.clone() },
                Edit::Rewire { node, input, value } => Operation::Rewire {
                    node: node.clone(),
                    input: *input,
                    value: value.clone(),
                },
                Edit::SetAttribute { node, attribute } => Operation::SetAttribute {
                    node: node.clone(),
                    attribute: attach(encode_message(&**attribute)),
                },
                Edit::RemoveAttribute { node, name } => Operation::RemoveAttribute {
                    node: node.clone(),
                    name: name.clone(),
                },
                Edit::Retype { value, dtype, shape } => Operation::Retype {
                    value: value.clone(),
                    dtype: dtype.number(),
                    shape: shape.iter().map(Size::from).collect(),
                },
                Edit::KeepTypes => Operation::KeepTypes,
                other => {
                    return Err(Error::unsupported(format!(
                        "this edit cannot cross to the host: {other:?}"
                    )));
                }
            });
        }
        let version = EDIT_VERSION;
        Ok((Self { version, operations }, attachments))
    }

    /// The patch that the operations describe. `take` gives the tensor of a committed buffer.
    ///
    /// # Errors
    /// Those of `take`; [`ErrorCode::INVALID_REQUEST`](crate::ErrorCode::INVALID_REQUEST) if an attachment
    /// is missing or malformed.
    pub fn to_patch<A: AsRef<[u8]>>(
        self,
        attachments: &[A],
        mut take: impl FnMut(u64) -> Result<Tensor>,
    ) -> Result<Patch> {
        if self.version != EDIT_VERSION {
            return Err(Error::unsupported(format!(
                "operations of version {}; the host knows version {EDIT_VERSION}",
                self.version
            )));
        }
        let mut patch = Patch::new();
        for operation in self.operations {
            patch.push(match operation {
                Operation::StoreTensor { name, buffer } => Edit::StoreTensor {
                    name,
                    tensor: take(buffer)?,
                },
                Operation::RemoveTensor { name } => Edit::RemoveTensor { name },
                Operation::StoreSparse { name, sparse } => Edit::StoreSparse { name, sparse },
                Operation::AddNode { node, before } => Edit::AddNode {
                    node: Box::new(Node::from_proto(attachment(attachments, node)?)?),
                    before,
                },
                Operation::RemoveNode { node } => Edit::RemoveNode { node },
                Operation::Rewire { node, input, value } => Edit::Rewire { node, input, value },
                Operation::SetAttribute { node, attribute } => Edit::SetAttribute {
                    node,
                    attribute: Box::new(attachment::<proto::AttributeProto, A>(attachments, attribute)?),
                },
                Operation::RemoveAttribute { node, name } => Edit::RemoveAttribute { node, name },
                Operation::Retype { value, dtype, shape } => Edit::Retype {
                    value,
                    dtype: DType::from_number(dtype),
                    shape: shape.into_iter().map(Dimension::from).collect(),
                },
                Operation::KeepTypes => Edit::KeepTypes,
            });
        }
        Ok(patch)
    }
}

impl From<&Dimension> for Size {
    fn from(dimension: &Dimension) -> Self {
        match dimension {
            Dimension::Fixed(size) => Self::Fixed(*size),
            Dimension::Named(name) => Self::Named(name.clone()),
            Dimension::Unknown => Self::Named(String::new()),
        }
    }
}

impl From<Size> for Dimension {
    fn from(size: Size) -> Self {
        match size {
            Size::Fixed(size) => Self::Fixed(size),
            Size::Named(name) if name.is_empty() => Self::Unknown,
            Size::Named(name) => Self::Named(name),
        }
    }
}

fn encode_message<M: Message>(message: &M) -> Vec<u8> {
    message.encode_to_vec()
}

fn attachment<M: Message, A: AsRef<[u8]>>(attachments: &[A], position: usize) -> Result<M> {
    let bytes = attachments
        .get(position)
        .ok_or_else(|| Error::invalid_request(format!("an operation names attachment {position}, which is missing")))?
        .as_ref();
    let memory = bytes.len().saturating_mul(32).saturating_add(1 << 20);
    buffa::DecodeOptions::new()
        .with_recursion_limit(NESTING_LIMIT)
        .with_element_memory_limit(memory)
        .decode_from_slice(bytes)
        .map_err(|error| Error::invalid_request(format!("attachment {position} is not readable: {error}")))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn a_patch_crosses_unchanged() {
        let tensor = Tensor::from_vec(vec![2], vec![1.0_f32, 2.0]);
        let patch = Patch {
            edits: vec![
                Edit::StoreTensor {
                    name: "w".into(),
                    tensor,
                },
                Edit::AddNode {
                    node: Box::new(Node::new("Cast", "c", &["w"], &["w_cast"])),
                    before: Some("y".into()),
                },
                Edit::Rewire {
                    node: "y".into(),
                    input: 1,
                    value: "w_cast".into(),
                },
                Edit::SetAttribute {
                    node: "w_cast".into(),
                    attribute: Box::new(proto::AttributeProto {
                        name: Some("to".into()),
                        i: Some(1),
                        ..Default::default()
                    }),
                },
                Edit::Retype {
                    value: "y".into(),
                    dtype: DType::FLOAT,
                    shape: vec![Dimension::Named("n".into()), Dimension::Fixed(2), Dimension::Unknown],
                },
                Edit::RemoveAttribute {
                    node: "y".into(),
                    name: "alpha".into(),
                },
                Edit::RemoveNode { node: "z".into() },
                Edit::RemoveTensor { name: "v".into() },
                Edit::StoreSparse {
                    name: "w".into(),
                    sparse: true,
                },
                Edit::KeepTypes,
            ],
        };
        let mut committed = HashMap::new();
        let (request, attachments) = EditRequest::from_patch(&patch, |_, tensor| {
            let number = committed.len() as u64 + 7;
            committed.insert(number, tensor.clone());
            Ok(number)
        })
        .unwrap();
        let json = serde_json::to_string(&request).unwrap();
        assert!(
            json.contains(r#"{"op":"rewire","node":"y","input":1,"value":"w_cast"}"#),
            "{json}"
        );
        let back: EditRequest = serde_json::from_str(&json).unwrap();
        let back = back
            .to_patch(&attachments, |number| Ok(committed[&number].clone()))
            .unwrap();
        assert_eq!(back, patch);
    }

    #[test]
    fn malformed_operations_are_refused() {
        let request = |json: &str| serde_json::from_str::<EditRequest>(json).unwrap();
        let add = r#"{"version":1,"operations":[{"op":"add_node","node":0,"before":null}]}"#;
        let none = |_| unreachable!("no tensor is stored");
        assert!(request(add).to_patch::<Vec<u8>>(&[], none).is_err());
        assert!(request(add).to_patch(&[vec![0xff_u8; 9]], none).is_err());
        assert!(
            request(add).to_patch(&[Vec::<u8>::new()], none).is_err(),
            "a node without an operator"
        );
        assert!(
            request(r#"{"version":2,"operations":[]}"#)
                .to_patch::<Vec<u8>>(&[], none)
                .is_err()
        );
    }
}
