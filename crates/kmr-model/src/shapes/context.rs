//! What an operator's inference function sees, and how it answers.

use super::{
    dim::Dim,
    engine::Scope,
    fact::{Fact, Values, Wrapping},
};
use crate::{DType, Node, proto};

/// Why a function has no answer.
pub(super) enum Stop {
    /// Something it needs is not known.
    Unknown,
    /// The node cannot be executed.
    Contradiction(String),
}

/// What a shape function finds out about one output.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub shape: Option<Vec<Dim>>,
    pub values: Option<Values>,
}

/// The shapes of a node's outputs, by position.
pub(super) type Outputs = Result<Vec<Found>, Stop>;

/// An operator's shape function.
pub(super) type ShapeFunction = fn(&Context<'_>) -> Outputs;

/// How the element types of an operator's outputs follow from its inputs.
#[derive(Clone, Copy)]
pub(super) enum Types {
    /// That of the first of these inputs that is known.
    Same(&'static [usize]),
    /// The first output is like these inputs, the others have this type.
    Then(&'static [usize], DType),
    /// This one.
    Always(DType),
    /// The number in this attribute, or else this one.
    Attribute(&'static str, DType),
    /// One for each output.
    By(fn(&Context<'_>) -> Vec<Option<DType>>),
}

/// What inference knows of an operator.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub types: Types,
    pub shapes: ShapeFunction,
}

/// A row of an operator table.
pub(super) fn rule(types: Types, shapes: ShapeFunction) -> Option<Rule> {
    Some(Rule { types, shapes })
}

/// A node among what is known of its inputs.
pub(super) struct Context<'a> {
    pub node: &'a Node,
    pub opset: i64,
    scope: &'a Scope<'a>,
}

pub(super) fn contradiction<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Contradiction(message.into()))
}

/// One output of this shape.
pub(super) fn single(shape: Vec<Dim>) -> Outputs {
    Ok(vec![Found {
        shape: Some(shape),
        values: None,
    }])
}

/// One output of this shape and these values.
pub(super) fn computed(shape: Vec<Dim>, values: Option<Values>) -> Outputs {
    Ok(vec![Found {
        shape: Some(shape),
        values,
    }])
}

/// Outputs of these shapes.
pub(super) fn several(shapes: impl IntoIterator<Item = Vec<Dim>>) -> Outputs {
    let found = shapes.into_iter().map(|shape| Found {
        shape: Some(shape),
        values: None,
    });
    Ok(found.collect())
}

impl<'a> Context<'a> {
    pub fn new(node: &'a Node, opset: i64, scope: &'a Scope<'a>) -> Self {
        Self { node, opset, scope }
    }

    /// Whether input `position` is present.
    pub fn has(&self, position: usize) -> bool {
        self.node.input(position).is_some()
    }

    /// A required input, whatever it is.
    pub fn any(&self, position: usize) -> Result<&'a Fact, Stop> {
        match self.node.input(position) {
            Some(name) => self.scope.get(name).ok_or(Stop::Unknown),
            None => contradiction(format!("has no input {position}")),
        }
    }

    /// A required tensor.
    pub fn input(&self, position: usize) -> Result<&'a Fact, Stop> {
        let fact = self.any(position)?;
        match fact.wrapping {
            Wrapping::Tensor => Ok(fact),
            _ => contradiction(format!("input {position} is not a tensor")),
        }
    }

    /// The shape of a required tensor.
    pub fn shape(&self, position: usize) -> Result<&'a [Dim], Stop> {
        self.input(position)?.shape.as_deref().ok_or(Stop::Unknown)
    }

    /// The shape of an optional tensor: `None` if it is absent or nothing is known of it.
    pub fn optional_shape(&self, position: usize) -> Option<&'a [Dim]> {
        let fact = self.scope.get(self.node.input(position)?)?;
        fact.shape.as_deref()
    }

    /// The element type of an input, where it is present and known.
    pub fn dtype(&self, position: usize) -> Option<DType> {
        self.scope.get(self.node.input(position)?)?.dtype
    }

    /// The shapes of all inputs.
    pub fn shapes(&self) -> Result<Vec<&'a [Dim]>, Stop> {
        (0..self.node.inputs().len())
            .map(|position| self.shape(position))
            .collect()
    }

    /// Whether any input's values were computed from a shape.
    pub fn follows_shape(&self) -> bool {
        let mut inputs = self.node.inputs().iter();
        inputs.any(|name| self.scope.get(name).is_some_and(|fact| fact.follows_shape))
    }

    /// The values of a tensor of integers; each may be unknown, but their number is not.
    pub fn list(&self, position: usize) -> Result<Vec<Dim>, Stop> {
        self.input(position)?.list().ok_or(Stop::Unknown)
    }

    /// The values of a tensor of integers, all of them numbers.
    pub fn ints(&self, position: usize) -> Result<Vec<i64>, Stop> {
        let values = self.list(position)?;
        let values = values.iter().map(|value| i64::try_from(value.fixed()?).ok());
        values.collect::<Option<_>>().ok_or(Stop::Unknown)
    }

    /// The one value of a tensor of integers.
    pub fn scalar(&self, position: usize) -> Result<Dim, Stop> {
        match self.list(position)?.as_slice() {
            [value] => Ok(value.clone()),
            other => contradiction(format!(
                "input {position} must have one element; it has {}",
                other.len()
            )),
        }
    }

    /// The values of a tensor of floats.
    pub fn floats(&self, position: usize) -> Result<&'a [f64], Stop> {
        match &self.input(position)?.values {
            Some(Values::Floats(values)) => Ok(values),
            _ => Err(Stop::Unknown),
        }
    }

    /// Integers that newer operator sets pass as input `position`, and older ones as `attribute`.
    pub fn ints_or(&self, position: usize, attribute: &str) -> Result<Option<Vec<i64>>, Stop> {
        match self.node.input(position) {
            Some(_) => self.ints(position).map(Some),
            None => Ok(self.node.ints(attribute).map(<[i64]>::to_vec)),
        }
    }

    /// The same, where each may be unknown.
    pub fn list_or(&self, position: usize, attribute: &str) -> Result<Option<Vec<Dim>>, Stop> {
        match self.node.input(position) {
            Some(_) => self.list(position).map(Some),
            None => {
                let given = self.node.ints(attribute);
                Ok(given.map(|given| given.iter().map(|&value| value.into()).collect()))
            }
        }
    }

    /// The integer attribute `name`, or `default`.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.node.int(name).unwrap_or(default)
    }

    /// The integer attribute `name`, which must be there.
    pub fn required(&self, name: &str) -> Result<i64, Stop> {
        match self.node.int(name) {
            Some(value) => Ok(value),
            None => contradiction(format!("has no attribute `{name}`")),
        }
    }

    /// The tensor attribute `name`.
    pub fn tensor(&self, name: &str) -> Option<&'a proto::TensorProto> {
        self.node.attribute(name)?.t.as_option()
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
    let mut seen = vec![false; rank];
    let mut result = Vec::with_capacity(axes.len().min(rank));
    for &given in axes {
        let position = axis(given, rank)?;
        if std::mem::replace(&mut seen[position], true) {
            return contradiction(format!("axis {given} is named twice"));
        }
        result.push(position);
    }
    Ok(result)
}

/// Attributes as sizes, which are 0 or more.
pub(super) fn sizes(name: &str, values: &[i64]) -> Result<Vec<usize>, Stop> {
    let sizes: Option<Vec<usize>> = values.iter().map(|&value| usize::try_from(value).ok()).collect();
    sizes.ok_or_else(|| Stop::Contradiction(format!("`{name}` {values:?} has a negative size")))
}

/// A shape as people write it.
pub(super) fn show(shape: &[Dim]) -> String {
    let sizes: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", sizes.join(", "))
}

/// The product of `sizes`.
pub(super) fn product<'d>(sizes: impl IntoIterator<Item = &'d Dim>) -> Dim {
    let sizes = sizes.into_iter();
    sizes.fold(Dim::Fixed(1), |product, size| product.times(size))
}

/// The size that `a` and `b` share; a contradiction if they certainly differ.
pub(super) fn agree(a: &Dim, b: &Dim, what: &dyn Fn() -> String) -> Result<Dim, Stop> {
    a.unify(b).ok_or_else(|| Stop::Contradiction(what()))
}
