//! Model to messages.

use buffa::{Message, MessageField};

use super::{
    files::DataFile,
    shell::{EXTERNAL, Missing},
    sparse, typed,
};
use crate::{Graph, Initializer, Layout, Model, Tensor, proto};

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
pub(super) enum Data<'d> {
    /// Into the message.
    Inline,
    /// Nowhere: the host holds them.
    HeldByHost,
    /// Large ones into a file beside the model's.
    Beside(&'d mut DataFile),
}

impl Model {
    /// The model as one ONNX file, in memory: for models of moderate size. [`Model::files`] writes any model.
    ///
    /// # Panics
    /// If the model takes 2 GiB or more, which protobuf cannot hold.
    pub fn encode_to_vec(&self) -> Vec<u8> {
        self.message(&mut Data::Inline).encode_to_vec()
    }

    /// The exact number of bytes of the files that the model is written as, the data file's included.
    ///
    /// `u64::MAX` for a model that cannot be written: see [`Model::files`].
    pub fn encoded_len(&self) -> u64 {
        self.files().map_or(u64::MAX, |files| files.len())
    }

    /// The model with markers in place of its tensors' bytes: what plugins read through the ABI.
    ///
    /// A marked tensor is external data with the entries of [`tensor_marker`].
    pub fn encode_without_tensors(&self) -> Vec<u8> {
        self.message(&mut Data::HeldByHost).encode_to_vec()
    }

    pub(super) fn message(&self, data: &mut Data<'_>) -> proto::ModelProto {
        let mut message = (*self.shell).clone();
        message.graph = MessageField::some(graph(&self.graph, data));
        message
    }
}

impl Graph {
    /// The graph's message, tensors' bytes included.
    pub(crate) fn to_message(&self) -> proto::GraphProto {
        graph(self, &mut Data::Inline)
    }
}

fn graph(graph: &Graph, data: &mut Data<'_>) -> proto::GraphProto {
    let mut message = (*graph.shell).clone();
    message.node = graph.nodes.iter().map(|node| node.proto().clone()).collect();
    message.input = graph.inputs.iter().map(|value| value.0.clone()).collect();
    message.output = graph.outputs.iter().map(|value| value.0.clone()).collect();
    message.value_info = graph.value_info.iter().map(|value| value.0.clone()).collect();
    for (name, initializer) in &graph.initializers {
        // The host's tensors are dense, but those without bytes travel as they came.
        let held = matches!(data, Data::HeldByHost) && initializer.tensor.dtype().bits().is_some();
        match sparse_tensor(name, initializer).filter(|_| !held) {
            Some(sparse) => message.sparse_initializer.push(sparse),
            None => message.initializer.push(dense_tensor(name, initializer, data)),
        }
    }
    message
}

fn dense_tensor(name: &str, initializer: &Initializer, data: &mut Data<'_>) -> proto::TensorProto {
    let tensor = &initializer.tensor;
    let (mut message, missing) = initializer.shell_message(name, tensor);
    match data {
        Data::HeldByHost if tensor.dtype().bits().is_some() => {
            store_elsewhere(&mut message, tensor_marker(name));
        }
        Data::Beside(file) if missing != Missing::Nothing && DataFile::takes(tensor.bytes()) => {
            let entries = file.add(tensor.bytes().clone());
            store_elsewhere(&mut message, entries);
        }
        _ => fill(&mut message, missing, tensor),
    }
    message
}

/// Makes `message` say that its data is where `entries` tell.
pub(super) fn store_elsewhere(message: &mut proto::TensorProto, entries: Vec<(String, String)>) {
    typed::clear_all(message);
    message.data_location = Some(EXTERNAL);
    message.external_data = entries
        .into_iter()
        .map(|(key, value)| proto::StringStringEntryProto {
            key: Some(key),
            value: Some(value),
            ..Default::default()
        })
        .collect();
}

fn fill(message: &mut proto::TensorProto, missing: Missing, tensor: &Tensor) {
    match missing {
        Missing::Nothing => {}
        Missing::Raw => message.raw_data = Some(tensor.bytes().clone()),
        Missing::Typed => typed::put(message, tensor.dtype(), tensor.bytes(), tensor.len()),
    }
}

/// The sparse message of an initializer that is to be written so and can be.
fn sparse_tensor(name: &str, initializer: &Initializer) -> Option<proto::SparseTensorProto> {
    if let Some(message) = initializer.sparse_message(name) {
        return Some(message);
    }
    if initializer.layout == Layout::Dense || !sparse::is_storable(initializer.tensor.dtype()) {
        return None;
    }
    let (values, indices) = sparse::from_dense(&initializer.tensor)?;
    let mut message = initializer.sparse_shell();
    message.dims = initializer.tensor.shape().iter().map(|&size| size as i64).collect();
    let (mut stored, missing) = initializer.shell_message(name, &values);
    fill(&mut stored, missing, &values);
    message.values = MessageField::some(stored);
    let mut positions = super::tensor_to_message("", &indices);
    positions.name = None;
    message.indices = MessageField::some(positions);
    Some(message)
}
