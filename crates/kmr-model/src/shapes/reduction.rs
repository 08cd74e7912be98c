//! Reductions along axes.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Stop, Types::*, axes, axis, computed, contradiction, rule, several, single},
    fact::Values,
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
        | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" => rule(Same(&[0]), reduce),
        "ArgMax" | "ArgMin" => rule(Always(DType::INT64), arg),
        "TopK" => rule(Then(&[0], DType::INT64), top),
        _ => None,
    }
}

fn reduce(context: &Context) -> Outputs {
    let keep = context.int("keepdims", 1) != 0;
    let given = match context.ints_or(1, "axes") {
        Err(Stop::Unknown) => return reduce_unknown_axes(context, keep),
        given => given?,
    };
    let reduced = match given {
        // All axes, whatever the rank.
        None if !keep && context.int("noop_with_empty_axes", 0) == 0 && context.input(0)?.shape.is_none() => {
            return single(Vec::new());
        }
        Some(given) if !given.is_empty() => axes(&given, context.shape(0)?.len())?,
        _ if context.int("noop_with_empty_axes", 0) != 0 => return single(context.shape(0)?.to_vec()),
        _ => (0..context.shape(0)?.len()).collect(),
    };
    let input = context.shape(0)?;
    let shape = without(input, &reduced, keep);
    let all = reduced.len() == input.len();
    let values = match &context.input(0)?.values {
        Some(Values::Integers(values)) if all => {
            let folded = fold(context.node.op_type(), values);
            folded.map(|value| Values::Integers(vec![value]))
        }
        _ => None,
    };
    computed(shape, values)
}

/// Axes that are not known leave a rank, and no sizes.
fn reduce_unknown_axes(context: &Context, keep: bool) -> Outputs {
    let rank = context.shape(0)?.len();
    if keep {
        return single(vec![Dim::Unknown; rank]);
    }
    match context.list(1)?.len() {
        0 => Err(Stop::Unknown),
        reduced => match rank.checked_sub(reduced) {
            Some(rank) => single(vec![Dim::Unknown; rank]),
            None => contradiction(format!("cannot reduce {reduced} axes of {rank}")),
        },
    }
}

fn fold(op: &str, values: &[Dim]) -> Option<Dim> {
    let (first, rest) = match (op, values) {
        ("ReduceProd", values) => return Some(super::context::product(values)),
        ("ReduceSum", values) => return Some(values.iter().fold(Dim::Fixed(0), |sum, value| sum.plus(value))),
        ("ReduceMax" | "ReduceMin", [first, rest @ ..]) => (first, rest),
        _ => return None,
    };
    let mut found = first.clone();
    for value in rest {
        let below = value.below(&found)?;
        if below == (op == "ReduceMin") {
            found = value.clone();
        }
    }
    Some(found)
}

fn without(shape: &[Dim], reduced: &[usize], keep: bool) -> Vec<Dim> {
    let mut dropped = vec![false; shape.len()];
    reduced.iter().for_each(|&position| dropped[position] = true);
    let sizes = shape.iter().zip(dropped);
    sizes
        .filter_map(|(size, dropped)| match dropped {
            true => keep.then_some(Dim::Fixed(1)),
            false => Some(size.clone()),
        })
        .collect()
}

fn arg(context: &Context) -> Outputs {
    let shape = context.shape(0)?;
    let reduced = axis(context.int("axis", 0), shape.len())?;
    single(without(shape, &[reduced], context.int("keepdims", 1) != 0))
}

fn top(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let count = match (context.has(1), context.node.int("k")) {
        (true, _) => match context.scalar(1) {
            Err(Stop::Unknown) => Dim::Unknown,
            count => count?,
        },
        (false, Some(count)) => count.into(),
        (false, None) => return contradiction("has no count"),
    };
    let along = axis(context.int("axis", -1), input.len())?;
    let mut shape = input.to_vec();
    if input[along].below(&count) == Some(true) || count.fixed().is_some_and(|count| count < 0) {
        return contradiction(format!("cannot take the top {count} of {} elements", shape[along]));
    }
    shape[along] = count;
    several([shape.clone(), shape])
}
