//! In which order experts are missed least.

use kmr_methods::{
    MethodError,
    experts::{Outputs, Weighting, cosine, eliminate, weights},
};
use kmr_sdk::{Error, Result, model::experts::Choice};

use super::Layer;
use crate::{
    config::{ExpertsConfig, Importance, Method},
    samples::Rows,
};

/// What is known of a layer's experts on the calibration data.
pub struct Order {
    /// The experts in the order in which they go; those that no choice can do without are not among them.
    gone: Vec<usize>,
    /// How much weight tokens give each.
    pub usage: Vec<f32>,
    /// What merging looks at, where experts are merged.
    pub merged: Option<Merged>,
}

/// What merging experts looks at.
pub struct Merged {
    /// How alike the outputs of every two are, experts × experts.
    pub likeness: Vec<f32>,
    /// The tokens.
    pub tokens: Rows,
    /// Their scores.
    pub scores: Rows,
}

impl Order {
    /// Looks at what all experts of `layer` make of `tokens`, chosen or not.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn of(layer: &Layer, tokens: Rows, config: &ExpertsConfig) -> Result<Self> {
        let failed = |error: MethodError| Error::unsupported(error.to_string());
        let scores = layer.router.apply(&tokens);
        let made: Vec<Vec<f32>> = layer
            .networks
            .iter()
            .map(|network| network.apply(&tokens).values)
            .collect();
        let router = &layer.found.experts.router;
        let outputs = Outputs {
            scores: &scores.values,
            made: &made,
            top_k: router.top_k,
            weighting: match router.choice {
                Choice::SoftmaxThenTopK { renormalize: false } => Weighting::Softmax,
                Choice::SoftmaxThenTopK { renormalize: true } | Choice::TopKThenSoftmax => Weighting::Chosen,
                Choice::Unweighted => Weighting::Full,
            },
        };
        let usage: Vec<f32> = weights(&outputs)
            .map_err(failed)?
            .into_iter()
            .map(|weight| weight as f32)
            .collect();
        let likeness = || -> Vec<f32> {
            let pairs = made.iter().flat_map(|a| made.iter().map(move |b| (a, b)));
            pairs.map(|(a, b)| cosine(a, b) as f32).collect()
        };
        let gone = match config.importance {
            Importance::Error => eliminate(&outputs, router.top_k).map_err(failed)?,
            Importance::Usage => by_usage(&usage),
            Importance::Similarity => by_likeness(&usage, &likeness()),
        };
        let merged = (config.method == Method::Merge).then(&likeness);
        let merged = merged.map(|likeness| Merged {
            likeness,
            tokens,
            scores,
        });
        Ok(Self { gone, usage, merged })
    }

    /// The `count` experts that stay, in their own order.
    pub fn kept(&self, count: usize) -> Vec<usize> {
        let experts = self.usage.len();
        let gone = &self.gone[..experts.saturating_sub(count).min(self.gone.len())];
        (0..experts).filter(|expert| !gone.contains(expert)).collect()
    }
}

/// The least used first.
fn by_usage(usage: &[f32]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..usage.len()).collect();
    order.sort_by(|&a, &b| usage[a].total_cmp(&usage[b]));
    order
}

/// Each time, of the two that are most alike the one that is used less.
fn by_likeness(usage: &[f32], likeness: &[f32]) -> Vec<usize> {
    let experts = usage.len();
    let mut left: Vec<usize> = (0..experts).collect();
    let mut gone = Vec::new();
    while left.len() > 1 {
        let pairs = left
            .iter()
            .flat_map(|&a| left.iter().filter(move |&&b| b > a).map(move |&b| (a, b)));
        // The first of those that are most alike.
        let nearest = pairs.reduce(|best, pair| {
            let of = |(a, b): (usize, usize)| likeness[a * experts + b];
            if of(pair) > of(best) { pair } else { best }
        });
        let Some((a, b)) = nearest else {
            break;
        };
        let next = if usage[a] < usage[b] { a } else { b };
        left.retain(|&expert| expert != next);
        gone.push(next);
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_used_of_two_that_are_alike_goes() {
        let likeness = [1.0, 0.2, 0.9, 0.2, 1.0, 0.1, 0.9, 0.1, 1.0];
        assert_eq!(by_likeness(&[3.0, 1.0, 2.0], &likeness), [2, 1]);
        assert_eq!(by_likeness(&[2.0, 1.0, 3.0], &likeness), [0, 1]);
        assert_eq!(by_usage(&[2.0, 1.0, 3.0]), [1, 0, 2]);
    }
}
