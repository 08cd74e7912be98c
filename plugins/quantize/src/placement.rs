//! Which nodes work on integers, so that a model takes the least time.
//!
//! Every node that can has a time in floating point and one on integers, and every value that goes from one kind to the
//! other takes a conversion. The assignment of least time in all is a minimum cut.

use std::collections::HashSet;

use kmr_sdk::model::{DType, Graph, GraphIndex, shapes::Shapes};

use crate::{
    activations::{absorbed, activations, follows, saturated},
    cut::{NEVER, Network},
    layers::Layer,
    times::Times,
};

/// By how much the estimate has to favor integers.
const MARGIN: f64 = 1.05;

/// Which of `graph`'s nodes work on integers, by position, if the products that read `layers` may. The products of one
/// layer stay together.
pub fn fastest(graph: &Graph, layers: &[&Layer], shapes: &Shapes) -> Vec<bool> {
    let index = graph.index();
    let times = Times::new(graph, shapes);
    let products: HashSet<&str> = layers
        .iter()
        .flat_map(|layer| layer.nodes.iter().map(String::as_str))
        .collect();
    let (integer, float) = (0, 1);
    let mut network = Network::new(2);
    let is_float = |value: &str| shapes.get(value).is_some_and(|known| known.dtype == DType::FLOAT);
    let vertices: Vec<usize> = graph
        .nodes
        .iter()
        .map(
            |node| match products.contains(node.id()) || follows(graph, node) && is_float(node.id()) {
                true => network.vertex(),
                false => float,
            },
        )
        .collect();
    for (node, &vertex) in graph
        .nodes
        .iter()
        .zip(&vertices)
        .filter(|(_, vertex)| **vertex != float)
    {
        let (in_float, on_integers) = times.node(node);
        network.connect(integer, vertex, in_float as u64);
        network.connect(vertex, float, (on_integers * MARGIN) as u64);
    }
    let of = |id: &String| index.producer(id).map(|position| vertices[position]);
    for layer in layers {
        for pair in layer.nodes.windows(2) {
            if let (Some(first), Some(second)) = (of(&pair[0]), of(&pair[1])) {
                network.connect(first, second, NEVER);
                network.connect(second, first, NEVER);
            }
        }
    }
    let made = graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| !absorbed(graph, &index, node));
    let made = made.map(|(position, node)| (saturated(graph, &index, node.id()), Some(position)));
    let fed = graph.feeds().map(|feed| (saturated(graph, &index, feed.name()), None));
    for (value, maker) in made.chain(fed) {
        convert(&mut network, (graph, &index), &times, &vertices, (value, maker), float);
    }
    let side = network.source_side(integer, float);
    vertices.iter().map(|&vertex| side[vertex]).collect()
}

/// The conversions of `value`, once for all who read it.
fn convert(
    network: &mut Network,
    (graph, index): (&Graph, &GraphIndex<'_>),
    times: &Times<'_>,
    vertices: &[usize],
    (value, maker): (&str, Option<usize>),
    float: usize,
) {
    let from = maker.map_or(float, |position| vertices[position]);
    let mut readers: Vec<usize> = Vec::new();
    let mut in_float = Vec::new();
    for &(reader, slot) in index.consumers(value) {
        let node = &graph.nodes[reader];
        if vertices[reader] != float && activations(graph, node).any(|(read, _)| read == slot) {
            readers.push(vertices[reader]);
        } else {
            in_float.push(&**node);
        }
    }
    // What a matrix product puts out is as fast in floating point.
    let product = maker.is_some_and(|maker| matches!(graph.nodes[maker].op_type(), "Gemm" | "MatMul"));
    if from != float && !product {
        let converted = network.vertex();
        network.connect(from, converted, times.to_float(value, &in_float) as u64);
        for &reader in &readers {
            network.connect(converted, reader, NEVER);
        }
        if !in_float.is_empty() || !index.is_inner(value) {
            network.connect(converted, float, NEVER);
        }
    }
    if !readers.is_empty() {
        let converted = network.vertex();
        for &reader in &readers {
            network.connect(reader, converted, NEVER);
        }
        network.connect(converted, from, times.to_integers(value) as u64);
    }
}

#[cfg(test)]
mod tests {
    use kmr_sdk::model::{Node, Tensor};

    use super::*;
    use crate::{
        layers,
        testing::{graph, node, sizes, tensor},
    };

    /// Convolutions of so many channels in a row, with an activation behind each.
    fn network(channels: usize, depthwise: bool, activation: &str) -> Graph {
        let mut nodes: Vec<Node> = Vec::new();
        let mut initializers = Vec::new();
        let mut read = "x".to_owned();
        for layer in 0..4 {
            let alone = depthwise && layer % 2 == 1;
            let [weight, made, active] = ["w", "c", "a"].map(|name| format!("{name}{layer}"));
            let shape = if alone {
                [channels, 1, 3, 3]
            } else {
                [channels, channels, 1, 1]
            };
            let convolution = node("Conv", &[&read, &weight], &made)
                .with_int("group", if alone { channels as i64 } else { 1 })
                .with_ints("pads", &[i64::from(alone); 4]);
            nodes.extend([convolution, node(activation, &[&made], &active)]);
            initializers.push((weight, tensor(&shape)));
            read = active;
        }
        nodes.push(node("Identity", &[&read], "y"));
        let initializers: Vec<_> = initializers
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.clone()))
            .collect();
        graph(&[1, channels, 14, 14], &initializers, nodes)
    }

    fn chosen(graph: &Graph) -> Vec<&str> {
        let layers = layers::layers(graph, false);
        let integer = fastest(graph, &layers.iter().collect::<Vec<_>>(), &sizes(graph));
        let nodes = graph.nodes.iter().zip(integer).filter(|(_, integer)| *integer);
        nodes.map(|(node, _)| node.id()).collect()
    }

    #[test]
    fn wide_convolutions_in_a_row_work_on_integers() {
        assert_eq!(chosen(&network(128, false, "Relu")), ["c0", "c1", "c2", "c3"]);
        assert_eq!(chosen(&network(128, true, "Relu")), ["c0", "c1", "c2"]);
    }

    #[test]
    fn narrow_convolutions_between_other_activations_do_not() {
        assert!(chosen(&network(16, true, "HardSwish")).is_empty());
        assert!(chosen(&network(16, false, "Erf")).is_empty());
    }

    #[test]
    fn the_products_of_one_layer_stay_together() {
        let axes = Tensor::from_vec(vec![1], vec![0_i64]);
        let initializers = [("w", tensor(&[64, 64])), ("axes", axes)];
        let nodes = || {
            vec![
                node("MatMul", &["x", "w"], "many"),
                node("ReduceMax", &["many", "axes"], "one"),
                node("MatMul", &["one", "w"], "y"),
            ]
        };
        assert!(chosen(&graph(&[4, 64], &initializers, nodes())).is_empty());
        assert_eq!(chosen(&graph(&[4096, 64], &initializers, nodes())), ["many", "y"]);
    }
}
