//! Operators that broadcast their inputs, computed where these are small constants.

use super::{
    FOLLOWED_ELEMENTS, Known, Numbers,
    context::{Context, Inference, Outputs, single},
    elementwise::broadcast,
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Max" | "Min" | "Sum" | "Mean" | "And" | "Or" | "Xor"
        | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" => binary,
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" => comparison,
        "Where" => choose,
        "Not" | "Neg" | "Abs" | "Floor" | "Ceil" => unary,
        "Identity" => |context| single(context.input(0)?.clone()),
        _ => return None,
    })
}

fn unary(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let op = context.node.op_type();
    let numbers = match &input.numbers {
        Some(Numbers::Integers(values)) => values
            .iter()
            .map(|&value| match op {
                "Not" => Some(i64::from(value == 0)),
                "Neg" => value.checked_neg(),
                "Abs" => value.checked_abs(),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(Numbers::Integers),
        Some(Numbers::Floats(values)) => values
            .iter()
            .map(|&value| match op {
                "Neg" => Some(-value),
                "Abs" => Some(value.abs()),
                "Floor" => Some(value.floor()),
                "Ceil" => Some(value.ceil()),
                _ => None,
            })
            .collect::<Option<Vec<_>>>()
            .map(Numbers::Floats),
        None => None,
    };
    single(Known::with_numbers(input.dtype, input.shape.clone(), numbers))
}

fn binary(context: &Context) -> Outputs {
    let inputs = context.inputs()?;
    let shapes: Vec<_> = inputs.iter().map(|input| input.shape.as_slice()).collect();
    let shape = broadcast(&shapes)?;
    let numbers = match inputs.as_slice() {
        [left, right] => combine(context.node.op_type(), left, right, &shape),
        _ => None,
    };
    let dtype = context.input(0)?.dtype;
    single(Known::with_numbers(dtype, shape, numbers))
}

fn combine(op: &str, left: &Known, right: &Known, shape: &[usize]) -> Option<Numbers> {
    match (left.numbers.as_ref()?, right.numbers.as_ref()?) {
        (Numbers::Integers(a), Numbers::Integers(b)) => {
            let pairs = zip(a, &left.shape, b, &right.shape, shape)?;
            pairs
                .into_iter()
                .map(|(a, b)| match op {
                    "Add" => a.checked_add(b),
                    "Sub" => a.checked_sub(b),
                    "Mul" => a.checked_mul(b),
                    "Div" => a.checked_div(b),
                    "Mod" => Some(a.checked_rem(b)?.checked_add(b)?.checked_rem(b)?),
                    "Max" => Some(a.max(b)),
                    "Min" => Some(a.min(b)),
                    "And" => Some(i64::from(a != 0 && b != 0)),
                    "Or" => Some(i64::from(a != 0 || b != 0)),
                    _ => None,
                })
                .collect::<Option<_>>()
                .map(Numbers::Integers)
        }
        (Numbers::Floats(a), Numbers::Floats(b)) => {
            let pairs = zip(a, &left.shape, b, &right.shape, shape)?;
            pairs
                .into_iter()
                .map(|(a, b)| match op {
                    "Add" => Some(a + b),
                    "Sub" => Some(a - b),
                    "Mul" => Some(a * b),
                    "Div" => Some(a / b),
                    _ => None,
                })
                .collect::<Option<_>>()
                .map(Numbers::Floats)
        }
        _ => None,
    }
}

fn comparison(context: &Context) -> Outputs {
    let (left, right) = (context.input(0)?, context.input(1)?);
    let shape = broadcast(&[&left.shape, &right.shape])?;
    let op = context.node.op_type();
    let numbers = match (left.integers(), right.integers()) {
        (Some(a), Some(b)) => zip(a, &left.shape, b, &right.shape, &shape).map(|pairs| {
            let results = pairs.into_iter().map(|(a, b)| match op {
                "Equal" => a == b,
                "Greater" => a > b,
                "GreaterOrEqual" => a >= b,
                "Less" => a < b,
                _ => a <= b,
            });
            Numbers::Integers(results.map(i64::from).collect())
        }),
        _ => None,
    };
    single(Known::with_numbers(DType::BOOL, shape, numbers))
}

fn choose(context: &Context) -> Outputs {
    let (condition, left, right) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let shape = broadcast(&[&condition.shape, &left.shape, &right.shape])?;
    let numbers = match (condition.integers(), left.integers(), right.integers()) {
        (Some(conditions), Some(a), Some(b)) => {
            let values = zip(a, &left.shape, b, &right.shape, &shape);
            let conditions = spread(conditions, &condition.shape, &shape);
            values.zip(conditions).map(|(values, conditions)| {
                let chosen = values.into_iter().zip(conditions);
                let chosen = chosen.map(|((a, b), condition)| if condition != 0 { a } else { b });
                Numbers::Integers(chosen.collect())
            })
        }
        _ => None,
    };
    single(Known::with_numbers(left.dtype, shape, numbers))
}

fn zip<T: Copy>(
    left: &[T],
    left_shape: &[usize],
    right: &[T],
    right_shape: &[usize],
    shape: &[usize],
) -> Option<Vec<(T, T)>> {
    let left = spread(left, left_shape, shape)?;
    let right = spread(right, right_shape, shape)?;
    Some(left.into_iter().zip(right).collect())
}

/// `values` broadcast to `shape`, if that stays small.
pub(super) fn spread<T: Copy>(values: &[T], from: &[usize], shape: &[usize]) -> Option<Vec<T>> {
    let count = crate::tensor::element_count(shape).filter(|&count| count <= FOLLOWED_ELEMENTS)?;
    let lead = shape.len().checked_sub(from.len())?;
    (0..count)
        .map(|position| {
            let (mut rest, mut index, mut stride) = (position, 0, 1);
            for axis in (0..shape.len()).rev() {
                let coordinate = rest % shape[axis];
                rest /= shape[axis];
                if axis >= lead {
                    let size = from[axis - lead];
                    index += stride * if size == 1 { 0 } else { coordinate };
                    stride *= size;
                }
            }
            values.get(index).copied()
        })
        .collect()
}
