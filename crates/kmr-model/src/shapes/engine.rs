//! Walking a graph: each node's facts from those of its inputs.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
};

use buffa::Message;

use super::{
    Inner, Shapes,
    context::{Context, Rule, Stop, Types},
    dim::Dim,
    fact::Fact,
    operators,
};
use crate::{DType, Dimension, ErrorKind, ModelError, Node, ValueInfo, proto};

/// Subgraphs and functions nested deeper than this are not entered.
pub(super) const DEEPEST: usize = 24;

/// Nodes, tensors and declarations of subgraphs and functions that are looked at, counting each visit.
const VISITS: usize = 400_000;

/// Bytes of a nested node that count as another visit: each visit copies the node.
const BYTES_PER_VISIT: usize = 4096;

/// Values with more axes than this are not followed.
const MOST_AXES: usize = 64;

/// Sizes and elements that are kept of all values, beside [`ROOM_PER_VALUE`] for each.
const ROOM: usize = 1 << 20;

/// Sizes and elements that each value adds to what is kept of all.
const ROOM_PER_VALUE: usize = 32;

/// The values of a graph, on top of those of the graph around it.
#[derive(Default)]
pub(super) struct Scope<'a> {
    facts: HashMap<String, Option<Fact>>,
    outer: Option<&'a Scope<'a>>,
}

impl<'a> Scope<'a> {
    /// The scope of a subgraph.
    pub fn inside(outer: &'a Scope<'a>) -> Self {
        Self {
            facts: HashMap::new(),
            outer: Some(outer),
        }
    }

    pub fn get(&self, name: &str) -> Option<&Fact> {
        match (self.facts.get(name), self.outer) {
            (Some(fact), _) => fact.as_ref(),
            (None, Some(outer)) => outer.get(name),
            (None, None) => None,
        }
    }

    /// Whether this graph itself has a value of this name.
    pub fn holds(&self, name: &str) -> bool {
        self.facts.contains_key(name)
    }

    pub fn insert(&mut self, name: &str, fact: Option<Fact>) {
        self.facts.insert(name.to_owned(), fact);
    }

    /// What was found out about the values of this graph itself.
    pub fn finish(self, inner: Inner) -> Shapes {
        let facts = self.facts.into_iter();
        let facts: HashMap<String, Fact> = facts.filter_map(|(name, fact)| Some((name, fact?))).collect();
        let values = facts.iter();
        let values = values.filter_map(|(name, fact)| Some((name.clone(), fact.known()?)));
        Shapes {
            values: values.collect(),
            facts,
            inner,
        }
    }
}

/// Declared types of values, by name.
pub(super) type Declared<'a> = HashMap<&'a str, &'a proto::TypeProto>;

pub(super) fn declared<'a>(values: impl Iterator<Item = &'a proto::ValueInfoProto>) -> Declared<'a> {
    let named = values.filter_map(|value| Some((value.name.as_deref()?, value.r#type.as_option()?)));
    named.collect()
}

/// Where a graph stands.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub opset: i64,
    pub depth: usize,
}

/// What holds during one inference.
pub(super) struct Engine<'m> {
    /// Shapes that replace those of these values.
    resized: &'m HashMap<String, Vec<usize>>,
    functions: BTreeMap<(&'m str, &'m str), &'m proto::FunctionProto>,
    /// What is known of a dimension that a value other than a feed is declared with.
    size: &'m dyn Fn(&Dimension) -> Dim,
    visits: Cell<usize>,
    room: Cell<usize>,
}

impl<'m> Engine<'m> {
    pub fn new(
        resized: &'m HashMap<String, Vec<usize>>,
        functions: &'m [proto::FunctionProto],
        size: &'m dyn Fn(&Dimension) -> Dim,
    ) -> Self {
        let named = functions.iter().map(|function| {
            let domain = match function.domain.as_deref() {
                None | Some("ai.onnx") => "",
                Some(domain) => domain,
            };
            ((domain, function.name.as_deref().unwrap_or_default()), function)
        });
        Self {
            resized,
            functions: named.collect(),
            size,
            visits: Cell::new(VISITS),
            room: Cell::new(ROOM),
        }
    }

    pub fn function(&self, node: &Node) -> Option<&'m proto::FunctionProto> {
        self.functions.get(&(node.domain(), node.op_type())).copied()
    }

    /// What a value is declared as.
    pub fn declaration(&self, declared: &proto::TypeProto) -> Option<Fact> {
        Fact::of_type(declared, &|_, dimension| (self.size)(dimension))
    }

    /// Counts visits of what is nested; `false` once there have been too many.
    pub fn visit(&self, count: usize) -> bool {
        let left = self.visits.get();
        self.visits.set(left.saturating_sub(count));
        left >= count
    }

    /// Counts a visit of a nested node.
    pub fn visit_node(&self, message: &proto::NodeProto) -> bool {
        let length = message.try_encoded_len().map_or(usize::MAX, |length| length as usize);
        self.visit(1 + length / BYTES_PER_VISIT)
    }

    /// As much of `fact` as there is room for: a value of many axes or elements takes few bytes of a file.
    pub fn kept(&self, fact: Option<Fact>) -> Option<Fact> {
        let mut fact = fact?;
        let mut room = self.room.get().saturating_add(ROOM_PER_VALUE);
        let mut take = |wanted: usize| match room.checked_sub(wanted) {
            Some(left) => {
                room = left;
                true
            }
            None => false,
        };
        if fact
            .shape
            .as_ref()
            .is_some_and(|shape| shape.len() > MOST_AXES || !take(shape.len()))
        {
            fact.shape = None;
            fact.values = None;
        }
        if fact.values.as_ref().is_some_and(|values| !take(values.len())) {
            fact.values = None;
        }
        fact.follows_shape &= fact.values.is_some();
        self.room.set(room);
        Some(fact)
    }

    /// Infers the outputs of `node` into `scope`.
    pub fn node(
        &self,
        node: &Node,
        place: Place,
        scope: &mut Scope<'_>,
        declared: &Declared<'_>,
        inner: &mut Inner,
    ) -> Result<(), ModelError> {
        let facts = self.facts(node, place, scope, inner)?;
        let mut facts = facts.into_iter();
        for output in node.outputs() {
            let fact = facts.next().flatten();
            if output.is_empty() {
                continue;
            }
            let fact = match self.resized.get(output) {
                Some(shape) if place.depth == 0 => fact.and_then(|fact| Some(Fact::sized(fact.dtype?, shape))),
                _ => {
                    let declaration = declared
                        .get(output.as_str())
                        .and_then(|declared| self.declaration(declared));
                    match (fact, declaration) {
                        (Some(mut fact), Some(declaration)) => {
                            fact.fill(&declaration);
                            Some(fact)
                        }
                        (fact, declaration) => fact.or(declaration),
                    }
                }
            };
            if let Some(fact) = &fact {
                check(fact).map_err(|message| failure(node, message))?;
            }
            scope.insert(output, self.kept(fact));
        }
        Ok(())
    }

    fn facts(
        &self,
        node: &Node,
        place: Place,
        scope: &Scope<'_>,
        inner: &mut Inner,
    ) -> Result<Vec<Option<Fact>>, ModelError> {
        if let Some(function) = self.function(node) {
            return self.call(node, function, place, scope);
        }
        if let Some(found) = self.control(node, place, scope, inner) {
            return found;
        }
        let context = Context::new(node, place.opset, scope);
        if let Some(function) = operators::whole(node) {
            return match function(&context) {
                Ok(facts) => Ok(facts),
                Err(Stop::Unknown) => Ok(Vec::new()),
                Err(Stop::Contradiction(message)) => Err(failure(node, message)),
            };
        }
        match operators::find(node) {
            Some(rule) => apply(&rule, &context).map_err(|message| failure(node, message)),
            None => Ok(Vec::new()),
        }
    }
}

fn apply(rule: &Rule, context: &Context<'_>) -> Result<Vec<Option<Fact>>, String> {
    let found = match (rule.shapes)(context) {
        Ok(found) => found,
        Err(Stop::Unknown) => Vec::new(),
        Err(Stop::Contradiction(message)) => return Err(message),
    };
    let follows = context.node.is("Shape") || context.node.is("Size") || context.follows_shape();
    let mut found = found.into_iter();
    let outputs = dtypes(rule.types, context).into_iter().map(|dtype| {
        let found = found.next().unwrap_or_default();
        if dtype.is_none() && found.shape.is_none() {
            return None;
        }
        let mut fact = Fact::tensor(dtype, found.shape).with_values(found.values);
        fact.follows_shape = follows && fact.values.is_some();
        Some(fact)
    });
    Ok(outputs.collect())
}

fn dtypes(types: Types, context: &Context<'_>) -> Vec<Option<DType>> {
    let count = context.node.outputs().len();
    let like = |inputs: &[usize]| inputs.iter().find_map(|&position| context.dtype(position));
    match types {
        Types::Same(inputs) => vec![like(inputs); count],
        Types::Then(inputs, then) => {
            let mut types = vec![Some(then); count];
            types[..1].fill(like(inputs));
            types
        }
        Types::Always(dtype) => vec![Some(dtype); count],
        Types::Attribute(name, default) => {
            let given = match context.int(name, 0) {
                0 => Some(default),
                number => i32::try_from(number).ok().map(DType::from_number),
            };
            vec![given; count]
        }
        Types::By(function) => {
            let mut types = function(context);
            types.resize(count, None);
            types
        }
    }
}

/// Whether a value of this shape could exist.
pub(super) fn check(fact: &Fact) -> Result<(), String> {
    let Some(shape) = &fact.shape else {
        return Ok(());
    };
    let mut count = 1_i128;
    for size in shape.iter().filter_map(Dim::fixed) {
        if size < 0 || usize::try_from(size).is_err() {
            return Err(format!("a dimension would have size {size}"));
        }
        count = count.saturating_mul(size);
    }
    if isize::try_from(count).is_err() {
        let shape = super::context::show(shape);
        return Err(format!("a value of shape {shape} has too many elements"));
    }
    Ok(())
}

/// An error at a node.
pub(super) fn failure(node: &Node, message: impl Into<String>) -> ModelError {
    let place = format!("node `{}` ({})", node.label(), node.op_type());
    ModelError::new(ErrorKind::Shape, place, message)
}

/// The wire messages of declarations.
pub(super) fn messages(values: &[ValueInfo]) -> impl Iterator<Item = &proto::ValueInfoProto> {
    values.iter().map(|value| &value.0)
}
