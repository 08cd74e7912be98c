//! A whole model: a graph, its operator sets and everything else in the file.

use std::sync::Arc;

use crate::{Graph, proto};

/// An imported operator set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorSet {
    /// The domain; `""` is ONNX's own.
    pub domain: String,
    /// The version.
    pub version: i64,
}

/// An ONNX model. Cloning costs pointers, not data.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The main graph.
    pub graph: Graph,
    /// The rest of the message: versions, producer, operator sets, functions, metadata, unknown fields.
    pub(crate) shell: Arc<proto::ModelProto>,
    /// The name of the file that weights are written to.
    pub(crate) external_data: Option<Arc<str>>,
}

impl Model {
    /// A model around `graph`, for the standard operator set `opset` at IR version `ir_version`.
    pub fn new(graph: Graph, ir_version: i64, opset: i64) -> Self {
        Self {
            graph,
            shell: Arc::new(proto::ModelProto {
                ir_version: Some(ir_version),
                opset_import: vec![proto::OperatorSetIdProto {
                    domain: Some(String::new()),
                    version: Some(opset),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            external_data: None,
        }
    }

    /// The same model around another graph.
    #[must_use]
    pub fn with_graph(&self, graph: Graph) -> Self {
        Self {
            graph,
            shell: self.shell.clone(),
            external_data: self.external_data.clone(),
        }
    }

    /// The same model, its weights to be written to a file of this name beside the model's own; to the model's own
    /// for `None`.
    #[must_use]
    pub fn with_external_data(&self, location: Option<&str>) -> Self {
        Self {
            external_data: location.map(Arc::from),
            ..self.clone()
        }
    }

    /// The name of the file that weights are to be written to, if it is not the model's own.
    pub fn external_data(&self) -> Option<&str> {
        self.external_data.as_deref()
    }

    /// The version of the IR that the file is written in.
    pub fn ir_version(&self) -> i64 {
        self.shell.ir_version.unwrap_or_default()
    }

    /// The imported operator sets.
    pub fn operator_sets(&self) -> Vec<OperatorSet> {
        self.shell
            .opset_import
            .iter()
            .map(|set| OperatorSet {
                domain: match set.domain.as_deref() {
                    None | Some("ai.onnx") => String::new(),
                    Some(domain) => domain.to_owned(),
                },
                version: set.version.unwrap_or_default(),
            })
            .collect()
    }

    /// The version of the standard operator set; 1 where the file names none.
    pub fn opset(&self) -> i64 {
        self.operator_sets()
            .iter()
            .find(|set| set.domain.is_empty())
            .map_or(1, |set| set.version)
    }

    /// Whether the model brings functions of its own.
    pub fn has_functions(&self) -> bool {
        !self.shell.functions.is_empty()
    }
}
