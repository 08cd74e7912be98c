//! Batch normalizations, folded into the convolutions before them: they would stand between integer kernels, and their
//! four numbers a channel cost bytes.

use kmr_sdk::{
    Result,
    model::{DType, Edit, Graph, GraphIndex, Node, Patch, Tensor},
};

use crate::values::finite;

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
    let hidden = |value: &str| !index.is_captured(value) && graph.outputs.iter().all(|output| output.name() != value);
    let own = |name: &str| {
        let float = graph.tensor(name).is_some_and(|tensor| tensor.dtype() == DType::FLOAT);
        float && index.consumers(name).len() == 1 && !index.is_captured(name)
    };
    let single = convolution.is("Conv") && index.consumers(convolution.id()).len() == 1;
    let stored = (1..=4).all(|slot| node.input(slot).is_some_and(own))
        && convolution.input(1).is_some_and(own)
        && convolution.input(2).is_none_or(own);
    if !(inference && single && stored && hidden(convolution.id()) && hidden(output)) {
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
    let shape = graph
        .tensor(weight_name)
        .map_or_else(Vec::new, |tensor| tensor.shape().to_vec());
    let per_row = weight.len() / factors.len().max(1);
    let fits = shape.first() == Some(&factors.len()) && [&beta, &mean].iter().all(|list| list.len() == factors.len());
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
    let shifted = Tensor::from_vec(vec![factors.len()], shifted.collect::<Vec<f32>>());
    let mut store = |name: &str, tensor: Tensor| {
        patch.push(Edit::StoreTensor {
            name: name.to_owned(),
            tensor,
        });
    };
    store(weight_name, Tensor::from_vec(shape, scaled.collect::<Vec<f32>>()));
    // The normalization's own shift becomes the bias where there is none.
    let kept = convolution.input(2).or(normalization.input(2)).unwrap_or_default();
    store(kept, shifted);
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
