//! Detection heads, samplers and losses.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Types::*, contradiction, rule, several, show, single, sizes},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "NonMaxSuppression" => rule(Always(DType::INT64), |_| single(vec![Dim::Unknown, Dim::Fixed(3)])),
        "RoiAlign" => rule(Same(&[0, 1]), |context| {
            let size = |name| context.int(name, 1).into();
            regions(context, vec![size("output_height"), size("output_width")])
        }),
        "MaxRoiPool" => rule(Same(&[0, 1]), |context| {
            let pooled = sizes("pooled_shape", context.node.ints("pooled_shape").unwrap_or_default())?;
            regions(context, pooled.into_iter().map(Dim::from).collect())
        }),
        "GridSample" => rule(Same(&[0]), sample),
        "AffineGrid" => rule(Same(&[0]), grid),
        "NegativeLogLikelihoodLoss" => rule(Same(&[0, 2]), |context| single(loss(context)?)),
        "SoftmaxCrossEntropyLoss" => rule(Same(&[0, 2]), |context| {
            several([loss(context)?, context.shape(0)?.to_vec()])
        }),
        "ImageDecoder" => rule(Always(DType::UINT8), |context| {
            let channels = match context.node.string("pixel_format") {
                Some("Grayscale") => 1,
                _ => 3,
            };
            single(vec![Dim::Unknown, Dim::Unknown, Dim::Fixed(channels)])
        }),
        _ => None,
    }
}

/// One window of `size` for each region, from each channel.
fn regions(context: &Context, size: Vec<Dim>) -> Outputs {
    let channels = match context.optional_shape(0) {
        Some([_, channels, ..]) => channels.clone(),
        _ => Dim::Unknown,
    };
    let count = match context.optional_shape(1) {
        Some([count, ..]) => count.clone(),
        _ => Dim::Unknown,
    };
    single([vec![count, channels], size].concat())
}

fn sample(context: &Context) -> Outputs {
    let (input, grid) = (context.shape(0)?, context.shape(1)?);
    let ([batch, channels, ..], [_, places @ .., _], true) = (input, grid, input.len() == grid.len()) else {
        return contradiction(format!(
            "a grid of shape {} does not fit shape {}",
            show(grid),
            show(input)
        ));
    };
    let batch = batch.unify(&grid[0]).unwrap_or(Dim::Unknown);
    single([&[batch, channels.clone()], places].concat())
}

fn grid(context: &Context) -> Outputs {
    match context.list(1)?.as_slice() {
        [batch, _, places @ ..] if matches!(places.len(), 2 | 3) => {
            let axes = Dim::from(places.len());
            single([std::slice::from_ref(batch), places, &[axes]].concat())
        }
        other => contradiction(format!("makes grids for rank 4 and 5; got {}", show(other))),
    }
}

fn loss(context: &Context) -> Result<Vec<Dim>, super::context::Stop> {
    match context.node.string("reduction").unwrap_or("mean") {
        "none" => Ok(context.shape(1)?.to_vec()),
        _ => Ok(Vec::new()),
    }
}
