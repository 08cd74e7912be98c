//! The trait behind which an executor stands.

use std::collections::BTreeMap;

use kmr_model::{Model, Node, OperatorSet, Tensor};

use crate::{ComputeError, ErrorKind};

/// Values given to an execution, by name: graph inputs, or inner values to start from.
///
/// A fed value is taken as it is; the nodes that would make it do not run. Initializers may be fed too,
/// which replaces them for this execution.
pub type Feeds = BTreeMap<String, Tensor>;

/// What results depend on; part of cache keys and of the lock file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EngineIdentity {
    /// The engine.
    pub name: String,
    /// Its version, and that of what it computes with.
    pub version: String,
    /// The class of instructions or the device kind: results are bit-identical within one class.
    pub instruction_set: String,
}

/// Which statistics batch normalization uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BatchNorm {
    /// The running statistics stored in the model.
    #[default]
    Running,
    /// Those of the batch itself.
    Batch,
}

/// How a model is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mode {
    /// Which statistics batch normalization uses.
    pub batch_norm: BatchNorm,
    /// Whether rounding counts as the identity in derivatives, inside of its range ("Estimating or Propagating
    /// Gradients Through Stochastic Neurons", arXiv 1308.3432).
    pub straight_through: bool,
    /// The seed by which `Dropout` drops; nothing is dropped without one.
    pub dropout: Option<u64>,
}

/// A node that an engine cannot execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What people call the node.
    pub node: String,
    /// Domain of its operator, `""` for ONNX's own.
    pub domain: String,
    /// Its operator.
    pub operator: String,
    /// The version of the operator set that the model imports; `None` if it does not import the domain.
    pub opset: Option<i64>,
    /// Why it cannot be executed; `None` where the engine does not know the operator at all.
    pub reason: Option<String>,
}

impl Refusal {
    /// The refusal of `node` in `model`.
    pub fn new(model: &Model, node: &Node) -> Self {
        Self::among(&model.operator_sets(), node)
    }

    /// The refusal of `node` in a model that imports `sets`.
    pub(crate) fn among(sets: &[OperatorSet], node: &Node) -> Self {
        Self {
            node: node.label().to_owned(),
            domain: node.domain().to_owned(),
            operator: node.op_type().to_owned(),
            opset: sets
                .iter()
                .find(|set| set.domain == node.domain())
                .map(|set| set.version),
            reason: None,
        }
    }

    /// Adds why the node cannot be executed.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }
}

impl From<Refusal> for ComputeError {
    fn from(refusal: Refusal) -> Self {
        let opset = refusal
            .opset
            .map_or("not imported".to_owned(), |version| version.to_string());
        let reason = match refusal.reason {
            Some(reason) => format!(": {reason}"),
            None => " is not supported".to_owned(),
        };
        Self::new(
            ErrorKind::Unsupported,
            format!("node `{}`", refusal.node),
            format!(
                "operator {} (opset {opset}){reason}",
                operator_label(&refusal.domain, &refusal.operator)
            ),
        )
        .with_help(
            "compute values before this node alone, start from one behind it, or bring an engine that supports it",
        )
    }
}

/// An operator as people write it, with its domain where that is not ONNX's own.
pub fn operator_label(domain: &str, operator: &str) -> String {
    if domain.is_empty() {
        format!("`{operator}`")
    } else {
        format!("`{domain}.{operator}`")
    }
}

/// Something that executes models.
pub trait Engine: Send + Sync {
    /// What results depend on.
    fn identity(&self) -> EngineIdentity;

    /// Nodes of `model` that cannot be executed; they are in the way only of values that need them.
    fn supports(&self, model: &Model) -> Vec<Refusal>;

    /// Prepares `model`. Tensors are shared with it, not copied, until they are needed.
    ///
    /// A model with refused nodes loads; [`Program::forward`] fails where it needs one.
    ///
    /// # Errors
    /// If the graph does not hold together.
    fn load(&self, model: &Model) -> Result<Box<dyn Program>, ComputeError>;
}

/// A model ready for execution.
pub trait Program: Send + Sync {
    /// Computes the values `outputs`, in their order, from `feeds`; no names mean the graph's outputs.
    ///
    /// Only nodes that the asked values need are executed.
    ///
    /// # Errors
    /// [`ErrorKind::Name`] for a value that does not exist or an input that is missing,
    /// [`ErrorKind::Unsupported`] for an operator, [`ErrorKind::Shape`] with the node where sizes or
    /// types do not fit.
    fn forward(&self, feeds: &Feeds, outputs: &[&str], mode: Mode) -> Result<Vec<Tensor>, ComputeError>;

    /// Computes `outputs` as [`forward`](Program::forward) does, ready for the product of a cotangent
    /// with their derivative by the float32 values `trainable`: initializers, inputs or inner values.
    ///
    /// # Errors
    /// As [`forward`](Program::forward), and where an operator on the way has no derivative here.
    fn pullback(
        &self,
        feeds: &Feeds,
        outputs: &[&str],
        trainable: &[&str],
        mode: Mode,
    ) -> Result<Box<dyn Pullback>, ComputeError>;
}

/// The second half of a vector–Jacobian product.
pub trait Pullback: Send {
    /// The values that were asked for.
    fn outputs(&self) -> &[Tensor];

    /// Initializers that this batch moves otherwise than by gradients, by name, with their new values: the running
    /// statistics of batch normalization where it used the batch's own.
    fn moved(&self) -> &[(String, Tensor)];

    /// For each trainable value, the sum over outputs of the cotangent times the output's derivative by
    /// it; zeros where nothing depends on it. Each cotangent has its output's shape, in float32.
    ///
    /// # Errors
    /// [`ErrorKind::Shape`] if the cotangents are not those of the outputs.
    fn pull(self: Box<Self>, cotangents: Vec<Tensor>) -> Result<BTreeMap<String, Tensor>, ComputeError>;
}
