//! Layers of routed experts, and what is written in their place.

use kmr_sdk::{
    Ignore, Result,
    model::{
        Edit, Graph, Patch, Tensor,
        experts::{FoundExperts, Linear, find},
    },
};

use crate::{knob::Place, network::Weights};

/// The layers of routed experts that may be changed.
///
/// # Errors
/// If a pattern of `ignore` matches nothing.
pub fn routed(graph: &Graph, ignore: &Ignore) -> Result<Vec<FoundExperts>> {
    let found = find(graph);
    ignore.check(found.iter().flat_map(names))?;
    Ok(found.into_iter().filter(|found| !ignore.covers(names(found))).collect())
}

/// What a layer can be named by.
fn names(found: &FoundExperts) -> impl Iterator<Item = &str> + Clone {
    [
        found.label(),
        found.experts.router.scores.weight.as_str(),
        found.experts.output.as_str(),
    ]
    .into_iter()
}

/// Where a knob of a layer's experts is turned, with the counts that have an effect.
pub fn place(found: &FoundExperts, counts: std::ops::Range<usize>) -> Place {
    Place {
        id: found.experts.router.scores.weight.clone(),
        label: found.label().to_owned(),
        layers: vec![found.top_k.clone()],
        counts,
    }
}

/// Stores `weights` as the tensors of `linear`.
pub fn store(patch: &mut Patch, linear: &Linear, weights: &Weights) {
    let mut edit = |name: &str, tensor: Tensor| {
        patch.push(Edit::StoreTensor {
            name: name.into(),
            tensor,
        })
    };
    let (shape, matrix) = weights.stored(linear.outputs_first);
    edit(&linear.weight, Tensor::from_vec(shape, matrix));
    if let (Some(name), Some(bias)) = (&linear.bias, &weights.bias) {
        edit(name, Tensor::from_vec(vec![bias.len()], bias.clone()));
    }
}
