//! Bytes to model.

use std::{cell::Cell, collections::HashSet, sync::Arc};

use bytes::Bytes;

use super::{external, malformed, shell, sparse};
use crate::{ErrorKind, Graph, Initializer, Model, ModelError, Node, Tensor, ValueInfo, proto};

/// Subgraphs and types nest; a hostile file nests until the stack ends.
const NESTING_LIMIT: u32 = 200;

/// Where the bytes of tensors come from that are stored outside of the model's own file.
pub trait ExternalData {
    /// The bytes that `entries` (`location`, `offset`, `length`, …) name; `name` is the tensor's.
    ///
    /// Where they state no length the bytes may go on beyond the tensor's; they are cut to what its shape asks for.
    ///
    /// # Errors
    /// If they cannot be had.
    fn read(&self, name: &str, entries: &[(String, String)]) -> Result<Bytes, ModelError>;
}

/// Refuses tensors that are stored elsewhere.
pub(crate) struct NoExternalData;

impl ExternalData for NoExternalData {
    fn read(&self, name: &str, _: &[(String, String)]) -> Result<Bytes, ModelError> {
        Err(ModelError::new(
            ErrorKind::Unsupported,
            format!("tensor `{name}`"),
            "is stored in a file beside the model",
        )
        .with_help("save the model as a single file"))
    }
}

/// How to read a model.
pub struct DecodeOptions<'a> {
    external: &'a dyn ExternalData,
}

impl Default for DecodeOptions<'_> {
    fn default() -> Self {
        Self {
            external: &NoExternalData,
        }
    }
}

impl<'a> DecodeOptions<'a> {
    /// Reads tensors that are stored elsewhere through `external`.
    pub fn with_external_data(external: &'a dyn ExternalData) -> Self {
        Self { external }
    }

    /// Reads a model. Tensors share `bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if the bytes are no ONNX model or contradict themselves.
    pub fn decode(&self, bytes: Bytes) -> Result<Model, ModelError> {
        let place = "";
        if bytes.is_empty() {
            return Err(malformed(place, "the file is empty"));
        }
        // Messages take more memory than their bytes; the budget grows with the file so that an honest
        // file of any size is read and a small one cannot ask for much.
        let memory = bytes.len().saturating_mul(128).saturating_add(32 << 20);
        let mut message: proto::ModelProto = buffa::DecodeOptions::new()
            .with_recursion_limit(NESTING_LIMIT)
            .with_element_memory_limit(memory)
            .decode(&mut bytes.clone())
            .map_err(|error| unreadable(&error))?;
        if message.ir_version.is_none() {
            return Err(malformed(place, "is not an ONNX model: it states no IR version"));
        }
        external::resolve_all(&mut message, self.external)?;
        let graph = message
            .graph
            .take()
            .ok_or_else(|| malformed(place, "is not an ONNX model: it has no graph"))?;
        Ok(Model {
            graph: Decoder::new(bytes.len()).graph(graph, Place::Main)?,
            shell: Arc::new(message),
            external_data: None,
        })
    }
}

fn unreadable(error: &buffa::DecodeError) -> ModelError {
    match error {
        buffa::DecodeError::RecursionLimitExceeded => {
            malformed("", format!("nests more than {NESTING_LIMIT} messages in each other"))
                .with_help("no exporter nests subgraphs so deep; the file may be damaged")
        }
        buffa::DecodeError::ElementMemoryLimitExceeded => {
            malformed("", "asks for more memory than its length justifies")
                .with_help("no exporter writes so many tiny parts; the file may be damaged")
        }
        _ => malformed("", format!("is not a readable ONNX model: {error}"))
            .with_help("the file may be truncated, or of another format"),
    }
}

/// Reads the parts of a model whose tensors hold their own data.
pub(crate) struct Decoder {
    /// How many bytes the dense forms of sparse tensors may still take.
    room: Cell<usize>,
}

impl Decoder {
    /// A decoder for a message of `length` bytes.
    pub(crate) fn new(length: usize) -> Self {
        // A dense form may be far larger than the file that asks for it; sparser tensors than one value in some
        // hundreds are stored sparsely by nobody.
        let room = length.saturating_mul(256).saturating_add(64 << 20);
        Self { room: Cell::new(room) }
    }

    /// Reads a graph. One that stands in an attribute reads values of the graphs around it, too.
    pub(crate) fn graph(&self, mut message: proto::GraphProto, place: Place) -> Result<Graph, ModelError> {
        let mut graph = Graph {
            nodes: std::mem::take(&mut message.node)
                .into_iter()
                .map(|node| Node::from_proto(node).map(Arc::new))
                .collect::<Result<_, _>>()?,
            inputs: values(&mut message.input),
            outputs: values(&mut message.output),
            value_info: values(&mut message.value_info),
            ..Default::default()
        };
        let dense = std::mem::take(&mut message.initializer);
        let sparse = std::mem::take(&mut message.sparse_initializer);
        graph.initializers.reserve(dense.len() + sparse.len());
        let dense = dense.into_iter().map(|message| self.dense(message));
        let sparse = sparse.into_iter().map(|message| self.sparse(message));
        for named in dense.chain(sparse) {
            let (name, initializer) = named?;
            if graph.initializers.insert(name.clone(), initializer).is_some() {
                return Err(malformed(format!("tensor `{name}`"), "exists twice"));
            }
        }
        let mut seen = HashSet::new();
        for output in &graph.outputs {
            // A subgraph's outputs are known by their positions alone.
            if !seen.insert(output.name()) && place == Place::Main {
                return Err(malformed(format!("output `{}`", output.name()), "is declared twice"));
            }
        }
        graph.shell = Arc::new(message);
        match place {
            Place::Main => graph.check()?,
            Place::Inner => graph.check_inner()?,
        }
        Ok(graph)
    }

    /// Reads a dense initializer and its name.
    pub(crate) fn dense(&self, message: proto::TensorProto) -> Result<(String, Initializer), ModelError> {
        let name = message.name.clone().unwrap_or_default();
        if name.is_empty() {
            return Err(malformed("an initializer", "has no name"));
        }
        let initializer = Initializer::from_message(&name, message)?;
        Ok((name, initializer))
    }

    /// Reads a sparse initializer and its name, which is that of its values.
    pub(crate) fn sparse(&self, message: proto::SparseTensorProto) -> Result<(String, Initializer), ModelError> {
        let (Some(values), Some(indices)) = (message.values.as_option(), message.indices.as_option()) else {
            return Err(malformed("a sparse initializer", "lacks its values or its indices"));
        };
        let name = values.name.clone().unwrap_or_default();
        if name.is_empty() {
            return Err(malformed("a sparse initializer", "has no name"));
        }
        let dims = shell::shape(&name, &message.dims)?;
        let values = Initializer::from_message(&name, values.clone())?;
        let dense = if values.tensor.dtype().bits().is_none() {
            Tensor::opaque(values.tensor.dtype(), dims)
        } else {
            let indices = shell::read(&name, indices)?;
            let mut room = self.room.get();
            let dense = sparse::to_dense(&name, dims, &values.tensor, &indices, &mut room)?;
            self.room.set(room);
            dense
        };
        Ok((name, values.into_sparse(dense, message)))
    }
}

/// Where a graph stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the model's.
    Main,
    /// It is an attribute of a node.
    Inner,
}

impl Model {
    /// Reads a model that is whole in `bytes`; its tensors share them.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`] if the bytes are no ONNX model or contradict themselves,
    /// [`ErrorKind::Unsupported`] if tensors are stored elsewhere.
    pub fn decode(bytes: Bytes) -> Result<Self, ModelError> {
        DecodeOptions::default().decode(bytes)
    }
}

fn values(messages: &mut Vec<proto::ValueInfoProto>) -> Vec<ValueInfo> {
    std::mem::take(messages).into_iter().map(ValueInfo).collect()
}
