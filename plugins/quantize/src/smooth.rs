//! SmoothQuant: what makes activations hard to quantize moves into weights, where a normalization stands before
//! matrix products (Xiao et al., "SmoothQuant", ICML 2023).

use kmr_methods::equalize::smooth;
use kmr_sdk::{
    Error, Host, ObserveRequest, Result, Statistic,
    model::{Graph, GraphIndex, Node, Patch},
};

use crate::values::{finite, inner, own, raise_to_magnitudes, with_values};

/// A normalization with a factor and a shift for each channel, and the products that read what it makes.
struct Site {
    value: String,
    factor: String,
    shift: Option<String>,
    /// Weights with the axis of their inputs.
    weights: Vec<(String, usize)>,
}

/// Edits that move the share `alpha` of the difficulty. The model computes the same.
///
/// # Errors
/// If the candidate cannot be observed, or a weight is not finite.
pub fn patch(host: &Host<'_>, graph: &Graph, alpha: f64, samples: usize) -> Result<Patch> {
    let index = graph.index();
    let sites: Vec<Site> = graph
        .nodes
        .iter()
        .filter_map(|node| site(graph, &index, node))
        .collect();
    let mut patch = Patch::new();
    if sites.is_empty() {
        return Ok(patch);
    }
    let observed = host.observe(&ObserveRequest {
        values: sites.iter().map(|site| site.value.clone()).collect(),
        statistics: vec![Statistic::Min, Statistic::Max],
        channel_axis: -1,
        samples: Some(samples),
        ..Default::default()
    })?;
    for site in &sites {
        let least = observed.get(&site.value, Statistic::Min)?.to_f32()?;
        let most = observed.get(&site.value, Statistic::Max)?.to_f32()?;
        let activation: Vec<f32> = least
            .iter()
            .zip(most.iter())
            .map(|(low, high)| high.max(-low))
            .collect();
        let channels = activation.len();
        let mut weight = vec![0.0_f32; channels];
        for (name, axis) in &site.weights {
            raise_to_magnitudes(&mut weight, &finite(graph, name)?, inner(graph, name, *axis));
        }
        let factors = smooth(&activation, &weight, alpha).map_err(|error| Error::unsupported(error.to_string()))?;
        for name in [Some(&site.factor), site.shift.as_ref()].into_iter().flatten() {
            let divided = finite(graph, name)?
                .iter()
                .zip(&factors)
                .map(|(value, factor)| value / factor)
                .collect();
            patch.push(with_values(graph, name, divided));
        }
        for (name, axis) in &site.weights {
            let after = inner(graph, name, *axis);
            let values = finite(graph, name)?;
            let scaled = values.iter().enumerate();
            let scaled = scaled.map(|(at, value)| value * factors[at / after % channels]);
            patch.push(with_values(graph, name, scaled.collect()));
        }
    }
    Ok(patch)
}

/// A LayerNormalization, or an Add of a shift behind a Mul with a factor as exporters write one.
fn site(graph: &Graph, index: &GraphIndex<'_>, node: &Node) -> Option<Site> {
    let vector = |name: &str| {
        let tensor = own(graph, index, name).filter(|tensor| tensor.shape().len() == 1)?;
        Some((name.to_owned(), tensor.len()))
    };
    let operand = |node: &Node| node.inputs().iter().find_map(|name| vector(name));
    let ((factor, channels), shift) = match node.op_type() {
        "LayerNormalization" => {
            let shift = node.input(2);
            (vector(node.input(1)?)?, shift.map(|name| vector(name).ok_or(())))
        }
        "Add" => {
            let before = node.inputs().iter().find_map(|name| index.producer(name))?;
            let scaling = &graph.nodes[before];
            let alone = index.sole_consumer(scaling.id()).is_some();
            (
                operand(scaling).filter(|_| scaling.is("Mul") && alone)?,
                Some(operand(node).ok_or(())),
            )
        }
        _ => return None,
    };
    let shift = shift.transpose().ok()?.map(|(name, _)| name);
    let value = node.id();
    let readers = index.consumers(value);
    if readers.is_empty() || !index.is_inner(value) {
        return None;
    }
    let weights: Option<Vec<(String, usize)>> = readers
        .iter()
        .map(|&(reader, slot)| {
            let product = &graph.nodes[reader];
            let name = product.input(1).filter(|_| slot == 0)?;
            let weight = own(graph, index, name).filter(|weight| weight.shape().len() == 2)?;
            let axis = match product.op_type() {
                "MatMul" => 0,
                "Gemm" if product.int("transA").unwrap_or(0) == 0 => {
                    usize::from(product.int("transB").unwrap_or(0) != 0)
                }
                _ => return None,
            };
            (weight.shape()[axis] == channels).then(|| (name.to_owned(), axis))
        })
        .collect();
    Some(Site {
        value: value.to_owned(),
        factor,
        shift,
        weights: weights?,
    })
}
