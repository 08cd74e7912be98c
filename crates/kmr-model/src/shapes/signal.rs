//! Signal processing.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Stop, Types::*, axis, contradiction, rule, show, single},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "HannWindow" | "HammingWindow" | "BlackmanWindow" => {
            rule(Attribute("output_datatype", DType::FLOAT), |context| {
                single(vec![number(context, 0)?])
            })
        }
        "MelWeightMatrix" => rule(Attribute("output_datatype", DType::FLOAT), |context| {
            let bins = number(context, 1)?.floor_div(2).plus(1);
            single(vec![bins, number(context, 0)?])
        }),
        "DFT" => rule(Same(&[0]), transform),
        "STFT" => rule(Same(&[0]), short_time),
        _ => None,
    }
}

/// A scalar, if it is known.
fn number(context: &Context, position: usize) -> Result<Dim, Stop> {
    match context.scalar(position) {
        Err(Stop::Unknown) => Ok(Dim::Unknown),
        value => value,
    }
}

fn transform(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    if input.len() < 2 {
        return contradiction(format!(
            "needs a signal and its real and imaginary parts; got {}",
            show(input)
        ));
    }
    let (inverse, onesided) = (context.int("inverse", 0) != 0, context.int("onesided", 0) != 0);
    let mut shape = input.to_vec();
    let last = shape.len() - 1;
    let along = match (context.opset >= 20, context.has(2)) {
        (false, _) => Some(context.int("axis", 1)),
        (true, false) => Some(-2),
        (true, true) => number(context, 2)?.fixed().and_then(|axis| i64::try_from(axis).ok()),
    };
    shape[last] = match (inverse, onesided) {
        (true, true) => Dim::Fixed(1),
        _ => Dim::Fixed(2),
    };
    let Some(along) = along else {
        shape[..last].fill(Dim::Unknown);
        return single(shape);
    };
    let along = axis(along, input.len())?;
    if along == last {
        return contradiction("cannot transform the axis of real and imaginary parts");
    }
    let length = match context.has(1) {
        true => Some(number(context, 1)?),
        false => None,
    };
    shape[along] = match (inverse && onesided, onesided, length) {
        // Half of the spectrum gives all of the signal.
        (true, _, None) => input[along].minus(1).times(2),
        (false, true, length) => length.unwrap_or_else(|| input[along].clone()).floor_div(2).plus(1),
        (_, _, Some(length)) => length,
        (_, _, None) => input[along].clone(),
    };
    single(shape)
}

fn short_time(context: &Context) -> Outputs {
    let signal = context.optional_shape(0);
    let step = number(context, 1)?;
    let frame = match (context.has(3), context.has(2), context.optional_shape(2)) {
        (true, ..) => number(context, 3)?,
        (false, true, Some([window])) => window.clone(),
        (false, false, _) => return contradiction("has neither a window nor a frame length"),
        _ => Dim::Unknown,
    };
    let (batch, length) = match signal {
        Some([batch, length, ..]) => (batch.clone(), length.clone()),
        Some(other) => return contradiction(format!("takes rank 3; got shape {}", show(other))),
        None => (Dim::Unknown, Dim::Unknown),
    };
    let frames = match step.fixed() {
        Some(step) if step <= 0 => return contradiction(format!("has a step of {step}")),
        Some(step) => length.minus(&frame).floor_div(step).plus(1),
        None => Dim::Unknown,
    };
    let bins = match context.int("onesided", 1) {
        0 => frame,
        _ => frame.floor_div(2).plus(1),
    };
    single(vec![batch, frames, bins, Dim::Fixed(2)])
}
