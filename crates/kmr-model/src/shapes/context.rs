//! What an operator's inference function sees.

use super::{Known, Numbers, Shapes};
use crate::{Node, Tensor, codec};

/// Why a function has no answer.
pub(super) enum Stop {
    /// Something it needs is not known.
    Unknown,
    /// The node cannot be executed.
    Contradiction(String),
}

/// The types of a node's outputs, by position; `None` where one is not known.
pub(super) type Outputs = Result<Vec<Option<Known>>, Stop>;

/// An operator's inference function.
pub(super) type Inference = fn(&Context<'_>) -> Outputs;

/// A node among what is known of its inputs.
pub(super) struct Context<'a> {
    pub node: &'a Node,
    pub opset: i64,
    shapes: &'a Shapes,
}

pub(super) fn contradiction<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Contradiction(message.into()))
}

/// One output.
pub(super) fn single(known: Known) -> Outputs {
    Ok(vec![Some(known)])
}

impl<'a> Context<'a> {
    pub fn new(node: &'a Node, opset: i64, shapes: &'a Shapes) -> Self {
        Self { node, opset, shapes }
    }

    /// A required input.
    pub fn input(&self, position: usize) -> Result<&'a Known, Stop> {
        match self.node.input(position) {
            Some(name) => self.shapes.get(name).ok_or(Stop::Unknown),
            None => contradiction(format!("has no input {position}")),
        }
    }

    /// An optional input: `None` if absent.
    pub fn optional(&self, position: usize) -> Result<Option<&'a Known>, Stop> {
        match self.node.input(position) {
            Some(_) => self.input(position).map(Some),
            None => Ok(None),
        }
    }

    pub fn shape(&self, position: usize) -> Result<&'a [usize], Stop> {
        Ok(&self.input(position)?.shape)
    }

    /// All inputs.
    pub fn inputs(&self) -> Result<Vec<&'a Known>, Stop> {
        (0..self.node.inputs().len())
            .map(|position| self.input(position))
            .collect()
    }

    /// Whether any input's values were computed from a shape.
    pub fn follows_shape(&self) -> bool {
        let mut inputs = self.node.inputs().iter();
        inputs.any(|name| self.shapes.get(name).is_some_and(|k| k.follows_shape))
    }

    /// The values of an integer input.
    pub fn integers(&self, position: usize) -> Result<&'a [i64], Stop> {
        self.input(position)?.integers().ok_or(Stop::Unknown)
    }

    /// The values of a float input.
    pub fn floats(&self, position: usize) -> Result<&'a [f32], Stop> {
        match &self.input(position)?.numbers {
            Some(Numbers::Floats(values)) => Ok(values),
            _ => Err(Stop::Unknown),
        }
    }

    /// Integers that newer operator sets pass as input `position`, and older ones as `attribute`.
    pub fn integers_or(&self, position: usize, attribute: &str) -> Result<Option<&'a [i64]>, Stop> {
        match self.node.input(position) {
            Some(_) => self.integers(position).map(Some),
            None => Ok(self.node.ints(attribute)),
        }
    }

    /// The integer attribute `name`, or `default`.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.node.int(name).unwrap_or(default)
    }

    /// The tensor attribute `name`.
    pub fn tensor(&self, name: &str) -> Result<Option<Tensor>, Stop> {
        let attribute = self.node.attribute(name);
        let Some(message) = attribute.and_then(|a| a.t.as_option()) else {
            return Ok(None);
        };
        match codec::tensor_from_message(message) {
            Ok(tensor) => Ok(Some(tensor)),
            Err(error) => contradiction(format!("attribute `{name}`: {error}")),
        }
    }
}

/// `axis`, which may count from the end, as a position below `rank`.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, Stop> {
    let position = if axis < 0 {
        axis.saturating_add_unsigned(rank as u64)
    } else {
        axis
    };
    match usize::try_from(position) {
        Ok(position) if position < rank => Ok(position),
        _ => contradiction(format!("axis {axis} does not exist at rank {rank}")),
    }
}

/// [`axis`] for each of `axes`, refusing duplicates.
pub(super) fn axes(axes: &[i64], rank: usize) -> Result<Vec<usize>, Stop> {
    let mut result = Vec::with_capacity(axes.len());
    for &given in axes {
        let position = axis(given, rank)?;
        if result.contains(&position) {
            return contradiction(format!("axis {given} is named twice"));
        }
        result.push(position);
    }
    Ok(result)
}

/// A size computed in wide arithmetic.
pub(super) fn size(value: i128) -> Result<usize, Stop> {
    usize::try_from(value).or_else(|_| contradiction(format!("a dimension would have size {value}")))
}
