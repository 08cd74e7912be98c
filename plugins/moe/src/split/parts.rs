//! A split layer, as it is written.

use std::collections::BTreeSet;

use kmr_sdk::{
    Result,
    model::{
        Build, DType, Edit, Graph, Tensor,
        experts::{self, Choice, FeedForward, FoundNetwork, Linear, RoutedExperts, Router, SharedExpert},
        stored::{add_half, initializer_of},
    },
};

use super::Dense;
use crate::{
    clusters::Clusters,
    network::{Network, Weights},
};

/// What a layer becomes.
pub struct Parts {
    /// The neurons of each expert.
    pub clusters: Clusters,
    /// All neurons.
    pub network: Network,
    /// What chooses.
    pub router: Weights,
    /// What stands for each expert that is not chosen.
    pub means: Vec<Vec<f32>>,
    /// What is added to the outputs beside the layer's own bias and the means.
    pub constant: Vec<f32>,
}

impl Parts {
    /// Parts of the right sizes, whose numbers mean nothing.
    pub fn any(network: &Network, clusters: Clusters) -> Self {
        let (inputs, outputs, count) = (network.up.inputs, network.down.outputs, clusters.routed.len());
        Self {
            clusters,
            network: network.clone(),
            router: Weights {
                outputs: count,
                inputs,
                matrix: vec![0.0; count * inputs],
                bias: Some(vec![0.0; count]),
                dtype: DType::FLOAT,
            },
            means: vec![vec![0.0; outputs]; count],
            constant: vec![0.0; outputs],
        }
    }

    /// Puts the experts, `top_k` of them chosen, in place of `layer`.
    ///
    /// # Errors
    /// If so many cannot be chosen, or a tensor cannot be stored.
    pub fn write(&self, build: &mut Build, graph: &Graph, layer: &Dense, top_k: usize) -> Result<()> {
        let (network, found) = (&self.network, &layer.found);
        build.place(Some(&found.output));
        let of = &found.network;
        let mut networks = Vec::new();
        for (expert, (neurons, mean)) in self.clusters.routed.iter().zip(&self.means).enumerate() {
            let mut part = network.only(neurons);
            part.down.bias = Some(mean.iter().map(|value| -value).collect());
            networks.push(store(build, of, &part, &format!("experts.{expert}"))?);
        }
        let shared = (!self.clusters.shared.is_empty())
            .then(|| store(build, of, &network.only(&self.clusters.shared), "shared_expert"))
            .transpose()?
            .map(|network| SharedExpert { network, gate: None });
        let name = format!("{}.experts", layer.base());
        let sum = build.name(&format!("{name}.made"));
        let scores = linear(
            build,
            &self.router,
            of.up.outputs_first,
            &format!("{}.router", layer.base()),
        )?;
        let routed = RoutedExperts {
            input: found.input.clone(),
            output: sum.clone(),
            router: Router {
                scores,
                choice: Choice::Unweighted,
                top_k,
            },
            experts: networks,
            shared,
        };
        experts::write(build, &routed, network.up.inputs, &name)?;
        let added = build.tensor(&format!("{name}.bias"), self.added());
        build.node_into("Add", &[&sum, &added], &[&found.output], |node| node);
        remove(build, graph, found);
        Ok(())
    }

    /// What is added whatever is chosen: the layer's own bias, and all means; chosen experts take theirs away again.
    fn added(&self) -> Tensor {
        let added = |(at, &constant): (usize, &f32)| {
            let own = self.network.down.bias.as_ref().map_or(0.0, |bias| f64::from(bias[at]));
            (own + f64::from(constant) + self.means.iter().map(|mean| f64::from(mean[at])).sum::<f64>()) as f32
        };
        let added: Vec<f32> = self.constant.iter().enumerate().map(added).collect();
        Tensor::from_vec(vec![added.len()], added)
    }
}

/// Stores an expert, its tensors named after those of the layer that it is a part of.
fn store(build: &mut Build, of: &FeedForward, part: &Network, suffix: &str) -> Result<FeedForward> {
    let mut one = |like: &Linear, weights: &Weights| {
        let base = like.weight.strip_suffix(".weight").unwrap_or(&like.weight);
        linear(build, weights, like.outputs_first, &format!("{base}.{suffix}"))
    };
    let gates = of.gate.as_ref().zip(part.gate.as_ref());
    Ok(FeedForward {
        gate: gates.map(|(like, weights)| one(like, weights)).transpose()?,
        up: one(&of.up, &part.up)?,
        down: one(&of.down, &part.down)?,
        activation: part.activation,
    })
}

fn linear(build: &mut Build, weights: &Weights, outputs_first: bool, name: &str) -> Result<Linear> {
    let (wanted, tensor) = (format!("{name}.weight"), weights.stored(outputs_first, weights.dtype)?);
    let weight = match weights.dtype {
        DType::FLOAT => build.tensor(&wanted, tensor),
        _ => add_half(build, &wanted, tensor),
    };
    // Biases are few, and means have gone into them: they are exact.
    let bias = weights.bias.as_ref().map(|bias| {
        let tensor = Tensor::from_vec(vec![bias.len()], bias.clone());
        build.tensor(&format!("{name}.bias"), tensor)
    });
    Ok(Linear {
        weight,
        outputs_first,
        bias,
    })
}

/// Takes the dense layer out, and those of its tensors that nothing else reads.
fn remove(build: &mut Build, graph: &Graph, found: &FoundNetwork) {
    let index = graph.index();
    let mut nodes: BTreeSet<&str> = found.nodes.iter().map(String::as_str).collect();
    let read_here = |nodes: &BTreeSet<&str>, value: &str| {
        let readers = index.consumers(value).iter();
        index.is_inner(value)
            && readers
                .map(|&(at, _)| graph.nodes[at].id())
                .all(|id| nodes.contains(id))
    };
    let values: BTreeSet<&str> = found.network.linears().flat_map(Linear::tensors).collect();
    // Casts that several of its products read.
    for value in &values {
        if let Some(at) = index.producer(value).filter(|_| read_here(&nodes, value)) {
            nodes.insert(graph.nodes[at].id());
        }
    }
    let held = values
        .iter()
        .map(|value| initializer_of(graph, &index, value).map_or(*value, |(name, _)| name));
    let tensors: BTreeSet<&str> = held.filter(|name| read_here(&nodes, name)).collect();
    for node in nodes {
        build.edit(Edit::RemoveNode { node: node.to_owned() });
    }
    for name in tensors {
        build.edit(Edit::RemoveTensor { name: name.to_owned() });
    }
}
