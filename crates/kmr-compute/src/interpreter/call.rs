//! What an operator sees of its node.

use std::sync::{Arc, Mutex};

use kmr_kernels::Convolution;
use kmr_model::{DType, Node, Tensor};

use super::{
    Body, Datum,
    value::{Float, Value, is_tracked, upload},
};
use crate::{BatchNorm, ComputeError, ErrorKind, Mode, operator_label};

/// One execution of one node.
pub struct Call<'a> {
    pub node: &'a Node,
    /// Version of the standard operator set.
    pub opset: i64,
    /// Version of the node's own operator set, where that is another one.
    pub version: Option<i64>,
    pub mode: Mode,
    /// Which node it is, for what is random in it.
    pub position: usize,
    /// Where packed weights are kept, if this node's weights are constant.
    pub packed: Option<&'a Mutex<Option<Arc<Convolution>>>>,
    /// The subgraphs, with what they read from around the node.
    pub bodies: Vec<Body<'a>>,
    inputs: Vec<Option<Datum>>,
    /// The narrow float type that an input had: the output is rounded to it.
    narrow: Option<DType>,
}

/// What an operator returns: its outputs, in the node's order.
pub type Outputs = Result<Vec<Value>, ComputeError>;

/// What an operator on more than tensors returns: its outputs, in the node's order.
pub type Data = Result<Vec<Datum>, ComputeError>;

impl<'a> Call<'a> {
    pub fn new(node: &'a Node, opset: i64, mode: Mode, inputs: Vec<Option<Datum>>) -> Self {
        Self {
            node,
            opset,
            version: None,
            mode,
            position: 0,
            packed: None,
            bodies: Vec::new(),
            inputs,
            narrow: None,
        }
    }

    pub fn batch_statistics(&self) -> bool {
        self.mode.batch_norm == BatchNorm::Batch || self.node.int("training_mode") == Some(1)
    }

    pub fn narrow(&self) -> Option<DType> {
        self.narrow
    }

    /// Sizes, types or values do not fit.
    pub fn wrong(&self, message: impl Into<String>) -> ComputeError {
        ComputeError::new(
            ErrorKind::Shape,
            format!("node `{}` ({})", self.node.label(), self.node.op_type()),
            message,
        )
    }

    /// The operator is known, but not this use of it.
    pub fn unsupported(&self, message: impl Into<String>) -> ComputeError {
        let (domain, operator) = (self.node.domain(), self.node.op_type());
        ComputeError::new(
            ErrorKind::Unsupported,
            format!("node `{}`", self.node.label()),
            format!(
                "operator {} (opset {}): {}",
                operator_label(domain, operator),
                self.version.unwrap_or(self.opset),
                message.into()
            ),
        )
    }

    pub(super) fn inputs_mut(&mut self) -> &mut [Option<Datum>] {
        &mut self.inputs
    }

    pub fn input_count(&self) -> usize {
        self.inputs.len()
    }

    pub fn has(&self, position: usize) -> bool {
        self.inputs.get(position).is_some_and(Option::is_some)
    }

    /// The rank of input `position`, if it is a tensor.
    pub fn rank(&self, position: usize) -> Option<usize> {
        match self.inputs.get(position)? {
            Some(Datum::Tensor(value)) => Some(value.shape().len()),
            _ => None,
        }
    }

    /// The element type of input `position`, if it is a tensor.
    pub fn dtype(&self, position: usize) -> Option<DType> {
        match self.inputs.get(position)? {
            Some(Datum::Tensor(value)) => Some(value.dtype()),
            _ => None,
        }
    }

    /// Gives an input that was taken back, for another look.
    pub fn give_back(&mut self, position: usize, value: Value) {
        self.inputs[position] = Some(Datum::Tensor(value));
    }

    /// The shape of input `position`, if it is float32.
    pub fn float_shape(&self, position: usize) -> Option<Vec<usize>> {
        match self.inputs.get(position)? {
            Some(Datum::Tensor(value @ Value::Float(_))) => Some(value.shape()),
            _ => None,
        }
    }

    /// Whether the node's output `position` has a name.
    pub fn names_output(&self, position: usize) -> bool {
        self.node.outputs().get(position).is_some_and(|name| !name.is_empty())
    }

    /// Input `position`, which must be there.
    pub fn value(&mut self, position: usize) -> Result<Value, ComputeError> {
        self.optional_value(position)
            .ok_or_else(|| self.wrong(format!("input {position} is missing")))
    }

    pub fn optional_value(&mut self, position: usize) -> Option<Value> {
        self.optional_datum(position)?.tensor().ok()
    }

    /// Input `position`, of any kind.
    pub fn optional_datum(&mut self, position: usize) -> Option<Datum> {
        self.inputs.get_mut(position).and_then(Option::take)
    }

    /// Input `position`, of any kind, which must be there.
    pub fn datum(&mut self, position: usize) -> Result<Datum, ComputeError> {
        self.optional_datum(position)
            .ok_or_else(|| self.wrong(format!("input {position} is missing")))
    }

    /// The subgraph of the attribute `name`.
    pub fn body(&self, name: &str) -> Result<&Body<'a>, ComputeError> {
        let body = self.bodies.iter().find(|body| body.attribute() == name);
        body.ok_or_else(|| self.wrong(format!("attribute `{name}` holds no graph")))
    }

    /// Makes sure that all inputs are tensors.
    pub(super) fn tensors_alone(&self) -> Result<(), ComputeError> {
        let mut inputs = self.inputs.iter().enumerate();
        let other = inputs.find_map(|(position, input)| match input {
            Some(Datum::Tensor(_)) | None => None,
            Some(other) => Some((position, other.kind())),
        });
        match other {
            Some((position, kind)) => Err(self.unsupported(format!("input {position} is {kind}"))),
            None => Ok(()),
        }
    }

    /// Input `position` as float32; narrower floats are widened, and the result narrowed again.
    pub fn float(&mut self, position: usize) -> Result<Float, ComputeError> {
        let value = self.value(position)?;
        self.widened(value)
    }

    /// A floating-point value as float32, see [`float`](Call::float).
    pub fn widened(&mut self, value: Value) -> Result<Float, ComputeError> {
        match value {
            Value::Float(float) => Ok(float),
            Value::Host(tensor) if matches!(tensor.dtype(), DType::FLOAT16 | DType::BFLOAT16) => {
                self.narrow = Some(tensor.dtype());
                let values = tensor.to_f32().map_err(|e| self.wrong(e.to_string()))?;
                let wide = Tensor::from_vec(tensor.shape().to_vec(), values.into_owned());
                Ok(upload(&wide))
            }
            Value::Host(tensor) => Err(self.unsupported(format!(
                "an operand is {}; expected float32, float16 or bfloat16",
                tensor.dtype()
            ))),
        }
    }

    pub fn optional_float(&mut self, position: usize) -> Result<Option<Float>, ComputeError> {
        if self.has(position) {
            self.float(position).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Input `position` as a tensor, off the tape.
    pub fn tensor(&mut self, position: usize) -> Result<Tensor, ComputeError> {
        Ok(self.value(position)?.into_tensor())
    }

    /// Input `position` as a tensor for an operator without a derivative.
    pub fn constant(&mut self, position: usize) -> Result<Tensor, ComputeError> {
        let value = self.value(position)?;
        self.untracked(value, position)
    }

    /// A value that was input `position`, for an operator without a derivative.
    pub fn untracked(&self, value: Value, position: usize) -> Result<Tensor, ComputeError> {
        if matches!(&value, Value::Float(float) if is_tracked(float)) {
            return Err(self
                .unsupported(format!("has no derivative by input {position}"))
                .with_help("keep this node off the way between trainable values and outputs"));
        }
        Ok(value.into_tensor())
    }

    /// Input `position` as integers.
    pub fn integers(&mut self, position: usize) -> Result<Vec<i64>, ComputeError> {
        let tensor = self.tensor(position)?;
        tensor.to_i64().map_err(|e| self.wrong(e.to_string()))
    }

    pub fn optional_integers(&mut self, position: usize) -> Result<Option<Vec<i64>>, ComputeError> {
        if self.has(position) {
            self.integers(position).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Integers that are an attribute before `opset` and input `position` from then on.
    pub fn moved_integers(
        &mut self,
        name: &str,
        position: usize,
        opset: i64,
    ) -> Result<Option<Vec<i64>>, ComputeError> {
        if self.opset < opset {
            Ok(self.node.ints(name).map(<[i64]>::to_vec))
        } else {
            self.optional_integers(position)
        }
    }

    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.node.int(name).unwrap_or(default)
    }

    pub fn float_attribute(&self, name: &str, default: f32) -> f32 {
        self.node.float(name).unwrap_or(default)
    }

    /// A list attribute of sizes, which must not be negative.
    pub fn sizes(&self, name: &str) -> Result<Option<Vec<usize>>, ComputeError> {
        self.node
            .ints(name)
            .filter(|list| !list.is_empty())
            .map(|list| {
                list.iter()
                    .map(|&size| usize::try_from(size))
                    .collect::<Result<_, _>>()
                    .map_err(|_| self.wrong(format!("attribute `{name}` is negative: {list:?}")))
            })
            .transpose()
    }

    /// An axis of a tensor of rank `rank`; negative ones count from the end.
    pub fn axis(&self, axis: i64, rank: usize) -> Result<usize, ComputeError> {
        let from_start = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(from_start)
            .ok()
            .filter(|&axis| axis < rank)
            .ok_or_else(|| self.wrong(format!("axis {axis} does not exist at rank {rank}")))
    }

    /// Axes of a tensor of rank `rank`, sorted.
    pub fn axes(&self, axes: &[i64], rank: usize) -> Result<Vec<usize>, ComputeError> {
        let mut axes = axes
            .iter()
            .map(|&axis| self.axis(axis, rank))
            .collect::<Result<Vec<_>, _>>()?;
        axes.sort_unstable();
        axes.dedup();
        Ok(axes)
    }

    /// The shape that two shapes broadcast to.
    pub fn broadcast(&self, a: &[usize], b: &[usize]) -> Result<Vec<usize>, ComputeError> {
        broadcast(a, b).ok_or_else(|| self.wrong(format!("shapes {a:?} and {b:?} do not broadcast")))
    }
}

/// The shape that two shapes broadcast to.
pub fn broadcast(a: &[usize], b: &[usize]) -> Option<Vec<usize>> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |axis| shape[axis]);
    (0..rank)
        .map(|axis| match (size(a, axis), size(b, axis)) {
            (a, b) if a == b => Some(a),
            (1, size) | (size, 1) => Some(size),
            _ => None,
        })
        .collect()
}
