//! Operators that move elements or give them another shape.

use super::{
    Known,
    context::{Context, Inference, Outputs, Stop, axes, axis, contradiction, single, size},
    elementwise::broadcast,
};

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Transpose" => transpose,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        "Expand" => expand,
        "Tile" => tile,
        "Pad" => pad,
        "Resize" | "Upsample" => resize,
        "DepthToSpace" => |context| blocks(context, false),
        "SpaceToDepth" => |context| blocks(context, true),
        _ => return None,
    })
}

/// `input` under another shape, its values kept.
fn reshaped(input: &Known, shape: Vec<usize>) -> Outputs {
    single(Known { shape, ..input.clone() })
}

fn reshape(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let Some(target) = context.integers_or(1, "shape")? else {
        return contradiction("has no target shape");
    };
    let unfit = || {
        contradiction(format!(
            "an input of shape {:?} cannot take the shape {target:?}",
            input.shape
        ))
    };
    let keep_zero = context.int("allowzero", 0) != 0;
    let mut shape = Vec::with_capacity(target.len());
    let mut open = None;
    for (position, &wanted) in target.iter().enumerate() {
        shape.push(match wanted {
            0 if !keep_zero => match input.shape.get(position) {
                Some(&size) => size,
                None => return unfit(),
            },
            -1 if open.is_none() => {
                open = Some(position);
                1
            }
            wanted => match usize::try_from(wanted) {
                Ok(size) => size,
                Err(_) => return unfit(),
            },
        });
    }
    let Some(count) = crate::tensor::element_count(&shape) else {
        return unfit();
    };
    if let Some(position) = open {
        if count == 0 || input.len() % count != 0 {
            return unfit();
        }
        shape[position] = input.len() / count;
    } else if count != input.len() {
        return unfit();
    }
    reshaped(input, shape)
}

fn flatten(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let rank = input.shape.len();
    let split = match context.int("axis", 1) {
        split if split == rank as i64 => rank,
        split => axis(split, rank)?,
    };
    let (outer, inner) = input.shape.split_at(split);
    // Cannot overflow: the whole product is known to fit, unless a zero hides a large factor.
    let count = |sizes: &[usize]| crate::tensor::element_count(sizes).ok_or(Stop::Unknown);
    reshaped(input, vec![count(outer)?, count(inner)?])
}

fn transpose(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let rank = input.shape.len();
    let order = match context.node.ints("perm") {
        Some(order) => axes(order, rank)?,
        None => (0..rank).rev().collect(),
    };
    if order.len() != rank {
        return contradiction(format!("`perm` {order:?} does not fit rank {rank}"));
    }
    let shape = order.iter().map(|&from| input.shape[from]).collect();
    single(Known::new(input.dtype, shape))
}

fn squeeze(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let given = context.integers_or(1, "axes")?;
    let dropped: Vec<usize> = match given {
        Some(given) => axes(given, input.shape.len())?,
        None => (0..input.shape.len())
            .filter(|&position| input.shape[position] == 1)
            .collect(),
    };
    if let Some(position) = dropped.iter().find(|&&position| input.shape[position] != 1) {
        return contradiction(format!("axis {position} of shape {:?} is not 1", input.shape));
    }
    let sizes = input.shape.iter().enumerate();
    let kept = sizes.filter(|(position, _)| !dropped.contains(position));
    reshaped(input, kept.map(|(_, &size)| size).collect())
}

fn unsqueeze(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let Some(given) = context.integers_or(1, "axes")? else {
        return contradiction("has no axes");
    };
    let rank = input.shape.len() + given.len();
    let added = axes(given, rank)?;
    let mut sizes = input.shape.iter();
    let shape = (0..rank).map(|position| match added.contains(&position) {
        true => 1,
        false => sizes.next().copied().unwrap_or(1),
    });
    reshaped(input, shape.collect())
}

fn expand(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let target = context
        .integers(1)?
        .iter()
        .map(|&wanted| size(wanted.into()))
        .collect::<Result<Vec<_>, _>>()?;
    let shape = broadcast(&[&input.shape, &target])?;
    let numbers = match input.integers() {
        Some(values) => super::arithmetic::spread(values, &input.shape, &shape),
        None => None,
    };
    let numbers = numbers.map(super::Numbers::Integers);
    single(Known::with_numbers(input.dtype, shape, numbers))
}

fn tile(context: &Context) -> Outputs {
    let (input, repeats) = (context.input(0)?, context.integers(1)?);
    if repeats.len() != input.shape.len() {
        return contradiction(format!("repeats {repeats:?} do not fit shape {:?}", input.shape));
    }
    let sizes = input.shape.iter().zip(repeats);
    let shape = sizes.map(|(&old, &times)| size(old as i128 * i128::from(times)));
    single(Known::new(input.dtype, shape.collect::<Result<_, _>>()?))
}

fn pad(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let rank = input.shape.len();
    let pads = match context.integers_or(1, "pads")? {
        Some(pads) => pads,
        None => return contradiction("has no pads"),
    };
    let padded = match context.node.input(3) {
        Some(_) => axes(context.integers(3)?, rank)?,
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * padded.len() {
        return contradiction(format!("pads {pads:?} do not fit shape {:?}", input.shape));
    }
    let mut shape = input.shape.clone();
    for (place, &position) in padded.iter().enumerate() {
        let (before, after) = (pads[place], pads[place + padded.len()]);
        shape[position] = size(shape[position] as i128 + i128::from(before) + i128::from(after))?;
    }
    single(Known::new(input.dtype, shape))
}

fn resize(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let rank = input.shape.len();
    let resized = match context.node.ints("axes") {
        Some(given) => axes(given, rank)?,
        None => (0..rank).collect(),
    };
    let mut shape = input.shape.clone();
    // Resize has a region of interest between input and scales since opset 11.
    let scales_position = if context.node.is("Resize") && context.opset >= 11 {
        2
    } else {
        1
    };
    if context.node.is("Resize") && context.node.input(3).is_some() {
        let policy = context.node.string("keep_aspect_ratio_policy");
        let sizes = context.integers(3)?;
        if policy.is_some_and(|policy| policy != "stretch") {
            return Err(Stop::Unknown);
        }
        if sizes.len() != resized.len() {
            return contradiction(format!("sizes {sizes:?} do not fit {} axes", resized.len()));
        }
        for (&position, &wanted) in resized.iter().zip(sizes) {
            shape[position] = size(wanted.into())?;
        }
    } else {
        let scales = match context.node.floats("scales") {
            Some(scales) => scales,
            None => context.floats(scales_position)?,
        };
        if scales.len() != resized.len() {
            return contradiction(format!("scales {scales:?} do not fit {} axes", resized.len()));
        }
        for (&position, &scale) in resized.iter().zip(scales) {
            let scaled = (shape[position] as f32 * scale).floor();
            if !scaled.is_finite() {
                return contradiction(format!("scale {scale} is not usable"));
            }
            shape[position] = size(scaled as i128)?;
        }
    }
    single(Known::new(input.dtype, shape))
}

fn blocks(context: &Context, to_depth: bool) -> Outputs {
    let input = context.input(0)?;
    let block = size(context.int("blocksize", 0).into())?;
    let fits = |value: usize, factor: usize| factor > 0 && value.is_multiple_of(factor);
    match (input.shape.as_slice(), block.checked_mul(block)) {
        (&[n, c, h, w], Some(area)) if to_depth && fits(h, block) && fits(w, block) => {
            let channels = size(c as i128 * area as i128)?;
            let shape = vec![n, channels, h / block, w / block];
            single(Known::new(input.dtype, shape))
        }
        (&[n, c, h, w], Some(area)) if !to_depth && fits(c, area) => {
            let (h, w) = (h as i128 * block as i128, w as i128 * block as i128);
            single(Known::new(input.dtype, vec![n, c / area, size(h)?, size(w)?]))
        }
        _ => contradiction(format!("blocks of {block} do not fit shape {:?}", input.shape)),
    }
}
