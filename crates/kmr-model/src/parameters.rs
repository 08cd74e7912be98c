//! The tensors of a network that training moves.

use std::collections::{HashMap, HashSet};

use crate::{DType, Graph, GraphIndex, Node, Tensor};

/// A float32 initializer that is a parameter of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// The initializer.
    pub tensor: String,
    /// The ids of the nodes that read it as a parameter, in the order of the graph; at least one.
    pub readers: Vec<String>,
    /// What people call the first of them.
    pub label: String,
}

/// What an operator's input is to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// A weight, a bias, a scale or a slope.
    Parameter,
    /// A parameter if it has more than one element; constants of a network are mostly single numbers.
    Elementwise,
    /// What sets the operation up, or is measured instead of trained. A tensor that is read so is never a parameter.
    Setting,
    /// Anything else.
    Operand,
}

fn role(node: &Node, slot: usize) -> Role {
    if !node.domain().is_empty() {
        return Role::Operand;
    }
    match (node.op_type(), slot) {
        ("Conv" | "ConvTranspose", 1 | 2) => Role::Parameter,
        ("Gemm", 0..=2) | ("MatMul", 0 | 1) => Role::Parameter,
        ("LSTM" | "GRU" | "RNN", 1..=3) | ("LSTM", 7) => Role::Parameter,
        ("BatchNormalization" | "InstanceNormalization" | "LayerNormalization" | "GroupNormalization", 1 | 2) => {
            Role::Parameter
        }
        ("RMSNormalization" | "PRelu", 1) => Role::Parameter,
        ("Gather", 0) => Role::Parameter,
        ("Einsum", _) => Role::Parameter,
        ("Add" | "Mul", 0 | 1) => Role::Elementwise,
        ("BatchNormalization", 3 | 4) => Role::Setting,
        ("QuantizeLinear" | "DequantizeLinear" | "Clip" | "Pad" | "Resize" | "Upsample", 1..) => Role::Setting,
        ("Dropout", 1 | 2) | ("Pow", 1) | ("OneHot" | "Range" | "ConstantOfShape", _) => Role::Setting,
        _ => Role::Operand,
    }
}

/// The float32 initializers of `graph` that training moves, in the order in which nodes first read them as parameters:
/// weights and biases of products, scales and biases of normalizations, slopes, tables of embeddings.
///
/// Also those that reach their reader through a Transpose, a Reshape or the like. Not the running statistics of batch
/// normalizations, not shapes, not the scales of quantization; not single numbers that an Add or a Mul reads, not what
/// is added to or multiplied with a fed value before anything else happens to it (as images are normalized), and not
/// what is added to mask something out. Readers inside subgraphs are not looked at.
pub fn parameters(graph: &Graph) -> Vec<Parameter> {
    let index = graph.index();
    let raw = raw(graph);
    let mut found: Vec<Parameter> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut refused: HashSet<&str> = HashSet::new();
    for node in &graph.nodes {
        for (slot, input) in node.inputs().iter().enumerate() {
            let Some((name, tensor)) = source(graph, &index, input) else {
                continue;
            };
            let trained = match role(node, slot) {
                Role::Parameter => true,
                Role::Elementwise => {
                    let other = node.input(1 - slot).unwrap_or_default();
                    tensor.len() > 1 && !raw.contains(other) && source(graph, &index, other).is_none() && !masks(tensor)
                }
                Role::Setting => {
                    refused.insert(name);
                    false
                }
                Role::Operand => false,
            };
            if !trained || tensor.dtype() != DType::FLOAT || tensor.is_empty() {
                continue;
            }
            let place = *places.entry(name).or_insert_with(|| {
                found.push(Parameter {
                    tensor: name.to_owned(),
                    readers: Vec::new(),
                    label: node.label().to_owned(),
                });
                found.len() - 1
            });
            if found[place].readers.last().is_none_or(|last| last != node.id()) {
                found[place].readers.push(node.id().to_owned());
            }
        }
    }
    found.retain(|parameter| !refused.contains(parameter.tensor.as_str()));
    found
}

/// The initializer that `value` is, or shows in another form.
fn source<'g>(graph: &'g Graph, index: &GraphIndex<'_>, value: &'g str) -> Option<(&'g str, &'g Tensor)> {
    let mut value = value;
    loop {
        if let Some(tensor) = graph.tensor(value) {
            return Some((value, tensor));
        }
        let node = &graph.nodes[index.producer(value)?];
        let shows = matches!(
            node.op_type(),
            "Identity" | "Transpose" | "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze"
        );
        // Producers come before their readers, so this ends.
        value = node.input(0).filter(|_| shows && node.domain().is_empty())?;
    }
}

/// What is fed, and what comes of it by arithmetic with constants alone.
fn raw(graph: &Graph) -> HashSet<&str> {
    let mut raw: HashSet<&str> = graph.feeds().map(|feed| feed.name()).collect();
    for node in &graph.nodes {
        let arithmetic = matches!(node.op_type(), "Add" | "Sub" | "Mul" | "Div" | "Cast" | "Identity");
        let constant = |input: &String| raw.contains(input.as_str()) || graph.tensor(input).is_some();
        let from_raw = node.inputs().iter().any(|input| raw.contains(input.as_str()));
        if arithmetic && from_raw && node.inputs().iter().all(constant) {
            raw.extend(node.outputs().iter().map(String::as_str));
        }
    }
    raw
}

/// Whether a tensor is added to rule elements out before a Softmax: exporters write minus infinity, the lowest number
/// of a type, or -10000.
fn masks(tensor: &Tensor) -> bool {
    let masking = |value: &f32| !value.is_finite() || *value <= -1e4;
    tensor.values::<f32>().is_ok_and(|values| values.iter().any(masking))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Dimension, ValueInfo};

    fn graph(tensors: &[(&str, &[usize], f32)], nodes: &[Node]) -> Graph {
        let mut graph = Graph::new("test");
        graph.inputs = vec![ValueInfo::tensor(
            "x",
            DType::FLOAT,
            &[Dimension::Unknown, Dimension::Unknown],
        )];
        for (name, shape, value) in tensors {
            let tensor = Tensor::from_vec(shape.to_vec(), vec![*value; shape.iter().product()]);
            graph.initializers.insert((*name).into(), tensor.into());
        }
        graph.nodes = nodes.iter().cloned().map(Arc::new).collect();
        graph
    }

    fn names(graph: &Graph) -> Vec<String> {
        parameters(graph)
            .into_iter()
            .map(|parameter| parameter.tensor)
            .collect()
    }

    #[test]
    fn a_convolution_with_its_normalization() {
        let graph = graph(
            &[
                ("mean", &[1, 3, 1, 1], 0.5),
                ("deviation", &[1, 3, 1, 1], 0.2),
                ("weight", &[4, 3, 3, 3], 1.0),
                ("gamma", &[4], 1.0),
                ("beta", &[4], 0.0),
                ("running", &[4], 0.0),
                ("variance", &[4], 1.0),
                ("half", &[], 0.5),
                ("slope", &[1], 0.25),
            ],
            &[
                Node::new("Sub", "", &["x", "mean"], &["centered"]),
                Node::new("Mul", "", &["centered", "deviation"], &["scaled"]),
                Node::new("Conv", "conv", &["scaled", "weight"], &["c"]),
                Node::new(
                    "BatchNormalization",
                    "",
                    &["c", "gamma", "beta", "running", "variance"],
                    &["n"],
                ),
                Node::new("Mul", "", &["n", "half"], &["h"]),
                Node::new("PRelu", "", &["h", "slope"], &["y"]),
            ],
        );
        assert_eq!(names(&graph), ["weight", "gamma", "beta", "slope"]);
        assert_eq!(parameters(&graph)[0].label, "conv");
    }

    #[test]
    fn products_biases_and_tables() {
        let graph = graph(
            &[
                ("table", &[9, 4], 1.0),
                ("positions", &[1, 5, 4], 1.0),
                ("turned", &[4, 4], 1.0),
                ("bias", &[4], 0.0),
                ("mask", &[5, 5], -1e9),
                ("left", &[5, 5], 1.0),
            ],
            &[
                Node::new("Gather", "", &["table", "x"], &["e"]),
                Node::new("Add", "", &["e", "positions"], &["p"]),
                Node::new("Transpose", "", &["turned"], &["w"]),
                Node::new("MatMul", "", &["p", "w"], &["m"]),
                Node::new("Add", "", &["bias", "m"], &["b"]),
                Node::new("Add", "", &["b", "mask"], &["masked"]),
                Node::new("MatMul", "", &["left", "masked"], &["y"]),
                Node::new("MatMul", "", &["y", "w"], &["z"]),
            ],
        );
        assert_eq!(names(&graph), ["table", "positions", "turned", "bias", "left"]);
        assert_eq!(parameters(&graph)[2].readers, ["m", "z"]);
    }

    #[test]
    fn what_is_shared_with_a_setting_stays() {
        // Exporters merge equal tensors: a scale of ones with a variance of ones.
        let graph = graph(
            &[("ones", &[4], 1.0), ("zeros", &[4], 0.0), ("scale", &[4, 4], 0.1)],
            &[
                Node::new(
                    "BatchNormalization",
                    "",
                    &["x", "ones", "zeros", "zeros", "ones"],
                    &["n"],
                ),
                Node::new("QuantizeLinear", "", &["n", "scale"], &["q"]),
                Node::new("MatMul", "", &["n", "scale"], &["y"]),
            ],
        );
        assert!(names(&graph).is_empty());
    }

    #[test]
    fn other_types_and_domains_are_left_alone() {
        let mut graph = graph(
            &[("weight", &[4, 4], 1.0)],
            &[Node::new("MatMul", "", &["x", "weight"], &["y"])],
        );
        assert_eq!(names(&graph), ["weight"]);
        let halves = Tensor::from_vec(vec![4, 4], vec![half::f16::ONE; 16]);
        graph.initializers.insert("weight".into(), halves.into());
        assert!(names(&graph).is_empty());
    }
}
