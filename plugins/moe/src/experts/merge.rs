//! Experts that go into one another.

use kmr_methods::{
    Matrix, MethodError,
    experts::{Neurons, averaged, groups},
    ridge::{Intercept, ridge},
};
use kmr_sdk::{Error, Result};

use super::{
    Layer,
    order::{Merged, Order},
};
use crate::network::{Network, Weights};

/// The penalty of what a router's weights are changed by.
const DAMPING: f64 = 0.1;

/// The experts in `kept`, each with those that are most like it averaged in by how much they are used; and a router whose
/// score for each stands for all of its group.
///
/// # Errors
/// If a number is not finite.
pub fn merged(layer: &Layer, order: &Order, seen: &Merged, kept: &[usize]) -> Result<(Weights, Vec<Network>)> {
    let failed = |error: MethodError| Error::unsupported(error.to_string());
    let groups = groups(kept, &seen.likeness, layer.networks.len()).map_err(failed)?;
    let networks = groups.iter().map(|group| average(layer, order, group).map_err(failed));
    let networks = networks.collect::<Result<_>>()?;
    Ok((router(layer, seen, &groups).map_err(failed)?, networks))
}

/// One expert of several.
fn average(layer: &Layer, order: &Order, group: &[usize]) -> Result<Network, MethodError> {
    let mut usage: Vec<f64> = group.iter().map(|&expert| order.usage[expert].into()).collect();
    if usage.iter().sum::<f64>() <= 0.0 {
        usage.fill(1.0);
    }
    let first = &layer.networks[group[0]];
    if group.len() == 1 {
        return Ok(first.clone());
    }
    let neurons: Vec<(usize, Vec<f32>)> = group.iter().map(|&expert| neurons(&layer.networks[expert])).collect();
    let neurons: Vec<Neurons<'_>> = neurons
        .iter()
        .map(|(width, values)| Neurons { width: *width, values })
        .collect();
    let mut network = network(first, &averaged(&neurons, &usage)?);
    let total: f64 = usage.iter().sum();
    if let Some(bias) = &mut network.down.bias {
        for (at, value) in bias.iter_mut().enumerate() {
            let of = |expert: usize| {
                layer.networks[expert]
                    .down
                    .bias
                    .as_ref()
                    .map_or(0.0, |bias| f64::from(bias[at]))
            };
            *value = (group
                .iter()
                .zip(&usage)
                .map(|(&expert, weight)| weight * of(expert))
                .sum::<f64>()
                / total) as f32;
        }
    }
    Ok(network)
}

/// What each neuron of a network has: its row of each product that makes it, with the bias, and its column of the last.
fn neurons(network: &Network) -> (usize, Vec<f32>) {
    let mut values = Vec::new();
    for neuron in 0..network.neurons() {
        for weights in network.gate.iter().chain([&network.up]) {
            values.extend_from_slice(weights.row(neuron));
            values.extend(weights.bias.as_ref().map(|bias| bias[neuron]));
        }
        values.extend((0..network.down.outputs).map(|output| network.down.row(output)[neuron]));
    }
    (values.len() / network.neurons().max(1), values)
}

/// The network of these neurons, otherwise like `like`.
fn network(like: &Network, values: &[f32]) -> Network {
    let mut network = like.clone();
    let count = network.neurons();
    let width = values.len() / count.max(1);
    for (neuron, values) in values.chunks_exact(width.max(1)).enumerate() {
        let mut rest = values;
        let mut take = |length: usize| {
            let (taken, left) = rest.split_at(length);
            rest = left;
            taken
        };
        for weights in network.gate.iter_mut().chain([&mut network.up]) {
            let inputs = weights.inputs;
            weights.matrix[neuron * inputs..][..inputs].copy_from_slice(take(inputs));
            if let Some(bias) = &mut weights.bias {
                bias[neuron] = take(1)[0];
            }
        }
        let down = &mut network.down;
        for (output, &value) in take(down.outputs).iter().enumerate() {
            down.matrix[output * down.inputs + neuron] = value;
        }
    }
    network
}

/// Scores for groups: the logarithm of the sum of what its experts had, as far as the leader's row can be bent to it.
fn router(layer: &Layer, seen: &Merged, groups: &[Vec<usize>]) -> Result<Weights, MethodError> {
    let leaders: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    let mut router = layer.router.only_outputs(&leaders);
    let experts = layer.networks.len();
    let mut targets = Vec::with_capacity(seen.tokens.count() * groups.len());
    for scores in seen.scores.values.chunks_exact(experts.max(1)) {
        targets.extend(groups.iter().map(|group| {
            let own = f64::from(scores[group[0]]);
            let others = group.iter().map(|&expert| (f64::from(scores[expert]) - own).exp());
            // Bounded, so that one token does not outweigh all others.
            others.sum::<f64>().ln().min(8.0)
        }));
    }
    let tokens = Matrix::new(seen.tokens.count(), seen.tokens.width, &seen.tokens.values)?;
    let intercept = if router.bias.is_some() {
        Intercept::Fitted
    } else {
        Intercept::Zero
    };
    let change = ridge(tokens, &targets, groups.len(), DAMPING, intercept)?;
    router
        .matrix
        .iter_mut()
        .zip(&change.weights)
        .for_each(|(weight, change)| *weight += *change as f32);
    if let Some(bias) = &mut router.bias {
        bias.iter_mut()
            .zip(&change.intercepts)
            .for_each(|(bias, change)| *bias += *change as f32);
    }
    Ok(router)
}
