//! Losses of class indices, on Burn's operations, which have derivatives.

use burn::backend::ops::{ActivationOps, FloatTensorOps, IntTensorOps};

use super::{Operator, onnx};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Value, from_vec, indices, mask, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("NegativeLogLikelihoodLoss", |call| {
        let x = call.float(0)?;
        Ok(vec![Value::Float(likelihood(call, x)?)])
    }),
    onnx("SoftmaxCrossEntropyLoss", |call| {
        let x = call.float(0)?;
        let full = shape(&x);
        if full.len() < 2 || full.contains(&0) {
            return Err(call.unsupported(format!("scores of {full:?}")));
        }
        let logarithms = B::log_softmax(x, 1);
        let loss = likelihood(call, logarithms.clone())?;
        Ok(vec![Value::Float(loss), Value::Float(logarithms)])
    }),
];

/// The negative logarithms `[batch, classes, ...]` at the classes of input 1, `[batch, ...]`, weighted and reduced.
fn likelihood(call: &mut Call<'_>, x: Float) -> Result<Float, ComputeError> {
    let full = shape(&x);
    let target = call.tensor(1)?;
    let weights = call.has(2).then(|| call.constant(2)).transpose()?;
    if full.len() < 2 || full.contains(&0) {
        return Err(call.unsupported(format!("scores of {full:?}")));
    }
    let (batch, classes) = (full[0], full[1]);
    let rest: usize = full[2..].iter().product();
    let mut expected = vec![batch];
    expected.extend_from_slice(&full[2..]);
    let weights = match &weights {
        Some(weights) => weights.to_f32().map_err(|e| call.wrong(e.to_string()))?.into_owned(),
        None => vec![1.0; classes],
    };
    if target.shape() != expected || weights.len() != classes {
        return Err(call.wrong(format!(
            "scores of {full:?} with classes of {:?} and {} weights",
            target.shape(),
            weights.len()
        )));
    }
    let ignored = call.node.int("ignore_index");
    let target = target.to_i64().map_err(|e| call.wrong(e.to_string()))?;
    let mut places = Vec::with_capacity(target.len());
    let mut factors = Vec::with_capacity(target.len());
    for &class in &target {
        if Some(class) == ignored {
            places.push(0);
            factors.push(0.0);
            continue;
        }
        let weight = usize::try_from(class).ok().and_then(|class| weights.get(class));
        factors.push(*weight.ok_or_else(|| call.wrong(format!("class {class} lies outside {classes}")))?);
        places.push(class);
    }
    let places = B::int_reshape(indices(places), vec![batch, 1, rest].into());
    let picked = B::float_gather(1, reshape(x, vec![batch, classes, rest]), places);
    // What is ignored counts nothing, whatever its score is.
    let line = vec![batch, 1, rest];
    let skipped = target.iter().map(|&class| Some(class) == ignored).collect();
    let zeros = from_vec(vec![0.0; batch * rest], line.clone());
    let picked = B::float_mask_where(picked, mask(skipped, line.clone()), zeros);
    let total: f64 = factors.iter().map(|&factor| f64::from(factor)).sum();
    let negative = factors.iter().map(|factor| -factor).collect();
    let losses = B::float_mul(picked, from_vec(negative, line));
    let sum = |losses: Float| reshape(B::float_sum_dim(reshape(losses, vec![1, batch * rest]), 1), Vec::new());
    match call.node.string("reduction").unwrap_or("mean") {
        "none" => Ok(reshape(losses, expected)),
        "sum" => Ok(sum(losses)),
        "mean" => {
            let factor = from_vec(vec![(1.0 / total) as f32], vec![1]);
            Ok(reshape(B::float_mul(reshape(sum(losses), vec![1]), factor), Vec::new()))
        }
        other => Err(call.wrong(format!("attribute `reduction` is `{other}`"))),
    }
}
