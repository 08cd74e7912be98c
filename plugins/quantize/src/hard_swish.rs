//! Hard-swish and hard-sigmoid, spelled in one node where a model spells them in sums, clips and quotients: kernels of
//! convolutions take such a node over.

use std::collections::HashSet;

use kmr_sdk::{
    Result,
    model::{Build, Edit, Graph, GraphIndex, Node, Patch},
};

/// How far a constant may be from what it should be, relatively.
const TOLERANCE: f32 = 1e-4;

/// A node that stands for others.
struct Found<'g> {
    op_type: &'static str,
    input: &'g str,
    output: &'g str,
    replaced: Vec<&'g Node>,
}

/// Edits that spell every hard-swish and hard-sigmoid of `graph` in one node.
///
/// # Errors
/// Never; it is one of several.
pub fn patch(graph: &Graph) -> Result<Patch> {
    let index = graph.index();
    let reader = Reader { graph, index: &index };
    let mut build = Build::on(graph);
    let mut replaced: HashSet<&str> = HashSet::new();
    // From the end, where the longest spellings end.
    for node in graph.nodes.iter().rev() {
        let Some(found) = reader.swish(node).or_else(|| reader.sigmoid(node)) else {
            continue;
        };
        if found.replaced.iter().any(|node| replaced.contains(node.id())) {
            continue;
        }
        replaced.extend(found.replaced.iter().map(|node| node.id()));
        build.place(Some(found.output));
        let spelled = build.node(
            found.op_type,
            &[found.input],
            &format!("{}_spelled", found.output),
            |node| match found.op_type {
                "HardSigmoid" => node.with_float("alpha", 1.0 / 6.0).with_float("beta", 0.5),
                _ => node,
            },
        );
        for &(position, slot) in index.consumers(found.output) {
            build.rewire(graph.nodes[position].id(), slot, &spelled);
        }
    }
    // Readers before what they read.
    for node in graph.nodes.iter().rev().filter(|node| replaced.contains(node.id())) {
        build.edit(Edit::RemoveNode {
            node: node.id().to_owned(),
        });
    }
    for name in unread(graph, &index, &replaced) {
        build.edit(Edit::RemoveTensor { name: name.to_owned() });
    }
    Ok(build.finish())
}

/// The initializers that nodes in `removed` alone read.
fn unread<'g>(graph: &'g Graph, index: &GraphIndex<'_>, removed: &HashSet<&str>) -> Vec<&'g str> {
    let is_read = |name: &str| {
        let readers = index.consumers(name);
        readers.is_empty()
            || readers
                .iter()
                .any(|&(reader, _)| !removed.contains(graph.nodes[reader].id()))
    };
    let names = graph.initializers.keys().map(String::as_str);
    names.filter(|name| index.is_inner(name) && !is_read(name)).collect()
}

struct Reader<'g, 'i> {
    graph: &'g Graph,
    index: &'i GraphIndex<'g>,
}

impl<'g> Reader<'g, '_> {
    /// x · hard-sigmoid(x), or x · clip(x + 3, 0, 6) / 6.
    fn swish(&self, node: &'g Node) -> Option<Found<'g>> {
        let found = |input, output, replaced| Found {
            op_type: "HardSwish",
            input,
            output,
            replaced,
        };
        let gated = |product: &'g Node, gate: &dyn Fn(&'g Node) -> Option<(&'g str, Vec<&'g Node>)>| {
            let ends = [
                (product.input(0)?, product.input(1)?),
                (product.input(1)?, product.input(0)?),
            ];
            ends.into_iter().find_map(|(x, gated)| {
                let (input, replaced) = gate(self.inner(gated)?)?;
                (input == x).then_some((input, replaced))
            })
        };
        if !self.index.is_inner(node.id()) {
            return None;
        }
        if node.is("Mul")
            && let Some((input, mut replaced)) = gated(node, &|node| self.gate(node))
        {
            replaced.push(node);
            return Some(found(input, node.id(), replaced));
        }
        let product = self.inner(self.sixth_of(node)?).filter(|product| product.is("Mul"))?;
        let (input, mut replaced) = gated(product, &|node| self.clipped(node))?;
        replaced.extend([product, node]);
        Some(found(input, node.id(), replaced))
    }

    /// clip(x + 3, 0, 6) / 6.
    fn sigmoid(&self, node: &'g Node) -> Option<Found<'g>> {
        let (input, replaced) = self.gate(node).filter(|_| !node.is("HardSigmoid"))?;
        self.index.is_inner(node.id()).then(|| Found {
            op_type: "HardSigmoid",
            input,
            output: node.id(),
            replaced,
        })
    }

    /// What `node` is the hard-sigmoid of, and the nodes that make it.
    fn gate(&self, node: &'g Node) -> Option<(&'g str, Vec<&'g Node>)> {
        if node.is("HardSigmoid") {
            let (slope, offset) = (node.float("alpha").unwrap_or(0.2), node.float("beta").unwrap_or(0.5));
            return (near(slope, 1.0 / 6.0) && near(offset, 0.5)).then_some((node.input(0)?, vec![node]));
        }
        let (input, mut replaced) = self.clipped(self.inner(self.sixth_of(node)?)?)?;
        replaced.push(node);
        Some((input, replaced))
    }

    /// x, if `node` is clip(x + 3, 0, 6).
    fn clipped(&self, node: &'g Node) -> Option<(&'g str, Vec<&'g Node>)> {
        let clips = node.is("Clip") && self.number(node.input(1)?)? == 0.0 && near(self.number(node.input(2)?)?, 6.0);
        let sum = self.inner(node.input(0)?).filter(|sum| clips && sum.is("Add"))?;
        let input = self.other(sum, |number| near(number, 3.0))?;
        Some((input, vec![sum, node]))
    }

    /// x, if `node` is x / 6.
    fn sixth_of(&self, node: &'g Node) -> Option<&'g str> {
        match node.op_type() {
            "Div" => node.input(0).filter(|_| {
                let divisor = node.input(1).and_then(|name| self.number(name));
                divisor.is_some_and(|divisor| near(divisor, 6.0))
            }),
            "Mul" => self.other(node, |number| near(number, 1.0 / 6.0)),
            _ => None,
        }
    }

    /// The input beside a number that `fits`.
    fn other(&self, node: &'g Node, fits: impl Fn(f32) -> bool) -> Option<&'g str> {
        let (first, second) = (node.input(0)?, node.input(1)?);
        match (self.number(first), self.number(second)) {
            (None, Some(number)) if fits(number) => Some(first),
            (Some(number), None) if fits(number) => Some(second),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> Option<f32> {
        let tensor = self.graph.tensor(name)?;
        let values = tensor.to_f32().ok()?;
        (values.len() == 1 && tensor.shape().len() <= 1).then(|| values[0])
    }

    /// The node that makes `value`, if it is read once.
    fn inner(&self, value: &str) -> Option<&'g Node> {
        self.index.sole_consumer(value)?;
        Some(&self.graph.nodes[self.index.producer(value)?])
    }
}

fn near(value: f32, wanted: f32) -> bool {
    (value - wanted).abs() <= TOLERANCE * wanted
}

#[cfg(test)]
mod tests {
    use kmr_sdk::model::Tensor;

    use super::*;
    use crate::testing::{answer, apart, graph, node, operators};

    fn spelled(nodes: Vec<Node>) -> Graph {
        let constants = [
            ("three", 3.0),
            ("zero", 0.0),
            ("six", 6.0),
            ("sixth", 1.0 / 6.0),
            ("four", 4.0),
        ];
        let constants = constants.map(|(name, value)| (name, Tensor::scalar(value as f32)));
        let mut nodes = nodes;
        nodes.push(node("Identity", &["last"], "y"));
        graph(&[1, 40], &constants, nodes)
    }

    fn clipped() -> Vec<Node> {
        vec![
            node("Add", &["x", "three"], "sum"),
            node("Clip", &["sum", "zero", "six"], "clipped"),
        ]
    }

    #[test]
    fn every_spelling_becomes_one_node_that_answers_alike() {
        let gate = || Node::new("HardSigmoid", "gate", &["x"], &["gate"]).with_float("alpha", 1.0 / 6.0);
        let with = |nodes: Vec<Node>| [clipped(), nodes].concat();
        let cases = [
            (
                with(vec![
                    node("Mul", &["x", "clipped"], "product"),
                    node("Div", &["product", "six"], "last"),
                ]),
                "HardSwish",
            ),
            (
                with(vec![
                    node("Mul", &["clipped", "x"], "product"),
                    node("Mul", &["sixth", "product"], "last"),
                ]),
                "HardSwish",
            ),
            (
                with(vec![
                    node("Div", &["clipped", "six"], "gate"),
                    node("Mul", &["gate", "x"], "last"),
                ]),
                "HardSwish",
            ),
            (vec![gate(), node("Mul", &["x", "gate"], "last")], "HardSwish"),
            (with(vec![node("Div", &["clipped", "six"], "last")]), "HardSigmoid"),
        ];
        let x = Tensor::from_vec(vec![1, 40], (0..40).map(|at| at as f32 * 0.25 - 5.0).collect());
        for (nodes, expected) in cases {
            let before = spelled(nodes);
            let after = patch(&before).unwrap().apply(&before).unwrap();
            assert_eq!(operators(&after), [expected, "Identity"]);
            assert!(apart(&answer(&before, &x), &answer(&after, &x)) < 1e-5);
            let read = !before.index().consumers("three").is_empty();
            assert_eq!(
                after.initializers.contains_key("three"),
                !read,
                "what nobody reads any more goes"
            );
        }
    }

    #[test]
    fn what_only_looks_like_one_stays() {
        let others = [
            [clipped(), vec![node("Div", &["clipped", "four"], "last")]].concat(),
            [
                clipped(),
                vec![
                    node("Mul", &["sum", "clipped"], "product"),
                    node("Div", &["product", "six"], "last"),
                ],
            ]
            .concat(),
            vec![node("HardSigmoid", &["x"], "gate"), node("Mul", &["x", "gate"], "last")],
        ];
        for nodes in others {
            let graph = spelled(nodes);
            assert!(patch(&graph).unwrap().edits.is_empty(), "{:?}", operators(&graph));
        }
    }
}
