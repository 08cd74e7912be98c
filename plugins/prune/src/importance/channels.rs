//! How much each channel of a group matters: scores of elements, added up over what the channel consists of.

use std::collections::{BTreeSet, HashSet};

use kmr_sdk::{
    Error, Host, Result,
    model::{
        Graph, Model,
        channels::{ChannelGroup, TensorSlice},
    },
};
use serde::Deserialize;

use super::{ElementScores, magnitude, taylor, wanda};
use crate::weights::{Weight, stored, weights};

/// What a channel is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// Sum of absolute weights that make the channel ("Pruning Filters for Efficient ConvNets", arXiv 1608.08710).
    L1,
    /// Euclidean norm of the weights that make the channel.
    L2,
    /// Euclidean norm of everything that goes with the channel: weights that make it and read it, and scales of batch
    /// normalizations ("DepGraph", arXiv 2301.12900).
    #[default]
    GroupL2,
    /// First-order change of the loss, from gradients on calibration data.
    Taylor,
    /// Weights times the norm of what they multiply, from activations on calibration data.
    Wanda,
}

/// What a slice of a tensor is to a channel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// A weight that makes the channel.
    Making,
    /// A weight that reads the channel, or that both reads and makes it (depthwise).
    Reading,
    /// The scale of a batch normalization.
    Scale,
    /// The offset of a batch normalization.
    Offset,
}

impl Importance {
    fn counts(self, part: Part) -> bool {
        match self {
            Self::L1 | Self::L2 => part == Part::Making,
            Self::GroupL2 => part != Part::Offset,
            Self::Taylor => true,
            Self::Wanda => matches!(part, Part::Making | Part::Reading),
        }
    }

    fn squares(self) -> bool {
        matches!(self, Self::L2 | Self::GroupL2)
    }
}

/// A score for each unit of each group, in their order; none for a group without a part to judge it by.
///
/// # Errors
/// If the host cannot observe or differentiate the model, or a weight is no finite number.
pub fn group_scores(
    host: &Host<'_>,
    model: &Model,
    groups: &[&ChannelGroup],
    importance: Importance,
    samples: usize,
) -> Result<Vec<Option<Vec<f64>>>> {
    let graph = &model.graph;
    let weights = weights(graph);
    let roles = Roles::of(graph, &weights);
    let parts: Vec<Vec<&TensorSlice>> = groups
        .iter()
        .map(|group| {
            let slices = group.slices.iter();
            let judged = |slice: &&TensorSlice| roles.part(group, slice).is_some_and(|part| importance.counts(part));
            slices.filter(judged).collect()
        })
        .collect();
    let tensors: BTreeSet<&str> = parts.iter().flatten().map(|slice| slice.tensor.as_str()).collect();
    if tensors.is_empty() {
        return Ok(vec![None; groups.len()]);
    }
    let elements = match importance {
        Importance::L1 | Importance::L2 | Importance::GroupL2 => magnitude::scores(graph, tensors.iter().copied())?,
        Importance::Taylor => {
            let names: Vec<String> = tensors
                .iter()
                .filter(|name| graph.tensor(name).is_some())
                .map(|&name| name.to_owned())
                .collect();
            taylor::scores(host, graph, &names, samples)?
        }
        Importance::Wanda => {
            let judged: Vec<Weight> = weights
                .into_iter()
                .filter(|weight| tensors.contains(weight.tensor.as_str()))
                .filter(|weight| weight.readers.iter().all(|reader| reader.input.is_some()))
                .collect();
            wanda::scores(host, graph, &judged, samples)?
        }
    };
    let scores = groups
        .iter()
        .zip(&parts)
        .map(|(group, parts)| unit_scores(graph, group, parts, &elements, importance));
    scores.collect()
}

fn unit_scores(
    graph: &Graph,
    group: &ChannelGroup,
    parts: &[&TensorSlice],
    elements: &ElementScores,
    importance: Importance,
) -> Result<Option<Vec<f64>>> {
    let mut scores = vec![0.0_f64; group.channels];
    let mut judged = false;
    for part in parts {
        let (Some(values), Some(tensor)) = (elements.get(&part.tensor), stored(graph, &part.tensor)?) else {
            continue;
        };
        judged = true;
        let inner: usize = tensor.shape().iter().skip(part.axis + 1).product();
        for (unit, indices) in part.indices.iter().enumerate() {
            for block in values.chunks_exact((part.size * inner).max(1)) {
                for &index in indices {
                    let values = block[index * inner..(index + 1) * inner]
                        .iter()
                        .map(|&value| f64::from(value));
                    scores[unit] += if importance.squares() {
                        values.map(|v| v * v).sum::<f64>()
                    } else {
                        values.sum()
                    };
                }
            }
        }
    }
    if importance.squares() {
        scores.iter_mut().for_each(|score| *score = score.sqrt());
    }
    if scores.iter().any(|score| !score.is_finite()) {
        let message = "weights and activations are so large that the importance of a channel is not finite";
        return Err(Error::unsupported(message).at(format!("channel group `{}`", group.id)));
    }
    Ok(judged.then_some(scores))
}

/// What tensors are to the nodes that read them.
struct Roles {
    weights: HashSet<(String, usize)>,
    scales: HashSet<String>,
    offsets: HashSet<String>,
    floats: HashSet<String>,
}

impl Roles {
    fn of(graph: &Graph, weights: &[Weight]) -> Self {
        let mut roles = Self {
            weights: HashSet::new(),
            scales: HashSet::new(),
            offsets: HashSet::new(),
            floats: HashSet::new(),
        };
        for weight in weights {
            roles.weights.insert((weight.tensor.clone(), weight.input_axis));
            roles.weights.insert((weight.tensor.clone(), weight.output_axis));
        }
        for node in graph.nodes.iter().filter(|node| node.is("BatchNormalization")) {
            roles.scales.extend(node.input(1).map(str::to_owned));
            roles.offsets.extend(node.input(2).map(str::to_owned));
        }
        let names = graph.initializers.keys().map(String::as_str);
        let constants = graph
            .nodes
            .iter()
            .filter(|node| node.is("Constant"))
            .map(|node| node.id());
        for name in names.chain(constants) {
            if stored(graph, name).is_ok_and(|tensor| tensor.is_some_and(|tensor| tensor.dtype().is_float())) {
                roles.floats.insert(name.to_owned());
            }
        }
        roles
    }

    fn part(&self, group: &ChannelGroup, slice: &TensorSlice) -> Option<Part> {
        let name = &slice.tensor;
        if !self.floats.contains(name) {
            None
        } else if group
            .producers
            .iter()
            .any(|p| p.weight == *name && p.axis == slice.axis)
        {
            Some(Part::Making)
        } else if self.weights.contains(&(name.clone(), slice.axis)) {
            Some(Part::Reading)
        } else if self.scales.contains(name) {
            Some(Part::Scale)
        } else if self.offsets.contains(name) {
            Some(Part::Offset)
        } else {
            None
        }
    }
}
