//! Batch normalizations, folded into the convolutions before them: they would stand between integer kernels, and their
//! four numbers a channel cost bytes.

use kmr_sdk::{
    Result,
    model::{Edit, Graph, GraphIndex, Node, Patch},
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
    patch.push(with_values(graph, weight_name, scaled.collect()));
    // The normalization's own shift becomes the bias where there is none.
    let kept = convolution.input(2).or(normalization.input(2)).unwrap_or_default();
    patch.push(with_values(graph, kept, shifted.collect()));
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
