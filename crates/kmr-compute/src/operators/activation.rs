//! Functions of single elements.

use burn::backend::{
    Scalar,
    ops::{ActivationOps, FloatTensorOps},
};
use kmr_model::Tensor;

use super::{Operator, arithmetic, onnx};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Relu", |call| map(call, B::relu)),
    onnx("LeakyRelu", |call| {
        let slope = call.float_attribute("alpha", 0.01);
        map(call, |x| B::leaky_relu(x, scalar(slope)))
    }),
    onnx("Sigmoid", |call| map(call, B::sigmoid)),
    onnx("HardSigmoid", |call| {
        let alpha = call.float_attribute("alpha", 0.2);
        let beta = call.float_attribute("beta", 0.5);
        map(call, |x| hard_sigmoid(x, alpha, beta))
    }),
    onnx("HardSwish", |call| {
        map(call, |x| B::float_mul(x.clone(), hard_sigmoid(x, 1.0 / 6.0, 0.5)))
    }),
    onnx("Tanh", |call| map(call, B::float_tanh)),
    onnx("Gelu", gelu),
    onnx("Erf", |call| map(call, B::float_erf)),
    onnx("Exp", |call| map(call, B::float_exp)),
    onnx("Log", |call| map(call, B::float_log)),
    onnx("Sqrt", |call| map(call, B::float_sqrt)),
    onnx("Reciprocal", |call| map(call, B::float_recip)),
    onnx("Softplus", |call| {
        // max(x, 0) + log(1 + exp(-|x|)) does not overflow.
        map(call, |x| {
            let tail = B::float_exp(B::float_neg(B::float_abs(x.clone())));
            B::float_add(B::relu(x), B::float_log1p(tail))
        })
    }),
    onnx("Clip", clip),
];

pub fn scalar(value: f32) -> Scalar {
    Scalar::Float(f64::from(value))
}

/// Applies a function to the one input.
pub fn map(call: &mut Call<'_>, function: impl FnOnce(Float) -> Float) -> Outputs {
    let x = call.float(0)?;
    Ok(vec![Value::Float(function(x))])
}

fn hard_sigmoid(x: Float, alpha: f32, beta: f32) -> Float {
    let line = B::float_add_scalar(B::float_mul_scalar(x, scalar(alpha)), scalar(beta));
    B::float_clamp(line, scalar(0.0), scalar(1.0))
}

fn gelu(call: &mut Call<'_>) -> Outputs {
    match call.node.string("approximate").unwrap_or("none") {
        "none" => map(call, B::gelu),
        "tanh" => map(call, |x| {
            let cube = B::float_mul(B::float_mul(x.clone(), x.clone()), x.clone());
            let inner = B::float_add(x.clone(), B::float_mul_scalar(cube, scalar(0.044_715)));
            let factor = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = B::float_tanh(B::float_mul_scalar(inner, Scalar::Float(factor)));
            let half = B::float_mul_scalar(x, scalar(0.5));
            B::float_mul(half, B::float_add_scalar(tanh, scalar(1.0)))
        }),
        other => Err(call.unsupported(format!("approximation `{other}` is not known"))),
    }
}

fn clip(call: &mut Call<'_>) -> Outputs {
    let bound = |call: &mut Call<'_>, position: usize| -> Result<Option<Tensor>, ComputeError> {
        if !call.has(position) {
            return Ok(None);
        }
        let bound = call.constant(position)?;
        if bound.len() != 1 {
            return Err(call.wrong(format!("a bound is one number; got {:?}", bound.shape())));
        }
        Ok(Some(bound))
    };
    let (low, high) = if call.opset < 11 {
        let attribute = |name: &str| call.node.float(name).map(Tensor::scalar);
        (attribute("min"), attribute("max"))
    } else {
        (bound(call, 1)?, bound(call, 2)?)
    };
    match call.value(0)? {
        Value::Host(tensor) if !tensor.dtype().is_float() => {
            arithmetic::clip_integers(call, &tensor, low.as_ref(), high.as_ref())
        }
        value => {
            let mut x = call.widened(value)?;
            let number = |bound: Tensor| -> Result<f32, ComputeError> {
                let values = bound.to_f32().map_err(|e| call.wrong(e.to_string()))?;
                Ok(values[0])
            };
            let (low, high) = (low.map(number).transpose()?, high.map(number).transpose()?);
            if let Some(low) = low {
                x = B::float_clamp_min(x, scalar(low));
            }
            if let Some(high) = high {
                x = B::float_clamp_max(x, scalar(high));
            }
            Ok(vec![Value::Float(x)])
        }
    }
}
