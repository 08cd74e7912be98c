//! Neurons that belong together.

use kmr_methods::{Matrix, clustering::balanced};
use kmr_sdk::{Error, Result};

use crate::{
    config::{Cluster, SplitConfig},
    network::Network,
    samples::Rows,
};

/// Tokens that co-activation is looked at on.
const TOKENS: usize = 512;

/// The neurons of each expert of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Clusters {
    /// Those that compute for every token.
    pub shared: Vec<usize>,
    /// Those of each expert that is chosen or not.
    pub routed: Vec<Vec<usize>>,
}

impl Clusters {
    /// Any clusters of the sizes that [`Clusters::find`] gives.
    pub fn by_position(neurons: usize, config: &SplitConfig) -> Self {
        let (shared, sizes) = sizes(neurons, config);
        let mut next = shared;
        let mut take = |size: usize| {
            next += size;
            (next - size..next).collect()
        };
        Self {
            shared: (0..shared).collect(),
            routed: sizes.into_iter().map(&mut take).collect(),
        }
    }

    /// Clusters of the neurons of `network`: the shared ones are those whose contribution to the output is greatest on
    /// average, the others are clustered by the tokens that they contribute on, or by what they read.
    ///
    /// # Errors
    /// If a number is not finite.
    pub fn find(network: &Network, hidden: &Rows, config: &SplitConfig) -> Result<Self> {
        let neurons = network.neurons();
        let contributions = contributions(network, hidden);
        let mean = |neuron: usize| contributions[neuron].iter().map(|&value| f64::from(value)).sum::<f64>();
        let means: Vec<f64> = (0..neurons).map(mean).collect();
        let (shared, sizes) = sizes(neurons, config);
        let mut order: Vec<usize> = (0..neurons).collect();
        order.sort_by(|&a, &b| means[b].total_cmp(&means[a]));
        let mut rest = order.split_off(shared);
        order.sort_unstable();
        rest.sort_unstable();
        let features: Vec<f32> = match config.cluster {
            Cluster::Activation => rest.iter().flat_map(|&neuron| unit(&contributions[neuron])).collect(),
            Cluster::Weights => {
                let reads = network.gate.as_ref().unwrap_or(&network.up);
                rest.iter().flat_map(|&neuron| unit(reads.row(neuron))).collect()
            }
        };
        let failed = |error: kmr_methods::MethodError| Error::unsupported(error.to_string());
        let features = Matrix::new(rest.len(), features.len() / rest.len().max(1), &features).map_err(failed)?;
        let clusters = balanced(features, sizes.len(), config.rounds).map_err(failed)?;
        let mut routed = vec![Vec::new(); sizes.len()];
        for (neuron, cluster) in rest.into_iter().zip(clusters) {
            routed[cluster].push(neuron);
        }
        Ok(Self { shared: order, routed })
    }
}

/// Neurons that are shared, and those of each other expert: as many for each where the shared ones can take what is left.
fn sizes(neurons: usize, config: &SplitConfig) -> (usize, Vec<usize>) {
    let routed = config.experts - config.shared;
    let each = neurons / config.experts;
    if config.shared > 0 {
        return (neurons - each * routed, vec![each; routed]);
    }
    let size = |expert: usize| each + usize::from(expert < neurons % routed);
    (0, (0..routed).map(size).collect())
}

/// For each neuron the lengths of what it adds to the output, token by token.
fn contributions(network: &Network, hidden: &Rows) -> Vec<Vec<f32>> {
    let (count, down) = (hidden.count(), &network.down);
    let tokens: Vec<usize> = (0..count.min(TOKENS))
        .map(|at| at * count / count.clamp(1, TOKENS))
        .collect();
    let length = |neuron: usize| {
        let column = (0..down.outputs).map(|output| f64::from(down.row(output)[neuron]).powi(2));
        column.sum::<f64>().sqrt() as f32
    };
    let of = |neuron: usize| {
        let length = length(neuron);
        tokens
            .iter()
            .map(|&token| hidden.values[token * hidden.width + neuron].abs() * length)
            .collect()
    };
    (0..network.neurons()).map(of).collect()
}

/// The same direction with length 1; zero stays zero.
fn unit(values: &[f32]) -> Vec<f32> {
    let length = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let factor = if length > 0.0 { 1.0 / length } else { 0.0 };
    values.iter().map(|&value| (f64::from(value) * factor) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_neuron_has_its_place() {
        for (neurons, experts, shared) in [(16, 8, 1), (17, 8, 1), (17, 5, 0), (8, 8, 2), (100, 7, 3)] {
            let config = SplitConfig {
                experts,
                shared,
                ..SplitConfig::default()
            };
            let clusters = Clusters::by_position(neurons, &config);
            let mut all = clusters.shared.clone();
            all.extend(clusters.routed.iter().flatten());
            assert_eq!(all, (0..neurons).collect::<Vec<_>>());
            assert_eq!(clusters.routed.len(), experts - shared);
            assert!(clusters.routed.iter().all(|routed| !routed.is_empty()));
            if shared > 0 {
                assert!(clusters.routed.iter().all(|routed| routed.len() == neurons / experts));
            }
        }
    }
}
