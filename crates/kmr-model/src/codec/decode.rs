//! Bytes to model.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;

use super::{TensorShell, malformed, sparse, typed};
use crate::{DType, ErrorKind, Graph, Initializer, Layout, Model, ModelError, Node, Tensor, ValueInfo, proto};

/// Subgraphs and types nest; a hostile file nests until the stack ends.
const NESTING_LIMIT: u32 = 200;

/// Where the bytes of tensors come from that are stored outside of the model's own file.
pub trait ExternalData {
    /// The bytes that `entries` (`location`, `offset`, `length`, …) name; `name` is the tensor's.
    ///
    /// # Errors
    /// If they cannot be had.
    fn read(&self, name: &str, entries: &[(String, String)]) -> Result<Bytes, ModelError>;
}

pub(super) struct NoExternalData;

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
        let memory = bytes.len().saturating_mul(32).saturating_add(32 << 20);
        let mut message: proto::ModelProto = buffa::DecodeOptions::new()
            .with_recursion_limit(NESTING_LIMIT)
            .with_element_memory_limit(memory)
            .decode(&mut bytes.clone())
            .map_err(|error| {
                malformed(place, format!("is not a readable ONNX model: {error}"))
                    .with_help("the file may be truncated, or of another format")
            })?;
        if message.ir_version.is_none() {
            return Err(malformed(place, "is not an ONNX model: it states no IR version"));
        }
        let graph = message
            .graph
            .take()
            .ok_or_else(|| malformed(place, "is not an ONNX model: it has no graph"))?;
        Ok(Model {
            graph: self.graph(graph)?,
            shell: Arc::new(message),
        })
    }

    fn graph(&self, mut message: proto::GraphProto) -> Result<Graph, ModelError> {
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
        let dense = std::mem::take(&mut message.initializer)
            .into_iter()
            .map(|m| self.dense(m));
        let sparse = std::mem::take(&mut message.sparse_initializer)
            .into_iter()
            .map(|m| self.sparse(m));
        for named in dense.collect::<Vec<_>>().into_iter().chain(sparse) {
            let (name, initializer) = named?;
            if graph.initializers.insert(name.clone(), initializer).is_some() {
                return Err(malformed(format!("tensor `{name}`"), "exists twice"));
            }
        }
        let mut seen = HashSet::new();
        for output in &graph.outputs {
            if !seen.insert(output.name()) {
                return Err(malformed(format!("output `{}`", output.name()), "is declared twice"));
            }
        }
        graph.shell = Arc::new(message);
        graph.check()?;
        Ok(graph)
    }

    fn dense(&self, message: proto::TensorProto) -> Result<(String, Initializer), ModelError> {
        let name = message.name.clone().unwrap_or_default();
        if name.is_empty() {
            return Err(malformed("an initializer", "has no name"));
        }
        let (tensor, shell) = tensor(message, self.external)?;
        let initializer = Initializer {
            tensor: Arc::new(tensor),
            layout: Layout::Dense,
            shell: Some(Arc::new(shell)),
        };
        Ok((name, initializer))
    }

    fn sparse(&self, mut message: proto::SparseTensorProto) -> Result<(String, Initializer), ModelError> {
        let (Some(values), Some(indices)) = (message.values.take(), message.indices.take()) else {
            return Err(malformed("a sparse initializer", "lacks its values or its indices"));
        };
        let name = values.name.clone().unwrap_or_default();
        if name.is_empty() {
            return Err(malformed("a sparse initializer", "has no name"));
        }
        let shape = shape(&name, &message.dims)?;
        let (values, mut shell) = tensor(values, self.external)?;
        let (indices, _) = tensor(indices, self.external)?;
        // A dense copy may be far larger than the file that asks for it: bound it by what runtimes,
        // which make the same copy, can hold.
        const DENSE_LIMIT: usize = 1 << 31;
        if crate::tensor::element_count(&shape).is_none_or(|count| count > DENSE_LIMIT) {
            return Err(malformed(
                format!("sparse tensor `{name}`"),
                format!("shape {shape:?} is too large"),
            ));
        }
        let dense = sparse::to_dense(&name, shape, &values, &indices)?;
        message.dims.clear();
        shell.sparse = Some(Box::new(message));
        let initializer = Initializer {
            tensor: Arc::new(dense),
            layout: Layout::Sparse,
            shell: Some(Arc::new(shell)),
        };
        Ok((name, initializer))
    }
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

fn shape(name: &str, dims: &[i64]) -> Result<Vec<usize>, ModelError> {
    dims.iter()
        .map(|&size| usize::try_from(size))
        .collect::<Result<_, _>>()
        .map_err(|_| {
            malformed(
                format!("tensor `{name}`"),
                format!("has a negative dimension in {dims:?}"),
            )
        })
}

pub(super) fn tensor(
    mut message: proto::TensorProto,
    external: &dyn ExternalData,
) -> Result<(Tensor, TensorShell), ModelError> {
    let name = message.name.clone().unwrap_or_default();
    let place = || format!("tensor `{name}`");
    if message.segment.is_set() {
        return Err(ModelError::new(
            ErrorKind::Unsupported,
            place(),
            "is stored in segments",
        ));
    }
    let dtype = DType::from_number(message.data_type.unwrap_or_default());
    let shape = shape(&name, &message.dims)?;
    message.dims.clear();
    message.data_type = None;
    if dtype == DType::STRING {
        let shell = TensorShell {
            message,
            typed: true,
            sparse: None,
        };
        return Ok((Tensor::opaque(dtype, shape), shell));
    }
    if dtype.bits().is_none() {
        return Err(ModelError::new(
            ErrorKind::Unsupported,
            place(),
            format!("has {dtype}, which kmr does not know"),
        ));
    }
    let (bytes, typed) = if message.data_location == Some(1) {
        let entries: Vec<_> = std::mem::take(&mut message.external_data)
            .into_iter()
            .map(|entry| (entry.key.unwrap_or_default(), entry.value.unwrap_or_default()))
            .collect();
        message.data_location = None;
        (external.read(&name, &entries)?, false)
    } else if let Some(raw) = message.raw_data.take() {
        (raw, false)
    } else {
        (typed::take(&mut message, dtype), true)
    };
    let tensor = Tensor::new(dtype, shape, bytes).map_err(|error| malformed(place(), error.to_string()))?;
    Ok((
        tensor,
        TensorShell {
            message,
            typed,
            sparse: None,
        },
    ))
}
