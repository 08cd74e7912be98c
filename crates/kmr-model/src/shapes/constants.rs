//! Operators that make constants.

use super::{
    Dim,
    context::{Context, Found, Outputs, Rule, Stop, Types::*, computed, contradiction, product, rule, single},
    fact::{FOLLOWED_ELEMENTS, Fact, Values},
};
use crate::{DType, tensor::element_count};

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "Constant" => rule(
            By(|context| vec![constant(context).and_then(|fact| fact.dtype)]),
            |context| match constant(context) {
                Some(fact) => Ok(vec![Found {
                    shape: fact.shape,
                    values: fact.values,
                }]),
                None => Err(Stop::Unknown),
            },
        ),
        "ConstantOfShape" => rule(By(filled_type), filled),
        "Range" => rule(Same(&[0, 1, 2]), range),
        "Shape" => rule(Always(DType::INT64), shape),
        "Size" => rule(Always(DType::INT64), |context| {
            let count = match context.shape(0) {
                Ok(shape) => product(shape),
                Err(_) => Dim::Unknown,
            };
            computed(Vec::new(), Some(Values::Integers(vec![count])))
        }),
        "RandomNormal" | "RandomUniform" => rule(Attribute("dtype", DType::FLOAT), |context| {
            match context.node.ints("shape") {
                Some(shape) => single(shape.iter().map(|&size| size.into()).collect()),
                None => contradiction("has no attribute `shape`"),
            }
        }),
        "Multinomial" => rule(Attribute("dtype", DType::INT32), |context| {
            let batch = match context.shape(0) {
                Ok([batch, ..]) => batch.clone(),
                _ => Dim::Unknown,
            };
            single(vec![batch, context.int("sample_size", 1).into()])
        }),
        _ => None,
    }
}

fn constant(context: &Context) -> Option<Fact> {
    let node = context.node;
    if let Some(tensor) = context.tensor("value") {
        return Fact::message(tensor);
    }
    if let Some(sparse) = node.attribute("sparse_value").and_then(|a| a.sparse_tensor.as_option()) {
        return Fact::sparse(sparse);
    }
    let listed = |values: Values| {
        let dtype = if matches!(values, Values::Integers(_)) {
            DType::INT64
        } else {
            DType::FLOAT
        };
        Fact::sized(dtype, &[values.len()]).with_values(Some(values))
    };
    let attribute = |name| node.attribute(name);
    if let Some(value) = node.int("value_int") {
        let values = Values::Integers(vec![value.into()]);
        Some(Fact::sized(DType::INT64, &[]).with_values(Some(values)))
    } else if let Some(value) = node.float("value_float") {
        let values = Values::Floats(vec![value.into()]);
        Some(Fact::sized(DType::FLOAT, &[]).with_values(Some(values)))
    } else if let Some(values) = node.ints("value_ints") {
        Some(listed(Values::Integers(
            values.iter().map(|&value| value.into()).collect(),
        )))
    } else if let Some(values) = node.floats("value_floats") {
        Some(listed(Values::Floats(
            values.iter().map(|&value| value.into()).collect(),
        )))
    } else if attribute("value_string").is_some() {
        Some(Fact::sized(DType::STRING, &[]))
    } else {
        let strings = attribute("value_strings")?;
        Some(Fact::sized(DType::STRING, &[strings.strings.len()]))
    }
}

fn filled_type(context: &Context) -> Vec<Option<DType>> {
    vec![match context.tensor("value") {
        Some(value) => value.data_type.map(DType::from_number),
        None => Some(DType::FLOAT),
    }]
}

fn filled(context: &Context) -> Outputs {
    let shape = context.list(0)?;
    let value = match context.tensor("value") {
        Some(value) => Fact::message(value).and_then(|fact| fact.values),
        None => Some(Values::Floats(vec![0.0])),
    };
    let sizes = shape.iter().map(|size| usize::try_from(size.fixed()?).ok());
    let sizes: Option<Vec<usize>> = sizes.collect();
    let count = sizes
        .and_then(|sizes| element_count(&sizes))
        .filter(|&count| count <= FOLLOWED_ELEMENTS);
    let values = match (count, value) {
        (Some(count), Some(Values::Integers(values))) => {
            values.first().map(|value| Values::Integers(vec![value.clone(); count]))
        }
        (Some(count), Some(Values::Floats(values))) => values.first().map(|&value| Values::Floats(vec![value; count])),
        _ => None,
    };
    computed(shape, values)
}

fn range(context: &Context) -> Outputs {
    if let (Ok(&[start]), Ok(&[limit]), Ok(&[step])) = (context.floats(0), context.floats(1), context.floats(2)) {
        // In half precision, the count depends on how the quotient is computed.
        let exact = matches!(context.dtype(0), Some(DType::FLOAT | DType::DOUBLE));
        let count = ((limit - start) / step).ceil().max(0.0);
        return match exact && count.is_finite() {
            true => single(vec![Dim::Fixed(count as i128)]),
            false => single(vec![Dim::Unknown]),
        };
    }
    let bound = |position| match context.scalar(position) {
        Err(Stop::Unknown) => Ok(Dim::Unknown),
        bound => bound,
    };
    let (start, limit, step) = (bound(0)?, bound(1)?, bound(2)?);
    let step = match step.fixed() {
        Some(0) => return contradiction("has a step of 0"),
        Some(step) => step,
        None => return single(vec![Dim::Unknown]),
    };
    let distance = if step > 0 {
        limit.minus(&start)
    } else {
        start.minus(&limit)
    };
    let count = match (distance.minimum(), distance.fixed()) {
        (_, Some(distance)) if distance <= 0 => Dim::Fixed(0),
        (Some(least), _) if least >= 0 => distance.ceil_div(step.saturating_abs()),
        _ => Dim::Unknown,
    };
    let values = match count.fixed() {
        Some(count) if count <= FOLLOWED_ELEMENTS as i128 => {
            let values = (0..count).map(|k| start.plus(k.saturating_mul(step)));
            Some(Values::Integers(values.collect()))
        }
        _ => None,
    };
    computed(vec![count], values)
}

fn shape(context: &Context) -> Outputs {
    let shape = match context.any(0)?.shape.as_deref() {
        Some(shape) => shape,
        None => return single(vec![Dim::Unknown]),
    };
    let rank = shape.len() as i64;
    let bound = |name, default| {
        let bound: i64 = context.int(name, default);
        let bound = if bound < 0 { bound.saturating_add(rank) } else { bound };
        bound.clamp(0, rank) as usize
    };
    let (start, end) = (bound("start", 0), bound("end", rank));
    let sizes = shape.get(start..end).unwrap_or_default();
    computed(vec![sizes.len().into()], Some(Values::Integers(sizes.to_vec())))
}
