//! Operators that move elements, join them, cut them or give them another shape.

use super::{
    Adjustment,
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
        None => (0..starts.len()).collect(),
    };
    let steps = relations.integers(node, 4, "steps");
    let whole = |place: usize| {
        starts.get(place) == Some(&0)
            && ends.get(place).is_some_and(|&end| end >= i32::MAX.into())
            && steps.is_none_or(|steps| steps.get(place) == Some(&1))
    };
    keep_axes(relations, node, "it takes a slice of this axis", |axis| {
        axes.iter().position(|&sliced| sliced == axis).is_none_or(whole)
    });
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

pub(super) fn resize(relations: &mut Relations, node: &Node) {
    let cropped = node.string("coordinate_transformation_mode") == Some("tf_crop_and_resize");
    let stretched = node.string("keep_aspect_ratio_policy").unwrap_or("stretch") == "stretch";
    if cropped || !stretched || node.attribute("axes").is_some() {
        return relations.refuse(node, "it resizes in a way that is not understood");
    }
    if node.input(3).is_some() {
        relations.adjustments.push(Adjustment::ShapeConstant {
            node: node.id().to_owned(),
            slot: 3,
            output: node.id().to_owned(),
        });
        return keep_axes(relations, node, "it resizes this axis", |_| true);
    }
    let slot = usize::from(node.is("Resize") && relations.model.opset() >= 11) + 1;
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

pub(super) fn expand(relations: &mut Relations, node: &Node) {
    let (from, to) = (input(node), node.id());
    let lead = relations.rank(to).saturating_sub(relations.rank(from));
    let reason = relations.reason(node, "it repeats elements along this axis");
    for axis in 0..relations.rank(to) {
        let source = (from, axis.wrapping_sub(lead));
        let target = (to, axis);
        if axis >= lead && relations.elements.size(source) == relations.elements.size(target) {
            relations.elements.link(source, target);
        } else {
            relations.elements.fix(target, reason);
        }
    }
    relations.adjustments.push(Adjustment::ShapeConstant {
        node: to.to_owned(),
        slot: 1,
        output: to.to_owned(),
    });
}

pub(super) fn tile<'m>(relations: &mut Relations<'m>, node: &'m Node) {
    let repeats = relations.integers(node, 1, "").unwrap_or(&[]);
    keep_axes(relations, node, "it repeats this axis", |axis| {
        repeats.get(axis) == Some(&1)
    });
}

pub(super) fn gather(relations: &mut Relations, node: &Node) {
    let along = relations.axis(node, 0);
    let indices = node.input(1).unwrap_or_default();
    let index_rank = relations.rank(indices);
    let reason = relations.reason(node, "it picks elements of this axis");
    relations.elements.fix((input(node), along), reason);
    for axis in 0..index_rank {
        relations.elements.link((indices, axis), (node.id(), along + axis));
    }
    for axis in 0..relations.rank(input(node)) {
        let to = match axis.cmp(&along) {
            std::cmp::Ordering::Less => axis,
            std::cmp::Ordering::Equal => continue,
            std::cmp::Ordering::Greater => axis + index_rank - 1,
        };
        relations.elements.link((input(node), axis), (node.id(), to));
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

/// Reshape and Flatten: axes that are kept, and axes that are merged into one.
///
/// Only one of several merged axes can lose elements, or all of them would have to: it is the one that
/// nothing else fixes.
pub(super) fn reshape(relations: &mut Relations, node: &Node) {
    let (from, to) = (input(node), node.id());
    let sizes = |relations: &Relations, value| -> Vec<usize> {
        (0..relations.rank(value))
            .map(|axis| relations.size(value, axis))
            .collect()
    };
    let (old, new) = (sizes(relations, from), sizes(relations, to));
    if old.contains(&0) {
        return relations.refuse(node, "it has no elements");
    }
    for (sources, targets) in runs(&old, &new) {
        match (sources.as_slice(), targets.as_slice()) {
            (&[source], &[target]) => relations.elements.link((from, source), (to, target)),
            (sources, &[target]) => merge(relations, node, &old, sources, target),
            (sources, targets) => {
                let text = "it splits this axis in a way that is not understood";
                let reason = relations.reason(node, text);
                for &axis in sources {
                    relations.elements.fix((from, axis), reason);
                }
                for &axis in targets {
                    relations.elements.fix((to, axis), reason);
                }
            }
        }
    }
    if node.is("Reshape") {
        relations.adjustments.push(Adjustment::ShapeConstant {
            node: to.to_owned(),
            slot: 1,
            output: to.to_owned(),
        });
    }
}

/// The shortest runs of axes with the same number of elements in both shapes, axes of size 1 left out.
fn runs(old: &[usize], new: &[usize]) -> Vec<(Vec<usize>, Vec<usize>)> {
    let long = |sizes: &[usize]| -> Vec<usize> { (0..sizes.len()).filter(|&axis| sizes[axis] != 1).collect() };
    let (sources, targets) = (long(old), long(new));
    let (mut result, mut source, mut target) = (Vec::new(), 0, 0);
    while source < sources.len() && target < targets.len() {
        let (first_source, first_target) = (source, target);
        let (mut left, mut right) = (old[sources[source]], new[targets[target]]);
        (source, target) = (source + 1, target + 1);
        while left != right {
            if left < right && source < sources.len() {
                left *= old[sources[source]];
                source += 1;
            } else if right < left && target < targets.len() {
                right *= new[targets[target]];
                target += 1;
            } else {
                break;
            }
        }
        result.push((
            sources[first_source..source].to_vec(),
            targets[first_target..target].to_vec(),
        ));
    }
    result
}

fn merge(relations: &mut Relations, node: &Node, old: &[usize], sources: &[usize], target: usize) {
    let (from, to) = (input(node), node.id());
    let free: Vec<usize> = sources
        .iter()
        .copied()
        .filter(|&axis| relations.elements.is_free((from, axis)))
        .collect();
    let reason = relations.reason(node, "it merges this axis with others");
    let free = match free.as_slice() {
        &[axis] => Some(axis),
        _ => {
            relations.elements.fix((to, target), reason);
            None
        }
    };
    for &axis in sources.iter().filter(|&&axis| Some(axis) != free) {
        relations.elements.fix((from, axis), reason);
    }
    let Some(axis) = free else {
        return;
    };
    let after = sources.iter().filter(|&&source| source > axis);
    let stride: usize = after.map(|&source| old[source]).product();
    for element in 0..relations.size(to, target) {
        let unit = element / stride % old[axis];
        let merged = ((to, target), element);
        relations.elements.link_at(((from, axis), unit), merged);
    }
}
