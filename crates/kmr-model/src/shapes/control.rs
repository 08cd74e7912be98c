//! Subgraphs and functions: If, Loop, Scan, SequenceMap and calls.

use super::{
    Body, Inner, Shapes,
    dim::Dim,
    engine::{DEEPEST, Engine, Place, Scope, declared, failure},
    fact::{Fact, Values, Wrapping},
};
use crate::{DType, ModelError, Node, proto};

/// How often the body of a loop is looked at until what its values share over all rounds is settled.
const ROUNDS: usize = 6;

type Facts = Vec<Option<Fact>>;

impl Engine<'_> {
    /// The outputs of a node that has subgraphs; `None` for other nodes.
    pub fn control(
        &self,
        node: &Node,
        place: Place,
        scope: &Scope<'_>,
        inner: &mut Inner,
    ) -> Option<Result<Facts, ModelError>> {
        if !node.domain().is_empty() {
            return None;
        }
        Some(match node.op_type() {
            "If" => self.branch(node, place, scope, inner),
            "Loop" => self.repeat(node, place, scope, inner),
            "Scan" => self.scan(node, place, scope, inner),
            "SequenceMap" => self.map(node, place, scope, inner),
            _ => return None,
        })
    }

    /// The outputs of a subgraph, and what is known inside it.
    fn body(
        &self,
        graph: &proto::GraphProto,
        inputs: Facts,
        place: Place,
        scope: &Scope<'_>,
    ) -> Result<(Facts, Shapes), ModelError> {
        let nothing = || (vec![None; graph.output.len()], Shapes::default());
        if place.depth >= DEEPEST {
            return Ok(nothing());
        }
        let place = Place {
            depth: place.depth + 1,
            ..place
        };
        let tensors = graph.initializer.len() + graph.sparse_initializer.len();
        let declarations = graph.input.len() + graph.output.len() + graph.value_info.len();
        if !self.visit(tensors + declarations) {
            return Ok(nothing());
        }
        let mut inside = Scope::inside(scope);
        for initializer in &graph.initializer {
            let name = initializer.name.as_deref().unwrap_or_default();
            inside.insert(name, self.kept(Fact::message(initializer)));
        }
        for sparse in &graph.sparse_initializer {
            if let Some(values) = sparse.values.as_option() {
                let name = values.name.as_deref().unwrap_or_default();
                inside.insert(name, self.kept(Fact::sparse(sparse)));
            }
        }
        let mut inputs = inputs.into_iter();
        for input in &graph.input {
            let name = input.name.as_deref().unwrap_or_default();
            // Old files declare initializers among the inputs, after those that are given.
            if inside.holds(name) {
                continue;
            }
            let given = inputs.next().flatten();
            let declaration = input.r#type.as_option().and_then(|declared| self.declaration(declared));
            inside.insert(name, self.kept(given.or(declaration)));
        }
        let declarations = declared(graph.value_info.iter().chain(&graph.output));
        let mut inner = Inner::default();
        for message in &graph.node {
            if !self.visit_node(message) {
                return Ok(nothing());
            }
            if let Ok(node) = Node::from_proto(message.clone()) {
                self.node(&node, place, &mut inside, &declarations, &mut inner)?;
            }
        }
        let outputs = graph.output.iter();
        let outputs = outputs.map(|output| inside.get(output.name.as_deref()?).cloned());
        Ok((outputs.collect(), inside.finish(inner)))
    }

    fn branch(&self, node: &Node, place: Place, scope: &Scope<'_>, inner: &mut Inner) -> Result<Facts, ModelError> {
        let condition = node.input(0).and_then(|name| scope.get(name)).and_then(truth);
        let mut failed = None;
        let mut possible: Vec<Facts> = Vec::new();
        for (attribute, when) in [("then_branch", true), ("else_branch", false)] {
            let taken = condition.is_none_or(|condition| condition == when);
            match self.body(subgraph(node, attribute)?, Vec::new(), place, scope) {
                Ok((outputs, shapes)) => {
                    let repeats = condition.map(|_| u64::from(taken));
                    inner.insert((node.id().into(), attribute.into()), Body { shapes, repeats });
                    if taken {
                        possible.push(outputs);
                    }
                }
                // A branch that cannot be executed is not taken by any execution that ends.
                Err(error) if taken => failed = Some(error),
                Err(_) => {}
            }
        }
        let mut possible = possible.into_iter();
        match (possible.next(), possible.next(), failed) {
            (Some(a), Some(b), _) => Ok(a.into_iter().zip(b).map(|(a, b)| a?.join(&b?)).collect()),
            (Some(only), ..) => Ok(only),
            (None, _, Some(error)) => Err(error),
            (None, ..) => Ok(Vec::new()),
        }
    }

    /// The facts that hold of `carried` values in every round, and what a round then makes of them.
    fn settle(
        &self,
        graph: &proto::GraphProto,
        mut carried: Facts,
        rest: (&Facts, &Facts),
        first_carried_output: usize,
        place: Place,
        scope: &Scope<'_>,
    ) -> Result<(Facts, Shapes), ModelError> {
        let count = carried.len();
        for round in 0.. {
            let inputs = [rest.0.as_slice(), &carried, rest.1].concat();
            let (outputs, shapes) = self.body(graph, inputs, place, scope)?;
            let after = outputs.get(first_carried_output..).unwrap_or_default();
            let after = (0..count).map(|position| after.get(position).cloned().flatten());
            let joined: Facts = carried.iter().zip(after).map(|(a, b)| a.as_ref()?.join(&b?)).collect();
            if joined == carried {
                return Ok((outputs, shapes));
            }
            carried = match round {
                // Whatever it is that changes, nothing is claimed of it any longer.
                ROUNDS.. => vec![None; count],
                _ => joined,
            };
            if round > ROUNDS {
                return Ok((vec![None; graph.output.len()], Shapes::default()));
            }
        }
        Ok((Vec::new(), Shapes::default()))
    }

    fn repeat(&self, node: &Node, place: Place, scope: &Scope<'_>, inner: &mut Inner) -> Result<Facts, ModelError> {
        let graph = subgraph(node, "body")?;
        let given = |position: usize| node.input(position).and_then(|name| scope.get(name));
        let initial: Facts = (2..node.inputs().len())
            .map(|position| given(position).cloned())
            .collect();
        let scalar = |dtype| Fact::sized(dtype, &[]);
        // A round is begun only while the condition holds.
        let condition = scalar(DType::BOOL).with_values(Some(Values::Integers(vec![true.into()])));
        let before = vec![Some(scalar(DType::INT64)), Some(condition)];
        let (outputs, shapes) = self.settle(graph, initial.clone(), (&before, &Vec::new()), 1, place, scope)?;

        let begins = match node.input(1) {
            Some(_) => given(1).and_then(truth),
            None => Some(true),
        };
        let goes_on = outputs.first().and_then(|fact| fact.as_ref()).and_then(truth) == Some(true);
        let most = match node.input(0) {
            Some(_) => given(0)
                .and_then(|fact| fact.list())
                .and_then(|list| list.into_iter().next()),
            None => None,
        };
        let rounds = match (begins, most) {
            (Some(false), _) => Dim::Fixed(0),
            (_, Some(Dim::Fixed(most))) if most <= 0 => Dim::Fixed(0),
            (Some(true), Some(most)) if goes_on && most.minimum().is_some_and(|least| least >= 0) => most,
            _ => Dim::Unknown,
        };
        let repeats = rounds.fixed().and_then(|rounds| u64::try_from(rounds).ok());
        inner.insert((node.id().into(), "body".into()), Body { shapes, repeats });

        let outputs = (0..node.outputs().len()).map(|position| {
            let made = outputs.get(position + 1)?.as_ref();
            match initial.get(position) {
                Some(initial) if rounds.is(0) => initial.clone(),
                Some(_) if rounds.minimum().is_some_and(|least| least > 0) => made.cloned(),
                Some(initial) => initial.as_ref()?.join(made?),
                None => Some(stacked(made?, 0, &rounds)),
            }
        });
        Ok(outputs.collect())
    }

    fn scan(&self, node: &Node, place: Place, scope: &Scope<'_>, inner: &mut Inner) -> Result<Facts, ModelError> {
        let graph = subgraph(node, "body")?;
        // Up to operator set 8 there are lengths first, and a batch axis before everything else.
        let batched = place.opset < 9;
        let first = usize::from(batched);
        let given = |position: usize| node.input(position).and_then(|name| scope.get(name));
        let scanned = usize::try_from(node.int("num_scan_inputs").unwrap_or(0)).unwrap_or(0);
        let states = node.inputs().len().saturating_sub(first);
        let Some(states) = states.checked_sub(scanned) else {
            return Err(failure(node, "has fewer inputs than `num_scan_inputs`"));
        };
        let along = |attribute: &str, position: usize, rank: usize| -> Option<usize> {
            let given = node.ints(attribute).and_then(|axes| axes.get(position).copied());
            super::context::axis(given.unwrap_or(0), rank).ok()
        };
        let mut rounds = Dim::Unknown;
        let mut batch = Dim::Unknown;
        let mut initial = Facts::new();
        for position in 0..states {
            initial.push(given(first + position).cloned().map(|mut fact| {
                if batched && let Some(shape) = fact.shape.as_mut().filter(|shape| !shape.is_empty()) {
                    batch = batch.unify(&shape.remove(0)).unwrap_or(Dim::Unknown);
                    fact.values = None;
                }
                fact
            }));
        }
        let mut slices = Facts::new();
        for position in 0..scanned {
            let Some(fact) = given(first + states + position) else {
                slices.push(None);
                continue;
            };
            let mut shape = fact.shape.clone();
            if let Some(sizes) = &mut shape {
                if batched && !sizes.is_empty() {
                    batch = batch.unify(&sizes.remove(0)).unwrap_or(Dim::Unknown);
                }
                let axis = if batched {
                    Some(0)
                } else {
                    along("scan_input_axes", position, sizes.len())
                };
                match axis.filter(|&axis| axis < sizes.len()) {
                    Some(axis) => {
                        let length = sizes.remove(axis);
                        let Some(both) = rounds.unify(&length) else {
                            return Err(failure(node, format!("scans inputs of {rounds} and {length} elements")));
                        };
                        rounds = both;
                    }
                    None => return Err(failure(node, format!("scanned input {position} has no such axis"))),
                }
            }
            slices.push(Some(Fact::tensor(fact.dtype, shape)));
        }
        let (outputs, shapes) = self.settle(graph, initial.clone(), (&Vec::new(), &slices), 0, place, scope)?;
        let repeats = match (batched, rounds.fixed()) {
            (false, Some(rounds)) => u64::try_from(rounds).ok(),
            _ => None,
        };
        inner.insert((node.id().into(), "body".into()), Body { shapes, repeats });
        let outputs = (0..node.outputs().len()).map(|position| {
            let made = outputs.get(position)?.as_ref();
            let mut fact = match initial.get(position) {
                Some(initial) => initial.as_ref()?.join(made?)?,
                None => {
                    let made = made?;
                    let rank = made.shape.as_ref().map_or(0, Vec::len) + 1;
                    let axis = along("scan_output_axes", position - states, rank);
                    stacked(made, if batched { 0 } else { axis? }, &rounds)
                }
            };
            if batched && let Some(shape) = &mut fact.shape {
                shape.insert(0, batch.clone());
                fact.values = None;
            }
            Some(fact)
        });
        Ok(outputs.collect())
    }

    fn map(&self, node: &Node, place: Place, scope: &Scope<'_>, inner: &mut Inner) -> Result<Facts, ModelError> {
        let element = |name: &String| {
            let fact = scope.get(name)?;
            Some(match fact.wrapping {
                Wrapping::Sequence => Fact::tensor(fact.dtype, fact.shape.clone()),
                _ => fact.clone(),
            })
        };
        let inputs = node.inputs().iter().map(element).collect();
        let (outputs, shapes) = self.body(subgraph(node, "body")?, inputs, place, scope)?;
        let body = Body { shapes, repeats: None };
        inner.insert((node.id().into(), "body".into()), body);
        let sequences = outputs.into_iter().map(|fact| {
            let fact = fact.filter(|fact| fact.wrapping == Wrapping::Tensor)?;
            Some(Fact {
                wrapping: Wrapping::Sequence,
                ..Fact::tensor(fact.dtype, fact.shape)
            })
        });
        Ok(sequences.collect())
    }

    /// The outputs of a node that calls a function of the model.
    pub fn call(
        &self,
        node: &Node,
        function: &proto::FunctionProto,
        place: Place,
        scope: &Scope<'_>,
    ) -> Result<Facts, ModelError> {
        let own = function
            .opset_import
            .iter()
            .find(|set| matches!(set.domain.as_deref(), None | Some("" | "ai.onnx")));
        let opset = own.and_then(|set| set.version).unwrap_or(place.opset);
        if place.depth >= DEEPEST || opset > super::NEWEST_OPSET {
            return Ok(Vec::new());
        }
        let place = Place {
            opset,
            depth: place.depth + 1,
        };
        if !self.visit(function.input.len() + function.output.len() + function.value_info.len()) {
            return Ok(Vec::new());
        }
        let mut inside = Scope::default();
        for (position, name) in function.input.iter().enumerate() {
            let given = node.input(position).and_then(|name| scope.get(name));
            inside.insert(name, self.kept(given.cloned()));
        }
        let declarations = declared(function.value_info.iter());
        let mut inner = Inner::default();
        for message in &function.node {
            if !self.visit_node(message) {
                return Ok(Vec::new());
            }
            let mut message = message.clone();
            resolve(&mut message, node, function, DEEPEST);
            if let Ok(inner_node) = Node::from_proto(message) {
                self.node(&inner_node, place, &mut inside, &declarations, &mut inner)
                    .map_err(|error| failure(node, format!("inside the function: {error}")))?;
            }
        }
        Ok(function.output.iter().map(|name| inside.get(name).cloned()).collect())
    }
}

/// Gives attributes that refer to the function's attributes the values of this call.
fn resolve(message: &mut proto::NodeProto, call: &Node, function: &proto::FunctionProto, depth: usize) {
    message.attribute.retain_mut(|attribute| {
        let Some(wanted) = attribute.ref_attr_name.as_deref().filter(|name| !name.is_empty()) else {
            return true;
        };
        let default = || {
            function
                .attribute_proto
                .iter()
                .find(|a| a.name.as_deref() == Some(wanted))
        };
        match call.attribute(wanted).or_else(default) {
            Some(value) => {
                let name = attribute.name.take();
                *attribute = proto::AttributeProto { name, ..value.clone() };
                true
            }
            None => false,
        }
    });
    if depth == 0 {
        return;
    }
    for attribute in &mut message.attribute {
        let single = attribute.g.as_option_mut().into_iter();
        for graph in single.chain(&mut attribute.graphs) {
            for inner in &mut graph.node {
                resolve(inner, call, function, depth - 1);
            }
        }
    }
}

fn subgraph<'n>(node: &'n Node, attribute: &str) -> Result<&'n proto::GraphProto, ModelError> {
    let graph = node.attribute(attribute).and_then(|a| a.g.as_option());
    graph.ok_or_else(|| failure(node, format!("has no subgraph `{attribute}`")))
}

/// The one value of a condition.
fn truth(condition: &Fact) -> Option<bool> {
    match condition.list()?.as_slice() {
        [value] => Some(value.fixed()? != 0),
        _ => None,
    }
}

/// `made` with the axis of the rounds that it was made in.
fn stacked(made: &Fact, axis: usize, rounds: &Dim) -> Fact {
    let mut shape = made.shape.clone();
    if let Some(shape) = &mut shape {
        shape.insert(axis.min(shape.len()), rounds.clone());
    }
    Fact::tensor(made.dtype, shape)
}
