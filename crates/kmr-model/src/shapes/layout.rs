//! Operators that move elements or give them another shape.

use super::{
    Dim,
    arithmetic::{broadcast, rearranged, spread},
    context::{
        Context, Outputs, Rule, Stop, Types::*, axes, axis, computed, contradiction, product, rule, show, single,
    },
    fact::Values,
};

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "Reshape" => rule(Same(&[0]), reshape),
        "Flatten" => rule(Same(&[0]), flatten),
        "Transpose" => rule(Same(&[0]), transpose),
        "Squeeze" => rule(Same(&[0]), squeeze),
        "Unsqueeze" => rule(Same(&[0]), unsqueeze),
        "Expand" => rule(Same(&[0]), expand),
        "Tile" => rule(Same(&[0]), tile),
        "Pad" => rule(Same(&[0]), pad),
        "CenterCropPad" => rule(Same(&[0]), center),
        "DepthToSpace" => rule(Same(&[0]), |context| blocks(context, false)),
        "SpaceToDepth" => rule(Same(&[0]), |context| blocks(context, true)),
        _ => None,
    }
}

/// The input's values under another shape.
fn reshaped(context: &Context, shape: Vec<Dim>) -> Outputs {
    computed(shape, context.input(0)?.values.clone())
}

fn reshape(context: &Context) -> Outputs {
    let Some(target) = context.list_or(1, "shape")? else {
        return contradiction("has no target shape");
    };
    let input = context.input(0)?.shape.as_deref();
    let unfit = || {
        let input = input.map_or("unknown".to_owned(), show);
        contradiction(format!(
            "an input of shape {input} cannot take the shape {}",
            show(&target)
        ))
    };
    let keep_zero = context.int("allowzero", 0) != 0;
    let mut shape = Vec::with_capacity(target.len());
    let (mut open, mut copied, mut inferred) = (Vec::new(), Vec::new(), false);
    for (position, wanted) in target.iter().enumerate() {
        let positive = wanted.minimum().is_some_and(|least| least >= 1);
        shape.push(match (wanted, input) {
            (Dim::Fixed(0), Some(input)) if !keep_zero => match input.get(position) {
                Some(size) => {
                    copied.push(position);
                    size.clone()
                }
                None => return unfit(),
            },
            (Dim::Fixed(size), _) if *size < -1 || (*size == -1 && std::mem::replace(&mut inferred, true)) => {
                return unfit();
            }
            (wanted, _) if positive || (keep_zero && wanted.is(0)) => wanted.clone(),
            // One that is not known may be -1, or 0 for a copy.
            _ => {
                open.push(position);
                Dim::Unknown
            }
        });
    }
    let Some(input) = input else {
        return single(shape);
    };
    // What is copied is left out on both sides, known or not.
    let rest = |sizes: &[Dim], open: &[usize]| {
        let sizes = sizes.iter().enumerate();
        let kept = sizes.filter(|(position, _)| !copied.contains(position) && !open.contains(position));
        product(kept.map(|(_, size)| size))
    };
    let (wanted, given) = (rest(&shape, &open), rest(input, &[]));
    match (open.as_slice(), given.fixed(), wanted.fixed()) {
        (&[_], _, Some(0)) => return unfit(),
        (&[_], Some(given), Some(wanted)) if given % wanted != 0 => return unfit(),
        (&[position], ..) => shape[position] = given.exact_div(&wanted),
        (&[], ..) if wanted.equals(&given) == Some(false) => return unfit(),
        _ => {}
    }
    reshaped(context, shape)
}

fn flatten(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let split = match context.int("axis", 1) {
        split if split == input.len() as i64 => input.len(),
        split => axis(split, input.len())?,
    };
    let (outer, inner) = input.split_at(split);
    reshaped(context, vec![product(outer), product(inner)])
}

fn transpose(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let order = match context.node.ints("perm") {
        Some(order) => axes(order, input.len())?,
        None => (0..input.len()).rev().collect(),
    };
    if order.len() != input.len() {
        return contradiction(format!("`perm` {order:?} does not fit rank {}", input.len()));
    }
    let shape: Vec<Dim> = order.iter().map(|&from| input[from].clone()).collect();
    let fact = context.input(0)?;
    let values = fact.values.as_ref().zip(fact.fixed_shape()).and_then(|(values, from)| {
        let sizes: Vec<usize> = order.iter().map(|&axis| from[axis]).collect();
        let place = |index: &[usize], axis: usize| index.get(order.iter().position(|&from| from == axis)?).copied();
        rearranged(values, &from, &sizes, &place)
    });
    computed(shape, values)
}

fn squeeze(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let dropped = match context.ints_or(1, "axes") {
        Err(Stop::Unknown) => {
            let count = context.list(1)?.len();
            return match input.len().checked_sub(count) {
                Some(rank) => single(vec![Dim::Unknown; rank]),
                None => contradiction(format!("cannot drop {count} axes of {}", input.len())),
            };
        }
        given => given?,
    };
    let dropped = match dropped {
        Some(given) => axes(&given, input.len())?,
        None if input.iter().any(|size| size.equals(&Dim::Fixed(1)).is_none()) => return Err(Stop::Unknown),
        None => (0..input.len()).filter(|&position| input[position].is(1)).collect(),
    };
    if let Some(position) = dropped
        .iter()
        .find(|&&position| input[position].equals(&Dim::Fixed(1)) == Some(false))
    {
        return contradiction(format!("axis {position} of shape {} is not 1", show(input)));
    }
    let kept = input
        .iter()
        .enumerate()
        .filter(|(position, _)| !dropped.contains(position));
    reshaped(context, kept.map(|(_, size)| size.clone()).collect())
}

fn unsqueeze(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let given = match context.ints_or(1, "axes") {
        Err(Stop::Unknown) => {
            let rank = input.len() + context.list(1)?.len();
            return single(vec![Dim::Unknown; rank]);
        }
        given => given?,
    };
    let Some(given) = given else {
        return contradiction("has no axes");
    };
    let rank = input.len() + given.len();
    let added = axes(&given, rank)?;
    let mut shape = vec![None; rank];
    added
        .into_iter()
        .for_each(|position| shape[position] = Some(Dim::Fixed(1)));
    let mut sizes = input.iter().cloned();
    let shape = shape
        .into_iter()
        .map(|size| size.or_else(|| sizes.next()).unwrap_or(Dim::Fixed(1)));
    reshaped(context, shape.collect())
}

fn expand(context: &Context) -> Outputs {
    let target = context.list(1)?;
    if let Some(negative) = target.iter().find(|size| size.fixed().is_some_and(|size| size < 0)) {
        return contradiction(format!("a dimension would have size {negative}"));
    }
    let shape = broadcast(&[context.shape(0)?, &target])?;
    let input = context.input(0)?;
    let values = match &input.values {
        Some(Values::Integers(values)) => spread(values, input, &shape).map(Values::Integers),
        _ => None,
    };
    computed(shape, values)
}

fn tile(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    if context.opset < 6 {
        return Err(Stop::Unknown);
    }
    let repeats = match context.list(1) {
        Err(Stop::Unknown) => return single(vec![Dim::Unknown; input.len()]),
        repeats => repeats?,
    };
    if repeats.len() != input.len() {
        return contradiction(format!("repeats {} do not fit shape {}", show(&repeats), show(input)));
    }
    single(
        input
            .iter()
            .zip(&repeats)
            .map(|(size, times)| size.times(times))
            .collect(),
    )
}

fn pad(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let attribute = if context.opset < 2 { "paddings" } else { "pads" };
    let pads = match context.list_or(1, attribute) {
        Err(Stop::Unknown) => return single(vec![Dim::Unknown; input.len()]),
        pads => pads?,
    };
    let Some(pads) = pads else {
        return contradiction("has no pads");
    };
    let padded = if context.has(3) {
        match context.ints(3) {
            Err(Stop::Unknown) => return single(vec![Dim::Unknown; input.len()]),
            given => axes(&given?, input.len())?,
        }
    } else {
        (0..input.len()).collect()
    };
    if pads.len() != 2 * padded.len() {
        return contradiction(format!("pads {} do not fit shape {}", show(&pads), show(input)));
    }
    let mut shape = input.to_vec();
    for (place, &position) in padded.iter().enumerate() {
        let (before, after) = (&pads[place], &pads[place + padded.len()]);
        shape[position] = shape[position].plus(before).plus(after);
    }
    single(shape)
}

fn center(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let along = match context.node.ints("axes") {
        Some(given) => axes(given, input.len())?,
        None => (0..input.len()).collect(),
    };
    let mut shape = input.to_vec();
    let wanted = match context.list(1) {
        Err(Stop::Unknown) => vec![Dim::Unknown; along.len()],
        wanted => wanted?,
    };
    if wanted.len() != along.len() {
        return contradiction(format!("sizes {} do not fit {} axes", show(&wanted), along.len()));
    }
    for (position, wanted) in along.into_iter().zip(wanted) {
        shape[position] = wanted;
    }
    single(shape)
}

fn blocks(context: &Context, to_depth: bool) -> Outputs {
    let input = context.shape(0)?;
    let block = i128::from(context.int("blocksize", 0));
    let unfit = || contradiction(format!("blocks of {block} do not fit shape {}", show(input)));
    let ([n, c, h, w], true) = (input, block > 0) else {
        return unfit();
    };
    let fits = |size: &Dim, factor: i128| size.fixed().is_none_or(|size| size % factor == 0);
    let area = block * block;
    if to_depth && fits(h, block) && fits(w, block) {
        let less = |size: &Dim| size.exact_div(&Dim::Fixed(block));
        single(vec![n.clone(), c.times(area), less(h), less(w)])
    } else if !to_depth && fits(c, area) {
        let channels = c.exact_div(&Dim::Fixed(area));
        single(vec![n.clone(), channels, h.times(block), w.times(block)])
    } else {
        unfit()
    }
}
