//! Operators that compute each element on its own, and those that keep their input's type.

use super::{
    Known, Numbers,
    context::{Context, Inference, Outputs, Stop, contradiction, single},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "Relu"
        | "LeakyRelu"
        | "ThresholdedRelu"
        | "Elu"
        | "Selu"
        | "Celu"
        | "Sigmoid"
        | "HardSigmoid"
        | "HardSwish"
        | "Swish"
        | "Tanh"
        | "Softplus"
        | "Softsign"
        | "Mish"
        | "Gelu"
        | "Erf"
        | "Exp"
        | "Log"
        | "Sqrt"
        | "Reciprocal"
        | "Round"
        | "Sign"
        | "Sin"
        | "Cos"
        | "Tan"
        | "Asin"
        | "Acos"
        | "Atan"
        | "Sinh"
        | "Cosh"
        | "Asinh"
        | "Acosh"
        | "Atanh"
        | "Shrink"
        | "BitwiseNot"
        | "Softmax"
        | "LogSoftmax"
        | "Hardmax"
        | "CumSum"
        | "LRN"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "Trilu"
        | "Clip" => same,
        "PRelu" => parametric,
        "IsNaN" | "IsInf" => |context| single(Known::new(DType::BOOL, context.shape(0)?.to_vec())),
        "Dropout" => |context| {
            let input = context.input(0)?;
            let mask = Known::new(DType::BOOL, input.shape.clone());
            Ok(vec![Some(input.clone()), Some(mask)])
        },
        "Cast" => cast,
        "CastLike" => |context| single(convert(context.input(0)?, context.input(1)?.dtype)),
        "QuantizeLinear" => quantize,
        "DequantizeLinear" => dequantize,
        _ => return None,
    })
}

fn same(context: &Context) -> Outputs {
    let input = context.input(0)?;
    single(Known::new(input.dtype, input.shape.clone()))
}

fn parametric(context: &Context) -> Outputs {
    let (input, slope) = (context.input(0)?, context.shape(1)?);
    if broadcast(&[&input.shape, slope])? != input.shape {
        return contradiction(format!(
            "a slope of shape {slope:?} does not fit an input of shape {:?}",
            input.shape
        ));
    }
    same(context)
}

/// The shape that `shapes` broadcast to, by ONNX's multidirectional rule.
pub(super) fn broadcast(shapes: &[&[usize]]) -> Result<Vec<usize>, Stop> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut result = vec![1; rank];
    for shape in shapes {
        for (size, &other) in result[rank - shape.len()..].iter_mut().zip(*shape) {
            *size = match (*size, other) {
                (1, other) => other,
                (size, 1) => size,
                (size, other) if size == other => size,
                _ => return contradiction(format!("shapes {shapes:?} do not broadcast")),
            };
        }
    }
    Ok(result)
}

fn cast(context: &Context) -> Outputs {
    match context.node.int("to").and_then(|to| i32::try_from(to).ok()) {
        Some(to) => single(convert(context.input(0)?, DType::from_number(to))),
        None => contradiction("has no attribute `to`"),
    }
}

fn convert(input: &Known, dtype: DType) -> Known {
    let numbers = match (&input.numbers, dtype) {
        (Some(Numbers::Integers(values)), DType::FLOAT) => {
            Some(Numbers::Floats(values.iter().map(|&value| value as f32).collect()))
        }
        (Some(Numbers::Floats(values)), DType::INT64 | DType::INT32) => {
            Some(Numbers::Integers(values.iter().map(|&value| value as i64).collect()))
        }
        (Some(Numbers::Integers(values)), DType::BOOL) => Some(Numbers::Integers(
            values.iter().map(|&value| i64::from(value != 0)).collect(),
        )),
        (Some(numbers @ Numbers::Integers(_)), DType::INT64 | DType::INT32)
        | (Some(numbers @ Numbers::Floats(_)), DType::FLOAT) => Some(numbers.clone()),
        _ => None,
    };
    Known::with_numbers(dtype, input.shape.clone(), numbers)
}

fn quantize(context: &Context) -> Outputs {
    let input = context.input(0)?;
    check_scale(context, input)?;
    let dtype = match (context.optional(2)?, context.int("output_dtype", 0)) {
        (Some(zero_point), _) => zero_point.dtype,
        (None, 0) => DType::UINT8,
        (None, number) => DType::from_number(i32::try_from(number).unwrap_or_default()),
    };
    single(Known::new(dtype, input.shape.clone()))
}

fn dequantize(context: &Context) -> Outputs {
    let (input, scale) = (context.input(0)?, context.input(1)?);
    check_scale(context, input)?;
    single(Known::new(scale.dtype, input.shape.clone()))
}

fn check_scale(context: &Context, input: &Known) -> Result<(), Stop> {
    let scale = context.shape(1)?;
    let blocked = context.int("block_size", 0) != 0;
    if let ([count], false) = (scale, blocked)
        && *count != 1
    {
        let axis = super::context::axis(context.int("axis", 1), input.shape.len())?;
        if input.shape[axis] != *count {
            return contradiction(format!(
                "{count} scales do not fit axis {axis} of shape {:?}",
                input.shape
            ));
        }
    }
    Ok(())
}
