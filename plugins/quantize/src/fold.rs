//! Batch normalizations, and stored factors and shifts, folded into the convolutions before them: they would stand
//! between kernels, and their numbers cost bytes.

use kmr_sdk::{
    Result,
    model::{Build, Edit, Graph, GraphIndex, Node, Patch, Tensor},
};

use crate::values::{finite, own, with_values};

/// A batch normalization that a convolution can take over.
struct Foldable<'g> {
    convolution: &'g Node,
    normalization: &'g Node,
    readers: Vec<(String, usize)>,
}

/// Edits that fold every batch normalization that can be: it must be the only reader of a Conv whose weight, bias and
/// own four tensors are float32 initializers of their own, and be no output of the model.
///
/// # Errors
/// If a weight is not finite.
pub fn batch_norms(graph: &Graph) -> Result<Patch> {
    let index = graph.index();
    let mut patch = Patch::new();
    for node in graph.nodes.iter().filter(|node| node.is("BatchNormalization")) {
        if let Some(foldable) = foldable(graph, &index, node) {
            fold(graph, &foldable, &mut patch)?;
        }
    }
    Ok(patch)
}

fn foldable<'g>(graph: &'g Graph, index: &GraphIndex<'_>, node: &'g Node) -> Option<Foldable<'g>> {
    let inference = node.int("training_mode").unwrap_or(0) == 0 && node.outputs().len() == 1;
    let convolution = &**graph.nodes.get(index.producer(node.input(0)?)?)?;
    let output = node.id();
    let own = |name: &str| own(graph, index, name).is_some();
    let stored = (1..=4).all(|slot| node.input(slot).is_some_and(own))
        && convolution.input(1).is_some_and(own)
        && convolution.input(2).is_none_or(own);
    let single = convolution.is("Conv") && index.sole_consumer(convolution.id()).is_some();
    if !(inference && single && stored && index.is_inner(output)) {
        return None;
    }
    let readers = index.consumers(output).iter();
    let readers = readers.map(|&(reader, slot)| (graph.nodes[reader].id().to_owned(), slot));
    Some(Foldable {
        convolution,
        normalization: node,
        readers: readers.collect(),
    })
}

/// W' = W γ/√(σ² + ε) and b' = β + (b − μ) γ/√(σ² + ε), in float64.
fn fold(graph: &Graph, foldable: &Foldable<'_>, patch: &mut Patch) -> Result<()> {
    let Foldable {
        convolution,
        normalization,
        readers,
    } = foldable;
    let values = |node: &Node, slot: usize| finite(graph, node.input(slot).unwrap_or_default());
    let [gamma, beta, mean, variance] = [1, 2, 3, 4].map(|slot| values(normalization, slot));
    let (gamma, beta, mean, variance) = (gamma?, beta?, mean?, variance?);
    let epsilon = f64::from(normalization.float("epsilon").unwrap_or(1e-5));
    let factors: Vec<f64> = gamma
        .iter()
        .zip(&variance)
        .map(|(&gamma, &variance)| f64::from(gamma) / (f64::from(variance) + epsilon).sqrt())
        .collect();
    let weight_name = convolution.input(1).unwrap_or_default();
    let weight = values(convolution, 1)?;
    let per_row = weight.len() / factors.len().max(1);
    let rows = graph
        .tensor(weight_name)
        .and_then(|tensor| tensor.shape().first().copied());
    let fits = rows == Some(factors.len()) && [&beta, &mean].iter().all(|list| list.len() == factors.len());
    if !fits || per_row == 0 {
        return Ok(());
    }
    let bias = match convolution.input(2) {
        Some(_) => values(convolution, 2)?,
        None => vec![0.0; factors.len()],
    };
    if bias.len() != factors.len() {
        return Ok(());
    }
    let scaled = weight.chunks(per_row).zip(&factors);
    let scaled = scaled.flat_map(|(row, &factor)| row.iter().map(move |&value| (f64::from(value) * factor) as f32));
    let shifted = (0..factors.len()).map(|channel| {
        let bias = f64::from(bias[channel]) - f64::from(mean[channel]);
        (f64::from(beta[channel]) + bias * factors[channel]) as f32
    });
    patch.push(with_values(graph, weight_name, scaled.collect())?);
    // The normalization's own shift becomes the bias where there is none.
    let kept = convolution.input(2).or(normalization.input(2)).unwrap_or_default();
    patch.push(with_values(graph, kept, shifted.collect())?);
    for (node, input) in readers {
        patch.push(Edit::Rewire {
            node: node.clone(),
            input: *input,
            value: convolution.id().to_owned(),
        });
    }
    patch.push(Edit::RemoveNode {
        node: normalization.id().to_owned(),
    });
    if convolution.input(2).is_none() {
        patch.push(Edit::Rewire {
            node: convolution.id().to_owned(),
            input: 2,
            value: kept.to_owned(),
        });
    }
    for slot in 1..=4 {
        let name = normalization.input(slot).unwrap_or_default();
        if name != kept {
            patch.push(Edit::RemoveTensor { name: name.to_owned() });
        }
    }
    Ok(())
}

/// Edits that fold a Mul or Add of stored numbers, one for each channel or one for all, into every Conv that nothing else
/// reads and whose weight and bias are float32 initializers of its own. What follows it takes another call.
///
/// # Errors
/// If a weight is not finite.
pub fn affine(graph: &Graph) -> Result<Patch> {
    let index = graph.index();
    let mut build = Build::on(graph);
    for convolution in graph.nodes.iter().filter(|node| node.is("Conv")) {
        let Some((reader, _)) = index.sole_consumer(convolution.id()) else {
            continue;
        };
        let node = &*graph.nodes[reader];
        let own = |name: &str| own(graph, &index, name).is_some();
        let (weight, bias) = (convolution.input(1).filter(|name| own(name)), convolution.input(2));
        let Some(weight) = weight.filter(|_| bias.is_none_or(own) && index.is_inner(node.id())) else {
            continue;
        };
        let other = node.inputs().iter().find(|input| *input != convolution.id());
        let Some(numbers) = other.and_then(|name| channel_numbers(graph, &index, name, weight)) else {
            continue;
        };
        let biases = || bias.map(|name| finite(graph, name)).transpose();
        match node.op_type() {
            "Mul" => {
                let values = finite(graph, weight)?;
                let inner = values.len() / numbers.values.len().max(1);
                let scaled = |values: Vec<f32>, inner: usize| {
                    let values = values.into_iter().enumerate();
                    values.map(|(at, value)| value * numbers.values[at / inner]).collect()
                };
                if let (Some(name), Some(values)) = (bias, biases()?) {
                    build.edit(with_values(graph, name, scaled(values, 1))?);
                }
                build.edit(with_values(graph, weight, scaled(values, inner))?);
            }
            "Add" => match (bias, biases()?) {
                (Some(name), Some(values)) => {
                    let shifted = values.iter().zip(&numbers.values).map(|(value, shift)| value + shift);
                    build.edit(with_values(graph, name, shifted.collect())?);
                }
                _ => {
                    let shifts = Tensor::from_vec(vec![numbers.values.len()], numbers.values.clone());
                    let name = build.tensor(&format!("{weight}_bias"), shifts);
                    build.rewire(convolution.id(), 2, &name);
                }
            },
            _ => continue,
        }
        for &(position, slot) in index.consumers(node.id()) {
            build.rewire(graph.nodes[position].id(), slot, convolution.id());
        }
        for node in [Some(node), numbers.shaped].into_iter().flatten() {
            build.edit(Edit::RemoveNode {
                node: node.id().to_owned(),
            });
        }
        for name in numbers.unread {
            build.edit(Edit::RemoveTensor { name: name.to_owned() });
        }
    }
    Ok(build.finish())
}

/// Stored numbers that go with the channels of a convolution.
struct ChannelNumbers<'g> {
    /// One for each channel.
    values: Vec<f32>,
    /// The Reshape that gives them the shape of channels, if there is one.
    shaped: Option<&'g Node>,
    /// The initializers that are read for them alone.
    unread: Vec<&'g str>,
}

/// The numbers in `name`, where they go with the channels that `weight` makes.
fn channel_numbers<'g>(
    graph: &'g Graph,
    index: &GraphIndex<'_>,
    name: &'g str,
    weight: &str,
) -> Option<ChannelNumbers<'g>> {
    let weight = graph.tensor(weight)?.shape();
    let (channels, spatial) = (*weight.first()?, weight.len() - 2);
    let shaped = index.producer(name).map(|producer| &*graph.nodes[producer]);
    let (stored, shape) = match shaped {
        None => (name, graph.tensor(name)?.shape().to_vec()),
        Some(node) if node.is("Reshape") && index.sole_consumer(name).is_some() => {
            let stored = node.input(0)?;
            let count = graph.tensor(stored)?.len();
            let sizes = graph.tensor(node.input(1)?)?;
            let sizes = sizes.to_i64().ok()?.into_iter().map(|size| match size {
                -1 if count == channels => Some(channels),
                size => usize::try_from(size).ok().filter(|&size| size > 0),
            });
            (stored, sizes.collect::<Option<Vec<usize>>>()?)
        }
        Some(_) => return None,
    };
    let values = finite(graph, stored).ok()?;
    let axes = shape.iter().rev().enumerate().filter(|(_, size)| **size > 1);
    let values = match *axes.collect::<Vec<_>>() {
        [] if values.len() == 1 && shape.len() <= spatial + 2 => vec![values[0]; channels],
        [(axis, &size)] if axis == spatial && size == channels && values.len() == channels => values,
        _ => return None,
    };
    let mut unread = vec![stored];
    unread.extend(shaped.and_then(|node| node.input(1)));
    unread.retain(|name| index.sole_consumer(name).is_some());
    Some(ChannelNumbers { values, shaped, unread })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{answer, apart, graph, node, operators, tensor};

    #[test]
    fn stored_factors_and_shifts_become_part_of_the_convolution() {
        let initializers = [
            ("weight", tensor(&[3, 2, 3, 3])),
            ("factor", Tensor::from_vec(vec![1], vec![-1.5_f32])),
            ("shift", tensor(&[1, 3, 1, 1])),
            ("bias", tensor(&[3])),
            ("sizes", Tensor::from_vec(vec![4], vec![1_i64, -1, 1, 1])),
        ];
        let nodes = vec![
            node("Conv", &["x", "weight"], "convolved"),
            node("Mul", &["convolved", "factor"], "scaled"),
            node("Add", &["shift", "scaled"], "shifted"),
            node("Reshape", &["bias", "sizes"], "shaped"),
            node("Add", &["shifted", "shaped"], "summed"),
            node("Relu", &["summed"], "y"),
        ];
        let before = graph(&[1, 2, 5, 5], &initializers, nodes);
        let mut after = before.clone();
        for _ in 0..3 {
            let patch = affine(&after).unwrap();
            assert!(!patch.edits.is_empty());
            after = patch.apply(&after).unwrap();
        }
        assert!(affine(&after).unwrap().edits.is_empty());
        assert_eq!(operators(&after), ["Conv", "Relu"]);
        assert_eq!(after.initializers.len(), 2, "a weight and a bias");
        let x = tensor(&[1, 2, 5, 5]);
        assert!(apart(&answer(&before, &x), &answer(&after, &x)) < 1e-5);
    }

    #[test]
    fn numbers_that_vary_over_places_stay() {
        for shape in [&[5, 5][..], &[1, 5], &[3], &[2, 3, 1, 1]] {
            let initializers = [("weight", tensor(&[3, 2, 1, 1])), ("numbers", tensor(shape))];
            let nodes = vec![
                node("Conv", &["x", "weight"], "convolved"),
                node("Mul", &["convolved", "numbers"], "scaled"),
                node("Relu", &["scaled"], "y"),
            ];
            // Three is the last axis, too.
            let across = if shape == [3] { 3 } else { 5 };
            let graph = graph(&[2, 2, 5, across], &initializers, nodes);
            assert!(affine(&graph).unwrap().edits.is_empty(), "{shape:?}");
        }
    }
}
