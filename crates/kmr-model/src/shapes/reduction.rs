//! Reductions along axes.

use super::{
    Known, Numbers,
    context::{Context, Inference, Outputs, axes, axis, contradiction, single},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => reduce,
        "ArgMax" | "ArgMin" => arg,
        "TopK" => top,
        _ => return None,
    })
}

fn reduce(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let given = context.integers_or(1, "axes")?;
    let reduced = match given {
        Some(given) if !given.is_empty() => axes(given, input.shape.len())?,
        _ if context.int("noop_with_empty_axes", 0) != 0 => return single(input.clone()),
        _ => (0..input.shape.len()).collect(),
    };
    let shape = without(&input.shape, &reduced, context.int("keepdims", 1) != 0);
    let all = reduced.len() == input.shape.len();
    let numbers = match (context.node.op_type(), input.integers()) {
        ("ReduceProd", Some(values)) if all => values
            .iter()
            .try_fold(1_i64, |product, &value| product.checked_mul(value)),
        ("ReduceSum", Some(values)) if all => values.iter().try_fold(0_i64, |sum, &value| sum.checked_add(value)),
        _ => None,
    };
    let numbers = numbers.map(|value| Numbers::Integers(vec![value]));
    single(Known::with_numbers(input.dtype, shape, numbers))
}

fn without(shape: &[usize], reduced: &[usize], keep: bool) -> Vec<usize> {
    let sizes = shape.iter().enumerate();
    sizes
        .filter_map(|(position, &size)| match reduced.contains(&position) {
            true => keep.then_some(1),
            false => Some(size),
        })
        .collect()
}

fn arg(context: &Context) -> Outputs {
    let shape = context.shape(0)?;
    let reduced = axis(context.int("axis", 0), shape.len())?;
    let shape = without(shape, &[reduced], context.int("keepdims", 1) != 0);
    single(Known::new(DType::INT64, shape))
}

fn top(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let count = match (context.node.input(1), context.node.int("k")) {
        (Some(_), _) => context.integers(1)?.first().copied(),
        (None, count) => count,
    };
    let along = axis(context.int("axis", -1), input.shape.len())?;
    let mut shape = input.shape.clone();
    match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) if count <= shape[along] => shape[along] = count,
        _ => {
            return contradiction(format!("cannot take the top {count:?} of {} elements", shape[along]));
        }
    }
    let indices = Known::new(DType::INT64, shape.clone());
    Ok(vec![Some(Known::new(input.dtype, shape)), Some(indices)])
}
