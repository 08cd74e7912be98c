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
