//! Activations of eight bits with scales from calibration data, in the form that kernels on integers are made from.
//!
//! What goes into and comes out of a quantized node passes through QuantizeLinear and DequantizeLinear; a runtime
//! takes both together with the node for one kernel. Activations are unsigned: with signed weights that is the one
//! combination that is fast on x86.

use std::collections::{BTreeMap, HashSet};

use kmr_calibration::each_batch;
use kmr_methods::{
    Grid,
    calibration::{Histogram, activation_parameters},
};
use kmr_sdk::{
    Error, Host, Result,
    model::{Build, Edit, Graph, GraphIndex, Node, Patch, Tensor},
};
use rayon::prelude::*;

use crate::{
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
    /// What its maker does that quantization does as well.
    pub saturation: Option<Saturation>,
    /// The value whose scale it has, where a node only moves or selects numbers.
    pub like: Option<String>,
}

/// A straight line that is cut off at 0 and at a largest value, as codes are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Saturation {
    slope: f32,
    offset: f32,
    most: f32,
}

impl Saturation {
    /// Whether it leaves what lies between its ends as it is.
    fn is_rectifier(self) -> bool {
        (self.slope, self.offset) == (1.0, 0.0)
    }
}

/// A scale and a zero point.
pub type Parameters = (f32, i32);

/// The nodes that work on integers, by position, when the products `products` (ids of Conv, Gemm and MatMul nodes) do.
///
/// Sums, products, concatenations, poolings and moves between them work on integers too, where all that they read
/// comes from such nodes and one of them reads what they make.
pub fn following(graph: &Graph, products: &HashSet<&str>) -> Vec<bool> {
    let index = graph.index();
    let mut integer: Vec<bool> = graph.nodes.iter().map(|node| products.contains(node.id())).collect();
    for (position, node) in graph.nodes.iter().enumerate() {
        let sources = || activations(graph, node);
        let from_integers = |value: &str| source(graph, &index, value).is_some_and(|source| integer[source]);
        integer[position] |=
            follows(graph, node) && sources().next().is_some() && sources().all(|(_, value)| from_integers(value));
    }
    for position in (0..graph.nodes.len()).rev() {
        let node = &graph.nodes[position];
        if integer[position] && !products.contains(node.id()) {
            let made = saturated(graph, &index, node.id());
            integer[position] = index.consumers(made).iter().any(|&(reader, _)| integer[reader]);
        }
    }
    integer
}

/// The values to quantize when the nodes of these positions work on integers.
pub fn plan(graph: &Graph, integer: &[bool]) -> Vec<Activation> {
    let index = graph.index();
    let positive = nonnegative(graph);
    let mut planned: Vec<Activation> = Vec::new();
    let mut add = |value: &str, like: Option<String>| {
        let known = planned.iter_mut().find(|known| known.value == value);
        match known {
            Some(known) => known.like = known.like.take().or(like),
            None => planned.push(Activation {
                value: value.to_owned(),
                nonnegative: positive.contains(value),
                saturation: graph.node(value).and_then(|node| saturation(graph, node)),
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
        let made = saturated(graph, &index, node.id());
        let is_output = graph.outputs.iter().any(|output| output.name() == made);
        if !is_output && !matches!(node.op_type(), "Gemm" | "MatMul") {
            let like = moves(node).then(|| node.input(0).unwrap_or_default().to_owned());
            add(made, like);
        }
    }
    planned
}

/// The inputs of `node` that are computed from data, with their positions.
pub fn activations<'n>(graph: &'n Graph, node: &'n Node) -> impl Iterator<Item = (usize, &'n str)> {
    let first_alone = moves(node) || matches!(node.op_type(), "Conv" | "Gemm" | "MatMul" | "AveragePool");
    let inputs = node.inputs().iter().enumerate();
    inputs
        .take(if first_alone { 1 } else { usize::MAX })
        .filter(|(_, value)| !value.is_empty() && graph.tensor(value).is_none())
        .map(|(slot, value)| (slot, value.as_str()))
}

/// Whether `node` can work on integers when what it reads does. Numbers that are stored would have to be stored as
/// codes.
pub fn follows(graph: &Graph, node: &Node) -> bool {
    let follows = match node.op_type() {
        "Add" | "Mul" | "Concat" => node.inputs().iter().all(|value| graph.tensor(value).is_none()),
        "AveragePool" | "GlobalAveragePool" | "Sigmoid" | "LeakyRelu" => true,
        _ => moves(node),
    };
    node.domain().is_empty() && follows
}

/// Whether `node` puts out nothing but numbers that it reads.
fn moves(node: &Node) -> bool {
    let moving = matches!(
        node.op_type(),
        "MaxPool" | "Flatten" | "Reshape" | "Transpose" | "Squeeze" | "Unsqueeze"
    );
    moving && node.domain().is_empty() && node.outputs().len() == 1
}

/// The position of the node that makes `value`, a saturation apart.
fn source(graph: &Graph, index: &GraphIndex<'_>, value: &str) -> Option<usize> {
    let producer = index.producer(value)?;
    let node = &graph.nodes[producer];
    match absorbed(graph, index, node) {
        true => index.producer(node.input(0)?),
        false => Some(producer),
    }
}

/// Whether `node` is a saturation that becomes part of quantizing what it alone reads.
pub fn absorbed(graph: &Graph, index: &GraphIndex<'_>, node: &Node) -> bool {
    saturation(graph, node).is_some()
        && node
            .input(0)
            .is_some_and(|input| saturated(graph, index, input) == node.id())
}

/// What is left of `value` for others to read: the saturation's output where that alone reads it.
pub fn saturated<'g>(graph: &'g Graph, index: &GraphIndex<'_>, value: &'g str) -> &'g str {
    match index.sole_consumer(value) {
        Some((reader, 0)) if saturation(graph, &graph.nodes[reader]).is_some() => graph.nodes[reader].id(),
        _ => value,
    }
}

/// What `node` does, if that is to cut off a straight line: a Relu, a Clip from 0 on, a HardSigmoid.
fn saturation(graph: &Graph, node: &Node) -> Option<Saturation> {
    let bound = |slot: usize| {
        let bound = graph.tensor(node.input(slot)?)?.to_f32().ok()?;
        bound.first().copied()
    };
    let rectifier = |most| Saturation {
        slope: 1.0,
        offset: 0.0,
        most,
    };
    match node.op_type() {
        _ if !node.domain().is_empty() => None,
        "Relu" => Some(rectifier(f32::INFINITY)),
        "Clip" if bound(1) == Some(0.0) && node.input(2).is_some() => {
            bound(2).filter(|most| *most > 0.0).map(rectifier)
        }
        "HardSigmoid" => {
            let (slope, offset) = (node.float("alpha").unwrap_or(0.2), node.float("beta").unwrap_or(0.5));
            let most = 1.0;
            (slope > 0.0 && (0.0..=most).contains(&offset)).then_some(Saturation { slope, offset, most })
        }
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
            "Relu" | "Clip" => saturation(graph, node).is_some(),
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
        let high = match activation.saturation {
            Some(saturation) if saturation.is_rectifier() => high.min(saturation.most),
            // Its zero point has to be one of the codes.
            Some(saturation) => saturation.most,
            None => high,
        };
        let parameters = activation_parameters(low, high.max(low), grid).map_err(at)?;
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
        let parameters = activation_parameters(low, 1.0, grid);
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
    for activation in activations {
        let value = activation.value.as_str();
        let (Some(&(scale, zero)), readers) = (parameters.get(value), index.consumers(value)) else {
            continue;
        };
        let Some(first) = readers.iter().map(|&(reader, _)| reader).min() else {
            continue;
        };
        build.place(Some(graph.nodes[first].id()));
        // Codes from 0 on are cut off at both ends; the line is one of scales and zero points.
        let maker = graph
            .node(value)
            .filter(|node| zero == 0 && index.is_inner(value) && absorbed(graph, &index, node));
        let line = activation.saturation.filter(|_| maker.is_some());
        let read = maker.and_then(|node| node.input(0)).unwrap_or(value);
        let scaled = build.tensor(&format!("{value}_scale"), Tensor::scalar(scale));
        let mut inputs = vec![read.to_owned(), scaled.clone()];
        let mut real = vec![String::new(), scaled];
        if let Some(line) = line.filter(|line| !line.is_rectifier()) {
            let zero = (line.offset / scale).round().clamp(0.0, 255.0) as u8;
            inputs[1] = build.tensor(&format!("{value}_line_scale"), Tensor::scalar(scale / line.slope));
            inputs.push(build.tensor(&format!("{value}_line_zero"), Tensor::scalar(zero)));
        } else if !activation.nonnegative {
            let zero = build.tensor(&format!("{value}_zero"), Tensor::scalar(zero as u8));
            inputs.push(zero.clone());
            real.push(zero);
        }
        let names: Vec<&str> = inputs.iter().map(String::as_str).collect();
        real[0] = build.node("QuantizeLinear", &names, &format!("{value}_codes"), |node| node);
        let names: Vec<&str> = real.iter().map(String::as_str).collect();
        let real = build.node("DequantizeLinear", &names, &format!("{value}_real"), |node| node);
        for &(reader, slot) in readers {
            build.rewire(graph.nodes[reader].id(), slot, &real);
        }
        if let Some(node) = maker {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{answer, apart, graph, node, operators, tensor};

    #[test]
    fn saturations_become_part_of_quantization() {
        let saturations = [
            node("Relu", &["made"], "cut"),
            node("Clip", &["made", "zero", "six"], "cut"),
            node("HardSigmoid", &["made"], "cut"),
        ];
        for saturation in saturations {
            let initializers = [
                ("first", tensor(&[8, 6])),
                ("second", tensor(&[6, 4])),
                ("zero", Tensor::scalar(0.0_f32)),
                ("six", Tensor::scalar(0.7_f32)),
            ];
            let nodes = vec![
                node("MatMul", &["x", "first"], "made"),
                saturation,
                node("MatMul", &["cut", "second"], "y"),
            ];
            let before = graph(&[5, 8], &initializers, nodes);
            let plan = plan(&before, &following(&before, &HashSet::from(["made", "y"])));
            let planned = plan.iter().map(|activation| activation.value.as_str());
            assert_eq!(planned.collect::<Vec<_>>(), ["x", "cut"]);
            let most = |value: &str| match plan.iter().find(|a| a.value == value).and_then(|a| a.saturation) {
                Some(saturation) if saturation.most.is_finite() => saturation.most,
                _ => 4.0,
            };
            let parameters = BTreeMap::from([
                ("x".to_owned(), (2.0 / 255.0, 128)),
                ("cut".to_owned(), (most("cut") / 255.0, 0)),
            ]);
            let after = quantized(&before, &plan, &parameters).apply(&before).unwrap();
            let pair = ["QuantizeLinear", "DequantizeLinear"];
            assert_eq!(
                operators(&after),
                [&pair[..], &["MatMul"], &pair, &["MatMul"]].concat(),
                "the saturation is gone"
            );
            let x = tensor(&[5, 8]);
            let apart = apart(&answer(&before, &x), &answer(&after, &x));
            assert!(apart < 0.06, "{apart}");
        }
    }

    #[test]
    fn nodes_that_read_stored_numbers_do_not_follow() {
        let initializers = [("w", tensor(&[4, 4])), ("shift", tensor(&[4]))];
        let nodes = vec![
            node("MatMul", &["x", "w"], "made"),
            node("Add", &["made", "shift"], "sum"),
            node("MatMul", &["sum", "w"], "y"),
        ];
        let graph = graph(&[2, 4], &initializers, nodes);
        assert_eq!(following(&graph, &HashSet::from(["made", "y"])), [true, false, true]);
    }
}
