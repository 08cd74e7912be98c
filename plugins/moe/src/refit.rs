//! Neurons that make up for those that are not computed.

use kmr_methods::{
    Matrix, MethodError,
    ridge::{Intercept, ridge},
};
use kmr_sdk::{Error, Result};

use crate::{clusters::Clusters, network::Network, prediction::Prediction, samples::Rows};

/// The penalty of what is changed.
const DAMPING: f64 = 0.1;

/// Every so-many-th token judges, and is not fitted on.
const JUDGES: usize = 5;

/// What is added to a split layer's last product, outputs × neurons, and to its outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Correction {
    /// To the matrix.
    pub matrix: Vec<f32>,
    /// To each output.
    pub constant: Vec<f32>,
}

/// The change of the last product with which the layer, `top_k` of its experts chosen, comes closest to the dense one: a
/// ridge regression of what is missing by the neurons that are computed. Nothing where it does not help on tokens that it
/// has not seen.
///
/// # Errors
/// If a number is not finite.
pub fn correction(
    network: &Network,
    clusters: &Clusters,
    prediction: &Prediction,
    top_k: usize,
    tokens: &Rows,
) -> Result<Option<Correction>> {
    let (count, neurons, outputs) = (tokens.count(), network.neurons(), network.down.outputs);
    if count < JUDGES * 2 {
        return Ok(None);
    }
    let mut hidden = network.hidden(tokens);
    let whole = network.down.apply(&hidden);
    let ranks = prediction.ranks(tokens);
    let means = prediction.means(top_k);
    let experts = clusters.routed.len();
    let mut standing = vec![0.0_f32; count * outputs];
    for token in 0..count {
        for (expert, own) in clusters.routed.iter().enumerate() {
            if ranks[token * experts + expert] >= top_k {
                own.iter()
                    .for_each(|&neuron| hidden.values[token * neurons + neuron] = 0.0);
                let row = &mut standing[token * outputs..][..outputs];
                row.iter_mut().zip(&means[expert]).for_each(|(sum, mean)| *sum += mean);
            }
        }
    }
    let made = network.down.apply(&hidden);
    let missing: Vec<f64> = (0..count * outputs)
        .map(|at| f64::from(whole.values[at]) - f64::from(made.values[at]) - f64::from(standing[at]))
        .collect();
    let fitted = |token: &usize| !token.is_multiple_of(JUDGES);
    let learners: Vec<usize> = (0..count).filter(fitted).collect();
    let rows: Vec<f32> = learners
        .iter()
        .flat_map(|&token| &hidden.values[token * neurons..][..neurons])
        .copied()
        .collect();
    let targets: Vec<f64> = learners
        .iter()
        .flat_map(|&token| &missing[token * outputs..][..outputs])
        .copied()
        .collect();
    let failed = |error: MethodError| Error::unsupported(error.to_string());
    let inputs = Matrix::new(learners.len(), neurons, &rows).map_err(failed)?;
    let change = ridge(inputs, &targets, outputs, DAMPING, Intercept::Fitted).map_err(failed)?;
    let (mut before, mut after) = (0.0, 0.0);
    for token in (0..count).filter(|token| !fitted(token)) {
        let own = &hidden.values[token * neurons..][..neurons];
        for output in 0..outputs {
            let weights = &change.weights[output * neurons..][..neurons];
            let predicted: f64 = own
                .iter()
                .zip(weights)
                .map(|(&value, weight)| f64::from(value) * weight)
                .sum();
            let missing = missing[token * outputs + output];
            before += missing.powi(2);
            after += (missing - predicted - change.intercepts[output]).powi(2);
        }
    }
    let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect();
    Ok((after < before).then(|| Correction {
        matrix: narrow(&change.weights),
        constant: narrow(&change.intercepts),
    }))
}
