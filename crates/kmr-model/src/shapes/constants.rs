//! Operators that make constants.

use super::{
    FOLLOWED_ELEMENTS, Known, Numbers,
    context::{Context, Inference, Outputs, Stop, contradiction, single, size},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "Constant" => constant,
        "ConstantOfShape" => filled,
        "Range" => range,
        "Shape" => shape,
        "Size" => |context| {
            let count = context.input(0)?.len() as i64;
            let numbers = Numbers::Integers(vec![count]);
            single(Known::with_numbers(DType::INT64, vec![], Some(numbers)))
        },
        _ => return None,
    })
}

fn constant(context: &Context) -> Outputs {
    let node = context.node;
    if let Some(tensor) = context.tensor("value")? {
        return single(Known::stored(&tensor));
    }
    let (dtype, shape, numbers) = if let Some(value) = node.int("value_int") {
        (DType::INT64, vec![], Numbers::Integers(vec![value]))
    } else if let Some(value) = node.float("value_float") {
        (DType::FLOAT, vec![], Numbers::Floats(vec![value]))
    } else if let Some(values) = node.ints("value_ints") {
        let numbers = Numbers::Integers(values.to_vec());
        (DType::INT64, vec![values.len()], numbers)
    } else if let Some(values) = node.floats("value_floats") {
        let numbers = Numbers::Floats(values.to_vec());
        (DType::FLOAT, vec![values.len()], numbers)
    } else {
        return Err(Stop::Unknown);
    };
    single(Known::with_numbers(dtype, shape, Some(numbers)))
}

fn filled(context: &Context) -> Outputs {
    let shape = context
        .integers(0)?
        .iter()
        .map(|&wanted| size(wanted.into()))
        .collect::<Result<Vec<_>, _>>()?;
    let value = match context.tensor("value")? {
        Some(value) => Known::stored(&value),
        None => Known::with_numbers(DType::FLOAT, vec![1], Some(Numbers::Floats(vec![0.0]))),
    };
    let count = crate::tensor::element_count(&shape).filter(|&count| count <= FOLLOWED_ELEMENTS);
    let numbers = match (count, &value.numbers) {
        (Some(count), Some(Numbers::Integers(values))) => {
            values.first().map(|&value| Numbers::Integers(vec![value; count]))
        }
        _ => None,
    };
    single(Known::with_numbers(value.dtype, shape, numbers))
}

fn range(context: &Context) -> Outputs {
    let dtype = context.input(0)?.dtype;
    let bound = |position| -> Result<i64, Stop> { context.integers(position)?.first().copied().ok_or(Stop::Unknown) };
    let (start, limit, step) = (bound(0)?, bound(1)?, bound(2)?);
    if step == 0 {
        return contradiction("has a step of 0");
    }
    let distance = (i128::from(limit) - i128::from(start)) * i128::from(step.signum());
    let stride = i128::from(step).abs();
    let count = size(((distance + stride - 1).div_euclid(stride)).max(0))?;
    let numbers = (count <= FOLLOWED_ELEMENTS).then(|| {
        let values = (0..count as i64).map(|k| start.wrapping_add(k.wrapping_mul(step)));
        Numbers::Integers(values.collect())
    });
    single(Known::with_numbers(dtype, vec![count], numbers))
}

fn shape(context: &Context) -> Outputs {
    let shape = context.shape(0)?;
    let rank = shape.len() as i64;
    let bound = |name, default| {
        let bound: i64 = context.int(name, default);
        let bound = if bound < 0 { bound.saturating_add(rank) } else { bound };
        bound.clamp(0, rank) as usize
    };
    let (start, end) = (bound("start", 0), bound("end", rank));
    let sizes = shape.get(start..end).unwrap_or_default();
    let numbers = Numbers::Integers(sizes.iter().map(|&size| size as i64).collect());
    single(Known::with_numbers(DType::INT64, vec![sizes.len()], Some(numbers)))
}
