//! Model to bytes.

use buffa::{Message, MessageField};

use super::{sparse, typed};
use crate::{DType, Graph, Initializer, Layout, Model, Tensor, proto};

/// The `location` that marks a tensor whose bytes the host holds, in the graphs that plugins read.
const HOST_LOCATION: &str = "kmr:tensor";

/// The data entries of a tensor whose bytes the host holds under `name`.
pub fn tensor_marker(name: &str) -> Vec<(String, String)> {
    vec![
        ("location".into(), HOST_LOCATION.into()),
        ("tensor".into(), name.into()),
    ]
}

/// Where the bytes of initializers go.
#[derive(Clone, Copy)]
enum Data {
    Inline,
    HeldByHost,
}

impl Model {
    /// The model as one ONNX file.
    pub fn encode_to_vec(&self) -> Vec<u8> {
        self.message(Data::Inline).encode_to_vec()
    }

    /// The exact length of [`Model::encode_to_vec`], without writing it.
    pub fn encoded_len(&self) -> u64 {
        self.message(Data::Inline).encoded_len().into()
    }

    /// The model with markers in place of its tensors' bytes: what plugins read through the ABI.
    ///
    /// A marked tensor is external data with the entries of [`tensor_marker`].
    pub fn encode_without_tensors(&self) -> Vec<u8> {
        self.message(Data::HeldByHost).encode_to_vec()
    }

    fn message(&self, data: Data) -> proto::ModelProto {
        let mut message = (*self.shell).clone();
        message.graph = MessageField::some(graph(&self.graph, data));
        message
    }
}

fn graph(graph: &Graph, data: Data) -> proto::GraphProto {
    let mut message = (*graph.shell).clone();
    message.node = graph.nodes.iter().map(|node| node.proto().clone()).collect();
    message.input = graph.inputs.iter().map(|value| value.0.clone()).collect();
    message.output = graph.outputs.iter().map(|value| value.0.clone()).collect();
    message.value_info = graph.value_info.iter().map(|value| value.0.clone()).collect();
    for (name, initializer) in &graph.initializers {
        match (
            initializer.layout,
            data,
            sparse::is_storable(initializer.tensor.dtype()),
        ) {
            (Layout::Sparse, Data::Inline, true) => {
                message.sparse_initializer.extend(sparse_tensor(name, initializer));
            }
            _ => message.initializer.push(dense_tensor(name, initializer, data)),
        }
    }
    message
}

fn dense_tensor(name: &str, initializer: &Initializer, data: Data) -> proto::TensorProto {
    let tensor = &initializer.tensor;
    let mut message = tensor_message(name, initializer, tensor);
    if matches!(data, Data::HeldByHost) && tensor.dtype() != DType::STRING {
        message.raw_data = None;
        message.float_data.clear();
        message.int32_data.clear();
        message.int64_data.clear();
        message.double_data.clear();
        message.uint64_data.clear();
        message.data_location = Some(1);
        message.external_data = tensor_marker(name)
            .into_iter()
            .map(|(key, value)| proto::StringStringEntryProto {
                key: Some(key),
                value: Some(value),
                ..Default::default()
            })
            .collect();
    }
    message
}

fn tensor_message(name: &str, initializer: &Initializer, tensor: &Tensor) -> proto::TensorProto {
    let shell = initializer.shell.as_deref();
    let mut message = shell.map(|shell| shell.message.clone()).unwrap_or_default();
    message.name = Some(name.into());
    message.dims = tensor.shape().iter().map(|&size| size as i64).collect();
    message.data_type = Some(tensor.dtype().number());
    match shell {
        _ if tensor.dtype() == DType::STRING => {}
        Some(shell) if shell.typed => typed::put(&mut message, tensor.dtype(), tensor.bytes()),
        _ => message.raw_data = Some(tensor.bytes().clone()),
    }
    message
}

fn sparse_tensor(name: &str, initializer: &Initializer) -> Option<proto::SparseTensorProto> {
    let (values, indices) = sparse::from_dense(&initializer.tensor)?;
    let mut message = initializer
        .shell
        .as_deref()
        .and_then(|shell| shell.sparse.as_deref().cloned())
        .unwrap_or_default();
    message.dims = initializer.tensor.shape().iter().map(|&size| size as i64).collect();
    message.values = MessageField::some(tensor_message(name, initializer, &values));
    let mut positions = super::tensor_to_message("", &indices);
    positions.name = None;
    message.indices = MessageField::some(positions);
    Some(message)
}
