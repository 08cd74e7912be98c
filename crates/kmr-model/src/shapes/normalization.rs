//! Normalizations.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Stop, Types::*, axis, contradiction, rule, several, show, single},
    elementwise::fits_in,
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "BatchNormalization" => rule(By(batch_types), batch),
        "InstanceNormalization" => rule(Same(&[0, 1, 2]), |context| {
            per_channel(context, &[1, 2])?;
            single(context.shape(0)?.to_vec())
        }),
        // Up to operator set 20, it had a scale per group.
        "GroupNormalization" => rule(Same(&[0, 1, 2]), |context| {
            per_channel(context, if context.opset < 21 { &[] } else { &[1, 2] })?;
            single(context.shape(0)?.to_vec())
        }),
        "LayerNormalization" | "SimplifiedLayerNormalization" => rule(By(layer_types), layer),
        "RMSNormalization" => rule(Same(&[1]), layer),
        _ => None,
    }
}

fn batch_types(context: &Context) -> Vec<Option<DType>> {
    let statistics = context.dtype(3).or(context.dtype(4));
    let mut types = vec![statistics; context.node.outputs().len()];
    types[0] = context.dtype(0);
    types
}

/// The statistics are in the precision of `stash_type`.
fn layer_types(context: &Context) -> Vec<Option<DType>> {
    let stash = i32::try_from(context.int("stash_type", 1)).ok().map(DType::from_number);
    vec![context.dtype(0).or(context.dtype(1)), stash, stash]
}

/// Checks that the inputs at `parameters` have one element per channel of `[N, C, ...]`.
fn per_channel(context: &Context, parameters: &[usize]) -> Result<Dim, Stop> {
    let mut channels = match context.shape(0)? {
        [_, channels, ..] => channels.clone(),
        // ONNX lets a batch normalization of rank 1 have one channel.
        _ => Dim::Fixed(1),
    };
    for &position in parameters {
        match context.optional_shape(position) {
            Some([size]) if size.unify(&channels).is_some() => {
                channels = size.unify(&channels).unwrap_or(Dim::Unknown);
            }
            Some(shape) => {
                return contradiction(format!(
                    "input {position} has shape {}; the input has {channels} channels",
                    show(shape)
                ));
            }
            None => {}
        }
    }
    Ok(channels)
}

fn batch(context: &Context) -> Outputs {
    let channels = per_channel(context, &[1, 2, 3, 4])?;
    let statistics = vec![vec![channels]; context.node.outputs().len().saturating_sub(1)];
    several([context.shape(0)?.to_vec()].into_iter().chain(statistics))
}

fn layer(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let first = axis(context.int("axis", -1), input.len())?;
    if let Some(scale) = context.optional_shape(1)
        && !fits_in(scale, input)
    {
        return contradiction(format!(
            "a scale of shape {} does not fit an input of shape {}",
            show(scale),
            show(input)
        ));
    }
    let mut reduced = input.to_vec();
    reduced[first..].fill(Dim::Fixed(1));
    several([input.to_vec(), reduced.clone(), reduced])
}
