//! Functions of single elements: of float32 on the device, of float64 on the host.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::backend::{
    Scalar,
    ops::{ActivationOps, BoolTensorOps, FloatTensorOps},
};
use kmr_model::{DType, Tensor};

use super::{
    Operator,
    arithmetic::{aligned, boolean, unary},
    cast,
    host::{self, Number, map_numbers, with_number, zip_numbers},
    onnx,
};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Recorded, Value, from_vec, kernel_error, reshape, shape, with_slice},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Sin", |call| map(call, B::float_sin, f64::sin)),
    onnx("Cos", |call| map(call, B::float_cos, f64::cos)),
    onnx("Tan", |call| map(call, B::float_tan, f64::tan)),
    onnx("Asin", |call| map(call, B::float_asin, f64::asin)),
    onnx("Acos", |call| map(call, B::float_acos, f64::acos)),
    onnx("Atan", |call| map(call, B::float_atan, f64::atan)),
    onnx("Sinh", |call| map(call, B::float_sinh, f64::sinh)),
    onnx("Cosh", |call| map(call, B::float_cosh, f64::cosh)),
    onnx("Tanh", |call| map(call, B::float_tanh, f64::tanh)),
    onnx("Asinh", |call| map(call, B::float_asinh, f64::asinh)),
    onnx("Acosh", |call| map(call, B::float_acosh, f64::acosh)),
    onnx("Atanh", |call| map(call, B::float_atanh, f64::atanh)),
    onnx("Exp", |call| map(call, B::float_exp, f64::exp)),
    onnx("Log", |call| map(call, B::float_log, f64::ln)),
    onnx("Sqrt", |call| map(call, B::float_sqrt, f64::sqrt)),
    onnx("Reciprocal", |call| map(call, B::float_recip, f64::recip)),
    onnx("Erf", |call| map(call, B::float_erf, libm::erf)),
    onnx("Floor", |call| map(call, B::float_floor, f64::floor)).recorded(straight_through),
    onnx("Ceil", |call| map(call, B::float_ceil, f64::ceil)).recorded(straight_through),
    onnx("Round", |call| map(call, B::float_round, f64::round_ties_even)).recorded(straight_through),
    onnx("Sigmoid", |call| map(call, B::sigmoid, sigmoid)),
    onnx("Softplus", |call| map(call, softplus, softplus_f64)).recorded(softened),
    onnx("Softsign", |call| {
        map(
            call,
            |x| B::float_div(x.clone(), B::float_add_scalar(B::float_abs(x), scalar(1.0))),
            |x| x / (1.0 + x.abs()),
        )
    }),
    onnx("Relu", |call| {
        unary(call, B::relu, |call, x| {
            map_numbers!(call, x, N, |x: N| x.larger(N::ZERO))
        })
    })
    .recorded(rectified),
    onnx("LeakyRelu", |call| {
        let slope = call.float_attribute("alpha", 0.01);
        map(
            call,
            |x| B::leaky_relu(x, scalar(slope)),
            |x| if x < 0.0 { f64::from(slope) * x } else { x },
        )
    }),
    onnx("PRelu", sloped),
    onnx("Elu", |call| {
        let alpha = call.float_attribute("alpha", 1.0);
        exponential(call, alpha, 1.0, 1.0)
    }),
    onnx("Celu", |call| {
        let alpha = call.float_attribute("alpha", 1.0);
        exponential(call, alpha, alpha, 1.0)
    }),
    onnx("Selu", |call| {
        let alpha = call.float_attribute("alpha", 1.673_263_2);
        let gamma = call.float_attribute("gamma", 1.050_701);
        exponential(call, alpha, 1.0, gamma)
    }),
    onnx("ThresholdedRelu", |call| {
        let alpha = call.float_attribute("alpha", 1.0);
        map(
            call,
            |x| {
                let above = B::float_greater_elem(x.clone(), scalar(alpha), boolean());
                B::float_mask_fill(x, B::bool_not(above), scalar(0.0))
            },
            |x| if x > f64::from(alpha) { x } else { 0.0 },
        )
    }),
    onnx("Shrink", shrink),
    onnx("HardSigmoid", |call| {
        let alpha = call.float_attribute("alpha", 0.2);
        let beta = call.float_attribute("beta", 0.5);
        let (wide_alpha, wide_beta) = (f64::from(alpha), f64::from(beta));
        map(
            call,
            |x| hard_sigmoid(x, alpha, beta),
            |x| (wide_alpha * x + wide_beta).clamp(0.0, 1.0),
        )
    }),
    onnx("HardSwish", |call| {
        map(
            call,
            |x| B::float_mul(x.clone(), hard_sigmoid(x, 1.0 / 6.0, 0.5)),
            |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0),
        )
    }),
    onnx("Mish", |call| {
        map(
            call,
            |x| B::float_mul(x.clone(), B::float_tanh(softplus(x))),
            |x| x * softplus_f64(x).tanh(),
        )
    }),
    onnx("Swish", |call| {
        let alpha = call.float_attribute("alpha", 1.0);
        map(call, |x| swish(x, alpha), |x| x * sigmoid(f64::from(alpha) * x))
    }),
    onnx("SwiGLU", gated),
    onnx("Gelu", gelu),
    onnx("Clip", clip),
];

/// Softplus, whose slope at zero the parts that it is computed from do not have.
fn softened(call: &mut Call<'_>, _: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    let x = call.float(0)?;
    let result = softplus(x.clone());
    Ok(Some(Recorded::one(result, |cotangent| {
        Ok(vec![Some(B::float_mul(cotangent, B::sigmoid(x)))])
    })))
}

fn rectified(call: &mut Call<'_>, _: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    let result = B::relu(call.float(0)?);
    let kept = result.clone();
    Ok(Some(Recorded::one(result, move |cotangent| {
        let full = shape(&kept);
        let masked = with_slice(kept, |result| {
            with_slice(cotangent, |cotangent| kmr_kernels::relu_gradient(result, cotangent))
        });
        Ok(vec![Some(from_vec(masked.map_err(kernel_error)?, full))])
    })))
}

/// Rounding, whose derivative counts as that of the identity where the mode says so.
fn straight_through(call: &mut Call<'_>, _: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    if !call.mode.straight_through {
        return Ok(None);
    }
    let round = match call.node.op_type() {
        "Floor" => B::float_floor,
        "Ceil" => B::float_ceil,
        _ => B::float_round,
    };
    let result = round(call.float(0)?);
    Ok(Some(Recorded::one(result, |cotangent| Ok(vec![Some(cotangent)]))))
}

pub fn scalar(value: f32) -> Scalar {
    Scalar::Float(f64::from(value))
}

/// Applies a function to the one input.
fn map(call: &mut Call<'_>, floats: impl FnOnce(Float) -> Float, doubles: impl Fn(f64) -> f64) -> Outputs {
    unary(call, floats, |call, x| {
        if x.dtype() != DType::DOUBLE {
            return Err(host::unknown(call, x.dtype()));
        }
        host::map(call, x, doubles)
    })
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let power = x.exp();
        power / (1.0 + power)
    }
}

/// max(x, 0) + log(1 + exp(-|x|)), which does not overflow.
fn softplus(x: Float) -> Float {
    let tail = B::float_exp(B::float_neg(B::float_abs(x.clone())));
    B::float_add(B::relu(x), B::float_log1p(tail))
}

fn softplus_f64(x: f64) -> f64 {
    x.larger(0.0) + (-x.abs()).exp().ln_1p()
}

fn swish(x: Float, alpha: f32) -> Float {
    let inner = if alpha == 1.0 {
        x.clone()
    } else {
        B::float_mul_scalar(x.clone(), scalar(alpha))
    };
    B::float_mul(x, B::sigmoid(inner))
}

fn hard_sigmoid(x: Float, alpha: f32, beta: f32) -> Float {
    let line = B::float_add_scalar(B::float_mul_scalar(x, scalar(alpha)), scalar(beta));
    B::float_clamp(line, scalar(0.0), scalar(1.0))
}

/// gamma · (max(x, 0) + alpha · (exp(min(x, 0) / divisor) - 1)).
fn exponential(call: &mut Call<'_>, alpha: f32, divisor: f32, gamma: f32) -> Outputs {
    map(
        call,
        |x| {
            let mut below = B::float_clamp_max(x.clone(), scalar(0.0));
            if divisor != 1.0 {
                below = B::float_div_scalar(below, scalar(divisor));
            }
            let below = B::float_sub_scalar(B::float_exp(below), scalar(1.0));
            let sum = B::float_add(B::relu(x), B::float_mul_scalar(below, scalar(alpha)));
            if gamma == 1.0 {
                sum
            } else {
                B::float_mul_scalar(sum, scalar(gamma))
            }
        },
        |x| {
            let below = (x.smaller(0.0) / f64::from(divisor)).exp_m1();
            f64::from(gamma) * (x.larger(0.0) + f64::from(alpha) * below)
        },
    )
}

fn sloped(call: &mut Call<'_>) -> Outputs {
    let (x, slope) = (call.value(0)?, call.value(1)?);
    let full = x.shape();
    let slope_shape = slope.shape();
    if x.dtype() != slope.dtype() || call.broadcast(&full, &slope.shape())? != full {
        return Err(call.wrong(format!("{full:?} with slopes of {slope_shape:?}")));
    }
    match x.dtype() {
        DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16 => {
            let (x, slope) = (call.widened(x)?, call.widened(slope)?);
            let (x, slope, _) = aligned(call, x, slope)?;
            let below = B::float_lower_elem(x.clone(), scalar(0.0), boolean());
            let falling = B::float_mul(x.clone(), slope);
            Ok(vec![Value::Float(reshape(
                B::float_mask_where(x, below, falling),
                full,
            ))])
        }
        _ => {
            let (x, slope) = host::broadcast(call, &x.into_tensor(), &slope.into_tensor())?;
            let result = zip_numbers!(call, &x, &slope, N, bent::<N>)?;
            Ok(vec![Value::Host(result)])
        }
    }
}

/// The element, times the slope below zero.
fn bent<N: Number>(x: N, slope: N) -> Option<N> {
    Some(if x < N::ZERO { x.multiply(slope) } else { x })
}

fn shrink(call: &mut Call<'_>) -> Outputs {
    let limit = call.float_attribute("lambd", 0.5);
    let bias = call.float_attribute("bias", 0.0);
    unary(
        call,
        |x| {
            let below = B::float_lower_elem(x.clone(), scalar(-limit), boolean());
            let above = B::float_greater_elem(x.clone(), scalar(limit), boolean());
            let outside = B::bool_or(below.clone(), above);
            let raised = B::float_add_scalar(x.clone(), scalar(bias));
            let lowered = B::float_sub_scalar(x, scalar(bias));
            let moved = B::float_mask_where(lowered, below, raised);
            B::float_mask_fill(moved, B::bool_not(outside), scalar(0.0))
        },
        |call, x| {
            if x.dtype().bits() == Some(64) && x.dtype() != DType::DOUBLE {
                return Err(host::unknown(call, x.dtype()));
            }
            let (limit, bias) = (f64::from(limit), f64::from(bias));
            map_numbers!(call, x, N, |x: N| {
                let value = x.to_f64();
                N::from_f64(if value < -limit {
                    value + bias
                } else if value > limit {
                    value - bias
                } else {
                    0.0
                })
            })
        },
    )
}

fn gated(call: &mut Call<'_>) -> Outputs {
    let alpha = call.float_attribute("alpha", 1.0);
    let (a, b) = (call.value(0)?, call.value(1)?);
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return Err(call.wrong(format!("{:?} gates {:?}", a.shape(), b.shape())));
    }
    if a.dtype() == DType::DOUBLE {
        let result = host::zip(call, &a.into_tensor(), &b.into_tensor(), |a: f64, b: f64| {
            Some(a * sigmoid(f64::from(alpha) * a) * b)
        })?;
        return Ok(vec![Value::Host(result)]);
    }
    let (a, b) = (call.widened(a)?, call.widened(b)?);
    Ok(vec![Value::Float(B::float_mul(swish(a, alpha), b))])
}

fn gelu(call: &mut Call<'_>) -> Outputs {
    match call.node.string("approximate").unwrap_or("none") {
        "none" => map(call, B::gelu, |x| 0.5 * x * (1.0 + libm::erf(x * FRAC_1_SQRT_2))),
        "tanh" => {
            let factor = (2.0 / PI).sqrt();
            map(
                call,
                |x| {
                    let cube = B::float_mul(B::float_mul(x.clone(), x.clone()), x.clone());
                    let inner = B::float_add(x.clone(), B::float_mul_scalar(cube, scalar(0.044_715)));
                    let tanh = B::float_tanh(B::float_mul_scalar(inner, Scalar::Float(factor)));
                    let half = B::float_mul_scalar(x, scalar(0.5));
                    B::float_mul(half, B::float_add_scalar(tanh, scalar(1.0)))
                },
                |x| 0.5 * x * (1.0 + (factor * (x + 0.044_715 * x * x * x)).tanh()),
            )
        }
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
    // Bounds are of the input's type; only as attributes they are float32.
    let value = call.value(0)?;
    let dtype = value.dtype();
    let fits = |bound: &Option<Tensor>| call.opset < 11 || bound.as_ref().is_none_or(|bound| bound.dtype() == dtype);
    if !fits(&low) || !fits(&high) {
        return Err(call.wrong(format!("the bounds are not {dtype}")));
    }
    match dtype {
        DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16 => {
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
        _ => {
            let tensor = value.into_tensor();
            let result = with_number!(dtype, N => {
                let number = |bound: Option<Tensor>| -> Result<Option<N>, ComputeError> {
                    let Some(bound) = bound else { return Ok(None) };
                    let bound = cast::converted(call, &bound, dtype)?;
                    Ok(Some(host::values::<N>(call, &bound)?[0]))
                };
                let (low, high) = (number(low)?, number(high)?);
                host::map(call, &tensor, |x: N| {
                    let x = low.map_or(x, |low| x.larger(low));
                    high.map_or(x, |high| x.smaller(high))
                })
            }, else Err(host::unknown(call, dtype)))?;
            Ok(vec![Value::Host(result)])
        }
    }
}
