//! Operators that keep the shape of their first input.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Types::*, computed, contradiction, rule, several, show, single},
    fact::{Fact, Values, range},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
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
        | "Reciprocal"
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
        | "CumProd"
        | "LRN"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "Trilu"
        | "Clip"
        | "RandomUniformLike"
        | "RandomNormalLike"
        | "Bernoulli"
        | "EyeLike" => match op {
            "RandomUniformLike" | "RandomNormalLike" | "Bernoulli" | "EyeLike" => rule(By(like), same),
            _ => rule(Same(&[0]), same),
        },
        "SwiGLU" => rule(Same(&[0, 1]), gated),
        "ReverseSequence" => rule(Same(&[0]), same),
        "PRelu" => rule(Same(&[0, 1]), parametric),
        "IsNaN" | "IsInf" | "RegexFullMatch" => rule(Always(DType::BOOL), same),
        "Dropout" => rule(By(dropped), |context| {
            let shape = context.shape(0)?.to_vec();
            several([shape.clone(), shape])
        }),
        "Cast" => rule(Attribute("to", DType::from_number(0)), cast),
        "BitCast" => rule(Attribute("to", DType::from_number(0)), same),
        "CastLike" => rule(Same(&[1]), cast),
        _ => None,
    }
}

pub(super) fn same(context: &Context) -> Outputs {
    single(context.shape(0)?.to_vec())
}

/// The attribute `dtype`, or the input's type.
fn like(context: &Context) -> Vec<Option<DType>> {
    vec![match context.int("dtype", 0) {
        0 => context.dtype(0),
        number => i32::try_from(number).ok().map(DType::from_number),
    }]
}

/// Up to operator set 9, Dropout's mask is of the input's type.
fn dropped(context: &Context) -> Vec<Option<DType>> {
    let mask = if context.opset < 10 {
        context.dtype(0)
    } else {
        Some(DType::BOOL)
    };
    vec![context.dtype(0), mask]
}

fn gated(context: &Context) -> Outputs {
    let (gate, value) = (context.shape(0)?, context.shape(1)?);
    let fits = gate.len() == value.len() && gate.iter().zip(value).all(|(a, b)| a.unify(b).is_some());
    if !fits {
        return contradiction(format!("takes equal shapes; got {} and {}", show(gate), show(value)));
    }
    single(gate.iter().zip(value).filter_map(|(a, b)| a.unify(b)).collect())
}

fn parametric(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    // Up to operator set 6, a slope has one element or one per channel.
    if context.opset >= 7
        && let Some(slope) = context.optional_shape(1)
        && !fits_in(slope, input)
    {
        return contradiction(format!(
            "a slope of shape {} does not fit an input of shape {}",
            show(slope),
            show(input)
        ));
    }
    same(context)
}

/// Whether `small` may broadcast to `large` without making it larger.
pub(super) fn fits_in(small: &[Dim], large: &[Dim]) -> bool {
    small.len() <= large.len()
        && small
            .iter()
            .rev()
            .zip(large.iter().rev())
            .all(|(small, large)| small.equals(&Dim::Fixed(1)) != Some(false) || small.unify(large).is_some())
}

fn cast(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let to = match context.node.op_type() {
        "CastLike" => context.dtype(1),
        _ => Some(DType::from_number(i32::try_from(context.required("to")?).unwrap_or(0))),
    };
    let shape = context.shape(0)?.to_vec();
    computed(shape, to.and_then(|to| converted(input, to)))
}

fn converted(input: &Fact, to: DType) -> Option<Values> {
    let floats = Values::rounded(to, 0.0).is_some();
    match input.values.as_ref()? {
        Values::Integers(values) if floats => {
            let values = values.iter().map(|value| Some(value.fixed()? as f64));
            Some(Values::Floats(values.collect::<Option<_>>()?))
        }
        Values::Integers(values) if to == DType::BOOL => {
            let values = values.iter().map(|value| match value.equals(&Dim::Fixed(0)) {
                Some(zero) => (!zero).into(),
                None => Dim::Unknown,
            });
            Some(Values::Integers(values.collect()))
        }
        Values::Integers(values) => range(to).map(|_| Values::Integers(values.clone())),
        Values::Floats(values) if floats => Some(Values::Floats(values.clone())),
        Values::Floats(values) if to == DType::BOOL => Some(Values::Integers(
            values.iter().map(|&value| (value != 0.0).into()).collect(),
        )),
        Values::Floats(values) => {
            let range = range(to)?;
            // What does not fit is not defined.
            let values = values.iter().map(|value| {
                let whole = value.trunc() as i128;
                if value.is_finite() && range.contains(&whole) {
                    Dim::Fixed(whole)
                } else {
                    Dim::Unknown
                }
            });
            Some(Values::Integers(values.collect()))
        }
    }
}
