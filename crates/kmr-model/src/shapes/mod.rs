//! Shape inference: the element type and shape of every value, subgraphs included.
//!
//! Inference is partial: a value may have a known rank and one unknown axis, and what is not certain is
//! not claimed. Sizes are numbers or sums over named sizes ([`infer_symbolic`]). Small tensors of
//! integers (and floats) are computed along the way, because exporters spell a Reshape's target as a
//! chain of Shape, Gather, Concat and arithmetic.
//!
//! A family of operators is one module; an operator is one row in `operator`'s table there: how its
//! element types follow from its inputs, and a function that finds its shapes.

mod arithmetic;
mod attention;
mod constants;
mod context;
mod control;
mod convolution;
mod detection;
mod dim;
mod elementwise;
mod engine;
mod fact;
mod foreign;
mod layout;
mod matrix;
mod normalization;
mod operators;
mod quantization;
mod recurrent;
mod reduction;
mod resize;
mod scatter;
mod selection;
mod sequence;
mod signal;
mod text;

use std::collections::{BTreeMap, HashMap};

use crate::{DType, Dimension, ErrorKind, Model, ModelError, Node, ValueInfo};
use dim::Dim;
use engine::{Engine, Place, Scope};
use fact::{Fact, Values};

pub use fact::Wrapping;
pub(crate) use matrix::Equation;
pub(crate) use selection::equal_split;

/// The newest standard operator set whose operators are known here.
pub const NEWEST_OPSET: i64 = 28;

/// The values of a small constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Numbers {
    /// Of an integer or bool value.
    Integers(Vec<i64>),
    /// Of a float32 value.
    Floats(Vec<f32>),
}

/// A value of which type and shape are known completely.
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
    /// The values as integers, where they are known and are integers.
    pub fn integers(&self) -> Option<&[i64]> {
        match &self.numbers {
            Some(Numbers::Integers(values)) => Some(values),
            _ => None,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // Axes beside an empty one may be longer than can be counted.
        if self.shape.contains(&0) {
            return 0;
        }
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

/// The type of a value, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    /// Whether it is a tensor, or a sequence or option of tensors.
    pub wrapping: Wrapping,
    /// The element type of its tensors.
    pub dtype: Option<DType>,
    /// The shape of its tensors, `None` where not even the rank is known. A size that depends on named
    /// sizes is named by its formula.
    pub shape: Option<Vec<Dimension>>,
}

/// What is known inside a subgraph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Body {
    /// The values of the subgraph itself, as they are in every round of a loop.
    pub shapes: Shapes,
    /// How often it runs each time that its node runs, where that is known.
    pub repeats: Option<u64>,
}

/// Subgraphs by the id of their node and the name of their attribute.
type Inner = BTreeMap<(String, String), Body>;

/// What shape inference found; a value is absent where nothing could be found out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shapes {
    values: HashMap<String, Known>,
    facts: HashMap<String, Fact>,
    inner: Inner,
}

impl Shapes {
    /// `value`, if its type and shape are known completely.
    pub fn get(&self, value: &str) -> Option<&Known> {
        self.values.get(value)
    }

    /// The shape of `value`, if type and shape are known completely.
    pub fn shape(&self, value: &str) -> Option<&[usize]> {
        self.get(value).map(|known| known.shape.as_slice())
    }

    /// The element type of `value`.
    pub fn dtype(&self, value: &str) -> Option<DType> {
        self.facts.get(value)?.dtype
    }

    /// Every value that is known completely, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Known)> {
        self.values.iter().map(|(name, known)| (name.as_str(), known))
    }

    /// What is known of `value`, be it a part only.
    pub fn partial(&self, value: &str) -> Option<Type> {
        let fact = self.facts.get(value)?;
        let shape = fact.shape.as_ref().map(|shape| {
            let sizes = shape.iter().map(|size| match size {
                Dim::Fixed(size) => usize::try_from(*size).map_or(Dimension::Unknown, Dimension::Fixed),
                Dim::Symbolic(_) => Dimension::Named(size.to_string()),
                Dim::Unknown => Dimension::Unknown,
            });
            sizes.collect()
        });
        Some(Type {
            wrapping: fact.wrapping,
            dtype: fact.dtype,
            shape,
        })
    }

    /// The names of all values of which anything is known, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.facts.keys().map(String::as_str)
    }

    /// What is known inside the subgraph `attribute` of the node with this [id](crate::Node::id).
    pub fn body(&self, node: &str, attribute: &str) -> Option<&Body> {
        self.inner.get(&(node.to_owned(), attribute.to_owned()))
    }

    /// All subgraphs, in the order of their nodes' ids: the id, the attribute and what is known inside.
    pub fn bodies(&self) -> impl Iterator<Item = (&str, &str, &Body)> {
        let bodies = self.inner.iter();
        bodies.map(|((node, attribute), body)| (node.as_str(), attribute.as_str(), body))
    }
}

impl Shapes {
    /// Notes what is known of a value.
    pub(crate) fn insert(&mut self, value: &str, known: Known) {
        let values = known.numbers.clone().map(|numbers| match numbers {
            Numbers::Integers(values) => {
                Values::Integers(values.into_iter().map(|v| Dim::Fixed(i128::from(v))).collect())
            }
            Numbers::Floats(values) => Values::Floats(values.into_iter().map(f64::from).collect()),
        });
        let mut fact = Fact::sized(known.dtype, &known.shape).with_values(values);
        fact.follows_shape = known.follows_shape;
        self.facts.insert(value.to_owned(), fact);
        self.values.insert(value.to_owned(), known);
    }

    /// Notes what `other` knows of a value.
    pub(crate) fn adopt(&mut self, value: &str, other: &Self) {
        if let Some(fact) = other.facts.get(value) {
            self.facts.insert(value.to_owned(), fact.clone());
        }
        if let Some(known) = other.values.get(value) {
            self.values.insert(value.to_owned(), known.clone());
        }
    }
}

/// The outputs of one node of the main graph, from what `inputs` knows; declarations are not asked.
pub(crate) fn infer_node(node: &Node, opset: i64, inputs: &Shapes) -> Result<Vec<Option<Known>>, ModelError> {
    let (resized, size) = (HashMap::new(), |_: &Dimension| Dim::Unknown);
    let engine = Engine::new(&resized, &[], &size);
    let mut scope = Scope::default();
    for input in node.inputs().iter().filter(|input| !input.is_empty()) {
        scope.insert(input, inputs.facts.get(input).cloned());
    }
    let place = Place { opset, depth: 0 };
    engine.node(node, place, &mut scope, &engine::Declared::new(), &mut Inner::new())?;
    let outputs = node.outputs().iter();
    Ok(outputs.map(|output| scope.get(output).and_then(Fact::known)).collect())
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

/// Infers the type and shape of every value, for feeds of fixed shapes.
///
/// `inputs` gives shapes of feeds. A feed that it leaves out has its declared shape, where named
/// dimensions take the size that a given feed has for the same name, and others are 1.
///
/// Outputs of operators that are not known here take the type that the model declares for them, and
/// are absent from the result where it declares none.
///
/// # Errors
/// [`ErrorKind::Name`] if `inputs` names what is no feed; [`ErrorKind::Shape`] if a given shape
/// contradicts the declared one, a declared size is less than -1, or shapes contradict each other at a node, which is named;
/// [`ErrorKind::Unsupported`] for a standard operator set newer than [`NEWEST_OPSET`].
pub fn infer(model: &Model, inputs: &BTreeMap<String, Vec<usize>>) -> Result<Shapes, ModelError> {
    infer_with(model, inputs, &HashMap::new())
}

/// Infers the type and shape of every value, keeping named and unknown dimensions of the feeds open.
///
/// A named dimension stays itself, the same in all feeds; axis 2 of a feed `x` that is declared without
/// a size is called `x[2]`. What depends on them is named by its formula, such as
/// `floor((height + 1)/2)`: equal names are equal sizes. Open sizes are taken to be 1 or more.
///
/// # Errors
/// Those of [`infer`].
pub fn infer_symbolic(model: &Model) -> Result<Shapes, ModelError> {
    let feed = |feed: &ValueInfo| {
        Fact::declared(feed, &|axis, dimension| match dimension {
            Dimension::Fixed(size) => (*size).into(),
            Dimension::Named(name) => Dim::named(name),
            Dimension::Unknown => Dim::named(&format!("{}[{axis}]", feed.name())),
        })
    };
    let size = |dimension: &Dimension| match dimension {
        Dimension::Fixed(size) => (*size).into(),
        Dimension::Named(name) => Dim::named(name),
        Dimension::Unknown => Dim::Unknown,
    };
    walk(model, &feed, &size, &HashMap::new())
}

/// [`infer`], as if the tensors in `resized` had the shapes given there.
pub(crate) fn infer_with(
    model: &Model,
    inputs: &BTreeMap<String, Vec<usize>>,
    resized: &HashMap<String, Vec<usize>>,
) -> Result<Shapes, ModelError> {
    let sizes = NamedSizes::bind(model, inputs)?;
    let feed = |feed: &ValueInfo| {
        let mut fact = Fact::declared(feed, &|_, dimension| match sizes.size(dimension) {
            Dim::Unknown => Dim::Fixed(1),
            size => size,
        })?;
        if let Some(shape) = inputs.get(feed.name()) {
            fact.shape = Some(shape.iter().map(|&size| size.into()).collect());
        }
        Some(fact)
    };
    walk(model, &feed, &|dimension| sizes.size(dimension), resized)
}

fn walk(
    model: &Model,
    feed: &dyn Fn(&ValueInfo) -> Option<Fact>,
    size: &dyn Fn(&Dimension) -> Dim,
    resized: &HashMap<String, Vec<usize>>,
) -> Result<Shapes, ModelError> {
    let (graph, opset) = (&model.graph, model.opset());
    if opset > NEWEST_OPSET {
        let message = format!("has version {opset}; the newest that is known here is {NEWEST_OPSET}");
        return Err(
            ModelError::new(ErrorKind::Unsupported, "the standard operator set", message)
                .with_help(format!("export the model for operator set {NEWEST_OPSET} or older")),
        );
    }
    for declared in graph.feeds().chain(&graph.value_info).chain(&graph.outputs) {
        if let Some(size) = declared.impossible_size() {
            let place = format!("value `{}`", declared.name());
            let message = format!("is declared with a dimension of size {size}");
            return Err(ModelError::new(ErrorKind::Shape, place, message)
                .with_help("declare a size of 0 or more, or a name for a size that is open"));
        }
    }
    let engine = Engine::new(resized, &model.shell.functions, size);
    let mut scope = Scope::default();
    for (name, initializer) in &graph.initializers {
        let fact = match resized.get(name) {
            Some(shape) => Fact::sized(initializer.tensor.dtype(), shape),
            None => Fact::stored(&initializer.tensor),
        };
        scope.insert(name, engine.kept(Some(fact)));
    }
    for input in graph.feeds() {
        let fact = feed(input);
        if let Some(fact) = &fact {
            engine::check(fact).map_err(|message| {
                let place = format!("input `{}`", input.name());
                ModelError::new(ErrorKind::Shape, place, message)
            })?;
        }
        scope.insert(input.name(), engine.kept(fact));
    }
    let annotated = engine::messages(&graph.value_info).chain(engine::messages(&graph.outputs));
    let declared = engine::declared(annotated);
    let mut inner = Inner::new();
    let place = Place { opset, depth: 0 };
    for node in &graph.nodes {
        engine.node(node, place, &mut scope, &declared, &mut inner)?;
    }
    Ok(scope.finish(inner))
}

/// Sizes of named dimensions, as the given feeds fix them; 1 for those of feeds that are left out.
struct NamedSizes(HashMap<String, usize>);

impl NamedSizes {
    fn bind(model: &Model, inputs: &BTreeMap<String, Vec<usize>>) -> Result<Self, ModelError> {
        // Each with the input that says so.
        let mut said: HashMap<String, (usize, &str)> = HashMap::new();
        let feeds: HashMap<&str, &ValueInfo> = model.graph.feeds().map(|feed| (feed.name(), feed)).collect();
        for (name, shape) in inputs {
            let place = || format!("input `{name}`");
            let feed = feeds.get(name.as_str()).ok_or_else(|| {
                let feeds: Vec<_> = model.graph.feeds().map(ValueInfo::name).collect();
                ModelError::new(ErrorKind::Name, place(), "does not exist")
                    .with_help(format!("the model's inputs are {}", feeds.join(", ")))
            })?;
            let Some(declared) = feed.shape() else {
                continue;
            };
            let mut other = None;
            let fits = declared.len() == shape.len()
                && declared.iter().zip(shape).all(|(dimension, &size)| match dimension {
                    Dimension::Fixed(fixed) => *fixed == size,
                    Dimension::Named(axis) => {
                        let (known, input) = *said.entry(axis.clone()).or_insert((size, name));
                        if known != size {
                            other = Some((axis.clone(), known, input));
                        }
                        known == size
                    }
                    Dimension::Unknown => true,
                });
            if !fits {
                let declared: Vec<_> = declared.iter().map(Dimension::to_string).collect();
                let mut message = format!("is declared as [{}], which {shape:?} does not fit", declared.join(", "));
                if let Some((axis, size, input)) = other.filter(|(.., input)| input != name) {
                    message = format!("{message}: `{axis}` is {size} in input `{input}`");
                }
                return Err(ModelError::new(ErrorKind::Shape, place(), message));
            }
        }
        let mut sizes: HashMap<String, usize> = said.into_iter().map(|(axis, (size, _))| (axis, size)).collect();
        let left_out = model.graph.feeds().filter(|feed| !inputs.contains_key(feed.name()));
        for dimension in left_out.filter_map(ValueInfo::shape).flatten() {
            if let Dimension::Named(name) = dimension {
                sizes.entry(name).or_insert(1);
            }
        }
        Ok(Self(sizes))
    }

    fn size(&self, dimension: &Dimension) -> Dim {
        match dimension {
            Dimension::Fixed(size) => (*size).into(),
            Dimension::Named(name) => self.0.get(name).map_or(Dim::Unknown, |&size| size.into()),
            Dimension::Unknown => Dim::Unknown,
        }
    }
}
