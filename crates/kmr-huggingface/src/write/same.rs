//! Whether two graphs compute the same, whatever their values are called.

use std::collections::{HashMap, HashSet};

use kmr_model::{Graph, GraphIndex, Node, Tensor, proto};

use crate::error::shown;
use crate::{ErrorKind, HuggingFaceError};

/// Checks that `found` computes its outputs as `expected` does: by the same nodes over equal tensors.
///
/// # Errors
/// The first place where they differ, counted from the outputs, by the names of `found`.
pub(super) fn check(expected: &Graph, found: &Graph) -> Result<(), HuggingFaceError> {
    let (left, right) = (Side::new(expected), Side::new(found));
    let outputs = |graph: &Graph| {
        graph
            .outputs
            .iter()
            .map(|output| output.name().to_owned())
            .collect::<Vec<_>>()
    };
    let (wanted, given) = (outputs(expected), outputs(found));
    if wanted != given {
        return refuse(format!(
            "its outputs are {}, not {}",
            given.join(", "),
            wanted.join(", ")
        ));
    }
    let mut open: Vec<(String, String)> = wanted.into_iter().zip(given).collect();
    let mut seen: HashSet<(String, String)> = HashSet::new();
    while let Some(pair) = open.pop() {
        if !seen.insert(pair.clone()) {
            continue;
        }
        open.extend(left.step(&right, &pair)?);
    }
    Ok(())
}

/// A graph whose values are found by name.
struct Side<'g> {
    graph: &'g Graph,
    index: GraphIndex<'g>,
}

enum Origin<'g> {
    Tensor(&'g Tensor),
    Node(&'g Node),
    Input,
}

impl<'g> Side<'g> {
    fn new(graph: &'g Graph) -> Self {
        Self {
            graph,
            index: graph.index(),
        }
    }

    fn origin(&self, value: &str) -> Origin<'g> {
        if let Some(tensor) = self.graph.tensor(value) {
            return Origin::Tensor(tensor);
        }
        match self.index.producer(value) {
            Some(position) => Origin::Node(&self.graph.nodes[position]),
            None => Origin::Input,
        }
    }

    /// Compares what makes two values; gives the pairs of values that these are made of.
    fn step(&self, other: &Side<'_>, (own, its): &(String, String)) -> Result<Vec<(String, String)>, HuggingFaceError> {
        match (self.origin(own), other.origin(its)) {
            (Origin::Input, Origin::Input) if own == its => Ok(Vec::new()),
            (Origin::Tensor(own), Origin::Tensor(its)) if own == its => Ok(Vec::new()),
            (Origin::Tensor(_), Origin::Tensor(_)) => refuse(format!(
                "constant `{}` is not what the architecture has there",
                shown(its)
            )),
            (Origin::Node(one), Origin::Node(two)) => {
                let slot = |node: &Node, value: &str| node.outputs().iter().position(|output| output == value);
                let alike = one.op_type() == two.op_type()
                    && one.domain() == two.domain()
                    && attributes(one) == attributes(two)
                    && slot(one, own) == slot(two, its);
                let inputs = (present(one), present(two));
                if !alike || inputs.0.len() != inputs.1.len() {
                    return unexpected(two, one);
                }
                Ok(inputs.0.iter().cloned().zip(inputs.1.iter().cloned()).collect())
            }
            (Origin::Node(one), _) => refuse(format!(
                "`{}` is not made by {}, as the architecture has it",
                shown(its),
                one.op_type()
            )),
            (_, Origin::Node(two)) => refuse(format!(
                "node `{}` ({}) has no place in the architecture",
                shown(two.label()),
                two.op_type()
            )),
            _ => refuse(format!("`{}` is not what the architecture has there", shown(its))),
        }
    }
}

/// The inputs without absent ones at the end.
fn present(node: &Node) -> &[String] {
    let inputs = node.inputs();
    let length = inputs
        .iter()
        .rposition(|input| !input.is_empty())
        .map_or(0, |last| last + 1);
    &inputs[..length]
}

fn attributes(node: &Node) -> HashMap<&str, &proto::AttributeProto> {
    let attributes = node.proto().attribute.iter();
    attributes
        .map(|attribute| (attribute.name.as_deref().unwrap_or_default(), attribute))
        .collect()
}

fn unexpected<T>(found: &Node, expected: &Node) -> Result<T, HuggingFaceError> {
    let message = match found.op_type() == expected.op_type() {
        true => format!(
            "node `{}` ({}) is set otherwise than in the architecture",
            shown(found.label()),
            found.op_type()
        ),
        false => format!(
            "node `{}` ({}) has no place in the architecture, which has {} there",
            shown(found.label()),
            found.op_type(),
            expected.op_type()
        ),
    };
    refuse(message)
}

fn refuse<T>(message: String) -> Result<T, HuggingFaceError> {
    Err(HuggingFaceError::new(ErrorKind::Inexpressible, message)
        .help("write the model as ONNX instead; a folder holds nothing but weights of its architecture"))
}
