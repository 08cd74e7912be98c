//! Operators that move elements, join them, cut them or give them another shape.

use super::{
    Adjustment, Bound,
    relations::{Relations, position},
};
use crate::Node;

fn input(node: &Node) -> &str {
    node.input(0).unwrap_or_default()
}

/// For each output axis of a Transpose, the input axis.
pub(super) fn permutation(node: &Node, rank: usize) -> Vec<usize> {
    match node.ints("perm") {
        Some(order) => order.iter().map(|&axis| position(axis, rank)).collect(),
        None => (0..rank).rev().collect(),
    }
}

pub(super) fn transpose(relations: &mut Relations, node: &Node) {
    let order = permutation(node, relations.rank(input(node)));
    for (to, from) in order.into_iter().enumerate() {
        relations.elements.link((input(node), from), (node.id(), to));
    }
}

pub(super) fn squeeze<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let Some(axes) = relations.integers(node, 1, "axes") else {
        return relations.refuse(node, "which axes it drops depends on their sizes");
    };
    let rank = relations.rank(input(node));
    let dropped: Vec<usize> = axes.iter().map(|&axis| position(axis, rank)).collect();
    let kept = (0..rank).filter(|axis| !dropped.contains(axis));
    for (to, from) in kept.enumerate() {
        relations.elements.link((input(node), from), (node.id(), to));
    }
    let reason = relations.reason(node, "it drops this axis");
    for axis in dropped {
        relations.elements.fix((input(node), axis), reason);
    }
}

pub(super) fn unsqueeze<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let Some(axes) = relations.integers(node, 1, "axes") else {
        return relations.refuse(node, "the axes it adds are not known");
    };
    let rank = relations.rank(node.id());
    let added: Vec<usize> = axes.iter().map(|&axis| position(axis, rank)).collect();
    let kept = (0..rank).filter(|axis| !added.contains(axis));
    for (from, to) in kept.enumerate() {
        relations.elements.link((input(node), from), (node.id(), to));
    }
}

pub(super) fn concat(relations: &mut Relations, node: &Node) {
    let along = relations.axis(node, 0);
    let mut start = 0;
    for input in node.inputs() {
        for axis in 0..relations.rank(node.id()) {
            if axis != along {
                relations.elements.link((input, axis), (node.id(), axis));
            }
        }
        let size = relations.size(input, along);
        for k in 0..size {
            let output = ((node.id(), along), start + k);
            relations.elements.link_at(((input, along), k), output);
        }
        start += size;
    }
}

pub(super) fn split(relations: &mut Relations, node: &Node) {
    let along = relations.axis(node, 0);
    let mut start = 0;
    for output in node.outputs() {
        if output.is_empty() {
            return relations.refuse(node, "one of its outputs has no name");
        }
        for axis in 0..relations.rank(output) {
            if axis != along {
                relations.elements.link((input(node), axis), (output, axis));
            }
        }
        let size = relations.size(output, along);
        for k in 0..size {
            let part = ((output.as_str(), along), k);
            relations.elements.link_at(((input(node), along), start + k), part);
        }
        start += size;
    }
    relations.adjustments.push(Adjustment::SplitSizes {
        node: node.id().to_owned(),
        input: input(node).to_owned(),
        axis: along,
    });
}

/// Links the axes for which `kept` holds and fixes the others, on both sides.
fn keep_axes(relations: &mut Relations, node: &Node, text: &str, kept: impl Fn(usize) -> bool) {
    let reason = relations.reason(node, text);
    for axis in 0..relations.rank(node.id()) {
        let (from, to) = ((input(node), axis), (node.id(), axis));
        if kept(axis) && relations.elements.size(from) == relations.elements.size(to) {
            relations.elements.link(from, to);
        } else {
            relations.elements.fix(from, reason);
            relations.elements.fix(to, reason);
        }
    }
}

pub(super) fn slice<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let starts = relations.integers(node, 1, "starts");
    let ends = relations.integers(node, 2, "ends");
    let (Some(starts), Some(ends)) = (starts, ends) else {
        return relations.refuse(node, "what it takes is not known");
    };
    let rank = relations.rank(input(node));
    let axes: Vec<usize> = match relations.integers(node, 3, "axes") {
        Some(axes) => axes.iter().map(|&axis| position(axis, rank)).collect(),
        None if node.input(3).is_some() => return relations.refuse(node, "which axes it takes of is not known"),
        None => (0..starts.len()).collect(),
    };
    let steps = relations.integers(node, 4, "steps");
    if starts.len() != axes.len() || ends.len() != axes.len() || (steps.is_none() && node.input(4).is_some()) {
        return relations.refuse(node, "what it takes is not known");
    }
    // Bounds that are computed cannot be mended.
    let literal = |slot| node.input(slot).is_none() || relations.constant(node, slot).is_some();
    let mendable = literal(1) && literal(2);
    let reason = relations.reason(node, "it takes a slice of this axis");
    let mut bounds = Vec::new();
    for axis in 0..rank {
        let (from, to) = ((input(node), axis), (node.id(), axis));
        let Some(place) = axes.iter().position(|&sliced| sliced == axis) else {
            relations.elements.link(from, to);
            continue;
        };
        let size = relations.size(from.0, axis);
        let absolute = |bound: i64| {
            let bound = if bound < 0 {
                bound.saturating_add_unsigned(size as u64)
            } else {
                bound
            };
            usize::try_from(bound).unwrap_or(0).min(size)
        };
        let (start, end) = (absolute(starts[place]), absolute(ends[place]));
        let forward = steps.is_none_or(|steps| steps.get(place) == Some(&1));
        let open = starts[place] == 0 && ends[place] >= i32::MAX.into();
        if forward && open {
            relations.elements.link(from, to);
        } else if forward && mendable && end.checked_sub(start) == Some(relations.size(to.0, axis)) {
            for k in start..end {
                relations.elements.link_at((from, k), (to, k - start));
            }
            bounds.push(Bound {
                place,
                axis,
                start,
                end,
            });
        } else {
            relations.elements.fix(from, reason);
            relations.elements.fix(to, reason);
        }
    }
    if !bounds.is_empty() {
        relations.adjustments.push(Adjustment::SliceBounds {
            node: node.id().to_owned(),
            input: input(node).to_owned(),
            starts: starts.to_vec(),
            ends: ends.to_vec(),
            bounds,
        });
    }
}

pub(super) fn pad<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let Some(pads) = relations.integers(node, 1, "pads") else {
        return relations.refuse(node, "how much it pads is not known");
    };
    let rank = relations.rank(input(node));
    let axes: Vec<usize> = match node.input(3) {
        None => (0..rank).collect(),
        Some(_) => match relations.integers(node, 3, "") {
            Some(axes) => axes.iter().map(|&axis| position(axis, rank)).collect(),
            None => return relations.refuse(node, "which axes it pads is not known"),
        },
    };
    keep_axes(relations, node, "it pads this axis", |axis| {
        axes.iter()
            .position(|&padded| padded == axis)
            .is_none_or(|place| pads.get(place) == Some(&0) && pads.get(place + axes.len()) == Some(&0))
    });
}

pub(super) fn resize<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let cropped = node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize");
    // The one way in which an axis of unchanged length may move.
    let shifted = node.string("coordinate_transformation_mode") == Some("tf_half_pixel_for_nn");
    let stretched = node.string("keep_aspect_ratio_policy").unwrap_or("stretch") == "stretch";
    if cropped || shifted || !stretched || node.attribute("axes").is_some() {
        return relations.refuse(node, "it resizes in a way that is not understood");
    }
    if node.input(3).is_some() {
        relations.spells(node, 3, node.id(), 0);
        return keep_axes(relations, node, "it resizes this axis", |_| true);
    }
    let slot = usize::from(node.is("Resize") && relations.opset() >= 11) + 1;
    let stored = node.input(slot).and_then(|name| relations.shapes.get(name));
    let scales = match (node.floats("scales"), stored.map(|known| &known.numbers)) {
        (Some(scales), _) => scales.to_vec(),
        (None, Some(Some(crate::shapes::Numbers::Floats(scales)))) => scales.clone(),
        _ => return relations.refuse(node, "its scales are not known"),
    };
    keep_axes(relations, node, "it resizes this axis", |axis| {
        scales.get(axis) == Some(&1.0)
    });
}

pub(super) fn expand<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let (from, to) = (input(node), node.id());
    let lead = relations.rank(to).saturating_sub(relations.rank(from));
    for axis in lead..relations.rank(to) {
        // An element that is repeated may be repeated less often: the queries that share one key.
        relations.elements.link((from, axis - lead), (to, axis));
    }
    // The target may have fewer axes: it is aligned with the last ones.
    let sizes = node.input(1).map_or(0, |target| relations.size(target, 0));
    if let Some(first) = relations.rank(to).checked_sub(sizes) {
        relations.spells(node, 1, to, first);
    }
}

pub(super) fn tile<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let repeats = relations.integers(node, 1, "").unwrap_or(&[]);
    keep_axes(relations, node, "it repeats this axis", |axis| {
        repeats.get(axis) == Some(&1)
    });
}

pub(super) fn gather<'m>(relations: &mut Relations<'m>, place: usize, node: &'m Node) {
    let Some(data) = node.input(0) else {
        return relations.refuse(node, "it has nothing to pick from");
    };
    let along = relations.axis(node, 0);
    let indices = node.input(1).unwrap_or_default();
    let index_rank = relations.rank(indices);
    let reason = relations.reason(node, "it picks elements of this axis");
    relations.elements.fix((data, along), reason);
    for axis in 0..index_rank {
        relations.elements.link((indices, axis), (node.id(), along + axis));
    }
    for axis in 0..relations.rank(data) {
        let to = match axis.cmp(&along) {
            std::cmp::Ordering::Less => axis,
            std::cmp::Ordering::Equal => continue,
            std::cmp::Ordering::Greater => axis + index_rank - 1,
        };
        relations.elements.link((data, axis), (node.id(), to));
        // The columns of an embedding.
        if axis > along && relations.shapes.dtype(data).is_some_and(crate::DType::is_float) {
            relations.note_producer(place, node, data, axis);
        }
    }
}

/// DepthToSpace and SpaceToDepth: a channel of the deep side belongs to one of the shallow side.
pub(super) fn blocks(relations: &mut Relations, node: &Node) {
    let (from, to) = (input(node), node.id());
    let (deep, flat) = if node.is("DepthToSpace") {
        (from, to)
    } else {
        (to, from)
    };
    let (many, few) = (relations.size(deep, 1), relations.size(flat, 1));
    if few == 0 || many == 0 || !many.is_multiple_of(few) {
        return relations.refuse(node, "its blocks do not divide its channels");
    }
    let channel_first = node.string("mode") == Some("CRD");
    for k in 0..many {
        let channel = if channel_first { k / (many / few) } else { k % few };
        relations.elements.link_at(((deep, 1), k), ((flat, 1), channel));
    }
    relations.elements.link((from, 0), (to, 0));
    let reason = relations.reason(node, "it cuts this axis into blocks");
    for axis in [2, 3] {
        relations.elements.fix((from, axis), reason);
        relations.elements.fix((to, axis), reason);
    }
}

/// RoiAlign and GridSample: every channel is read at places that another input gives.
pub(super) fn sample(relations: &mut Relations, node: &Node) {
    let (from, to) = (input(node), node.id());
    let reason = relations.reason(node, "it samples along this axis");
    relations.elements.link((from, 1), (to, 1));
    for axis in (0..relations.rank(from)).filter(|&axis| axis != 1) {
        relations.elements.fix((from, axis), reason);
        relations.elements.fix((to, axis), reason);
    }
    for places in node.inputs().iter().skip(1) {
        relations.elements.fix_all(places, reason);
    }
}

pub(super) fn reduce<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let rank = relations.rank(input(node));
    let indexed = matches!(node.op_type(), "ArgMax" | "ArgMin" | "TopK");
    let reduced: Vec<usize> = if indexed {
        vec![relations.axis(node, if node.is("TopK") { -1 } else { 0 })]
    } else {
        let axes = relations.integers(node, 1, "axes");
        match axes.filter(|axes| !axes.is_empty()) {
            Some(axes) => axes.iter().map(|&axis| position(axis, rank)).collect(),
            None if node.input(1).is_some_and(|name| relations.size(name, 0) > 0) => {
                return relations.refuse(node, "the axes it reduces are not known");
            }
            None if node.int("noop_with_empty_axes").unwrap_or(0) != 0 => Vec::new(),
            None => (0..rank).collect(),
        }
    };
    let keep = node.is("TopK") || node.int("keepdims").unwrap_or(1) != 0;
    let reason = relations.reason(node, "it reduces this axis");
    let mut to = 0;
    for from in 0..rank {
        if reduced.contains(&from) {
            relations.elements.fix((input(node), from), reason);
            for output in node.outputs().iter().filter(|_| keep) {
                relations.elements.fix((output, to), reason);
            }
            to += usize::from(keep);
            continue;
        }
        for output in node.outputs() {
            relations.elements.link((input(node), from), (output, to));
        }
        to += 1;
    }
}
