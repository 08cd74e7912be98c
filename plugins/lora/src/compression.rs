//! What compression has done to weights: the difference of the reference's and the candidate's, decomposed.
//!
//! Adapters that start from it repair the layer before any training: LoftQ (arXiv 2310.08659) takes the plain singular
//! value decomposition, EoRA (arXiv 2410.21271) weighs it by what the layer reads.

use std::collections::BTreeMap;

use kmr_methods::{
    Matrix,
    low_rank::{Decomposition, with_constant},
};
use kmr_sdk::{
    Error, ErrorCode, Host, Result, RunRequest,
    model::{Graph, GraphIndex, Model, Node, Tensor},
};
use rayon::prelude::*;

use crate::{
    config::{Config, Norm},
    inputs::second_moments,
    integers::Integers,
    layers::{Layer, Stored},
};

/// The part of a difference that factors of rows and columns may explain before it is taken for another way of writing
/// the same layer.
const EXPLAINED: f64 = 0.5;

/// What a layer's weight has lost.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// The reference's weight less the candidate's.
    Difference(Decomposition),
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// What the weights of `layers` have lost, with vectors for ranks up to `most`.
///
/// # Errors
/// If a weight is not finite, the candidate cannot be run, or inputs are to be observed and there is no data.
pub fn losses(host: &Host<'_>, model: &Model, layers: &[Layer], most: usize, config: &Config) -> Result<Vec<Loss>> {
    let reference = host.graph_of("reference")?.graph;
    let made = made(host, &model.graph, layers)?;
    let mut found: Vec<Result<Difference, Loss>> = Vec::new();
    for (layer, made) in layers.iter().zip(made) {
        found.push(difference(&reference, &model.graph, layer, made)?);
    }
    let different: Vec<&Layer> = layers
        .iter()
        .zip(&found)
        .filter_map(|(layer, found)| found.is_ok().then_some(layer))
        .collect();
    let moments = match config.error_norm {
        Norm::Outputs => second_moments(host, &model.graph, &different, config.samples)?,
        Norm::Weights => BTreeMap::new(),
    };
    host.progress(0.0, "decomposing what compression has changed")?;
    let decomposed = layers.par_iter().zip(found).map(|(layer, found)| {
        let difference = match found {
            Ok(difference) => difference,
            Err(loss) => return Ok(loss),
        };
        let at = |error: kmr_methods::MethodError| {
            Error::unsupported(error.to_string()).at(format!("tensor `{}`", layer.weight))
        };
        let (rows, columns) = (layer.rows(), layer.columns());
        let matrix = Matrix::new(rows, columns, &difference.weight).map_err(at)?;
        let inputs = moments.get(&layer.weight);
        let aim = match (inputs, &difference.bias) {
            (Some(inputs), Some(bias)) => with_constant(matrix, bias, &inputs.means, &inputs.metric).map_err(at)?,
            _ => difference.weight.clone(),
        };
        let matrix = Matrix::new(rows, columns, &aim).map_err(at)?;
        let moments = inputs.map(|inputs| inputs.metric.as_slice());
        let decomposition = Decomposition::of(matrix, moments, most.min(layer.most())).map_err(at)?;
        Ok(match decomposition.singular_values().first() {
            Some(&largest) if largest > 0.0 => Loss::Difference(decomposition),
            _ => Loss::Nothing,
        })
    });
    decomposed.collect()
}

/// Whether the candidate's weight may be another than the reference's, by what is stored alone.
pub fn may_differ(reference: &Graph, candidate: &Graph, layer: &Layer) -> bool {
    match (reference.tensor(&layer.weight), candidate.tensor(&layer.weight)) {
        (Some(before), Some(after)) => before != after,
        _ => true,
    }
}

/// The values of weights that nodes make, as rows × columns; none for the others, and where only a run would tell and
/// there is no data.
fn made(host: &Host<'_>, graph: &Graph, layers: &[Layer]) -> Result<Vec<Option<Vec<f32>>>> {
    let mut values: Vec<Option<Vec<f32>>> = Vec::new();
    let mut unknown = Vec::new();
    for (position, layer) in layers.iter().enumerate() {
        let decoded = match layer.stored {
            Stored::Float => None,
            Stored::Made { .. } => Integers::of(graph, layer).ok().map(|integers| integers.values()),
        };
        if decoded.is_none() && layer.stored != Stored::Float {
            unknown.push(position);
        }
        values.push(decoded.map(|values| layer.turn(&values, true)));
    }
    for chunk in unknown.chunks(16) {
        let request = RunRequest {
            outputs: chunk.iter().map(|&at| layers[at].weight.clone()).collect(),
            batch: Some(1),
            limit: Some(1),
            ..Default::default()
        };
        let batch = match host.run(&request) {
            Err(error) if error.code == ErrorCode::NOT_FOUND => return Ok(values),
            batches => batches?.next().transpose()?,
        };
        let Some(batch) = batch else { return Ok(values) };
        for (&at, (name, tensor)) in chunk.iter().zip(&batch.outputs) {
            if tensor.len() != layers[at].shape.iter().product::<usize>() {
                let message = format!("has shape {:?} in a run, not {:?}", tensor.shape(), layers[at].shape);
                return Err(Error::unsupported(message).at(format!("value `{name}`")));
            }
            values[at] = Some(layers[at].turn(&tensor.to_f32()?, true));
        }
    }
    Ok(values)
}

/// The reference's layer less the candidate's.
struct Difference {
    /// Of the weights, rows × columns.
    weight: Vec<f32>,
    /// Of the biases, where both are known.
    bias: Option<Vec<f64>>,
}

/// The reference's layer less the candidate's.
fn difference(
    reference: &Graph,
    candidate: &Graph,
    layer: &Layer,
    made: Option<Vec<f32>>,
) -> Result<Result<Difference, Loss>> {
    let unknown = |reason: &str| Ok(Err(Loss::Unknown(reason.to_owned())));
    let Some(before) = reference
        .tensor(&layer.weight)
        .filter(|tensor| tensor.dtype().is_float())
    else {
        return unknown("the reference has no weight of this name");
    };
    if before.shape() != layer.shape {
        let reason = format!(
            "its weight has shape {:?}, the reference's {:?}",
            layer.shape,
            before.shape()
        );
        return unknown(&reason);
    }
    let after = match (made, candidate.tensor(&layer.weight)) {
        (Some(values), _) => values,
        (None, Some(stored)) => layer.turn(&stored.to_f32()?, true),
        (None, None) => return unknown("nodes make its weight, and without calibration data they cannot be run"),
    };
    let mut before = layer.turn(&finite(before, &layer.weight)?, true);
    let (old, new) = (reference.index(), candidate.index());
    let reader = reader(&old, reference, &layer.weight);
    let (mut old_bias, new_bias) = (
        reader.as_ref().and_then(|id| bias(reference, &old, id, layer.rows())),
        layer
            .nodes
            .first()
            .and_then(|id| bias(candidate, &new, id, layer.rows())),
    );
    if let (Some(normalization), None) = (
        normalization(reference, &old, reader.as_ref()),
        normalization(candidate, &new, layer.nodes.first()),
    ) {
        // As quantization folds it into the weight and its bias.
        old_bias = match (Affine::of(reference, normalization, layer.rows()), old_bias) {
            (Some(affine), bias) => {
                let columns = layer.columns();
                for (row, factor) in before.chunks_mut(columns).zip(&affine.factors) {
                    row.iter_mut()
                        .for_each(|value| *value = (f64::from(*value) * factor) as f32);
                }
                bias.map(|bias| affine.of_bias(&bias))
            }
            (None, _) => return unknown("a batch normalization behind it is gone, and cannot be found in its weight"),
        };
    }
    if let Some(value) = after.iter().find(|value| !value.is_finite()) {
        let message = format!("holds {value}, which nothing can be added to");
        return Err(Error::unsupported(message).at(format!("tensor `{}`", layer.weight)));
    }
    if before == after {
        return Ok(Err(Loss::Nothing));
    }
    if is_rescaled(&before, &after, layer.rows(), layer.columns()) {
        return unknown("its weight was rescaled (smoothing or equalization), so that the reference's is another one");
    }
    let bias = old_bias.zip(new_bias);
    let bias = bias.map(|(before, after)| {
        before
            .iter()
            .zip(&after)
            .map(|(before, after)| before - after)
            .collect()
    });
    let weight = before
        .iter()
        .zip(&after)
        .map(|(before, after)| before - after)
        .collect();
    Ok(Ok(Difference { weight, bias }))
}

/// The values of a weight, all finite.
pub fn finite(tensor: &Tensor, name: &str) -> Result<Vec<f32>> {
    let values = tensor.to_f32()?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => {
            let message = format!(
                "holds {value}; export the model again from a checkpoint whose weights are finite, or name the layer in \
                 `config.ignore`"
            );
            Err(Error::unsupported(message).at(format!("tensor `{name}`")))
        }
        None => Ok(values.into_owned()),
    }
}

/// The id of the node that reads `weight`.
fn reader(index: &GraphIndex<'_>, graph: &Graph, weight: &str) -> Option<String> {
    let &(node, _) = index.consumers(weight).first()?;
    Some(graph.nodes[node].id().to_owned())
}

/// The batch normalization that alone reads what node `id` makes.
fn normalization<'g>(graph: &'g Graph, index: &GraphIndex<'_>, id: Option<&String>) -> Option<&'g Node> {
    let (reader, slot) = index.sole_consumer(id?)?;
    let node = &*graph.nodes[reader];
    (node.is("BatchNormalization") && slot == 0).then_some(node)
}

/// What a batch normalization does to each channel.
struct Affine {
    /// γ/√(σ² + ε).
    factors: Vec<f64>,
    beta: Vec<f64>,
    means: Vec<f64>,
}

impl Affine {
    /// That of `node` over `channels`; none if its tensors are no initializers of that length.
    fn of(graph: &Graph, node: &Node, channels: usize) -> Option<Self> {
        let values = |slot: usize| numbers(graph, node.input(slot)?, channels);
        let (gamma, beta, means, variance) = (values(1)?, values(2)?, values(3)?, values(4)?);
        let epsilon = f64::from(node.float("epsilon").unwrap_or(1e-5));
        let factors = gamma
            .iter()
            .zip(&variance)
            .map(|(gamma, variance)| gamma / (variance + epsilon).sqrt());
        Some(Self {
            factors: factors.collect(),
            beta,
            means,
        })
    }

    /// β + (b − μ) γ/√(σ² + ε).
    fn of_bias(&self, bias: &[f64]) -> Vec<f64> {
        let moved = bias
            .iter()
            .zip(&self.means)
            .zip(&self.factors)
            .map(|((bias, mean), factor)| (bias - mean) * factor);
        moved.zip(&self.beta).map(|(moved, beta)| moved + beta).collect()
    }
}

/// The bias of the layer of node `id`: its third input, or what an Add behind a MatMul adds; zeros where there is none,
/// nothing where it is no initializer.
fn bias(graph: &Graph, index: &GraphIndex<'_>, id: &str, rows: usize) -> Option<Vec<f64>> {
    let node = graph.node(id)?;
    if !node.is("MatMul") {
        return match node.input(2) {
            Some(_) if node.float("beta").unwrap_or(1.0) != 1.0 => None,
            Some(name) => numbers(graph, name, rows),
            None => Some(vec![0.0; rows]),
        };
    }
    let reader = index.sole_consumer(id).map(|(reader, _)| &graph.nodes[reader]);
    match reader.filter(|reader| reader.is("Add")) {
        Some(add) => match add.inputs().iter().find(|input| *input != id) {
            Some(other) if graph.tensor(other).is_some() => numbers(graph, other, rows),
            _ => Some(vec![0.0; rows]),
        },
        None => Some(vec![0.0; rows]),
    }
}

/// The numbers of an initializer, if there are so many.
fn numbers(graph: &Graph, name: &str, count: usize) -> Option<Vec<f64>> {
    let values = graph.tensor(name)?.to_f32().ok()?;
    (values.len() == count).then(|| values.iter().map(|&value| value.into()).collect())
}

/// Whether factors of rows and columns explain more than a part of the difference that chance would leave them.
fn is_rescaled(before: &[f32], after: &[f32], rows: usize, columns: usize) -> bool {
    let mut scaled: Vec<f64> = before.iter().map(|&value| value.into()).collect();
    let squares = |scaled: &[f64]| -> f64 {
        scaled
            .iter()
            .zip(after)
            .map(|(scaled, &after)| (scaled - f64::from(after)).powi(2))
            .sum()
    };
    let whole = squares(&scaled);
    for _ in 0..2 {
        for (lines, line) in [(rows, columns), (columns, 1)] {
            let along = |at: usize| if line == 1 { at % columns } else { at / columns };
            let (mut crossed, mut own) = (vec![0.0; lines], vec![0.0; lines]);
            for (at, value) in scaled.iter().enumerate() {
                crossed[along(at)] += value * f64::from(after[at]);
                own[along(at)] += value * value;
            }
            for (at, value) in scaled.iter_mut().enumerate() {
                if own[along(at)] > 0.0 {
                    *value *= crossed[along(at)] / own[along(at)];
                }
            }
        }
    }
    let by_chance = ((rows + columns) as f64 / (rows * columns) as f64).min(1.0);
    squares(&scaled) < (1.0 - EXPLAINED) * (1.0 - by_chance) * whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::noise;

    #[test]
    fn rounding_is_no_rescaling() {
        for step in [0.02_f32, 0.3, 0.9] {
            let before = noise(24 * 36, 5);
            let after: Vec<f32> = before.iter().map(|value| (value / step).round() * step).collect();
            assert!(!is_rescaled(&before, &after, 24, 36), "step {step}");
        }
    }

    proptest! {
        #[test]
        fn factors_are_seen(seed: u64, spread in 0.05_f32..2.0) {
            let before = noise(24 * 36, seed);
            let factor = |seed, count| -> Vec<f32> {
                noise(count, seed).into_iter().map(|value| (value * spread).exp()).collect()
            };
            let (rows, columns) = (factor(seed ^ 1, 24), factor(seed ^ 2, 36));
            let after: Vec<f32> = before
                .iter()
                .enumerate()
                .map(|(at, value)| value * rows[at / 36] * columns[at % 36])
                .map(|value| (value * 1000.0).round() / 1000.0)
                .collect();
            prop_assert!(is_rescaled(&before, &after, 24, 36));
        }
    }
}
