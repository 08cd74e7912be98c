//! Cross-layer equalization: convolutions in a row share the range of their channels fairly, so that one scale fits all
//! (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019).

use std::collections::BTreeMap;

use kmr_methods::equalize::cross_layer;
use kmr_sdk::{
    Error, Result,
    model::{Graph, GraphIndex, Node, Patch},
};

use crate::values::{finite, inner, own, raise_to_magnitudes, with_values};

/// How often ranges go through all pairs: each pass takes them further along a row of convolutions.
const PASSES: usize = 4;

/// A convolution whose outputs one other alone reads, through a rectifier at most.
struct Pair {
    producer: String,
    bias: Option<String>,
    consumer: String,
    channels: usize,
}

/// Edits that equalize all pairs of convolutions of `graph`. The model computes the same.
///
/// # Errors
/// If a weight is not finite.
pub fn patch(graph: &Graph) -> Result<Patch> {
    let index = graph.index();
    let pairs: Vec<Pair> = graph
        .nodes
        .iter()
        .filter_map(|node| pair(graph, &index, node))
        .collect();
    let mut tensors: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for pair in &pairs {
        for name in [Some(&pair.producer), pair.bias.as_ref(), Some(&pair.consumer)]
            .into_iter()
            .flatten()
        {
            tensors.insert(name, finite(graph, name)?);
        }
    }
    for _ in 0..PASSES {
        for pair in &pairs {
            let per_output = tensors[pair.producer.as_str()].len() / pair.channels;
            let mut made = vec![0.0_f32; pair.channels];
            raise_to_magnitudes(&mut made, &tensors[pair.producer.as_str()], per_output);
            let taps = inner(graph, &pair.consumer, 1);
            let mut read = vec![0.0_f32; pair.channels];
            raise_to_magnitudes(&mut read, &tensors[pair.consumer.as_str()], taps);
            let factors = cross_layer(&made, &read).map_err(|error| Error::unsupported(error.to_string()))?;
            let mut scale = |name: &str, by: &dyn Fn(usize) -> f32| {
                if let Some(values) = tensors.get_mut(name) {
                    values.iter_mut().enumerate().for_each(|(at, value)| *value *= by(at));
                }
            };
            scale(&pair.producer, &|at| 1.0 / factors[at / per_output]);
            scale(&pair.consumer, &|at| factors[at / taps % pair.channels]);
            if let Some(bias) = &pair.bias {
                scale(bias, &|at| 1.0 / factors[at]);
            }
        }
    }
    let mut patch = Patch::new();
    for (name, values) in tensors {
        patch.push(with_values(graph, name, values)?);
    }
    Ok(patch)
}

fn pair(graph: &Graph, index: &GraphIndex<'_>, producer: &Node) -> Option<Pair> {
    let alone = |value: &str| match index.sole_consumer(value) {
        Some((reader, 0)) => Some(&*graph.nodes[reader]),
        _ => None,
    };
    let own = |name: &str| own(graph, index, name);
    let mut next = alone(producer.id()).filter(|_| producer.is("Conv"))?;
    if next.is("Relu") {
        next = alone(next.id())?;
    }
    let first = own(producer.input(1)?)?;
    let second = next.is("Conv").then(|| own(next.input(1)?)).flatten()?;
    let channels = *first.shape().first()?;
    let groups = usize::try_from(next.int("group").unwrap_or(1)).ok()?;
    let per_group = *second.shape().get(1)?;
    // Of one group, or each channel a group of its own with one output.
    let reads_all = groups == 1 && per_group == channels;
    let one_each = groups == channels && per_group == 1 && second.shape()[0] == channels;
    let bias = match producer.input(2) {
        None => None,
        Some(name) => Some(
            own(name)
                .filter(|bias| bias.shape() == [channels])
                .map(|_| name.to_owned())?,
        ),
    };
    (channels > 0 && (reads_all || one_each)).then(|| Pair {
        producer: producer.input(1).unwrap_or_default().to_owned(),
        bias,
        consumer: next.input(1).unwrap_or_default().to_owned(),
        channels,
    })
}
