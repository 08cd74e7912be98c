//! Operators that join, cut and pick.

use super::{
    Dim,
    arithmetic::rearranged,
    context::{
        Context, Found, Outputs, Rule, Stop, Types::*, agree, axes, axis, computed, contradiction, rule, several, show,
        single,
    },
    fact::{FOLLOWED_ELEMENTS, Fact, Values},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "Concat" => rule(By(joined_type), concat),
        "Split" => rule(Same(&[0]), split),
        "Slice" => rule(Same(&[0]), slice),
        "Gather" => rule(Same(&[0]), gather),
        "GatherElements" => rule(Same(&[0]), |context| single(context.shape(1)?.to_vec())),
        "GatherND" => rule(Same(&[0]), gather_nd),
        "Compress" => rule(Same(&[0]), compress),
        "NonZero" => rule(Always(DType::INT64), |context| match context.shape(0)?.len() {
            // What a scalar gives is not settled among implementations.
            0 => single(vec![Dim::Unknown, Dim::Unknown]),
            rank => single(vec![rank.into(), Dim::Unknown]),
        }),
        "Unique" => rule(Then(&[0], DType::INT64), unique),
        "OneHot" => rule(Same(&[2]), one_hot),
        _ => None,
    }
}

fn joined_type(context: &Context) -> Vec<Option<DType>> {
    vec![(0..context.node.inputs().len()).find_map(|position| context.dtype(position))]
}

fn concat(context: &Context) -> Outputs {
    let count = context.node.inputs().len();
    let shapes: Vec<Option<&[Dim]>> = (0..count).map(|position| context.optional_shape(position)).collect();
    let Some(first) = shapes.iter().flatten().next() else {
        return Err(Stop::Unknown);
    };
    let along = match (context.node.int("axis"), context.opset) {
        (Some(given), _) => axis(given, first.len())?,
        (None, ..4) => axis(1, first.len())?,
        (None, _) => return contradiction("has no attribute `axis`"),
    };
    let mut shape = first.to_vec();
    let mut total = Dim::Fixed(0);
    for other in &shapes {
        let Some(other) = other else {
            total = Dim::Unknown;
            continue;
        };
        let unfit = || {
            format!(
                "shapes {} and {} do not join along axis {along}",
                show(first),
                show(other)
            )
        };
        if other.len() != shape.len() {
            return contradiction(unfit());
        }
        for (position, size) in other.iter().enumerate() {
            if position == along {
                total = total.plus(size);
            } else {
                shape[position] = agree(&shape[position], size, &unfit)?;
            }
        }
    }
    shape[along] = total;
    let values = if shape.len() == 1 { join(context)? } else { None };
    computed(shape, values)
}

fn join(context: &Context) -> Result<Option<Values>, Stop> {
    let inputs = (0..context.node.inputs().len()).map(|position| context.input(position));
    let Ok(inputs) = inputs.collect::<Result<Vec<&Fact>, Stop>>() else {
        return Ok(None);
    };
    let floats = inputs.iter().map(|input| match &input.values {
        Some(Values::Floats(values)) => Some(values.as_slice()),
        _ => None,
    });
    if let Some(floats) = floats.collect::<Option<Vec<_>>>() {
        return Ok(Some(Values::Floats(floats.concat())));
    }
    let mut values = Vec::new();
    for input in inputs {
        let Some(list) = input
            .list()
            .filter(|list| list.len() + values.len() <= FOLLOWED_ELEMENTS)
        else {
            return Ok(None);
        };
        values.extend(list);
    }
    Ok(Some(Values::Integers(values)))
}

/// The sizes of a Split without explicit sizes: equal, the last one smaller where they cannot be.
pub(crate) fn equal_split(total: usize, parts: usize) -> Option<Vec<usize>> {
    let part = total.div_ceil(parts.max(1));
    let last = total.checked_sub(part.checked_mul(parts.checked_sub(1)?)?)?;
    let mut sizes = vec![part; parts];
    *sizes.last_mut()? = last;
    Some(sizes)
}

fn split(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let along = axis(context.int("axis", 0), input.len())?;
    let (total, parts) = (&input[along], context.node.outputs().len());
    let unfit = |sizes: &str| {
        contradiction(format!(
            "axis {along} of shape {} does not split into {sizes}",
            show(input)
        ))
    };
    let given = match context.list_or(1, "split") {
        Err(Stop::Unknown) => Some(vec![Dim::Unknown; parts]),
        given => given?,
    };
    let sizes: Vec<Dim> = match (given, total.fixed()) {
        (Some(given), _) => {
            let sum = given.iter().fold(Dim::Fixed(0), |sum, size| sum.plus(size));
            let negative = given.iter().any(|size| size.fixed().is_some_and(|size| size < 0));
            if given.len() != parts || negative || sum.equals(total) == Some(false) {
                return unfit(&show(&given));
            }
            given
        }
        (None, Some(total)) => {
            let total = usize::try_from(total).unwrap_or(usize::MAX);
            match equal_split(total, parts) {
                Some(sizes) if context.opset >= 18 || total.is_multiple_of(parts) => {
                    sizes.into_iter().map(Dim::from).collect()
                }
                _ => return unfit(&format!("{parts} parts")),
            }
        }
        (None, None) => vec![total.exact_div(&parts.into()); parts],
    };
    let values = match &context.input(0)?.values {
        Some(Values::Integers(values)) if input.len() == 1 => Some(values),
        _ => None,
    };
    let mut start = Some(0_usize);
    let outputs = sizes.into_iter().map(|part| {
        let length = part.fixed().and_then(|part| usize::try_from(part).ok());
        let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
        let picked = start.zip(end).and_then(|(start, end)| values?.get(start..end));
        start = end;
        let mut shape = input.to_vec();
        shape[along] = part;
        Found {
            shape: Some(shape),
            values: picked.map(|values| Values::Integers(values.to_vec())),
        }
    });
    Ok(outputs.collect())
}

fn slice(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let (starts, ends, given_axes, steps) = if context.has(1) {
        let list = |position| match context.list(position) {
            Err(Stop::Unknown) => Ok(None),
            list => list.map(Some),
        };
        let optional = |position| {
            if context.has(position) {
                list(position).map(Some)
            } else {
                Ok(None)
            }
        };
        (list(1)?, list(2)?, optional(3)?, optional(4)?)
    } else {
        let list = |name| {
            let values = context.node.ints(name);
            values.map(|values| values.iter().map(|&value| value.into()).collect::<Vec<Dim>>())
        };
        if list("starts").is_none() || list("ends").is_none() {
            return contradiction("has no starts and ends");
        }
        (list("starts"), list("ends"), list("axes").map(Some), None)
    };
    let unknown = || single(vec![Dim::Unknown; input.len()]);
    let count = [Some(&starts), Some(&ends), given_axes.as_ref(), steps.as_ref()];
    let Some(count) = count.into_iter().flatten().flatten().map(Vec::len).max() else {
        return unknown();
    };
    let filled = |list: Option<Vec<Dim>>| list.unwrap_or_else(|| vec![Dim::Unknown; count]);
    let along: Vec<usize> = match given_axes.map(filled) {
        Some(given) => {
            let given = given.iter().map(|value| i64::try_from(value.fixed()?).ok());
            match given.collect::<Option<Vec<i64>>>() {
                Some(given) => axes(&given, input.len())?,
                None => return unknown(),
            }
        }
        None => (0..count.min(input.len())).collect(),
    };
    let (starts, ends) = (filled(starts), filled(ends));
    let steps = steps.map_or_else(|| vec![Dim::Fixed(1); count], filled);
    if [starts.len(), ends.len(), steps.len()] != [along.len(); 3] {
        return contradiction("starts, ends, axes and steps differ in length");
    }
    let mut shape = input.to_vec();
    let mut starts_and_steps: Vec<Option<(i128, i128)>> = vec![Some((0, 1)); input.len()];
    for (place, &position) in along.iter().enumerate() {
        if steps[place].is(0) {
            return contradiction("has a step of 0");
        }
        let length = &input[position];
        shape[position] = match (
            length.fixed(),
            starts[place].fixed(),
            ends[place].fixed(),
            steps[place].fixed(),
        ) {
            (Some(length), Some(start), Some(end), Some(step)) => {
                let (start, count) = walk(length, start, end, step);
                starts_and_steps[position] = Some((start, step));
                Dim::Fixed(count)
            }
            _ => {
                starts_and_steps[position] = None;
                open_walk(length, &starts[place], &ends[place], &steps[place])
            }
        };
    }
    let fact = context.input(0)?;
    let sizes = shape.iter().map(|size| usize::try_from(size.fixed()?).ok());
    let sizes: Option<Vec<usize>> = sizes.collect();
    let values = match (&fact.values, fact.fixed_shape(), sizes) {
        (Some(values), Some(from), Some(sizes)) => rearranged(values, &from, &sizes, &|index, axis| {
            let (start, step) = starts_and_steps[axis]?;
            usize::try_from(start + index[axis] as i128 * step).ok()
        }),
        _ => None,
    };
    computed(shape, values)
}

/// The first position of a slice and the number of its elements.
fn walk(length: i128, start: i128, end: i128, step: i128) -> (i128, i128) {
    if length == 0 {
        return (0, 0);
    }
    let absolute = |bound: i128| if bound < 0 { bound + length } else { bound };
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let start = absolute(start).clamp(low.max(0), high.max(0));
    let end = absolute(end).clamp(low, high);
    let count = if step > 0 {
        (end - start + step - 1).div_euclid(step)
    } else {
        (start - end - step - 1).div_euclid(-step)
    };
    (start, count.max(0))
}

/// The number of elements of a slice where something is open.
fn open_walk(length: &Dim, start: &Dim, end: &Dim, step: &Dim) -> Dim {
    /// Beyond this, an end means all that there is.
    const ALL: i128 = i32::MAX as i128;
    let step = match step.fixed() {
        // From the last element to the first.
        Some(-1) if start.is(-1) && end.fixed().is_some_and(|end| end < -ALL) => return length.clone(),
        Some(step) if step > 0 => step,
        _ => return Dim::Unknown,
    };
    let absolute = |bound: &Dim| match bound {
        Dim::Fixed(bound) if *bound < 0 => length.plus(*bound),
        bound if bound.minimum().is_some_and(|least| least >= 0) => bound.clone(),
        _ => Dim::Unknown,
    };
    // A bound is clamped to the length; where it cannot be told whether it is, nothing is claimed.
    let clamped = |bound: Dim| match length.below(&bound) {
        _ if bound.equals(length) == Some(true) => length.clone(),
        Some(true) => length.clone(),
        Some(false) if bound.minimum().is_some_and(|least| least >= 0) => bound,
        None if bound.fixed().is_some_and(|bound| bound >= ALL) => length.clone(),
        _ => Dim::Unknown,
    };
    let (start, end) = (clamped(absolute(start)), clamped(absolute(end)));
    let count = end.minus(&start);
    match count.minimum() {
        Some(least) if least >= 0 => count.ceil_div(step),
        _ => Dim::Unknown,
    }
}

fn gather(context: &Context) -> Outputs {
    let (input, indices) = (context.shape(0)?, context.shape(1)?);
    let along = axis(context.int("axis", 0), input.len())?;
    let shape = [&input[..along], indices, &input[along + 1..]].concat();
    let values = match (&context.input(0)?.values, &context.input(1)?.values, input) {
        (Some(Values::Integers(values)), Some(Values::Integers(indices)), [_]) => {
            let picked = indices.iter().map(|index| {
                let index = i64::try_from(index.fixed()?).ok()?;
                Some(values[axis(index, values.len()).ok()?].clone())
            });
            Some(Values::Integers(
                picked.map(|value| value.unwrap_or(Dim::Unknown)).collect(),
            ))
        }
        _ => None,
    };
    computed(shape, values)
}

fn gather_nd(context: &Context) -> Outputs {
    let (input, indices) = (context.shape(0)?, context.shape(1)?);
    let batch = usize::try_from(context.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let Some((depth, outer)) = indices.split_last() else {
        return contradiction("needs indices of rank 1 or more");
    };
    let Some(depth) = depth.fixed() else {
        return Err(Stop::Unknown);
    };
    let skipped = usize::try_from(depth).ok().and_then(|depth| batch.checked_add(depth));
    let Some(rest) = skipped.and_then(|skipped| input.get(skipped..)) else {
        return contradiction(format!(
            "indices of shape {} do not fit shape {}",
            show(indices),
            show(input)
        ));
    };
    single([outer, rest].concat())
}

fn compress(context: &Context) -> Outputs {
    let Some(along) = context.node.int("axis") else {
        return single(vec![Dim::Unknown]);
    };
    let mut shape = context.shape(0)?.to_vec();
    let along = axis(along, shape.len())?;
    shape[along] = Dim::Unknown;
    single(shape)
}

fn unique(context: &Context) -> Outputs {
    let list = vec![Dim::Unknown];
    let Some(along) = context.node.int("axis") else {
        return several([list.clone(), list.clone(), list.clone(), list]);
    };
    let Ok(shape) = context.shape(0) else {
        let unknown = Found::default();
        let list = Found {
            shape: Some(list),
            values: None,
        };
        return Ok(vec![unknown, list.clone(), list.clone(), list]);
    };
    let along = axis(along, shape.len())?;
    let mut shape = shape.to_vec();
    shape[along] = Dim::Unknown;
    several([shape, list.clone(), list.clone(), list])
}

fn one_hot(context: &Context) -> Outputs {
    let depth = match context.scalar(1) {
        // The depth may come as a floating-point number.
        Err(Stop::Unknown) => match context.floats(1) {
            Ok(&[depth]) if depth.is_finite() && depth.fract() == 0.0 => Dim::Fixed(depth as i128),
            _ => Dim::Unknown,
        },
        depth => depth?,
    };
    let indices = context.shape(0)?;
    let along = axis(context.int("axis", -1), indices.len() + 1)?;
    let mut shape = indices.to_vec();
    shape.insert(along, depth);
    single(shape)
}
