//! Shape inference: the element type and shape of every value, for given input shapes.
//!
//! Shapes are concrete. Small integer (and float) values are computed along the way, because exporters
//! spell a Reshape's target as a chain of Shape, Gather, Concat and arithmetic.
//!
//! A family of operators is one module; an operator is one function in `operator`'s table.

mod arithmetic;
mod constants;
mod context;
mod convolution;
mod elementwise;
mod layout;
mod matrix;
mod normalization;
mod reduction;
mod selection;

use std::collections::{BTreeMap, HashMap};

use crate::{DType, Dimension, ErrorKind, Model, ModelError, Node, Tensor, ValueInfo};
use context::{Context, Inference, Stop};
pub(crate) use selection::equal_split;

/// Constants with more elements than this are not followed.
const FOLLOWED_ELEMENTS: usize = 1024;

/// The same for stored floats: those that matter are the scales of a Resize, one per axis.
const FOLLOWED_FLOATS: usize = 16;

/// The values of a small constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Of an integer or bool value.
    Integers(Vec<i64>),
    /// Of a float32 value.
    Floats(Vec<f32>),
}

/// What is known of one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its values, row-major, where it is a small constant.
    pub numbers: Option<Numbers>,
    /// Whether those values were computed from the shape of another value.
    pub follows_shape: bool,
}

impl Known {
    fn new(dtype: DType, shape: Vec<usize>) -> Self {
        Self {
            dtype,
            shape,
            numbers: None,
            follows_shape: false,
        }
    }

    fn with_numbers(dtype: DType, shape: Vec<usize>, numbers: Option<Numbers>) -> Self {
        let numbers = numbers.filter(|numbers| {
            let length = match numbers {
                Numbers::Integers(values) => values.len(),
                Numbers::Floats(values) => values.len(),
            };
            length <= FOLLOWED_ELEMENTS && crate::tensor::element_count(&shape) == Some(length)
        });
        Self {
            dtype,
            shape,
            numbers,
            follows_shape: false,
        }
    }

    /// A stored tensor, with its values if it is small.
    fn stored(tensor: &Tensor) -> Self {
        let numbers = match (tensor.dtype(), tensor.len()) {
            (DType::FLOAT, ..=FOLLOWED_FLOATS) => {
                let values = tensor.values::<f32>().ok();
                values.map(|values| Numbers::Floats(values.into_owned()))
            }
            (DType::FLOAT | DType::STRING, _) => None,
            (_, ..=FOLLOWED_ELEMENTS) => tensor.to_i64().ok().map(Numbers::Integers),
            _ => None,
        };
        Self::with_numbers(tensor.dtype(), tensor.shape().to_vec(), numbers)
    }

    /// The values as integers, where they are known and are integers.
    pub fn integers(&self) -> Option<&[i64]> {
        match &self.numbers {
            Some(Numbers::Integers(values)) => Some(values),
            _ => None,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the value takes, packed; `None` for strings and unknown element types.
    pub fn byte_len(&self) -> Option<usize> {
        self.dtype.byte_len(self.len())
    }
}

/// What shape inference found; a value is absent where nothing could be found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shapes {
    values: HashMap<String, Known>,
}

impl Shapes {
    /// What is known of `value`.
    pub fn get(&self, value: &str) -> Option<&Known> {
        self.values.get(value)
    }

    /// The shape of `value`.
    pub fn shape(&self, value: &str) -> Option<&[usize]> {
        self.get(value).map(|known| known.shape.as_slice())
    }

    /// The element type of `value`.
    pub fn dtype(&self, value: &str) -> Option<DType> {
        self.get(value).map(|known| known.dtype)
    }

    /// Every known value, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Known)> {
        self.values.iter().map(|(name, known)| (name.as_str(), known))
    }

    fn insert(&mut self, value: &str, known: Known) {
        self.values.insert(value.to_owned(), known);
    }
}

/// The shapes of the model's feeds as declared, with 1 for every dimension that is named or unknown.
///
/// A feed without a declared rank is left out.
pub fn default_feeds(model: &Model) -> BTreeMap<String, Vec<usize>> {
    model
        .graph
        .feeds()
        .filter_map(|feed| {
            let shape = feed.shape()?.into_iter().map(|dimension| match dimension {
                Dimension::Fixed(size) => size,
                Dimension::Named(_) | Dimension::Unknown => 1,
            });
            Some((feed.name().to_owned(), shape.collect()))
        })
        .collect()
}

/// Infers the type and shape of every value of the main graph.
///
/// `inputs` gives shapes of feeds. A feed that it leaves out has its declared shape, where named
/// dimensions take the size that a given feed has for the same name, and others are 1.
///
/// Outputs of operators that are not known here take the type that the model declares for them, and
/// are absent from the result where it declares none.
///
/// # Errors
/// [`ErrorKind::Name`] if `inputs` names what is no feed; [`ErrorKind::Shape`] if a given shape
/// contradicts the declared one, or shapes contradict each other at a node, which is named.
pub fn infer(model: &Model, inputs: &BTreeMap<String, Vec<usize>>) -> Result<Shapes, ModelError> {
    infer_with(model, inputs, &HashMap::new())
}

/// [`infer`], as if the tensors in `resized` had the shapes given there.
pub(crate) fn infer_with(
    model: &Model,
    inputs: &BTreeMap<String, Vec<usize>>,
    resized: &HashMap<String, Vec<usize>>,
) -> Result<Shapes, ModelError> {
    let graph = &model.graph;
    let sizes = NamedSizes::bind(model, inputs)?;
    let mut shapes = Shapes::default();
    for (name, initializer) in &graph.initializers {
        let known = match resized.get(name) {
            Some(shape) => Known::new(initializer.tensor.dtype(), shape.clone()),
            None => Known::stored(&initializer.tensor),
        };
        shapes.insert(name, known);
    }
    for feed in graph.feeds() {
        let shape = match inputs.get(feed.name()) {
            Some(shape) => Some(shape.clone()),
            None => feed.shape().map(|shape| sizes.complete(&shape)),
        };
        if let (Some(shape), Some(dtype)) = (shape, feed.dtype()) {
            countable(&shape).map_err(|message| {
                let place = format!("input `{}`", feed.name());
                ModelError::new(ErrorKind::Shape, place, message)
            })?;
            shapes.insert(feed.name(), Known::new(dtype, shape));
        }
    }
    let declared: HashMap<&str, &ValueInfo> = graph
        .value_info
        .iter()
        .chain(&graph.outputs)
        .map(|value| (value.name(), value))
        .collect();
    let opset = model.opset();
    for node in &graph.nodes {
        let found = infer_node(node, opset, &shapes)?;
        let mut found = found.into_iter();
        for output in node.outputs() {
            let known = found.next().flatten();
            if output.is_empty() {
                continue;
            }
            let known = match resized.get(output) {
                Some(shape) => known.map(|known| Known::new(known.dtype, shape.clone())),
                None => known.or_else(|| sizes.declared(declared.get(output.as_str())?)),
            };
            if let Some(known) = known {
                shapes.insert(output, known);
            }
        }
    }
    Ok(shapes)
}

fn infer_node(node: &Node, opset: i64, shapes: &Shapes) -> Result<Vec<Option<Known>>, ModelError> {
    let Some(function) = operator(node) else {
        return Ok(Vec::new());
    };
    let context = Context::new(node, opset, shapes);
    let fail = |message: String| {
        ModelError::new(
            ErrorKind::Shape,
            format!("node `{}` ({})", node.label(), node.op_type()),
            message,
        )
    };
    let mut outputs = match function(&context) {
        Ok(outputs) => outputs,
        Err(Stop::Unknown) => return Ok(Vec::new()),
        Err(Stop::Contradiction(message)) => return Err(fail(message)),
    };
    let follows = node.is("Shape") || node.is("Size") || context.follows_shape();
    for known in outputs.iter_mut().flatten() {
        countable(&known.shape).map_err(&fail)?;
        known.follows_shape = follows && known.numbers.is_some();
    }
    Ok(outputs)
}

fn countable(shape: &[usize]) -> Result<(), String> {
    match crate::tensor::element_count(shape).filter(|&count| isize::try_from(count).is_ok()) {
        Some(_) => Ok(()),
        None => Err(format!("a value of shape {shape:?} has too many elements")),
    }
}

/// The inference function of a standard operator.
fn operator(node: &Node) -> Option<Inference> {
    if !node.domain().is_empty() {
        return None;
    }
    let op = node.op_type();
    elementwise::operator(op)
        .or_else(|| arithmetic::operator(op))
        .or_else(|| convolution::operator(op))
        .or_else(|| matrix::operator(op))
        .or_else(|| normalization::operator(op))
        .or_else(|| reduction::operator(op))
        .or_else(|| layout::operator(op))
        .or_else(|| selection::operator(op))
        .or_else(|| constants::operator(op))
}

/// Sizes of named dimensions, as the given feeds fix them.
struct NamedSizes(HashMap<String, usize>);

impl NamedSizes {
    fn bind(model: &Model, inputs: &BTreeMap<String, Vec<usize>>) -> Result<Self, ModelError> {
        let mut sizes: HashMap<String, usize> = HashMap::new();
        for (name, shape) in inputs {
            let place = || format!("input `{name}`");
            let feed = model.graph.feeds().find(|feed| feed.name() == name);
            let feed = feed.ok_or_else(|| {
                let feeds: Vec<_> = model.graph.feeds().map(ValueInfo::name).collect();
                ModelError::new(ErrorKind::Name, place(), "does not exist")
                    .with_help(format!("the model's inputs are {}", feeds.join(", ")))
            })?;
            let Some(declared) = feed.shape() else {
                continue;
            };
            let fits = declared.len() == shape.len()
                && declared.iter().zip(shape).all(|(dimension, &size)| match dimension {
                    Dimension::Fixed(fixed) => *fixed == size,
                    Dimension::Named(name) => *sizes.entry(name.clone()).or_insert(size) == size,
                    Dimension::Unknown => true,
                });
            if !fits {
                let declared: Vec<_> = declared.iter().map(Dimension::to_string).collect();
                let message = format!("is declared as [{}], which {shape:?} does not fit", declared.join(", "));
                return Err(ModelError::new(ErrorKind::Shape, place(), message));
            }
        }
        Ok(Self(sizes))
    }

    fn size(&self, dimension: &Dimension) -> Option<usize> {
        match dimension {
            Dimension::Fixed(size) => Some(*size),
            Dimension::Named(name) => self.0.get(name).copied(),
            Dimension::Unknown => None,
        }
    }

    fn complete(&self, shape: &[Dimension]) -> Vec<usize> {
        let sizes = shape.iter().map(|dimension| self.size(dimension));
        sizes.map(|size| size.unwrap_or(1)).collect()
    }

    /// What a declaration says, if it leaves nothing open.
    fn declared(&self, value: &ValueInfo) -> Option<Known> {
        let shape = value.shape()?;
        let shape: Option<Vec<usize>> = shape.iter().map(|size| self.size(size)).collect();
        let shape = shape.filter(|shape| countable(shape).is_ok())?;
        Some(Known::new(value.dtype()?, shape))
    }
}
