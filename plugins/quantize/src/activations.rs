//! Activations of eight bits with scales from calibration data, in the form that kernels on integers are made from.
//!
//! What goes into and comes out of a quantized node passes through QuantizeLinear and DequantizeLinear; a runtime
//! takes both together with the node for one kernel. Activations are unsigned: with signed weights that is the one
//! combination that is fast on x86.

use std::collections::{BTreeMap, HashMap, HashSet};

use kmr_methods::{
    Grid,
    calibration::{Histogram, activation_parameters},
};
use kmr_sdk::{
    Error, Host, Result,
    model::{Edit, Graph, GraphIndex, Node, Patch, Tensor},
};
use rayon::prelude::*;

use crate::{
    build::Build,
    calibration::each_batch,
    config::Config,
    values::{is_unscaled, own},
};

/// A value that is quantized.
#[derive(Clone, Debug, PartialEq)]
pub struct Activation {
    /// The value.
    pub value: String,
    /// Whether it is never negative, by what makes it.
    pub nonnegative: bool,
    /// The most that it can be, by what makes it; infinite if nothing says so.
    pub most: f32,
    /// The value whose scale it has, where a node only moves or selects numbers.
    pub like: Option<String>,
}

/// A scale and a zero point.
pub type Parameters = (f32, i32);

/// The values to quantize when the products `products` (ids of Conv, Gemm and MatMul nodes) work on integers.
///
/// Sums, products, concatenations, poolings and moves between them work on integers too, where all that they read
/// comes from such nodes and one of them reads what they make.
pub fn plan(graph: &Graph, products: &HashSet<&str>) -> Vec<Activation> {
    let index = graph.index();
    let mut integer: Vec<bool> = graph.nodes.iter().map(|node| products.contains(node.id())).collect();
    for (position, node) in graph.nodes.iter().enumerate() {
        let sources = || activations(graph, node);
        let from_integers = |value: &str| source(graph, &index, value).is_some_and(|source| integer[source]);
        integer[position] |=
            follows(node) && sources().next().is_some() && sources().all(|(_, value)| from_integers(value));
    }
    for position in (0..graph.nodes.len()).rev() {
        let node = &graph.nodes[position];
        if integer[position] && !products.contains(node.id()) {
            let made = rectified(graph, &index, node.id());
            integer[position] = index.consumers(made).iter().any(|&(reader, _)| integer[reader]);
        }
    }
    let positive = nonnegative(graph);
    let mut planned: Vec<Activation> = Vec::new();
    let mut add = |value: &str, like: Option<String>| {
        let known = planned.iter_mut().find(|known| known.value == value);
        match known {
            Some(known) => known.like = known.like.take().or(like),
            None => planned.push(Activation {
                value: value.to_owned(),
                nonnegative: positive.contains(value),
                most: graph
                    .node(value)
                    .and_then(|node| rectifier(graph, node))
                    .unwrap_or(f32::INFINITY),
                like,
            }),
        }
    };
    for (_, node) in graph
        .nodes
        .iter()
        .enumerate()
        .filter(|(position, _)| integer[*position])
    {
        for (_, value) in activations(graph, node) {
            add(value, None);
        }
        let made = rectified(graph, &index, node.id());
        let is_output = graph.outputs.iter().any(|output| output.name() == made);
        if !is_output && !matches!(node.op_type(), "Gemm" | "MatMul") {
            let like = moves(node).then(|| node.input(0).unwrap_or_default().to_owned());
            add(made, like);
        }
    }
    planned
}

/// The inputs of `node` that are computed from data, with their positions.
fn activations<'n>(graph: &'n Graph, node: &'n Node) -> impl Iterator<Item = (usize, &'n str)> {
    let first_alone = moves(node) || matches!(node.op_type(), "Conv" | "Gemm" | "MatMul" | "AveragePool");
    let inputs = node.inputs().iter().enumerate();
    inputs
        .take(if first_alone { 1 } else { usize::MAX })
        .filter(|(_, value)| !value.is_empty() && graph.tensor(value).is_none())
        .map(|(slot, value)| (slot, value.as_str()))
}

/// Whether `node` can work on integers when what it reads does.
fn follows(node: &Node) -> bool {
    let joins = matches!(
        node.op_type(),
        "Add" | "Mul" | "Concat" | "AveragePool" | "GlobalAveragePool" | "Sigmoid" | "LeakyRelu"
    );
    node.domain().is_empty() && (joins || moves(node))
}

/// Whether `node` puts out nothing but numbers that it reads.
fn moves(node: &Node) -> bool {
    let moving = matches!(
        node.op_type(),
        "MaxPool" | "Flatten" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze"
    );
    moving && node.domain().is_empty() && node.outputs().len() == 1
}

/// The position of the node that makes `value`, a rectifier apart.
fn source(graph: &Graph, index: &GraphIndex<'_>, value: &str) -> Option<usize> {
    let producer = index.producer(value)?;
    let node = &graph.nodes[producer];
    if rectifier(graph, node).is_some() && rectified(graph, index, node.input(0)?) == value {
        return index.producer(node.input(0)?);
    }
    Some(producer)
}

/// What is left of `value` for others to read: the rectifier's output where that alone reads it.
fn rectified<'g>(graph: &'g Graph, index: &GraphIndex<'_>, value: &'g str) -> &'g str {
    match index.sole_consumer(value) {
        Some((reader, 0)) if rectifier(graph, &graph.nodes[reader]).is_some() => graph.nodes[reader].id(),
        _ => value,
    }
}

/// The most that `node` lets through, if it takes away what is negative: a Relu, or a Clip from 0 on.
fn rectifier(graph: &Graph, node: &Node) -> Option<f32> {
    let bound = |slot: usize| {
        let bound = graph.tensor(node.input(slot)?)?.to_f32().ok()?;
        bound.first().copied()
    };
    match node.op_type() {
        _ if !node.domain().is_empty() => None,
        "Relu" => Some(f32::INFINITY),
        "Clip" if bound(1) == Some(0.0) && node.input(2).is_some() => bound(2).filter(|most| *most > 0.0),
        _ => None,
    }
}

/// Values that are never negative.
fn nonnegative(graph: &Graph) -> HashSet<String> {
    let mut found: HashSet<String> = HashSet::new();
    for node in &graph.nodes {
        let mut inputs = node.inputs().iter();
        let positive = match node.op_type() {
            "Sigmoid" | "Softmax" | "HardSigmoid" => true,
            "Relu" | "Clip" => rectifier(graph, node).is_some(),
            "Add" | "Mul" | "Concat" => inputs.all(|input| found.contains(input)),
            "AveragePool" | "GlobalAveragePool" => inputs.next().is_some_and(|input| found.contains(input)),
            _ => moves(node) && inputs.next().is_some_and(|input| found.contains(input)),
        };
        if positive && node.domain().is_empty() {
            found.extend(node.outputs().iter().cloned());
        }
    }
    found
}

/// The scales and zero points of `activations` that have some of their own, from the candidate's values on the
/// calibration data.
///
/// # Errors
/// If there is no calibration data, the candidate cannot be run, or a value is not finite.
pub fn calibrate(
    host: &Host<'_>,
    activations: &[&Activation],
    config: &Config,
) -> Result<BTreeMap<String, Parameters>> {
    let grid = grid()?;
    let values: Vec<&str> = activations.iter().map(|activation| activation.value.as_str()).collect();
    let mut histograms = vec![Histogram::new(); values.len()];
    each_batch(
        host,
        &values,
        config.samples,
        "observing activations",
        |first, batch| {
            let histograms = histograms[first..].par_iter_mut().zip(&batch.outputs);
            let added = histograms.map(|(histogram, (value, tensor))| {
                let at = |error: Error| error.at(format!("value `{value}`"));
                let values = tensor.to_f32().map_err(|error| at(error.into()))?;
                let added = histogram.add(&values);
                added.map_err(|error| at(Error::unsupported(error.to_string())))
            });
            added.collect()
        },
    )?;
    let parameters = activations.iter().zip(&histograms).map(|(activation, histogram)| {
        let at = |error: kmr_methods::MethodError| {
            Error::unsupported(error.to_string()).at(format!("value `{}`", activation.value))
        };
        let (low, high) = histogram.range(config.range_method(grid)).map_err(at)?;
        let low = if activation.nonnegative { 0.0 } else { low };
        let parameters = activation_parameters(low, high.min(activation.most).max(low), grid).map_err(at)?;
        Ok((activation.value.clone(), parameters))
    });
    parameters.collect()
}

/// Parameters of the right form without looking at data: what they cost is the same.
///
/// # Errors
/// Never: the grid of activations exists.
pub fn uncalibrated(activations: &[&Activation]) -> Result<BTreeMap<String, Parameters>> {
    let grid = grid()?;
    let parameters = activations.iter().map(|activation| {
        let low = if activation.nonnegative { 0.0 } else { -1.0 };
        let parameters = activation_parameters(low, activation.most.min(1.0), grid);
        let parameters = parameters.map_err(|error| Error::unsupported(error.to_string()))?;
        Ok((activation.value.clone(), parameters))
    });
    parameters.collect()
}

fn grid() -> Result<Grid> {
    Grid::asymmetric(8).map_err(|error| Error::invalid_configuration(error.to_string()))
}

/// Adds those that have another's parameters. They stand in the order of the graph, so that a chain of them ends.
pub fn with_likes(activations: &[Activation], mut found: BTreeMap<String, Parameters>) -> BTreeMap<String, Parameters> {
    for activation in activations {
        if let Some(parameters) = activation.like.as_ref().and_then(|like| found.get(like)).copied() {
            found.insert(activation.value.clone(), parameters);
        }
    }
    found
}

/// Edits that pass `activations` through QuantizeLinear and DequantizeLinear.
pub fn quantized(graph: &Graph, activations: &[Activation], parameters: &BTreeMap<String, Parameters>) -> Patch {
    let index = graph.index();
    let mut build = Build::on(graph);
    let mut rectifiers: HashMap<&str, &Node> = HashMap::new();
    for node in graph.nodes.iter().filter(|node| rectifier(graph, node).is_some()) {
        let output = node.id();
        let input = node.input(0).unwrap_or_default();
        if index.is_inner(output) && rectified(graph, &index, input) == output {
            rectifiers.insert(output, node);
        }
    }
    for activation in activations {
        let value = activation.value.as_str();
        let (Some(&(scale, zero)), readers) = (parameters.get(value), index.consumers(value)) else {
            continue;
        };
        let Some(first) = readers.iter().map(|&(reader, _)| reader).min() else {
            continue;
        };
        build.place(Some(graph.nodes[first].id()));
        // Unsigned codes from 0 on do what a rectifier does; its upper bound is that of the scale.
        let rectifier = rectifiers.get(value).filter(|_| zero == 0);
        let read = rectifier.and_then(|node| node.input(0)).unwrap_or(value);
        let scale = build.tensor(&format!("{value}_scale"), Tensor::scalar(scale));
        let mut inputs = vec![read.to_owned(), scale];
        if !activation.nonnegative {
            inputs.push(build.tensor(&format!("{value}_zero"), Tensor::scalar(zero as u8)));
        }
        let names: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let codes = build.node("QuantizeLinear", &names, &format!("{value}_codes"), |node| node);
        inputs[0] = codes;
        let names: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let real = build.node("DequantizeLinear", &names, &format!("{value}_real"), |node| node);
        for &(reader, slot) in readers {
            build.rewire(graph.nodes[reader].id(), slot, &real);
        }
        if let Some(node) = rectifier {
            build.edit(Edit::RemoveNode {
                node: node.id().to_owned(),
            });
        }
    }
    build.finish()
}

/// Stores the bias of a Gemm as kernels on integers want it: int32, by the scale of the sums that it is added to.
pub fn integer_bias(
    build: &mut Build,
    (graph, index): (&Graph, &GraphIndex<'_>),
    node: &Node,
    input_scale: f32,
    weight_scales: &[f32],
) {
    let bias = node.input(2).and_then(|name| Some((name, own(graph, index, name)?)));
    let fitting = bias.filter(|(_, bias)| bias.shape() == [weight_scales.len()] && is_unscaled(node));
    let Some((name, Ok(values))) = fitting.map(|(name, bias)| (name, bias.to_f32())) else {
        return;
    };
    let scales: Vec<f32> = weight_scales.iter().map(|scale| scale * input_scale).collect();
    let codes = values.iter().zip(&scales);
    let codes: Vec<i32> = codes
        .map(|(value, scale)| (value / scale).round_ties_even() as i32)
        .collect();
    build.place(Some(node.id()));
    build.edit(Edit::RemoveTensor { name: name.to_owned() });
    let count = codes.len();
    let codes = build.tensor(&format!("{name}_codes"), Tensor::from_vec(vec![count], codes));
    let scales = build.tensor(&format!("{name}_scale"), Tensor::from_vec(vec![count], scales));
    build.node_into("DequantizeLinear", &[&codes, &scales], &[name], |node| {
        node.with_int("axis", 0)
    });
}
