//! Cross-layer equalization: convolutions in a row share the range of their channels fairly, so that one scale fits all
//! (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019).

use std::collections::BTreeMap;

use kmr_methods::equalize::cross_layer;
use kmr_sdk::{
    Error, Result,
    model::{DType, Edit, Graph, GraphIndex, Node, Patch, Tensor},
};

use crate::values::finite;

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
    let largest = |values: &[f32]| values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    for _ in 0..PASSES {
        for pair in &pairs {
            let per_output = tensors[pair.producer.as_str()].len() / pair.channels;
            let made: Vec<f32> = tensors[pair.producer.as_str()]
                .chunks(per_output)
                .map(largest)
                .collect();
            let taps = taps(graph, &pair.consumer);
            let mut read = vec![0.0_f32; pair.channels];
            for (at, value) in tensors[pair.consumer.as_str()].iter().enumerate() {
                let most = &mut read[at / taps % pair.channels];
                *most = most.max(value.abs());
            }
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
        let shape = graph
            .tensor(name)
            .map_or_else(Vec::new, |tensor| tensor.shape().to_vec());
        patch.push(Edit::StoreTensor {
            name: name.to_owned(),
            tensor: Tensor::from_vec(shape, values),
        });
    }
    Ok(patch)
}

/// Elements of a consumer's weight that one input channel has next to each other.
fn taps(graph: &Graph, weight: &str) -> usize {
    graph
        .tensor(weight)
        .map_or(1, |tensor| tensor.shape()[2..].iter().product::<usize>().max(1))
}

fn pair(graph: &Graph, index: &GraphIndex<'_>, producer: &Node) -> Option<Pair> {
    let alone = |value: &str| {
        let hidden = !index.is_captured(value) && graph.outputs.iter().all(|output| output.name() != value);
        match index.consumers(value) {
            &[(reader, 0)] if hidden => Some(&*graph.nodes[reader]),
            _ => None,
        }
    };
    let own = |name: &str| {
        let tensor = graph.tensor(name).filter(|tensor| tensor.dtype() == DType::FLOAT)?;
        (index.consumers(name).len() == 1 && !index.is_captured(name)).then_some(tensor)
    };
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
