//! Operators that join, cut and pick.

use super::{
    FOLLOWED_ELEMENTS, Known, Numbers,
    context::{Context, Inference, Outputs, Stop, axes, axis, contradiction, single, size},
};

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "Concat" => concat,
        "Split" => split,
        "Slice" => slice,
        "Gather" => gather,
        "GatherElements" => |context| {
            let input = context.input(0)?;
            single(Known::new(input.dtype, context.shape(1)?.to_vec()))
        },
        "GatherND" => gather_nd,
        "ScatterND" | "ScatterElements" => |context| {
            let input = context.input(0)?;
            single(Known::new(input.dtype, input.shape.clone()))
        },
        _ => return None,
    })
}

fn concat(context: &Context) -> Outputs {
    let inputs = context.inputs()?;
    let Some(first) = inputs.first() else {
        return contradiction("has no inputs");
    };
    let along = axis(context.int("axis", 0), first.shape.len())?;
    let mut shape = first.shape.clone();
    shape[along] = 0;
    for input in &inputs {
        let fits =
            input.shape.len() == shape.len() && (0..shape.len()).all(|d| d == along || input.shape[d] == shape[d]);
        if !fits {
            return contradiction(format!(
                "shapes {:?} and {:?} do not join along axis {along}",
                first.shape, input.shape
            ));
        }
        shape[along] = size(shape[along] as i128 + input.shape[along] as i128)?;
    }
    let numbers = if shape.len() == 1 { join(&inputs) } else { None };
    single(Known::with_numbers(first.dtype, shape, numbers))
}

fn join(inputs: &[&Known]) -> Option<Numbers> {
    match inputs.first()?.numbers.as_ref()? {
        Numbers::Integers(_) => {
            let parts = inputs.iter().map(|input| input.integers());
            Some(Numbers::Integers(parts.collect::<Option<Vec<_>>>()?.concat()))
        }
        Numbers::Floats(_) => {
            let parts = inputs.iter().map(|input| match &input.numbers {
                Some(Numbers::Floats(values)) => Some(values.as_slice()),
                _ => None,
            });
            Some(Numbers::Floats(parts.collect::<Option<Vec<_>>>()?.concat()))
        }
    }
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
    let input = context.input(0)?;
    let along = axis(context.int("axis", 0), input.shape.len())?;
    let (total, parts) = (input.shape[along], context.node.outputs().len());
    let unfit = |sizes: &dyn std::fmt::Debug| {
        contradiction(format!(
            "axis {along} of shape {:?} does not split into {sizes:?}",
            input.shape
        ))
    };
    let sizes = match context.integers_or(1, "split")? {
        Some(given) => {
            let sizes: Option<Vec<usize>> = given.iter().map(|&part| usize::try_from(part).ok()).collect();
            match sizes {
                Some(sizes)
                    if sizes.len() == parts
                        && sizes.iter().try_fold(0_usize, |sum, &part| sum.checked_add(part)) == Some(total) =>
                {
                    sizes
                }
                _ => return unfit(&given),
            }
        }
        None => match equal_split(total, parts) {
            Some(sizes) if context.opset >= 18 || total.is_multiple_of(parts) => sizes,
            _ => return unfit(&format!("{parts} parts")),
        },
    };
    let mut start = 0;
    let outputs = sizes.into_iter().map(|part| {
        let range = start..start + part;
        start += part;
        let mut shape = input.shape.clone();
        shape[along] = part;
        let numbers = match (input.integers(), shape.len()) {
            (Some(values), 1) => values.get(range).map(<[i64]>::to_vec),
            _ => None,
        };
        let numbers = numbers.map(Numbers::Integers);
        Some(Known::with_numbers(input.dtype, shape, numbers))
    });
    Ok(outputs.collect())
}

fn slice(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let rank = input.shape.len();
    let attributes = context.node.input(1).is_none();
    let (starts, ends, given_axes, steps) = if attributes {
        let (starts, ends) = (context.node.ints("starts"), context.node.ints("ends"));
        let (Some(starts), Some(ends)) = (starts, ends) else {
            return contradiction("has no starts and ends");
        };
        (starts, ends, context.node.ints("axes"), None)
    } else {
        let optional = |position| match context.node.input(position) {
            Some(_) => context.integers(position).map(Some),
            None => Ok(None),
        };
        (context.integers(1)?, context.integers(2)?, optional(3)?, optional(4)?)
    };
    let along = match given_axes {
        Some(given) => axes(given, rank)?,
        None => (0..starts.len().min(rank)).collect(),
    };
    let steps = steps.map_or_else(|| vec![1; starts.len()], <[i64]>::to_vec);
    if [starts.len(), ends.len(), steps.len()] != [along.len(); 3] {
        return contradiction("starts, ends, axes and steps differ in length");
    }
    let mut shape = input.shape.clone();
    let mut picked: Vec<usize> = Vec::new();
    for (place, &position) in along.iter().enumerate() {
        let (length, step) = (shape[position] as i128, i128::from(steps[place]));
        if step == 0 {
            return contradiction("has a step of 0");
        }
        let absolute = |bound: i64| {
            let bound = i128::from(bound);
            if bound < 0 { bound + length } else { bound }
        };
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let start = absolute(starts[place]).clamp(low.max(0), high.max(0));
        let end = absolute(ends[place]).clamp(low, high);
        let count = if step > 0 {
            (end - start + step - 1).div_euclid(step)
        } else {
            (start - end - step - 1).div_euclid(-step)
        };
        shape[position] = size(if length == 0 { 0 } else { count.max(0) })?;
        if rank == 1 && shape[0] <= FOLLOWED_ELEMENTS {
            picked = (0..shape[0] as i128)
                .filter_map(|k| usize::try_from(start + k * step).ok())
                .collect();
        }
    }
    let numbers = match (input.integers(), rank, along.len()) {
        (Some(values), 1, 1) => picked.iter().map(|&p| values.get(p).copied()).collect(),
        (Some(values), _, 0) => Some(values.to_vec()),
        _ => None,
    };
    let numbers = numbers.map(Numbers::Integers);
    single(Known::with_numbers(input.dtype, shape, numbers))
}

fn gather(context: &Context) -> Outputs {
    let (input, indices) = (context.input(0)?, context.input(1)?);
    let along = axis(context.int("axis", 0), input.shape.len())?;
    let mut shape = input.shape[..along].to_vec();
    shape.extend(&indices.shape);
    shape.extend(&input.shape[along + 1..]);
    let numbers = match (input.integers(), indices.integers(), input.shape.as_slice()) {
        (Some(values), Some(indices), &[length]) => indices
            .iter()
            .map(|&index| Some(values[axis(index, length).ok()?]))
            .collect::<Option<Vec<_>>>(),
        _ => None,
    };
    let numbers = numbers.map(Numbers::Integers);
    single(Known::with_numbers(input.dtype, shape, numbers))
}

fn gather_nd(context: &Context) -> Outputs {
    let (input, indices) = (context.input(0)?, context.shape(1)?);
    let batch = size(context.int("batch_dims", 0).into())?;
    let (Some((&depth, outer)), true) = (indices.split_last(), batch <= input.shape.len()) else {
        return contradiction("needs indices of rank 1 or more");
    };
    let skipped = batch.checked_add(depth).ok_or(Stop::Unknown)?;
    let Some(rest) = input.shape.get(skipped..) else {
        return contradiction(format!(
            "indices of shape {indices:?} do not fit shape {:?}",
            input.shape
        ));
    };
    single(Known::new(input.dtype, [outer, rest].concat()))
}
