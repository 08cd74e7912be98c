//! Edits of a graph as JSON operations with attached protobuf messages.

use buffa::Message;
use kmr_model::{DType, Dimension, Edit, Node, proto};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

#[derive(Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Operation {
    AddNode {
        node: usize,
        #[serde(default)]
        before: Option<String>,
    },
    RemoveNode {
        node: String,
    },
    Rewire {
        node: String,
        input: usize,
        value: String,
    },
    SetAttribute {
        node: String,
        attribute: usize,
    },
    RemoveAttribute {
        node: String,
        name: String,
    },
    RemoveTensor {
        name: String,
    },
    StoreSparse {
        name: String,
        sparse: bool,
    },
    Retype {
        value: String,
        dtype: i32,
        shape: Vec<Size>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Size {
    Fixed(usize),
    Named(String),
    Unknown(()),
}

/// The JSON list of operations for `edits` and the messages that it refers to by position.
///
/// # Errors
/// For [`Edit::StoreTensor`]: tensors travel as buffers, not as operations.
pub fn encode_edits<'e>(
    edits: impl IntoIterator<Item = &'e Edit>,
) -> Result<(String, Vec<Vec<u8>>)> {
    let mut attachments = Vec::new();
    let mut attach = |bytes: Vec<u8>| {
        attachments.push(bytes);
        attachments.len() - 1
    };
    let mut operations = Vec::new();
    for edit in edits {
        operations.push(match edit.clone() {
            Edit::AddNode { node, before } => Operation::AddNode {
                node: attach(node.proto().encode_to_vec()),
                before,
            },
            Edit::RemoveNode { node } => Operation::RemoveNode { node },
            Edit::Rewire { node, input, value } => Operation::Rewire { node, input, value },
            Edit::SetAttribute { node, attribute } => Operation::SetAttribute {
                node,
                attribute: attach(attribute.encode_to_vec()),
            },
            Edit::RemoveAttribute { node, name } => Operation::RemoveAttribute { node, name },
            Edit::RemoveTensor { name } => Operation::RemoveTensor { name },
            Edit::StoreSparse { name, sparse } => Operation::StoreSparse { name, sparse },
            Edit::Retype {
                value,
                dtype,
                shape,
            } => Operation::Retype {
                value,
                dtype: dtype.number(),
                shape: shape.into_iter().map(size).collect(),
            },
            other => {
                return Err(Error::unsupported(format!(
                    "{other:?} is no operation of the host"
                )));
            }
        });
    }
    Ok((serde_json::to_string(&operations)?, attachments))
}

fn size(dimension: Dimension) -> Size {
    match dimension {
        Dimension::Fixed(size) => Size::Fixed(size),
        Dimension::Named(name) => Size::Named(name),
        Dimension::Unknown => Size::Unknown(()),
    }
}

/// The edits that a JSON list of operations stands for.
///
/// # Errors
/// If the JSON is no list of operations, or an attachment is missing or unreadable.
pub fn decode_edits(operations: &str, attachments: &[Vec<u8>]) -> Result<Vec<Edit>> {
    let operations: Vec<Operation> = serde_json::from_str(operations)
        .map_err(|error| Error::invalid(format!("operations: {error}")))?;
    operations
        .into_iter()
        .map(|operation| decode(operation, attachments))
        .collect()
}

fn decode(operation: Operation, attachments: &[Vec<u8>]) -> Result<Edit> {
    Ok(match operation {
        Operation::AddNode { node, before } => {
            let message: proto::NodeProto = attached(attachments, node)?;
            Edit::AddNode {
                node: Box::new(Node::from_proto(message)?),
                before,
            }
        }
        Operation::RemoveNode { node } => Edit::RemoveNode { node },
        Operation::Rewire { node, input, value } => Edit::Rewire { node, input, value },
        Operation::SetAttribute { node, attribute } => Edit::SetAttribute {
            node,
            attribute: Box::new(attached(attachments, attribute)?),
        },
        Operation::RemoveAttribute { node, name } => Edit::RemoveAttribute { node, name },
        Operation::RemoveTensor { name } => Edit::RemoveTensor { name },
        Operation::StoreSparse { name, sparse } => Edit::StoreSparse { name, sparse },
        Operation::Retype {
            value,
            dtype,
            shape,
        } => Edit::Retype {
            value,
            dtype: DType::from_number(dtype),
            shape: shape
                .into_iter()
                .map(|size| match size {
                    Size::Fixed(size) => Dimension::Fixed(size),
                    Size::Named(name) => Dimension::Named(name),
                    Size::Unknown(()) => Dimension::Unknown,
                })
                .collect(),
        },
    })
}

fn attached<M: Message>(attachments: &[Vec<u8>], position: usize) -> Result<M> {
    let bytes = attachments
        .get(position)
        .ok_or_else(|| Error::invalid(format!("there is no attachment {position}")))?;
    M::decode_from_slice(bytes)
        .map_err(|error| Error::invalid(format!("attachment {position}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_cross_unchanged() {
        let node = Node::new("Cast", "widen", &["a"], &["b"]).with_int("to", 1);
        let attribute = node.attribute("to").unwrap().clone();
        let edits = vec![
            Edit::AddNode {
                node: Box::new(node),
                before: Some("c".into()),
            },
            Edit::RemoveNode { node: "c".into() },
            Edit::Rewire {
                node: "d".into(),
                input: 1,
                value: "b".into(),
            },
            Edit::SetAttribute {
                node: "d".into(),
                attribute: Box::new(attribute),
            },
            Edit::RemoveAttribute {
                node: "d".into(),
                name: "group".into(),
            },
            Edit::RemoveTensor { name: "w".into() },
            Edit::StoreSparse {
                name: "w".into(),
                sparse: true,
            },
            Edit::Retype {
                value: "y".into(),
                dtype: DType::FLOAT,
                shape: vec![
                    Dimension::Fixed(2),
                    Dimension::Named("n".into()),
                    Dimension::Unknown,
                ],
            },
        ];
        let (json, attachments) = encode_edits(&edits).unwrap();
        assert_eq!(decode_edits(&json, &attachments).unwrap(), edits);
        assert!(decode_edits(&json, &[]).is_err());
        assert!(decode_edits("[{\"op\": \"explode\"}]", &[]).is_err());
    }
}
