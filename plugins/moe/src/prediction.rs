//! A router for experts that a dense layer was split into.

use kmr_methods::{
    Matrix, MethodError,
    experts::greatest,
    ridge::{Intercept, Linear, ridge},
};
use kmr_sdk::{Error, Result};
use rayon::prelude::*;

use crate::{network::Network, samples::Rows};

/// What chooses among the experts of a split layer, and what stands for those that are not chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// From a token to a score for each expert.
    pub router: Linear,
    /// For each expert, and each rank that the router can give it, the sum of what the expert makes of the tokens that
    /// give it that rank.
    sums: Vec<Vec<Vec<f64>>>,
    /// How many tokens give it that rank.
    counts: Vec<Vec<usize>>,
}

/// How far the outputs of experts are from their means: how much is missed where the mean stands for one.
#[derive(Clone, Debug, PartialEq)]
pub struct Distances {
    means: Vec<Vec<f64>>,
    typical: f64,
}

impl Distances {
    /// With the means on these tokens: also the distances there, of all experts, token by token.
    pub fn from(experts: &[Network], tokens: &Rows) -> (Self, Vec<f64>) {
        let mut means = Vec::new();
        let all = each_token(experts, tokens, |_, made| {
            means.push(mean(made));
            apart(made, means.last().map_or(&[], Vec::as_slice))
        });
        let square = all.iter().map(|distance| distance * distance).sum::<f64>() / all.len().max(1) as f64;
        let typical = if square > 0.0 { square.sqrt() } else { 1.0 };
        (Self { means, typical }, all)
    }

    /// Those of all experts, token by token.
    pub fn of(&self, experts: &[Network], tokens: &Rows) -> Vec<f64> {
        each_token(experts, tokens, |expert, made| apart(made, &self.means[expert]))
    }

    /// The root of the mean square on the tokens that the means are of; 1 where that is 0.
    pub fn typical(&self) -> f64 {
        self.typical
    }
}

/// What `measure` says of each expert's outputs, one number for each token, laid out token by token.
fn each_token(experts: &[Network], tokens: &Rows, mut measure: impl FnMut(usize, &Rows) -> Vec<f64>) -> Vec<f64> {
    let number = experts.len();
    let mut all = vec![0.0; tokens.count() * number];
    for (expert, network) in experts.iter().enumerate() {
        let measured = measure(expert, &network.apply(tokens));
        for (token, value) in measured.into_iter().enumerate() {
            all[token * number + expert] = value;
        }
    }
    all
}

/// How far each row is from `mean`.
fn apart(rows: &Rows, mean: &[f64]) -> Vec<f64> {
    let rows = rows.values.chunks_exact(rows.width.max(1));
    let square = |row: &[f32]| {
        let pairs = row.iter().zip(mean);
        pairs
            .map(|(&value, mean)| (f64::from(value) - mean).powi(2))
            .sum::<f64>()
    };
    rows.map(|row| square(row).sqrt()).collect()
}

/// A router in closed form for so many experts, from the tokens that they read: a ridge regression, by the token, of their
/// distances there.
///
/// # Errors
/// If a number is not finite.
pub fn closed_form(number: usize, distances: &[f64], tokens: &Rows, damping: f64) -> Result<Linear> {
    let failed = |error: MethodError| Error::unsupported(error.to_string());
    let mut targets = distances.to_vec();
    // Only what differs between experts matters, and scale does not.
    for targets in targets.chunks_exact_mut(number.max(1)) {
        let mean = targets.iter().sum::<f64>() / number as f64;
        targets.iter_mut().for_each(|target| *target -= mean);
    }
    let inputs = Matrix::new(tokens.count(), tokens.width, &tokens.values).map_err(failed)?;
    ridge(inputs, &targets, number, damping, Intercept::Fitted).map_err(failed)
}

impl Prediction {
    /// What `router` makes of the tokens that `experts` read.
    pub fn of(router: Linear, experts: &[Network], tokens: &Rows) -> Self {
        let number = experts.len();
        let ranks = ranks(&router, tokens, number);
        let mut sums = Vec::new();
        let mut counts = Vec::new();
        for (expert, network) in experts.iter().enumerate() {
            let made = network.apply(tokens);
            let mut own_sums = vec![vec![0.0; made.width]; number];
            let mut own_counts = vec![0; number];
            for (token, row) in made.values.chunks_exact(made.width.max(1)).enumerate() {
                let rank = ranks[token * number + expert];
                own_counts[rank] += 1;
                own_sums[rank]
                    .iter_mut()
                    .zip(row)
                    .for_each(|(sum, &value)| *sum += f64::from(value));
            }
            sums.push(own_sums);
            counts.push(own_counts);
        }
        Self { router, sums, counts }
    }

    /// For each token and expert, how many experts are chosen before it.
    pub fn ranks(&self, tokens: &Rows) -> Vec<usize> {
        ranks(&self.router, tokens, self.counts.len())
    }

    /// What stands for each expert where it is not among the `top_k` chosen: the mean of its outputs there.
    pub fn means(&self, top_k: usize) -> Vec<Vec<f32>> {
        let each = self.sums.iter().zip(&self.counts).map(|(sums, counts)| {
            let count: usize = counts.iter().skip(top_k).sum();
            let width = sums.first().map_or(0, Vec::len);
            let sum = |at: usize| sums.iter().skip(top_k).map(|sums| sums[at]).sum::<f64>();
            (0..width).map(|at| (sum(at) / count.max(1) as f64) as f32).collect()
        });
        each.collect()
    }
}

/// For each token and expert, how many experts are chosen before it.
fn ranks(router: &Linear, tokens: &Rows, experts: usize) -> Vec<usize> {
    let each = tokens.values.par_chunks_exact(tokens.width.max(1)).map(|token| {
        let score = |expert: usize| {
            let weights = &router.weights[expert * tokens.width..][..tokens.width];
            let product: f64 = weights
                .iter()
                .zip(token)
                .map(|(weight, &value)| weight * f64::from(value))
                .sum();
            (product + router.intercepts[expert]) as f32
        };
        let scores: Vec<f32> = (0..experts).map(score).collect();
        let mut ranks = vec![0; experts];
        for (rank, expert) in greatest(&scores, experts).into_iter().enumerate() {
            ranks[expert] = rank;
        }
        ranks
    });
    each.collect::<Vec<_>>().concat()
}

/// The mean of each column.
fn mean(rows: &Rows) -> Vec<f64> {
    let mut sums = vec![0.0; rows.width];
    for row in rows.values.chunks_exact(rows.width.max(1)) {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, &value)| *sum += f64::from(value));
    }
    sums.iter_mut().for_each(|sum| *sum /= rows.count().max(1) as f64);
    sums
}
