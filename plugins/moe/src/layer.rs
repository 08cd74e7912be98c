//! Layers of routed experts, and what is written in their place.

use kmr_sdk::{
    Ignore, Result,
    model::{
        DType, Edit, Graph, GraphIndex, Patch, Tensor,
        experts::{FoundExperts, Linear, find},
        stored::initializer_of,
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

/// Stores `weights` as the tensors of `linear`, in the types that these have.
///
/// # Errors
/// If one of them has no type of floating-point numbers.
pub fn store(
    patch: &mut Patch,
    graph: &Graph,
    index: &GraphIndex<'_>,
    linear: &Linear,
    weights: &Weights,
) -> Result<()> {
    let mut edit = |value: &str, made: &dyn Fn(DType) -> Result<Tensor>| -> Result<()> {
        let held = initializer_of(graph, index, value);
        let (name, dtype) = held.map_or((value, DType::FLOAT), |(name, tensor)| (name, tensor.dtype()));
        patch.push(Edit::StoreTensor {
            name: name.into(),
            tensor: made(dtype)?,
        });
        Ok(())
    };
    edit(&linear.weight, &|dtype| weights.stored(linear.outputs_first, dtype))?;
    if let (Some(value), Some(bias)) = (&linear.bias, &weights.bias) {
        edit(value, &|dtype| {
            Ok(Tensor::from_f32(dtype, vec![bias.len()], bias.clone())?)
        })?;
    }
    Ok(())
}
