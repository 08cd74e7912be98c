//! Normalizations.

use super::{
    Known,
    context::{Context, Inference, Outputs, axis, contradiction},
};

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "BatchNormalization" => |context| per_channel(context, &[1, 2, 3, 4]),
        "InstanceNormalization" | "GroupNormalization" => |context| per_channel(context, &[]),
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => layer,
        _ => return None,
    })
}

/// A normalization of `[N, C, ...]`; the inputs at `parameters` have one element per channel.
fn per_channel(context: &Context, parameters: &[usize]) -> Outputs {
    let input = context.input(0)?;
    let channels = match input.shape.as_slice() {
        [_, channels, ..] => *channels,
        // ONNX lets a batch normalization of rank 1 have one channel.
        _ => 1,
    };
    // Up to opset 20, GroupNormalization had a scale per group.
    let parameters = if context.node.is("InstanceNormalization") {
        &[1, 2]
    } else {
        parameters
    };
    for &position in parameters {
        let shape = context.shape(position)?;
        if shape != [channels] {
            return contradiction(format!(
                "input {position} has shape {shape:?}; the input has {channels} channels"
            ));
        }
    }
    Ok(vec![Some(Known::new(input.dtype, input.shape.clone()))])
}

fn layer(context: &Context) -> Outputs {
    let (input, scale) = (context.input(0)?, context.shape(1)?);
    let first = axis(context.int("axis", -1), input.shape.len())?;
    if super::elementwise::broadcast(&[&input.shape, scale])? != input.shape {
        return contradiction(format!(
            "a scale of shape {scale:?} does not fit an input of shape {:?}",
            input.shape
        ));
    }
    let mut reduced = input.shape.clone();
    reduced[first..].fill(1);
    let statistics = Known::new(crate::DType::FLOAT, reduced);
    Ok(vec![
        Some(Known::new(input.dtype, input.shape.clone())),
        Some(statistics.clone()),
        Some(statistics),
    ])
}
