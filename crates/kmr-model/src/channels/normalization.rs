//! Normalizations: what they compute together, they lose together or not at all.

use super::relations::Relations;
use crate::Node;

pub(super) fn batch(relations: &mut Relations, node: &Node) {
    if node.outputs().iter().filter(|o| !o.is_empty()).count() > 1 {
        return relations.refuse(node, "it is in training mode");
    }
    let mut parameters = node.inputs().iter().skip(1);
    if node.int("spatial") == Some(0) || parameters.any(|parameter| relations.rank(parameter) != 1) {
        return relations.refuse(node, "it has statistics for every place");
    }
    relations.same_shape(node, 0);
    for input in node.inputs().iter().skip(1) {
        relations.elements.link((input, 0), (node.id(), 1));
    }
}

pub(super) fn instance(relations: &mut Relations, node: &Node) {
    relations.same_shape(node, 0);
    for input in node.inputs().iter().skip(1) {
        relations.elements.link((input, 0), (node.id(), 1));
    }
    let reason = relations.reason(node, "it normalizes over this axis");
    for axis in 2..relations.rank(node.id()) {
        relations.elements.fix((node.id(), axis), reason);
    }
}

/// Whole groups can go, each with all of its channels.
pub(super) fn group(relations: &mut Relations, node: &Node) {
    let output = node.id();
    let channels = relations.size(output, 1);
    let groups = node
        .int("num_groups")
        .and_then(|groups| usize::try_from(groups).ok())
        .filter(|&groups| groups > 0 && channels.is_multiple_of(groups));
    let Some(groups) = groups else {
        return relations.refuse(node, "its groups do not divide its channels");
    };
    relations.same_shape(node, 0);
    let reason = relations.reason(node, "it normalizes over this axis");
    for axis in 2..relations.rank(output) {
        relations.elements.fix((output, axis), reason);
    }
    let width = channels / groups;
    for channel in 0..channels {
        let first = channel / width * width;
        relations.elements.link_at(((output, 1), channel), ((output, 1), first));
    }
    // Before operator set 21 there is one scale for each group, then one for each channel.
    for parameter in node.inputs().iter().skip(1) {
        let per_group = relations.size(parameter, 0) == groups;
        for k in 0..relations.size(parameter, 0) {
            let channel = if per_group { k * width } else { k };
            relations.elements.link_at(((parameter, 0), k), ((output, 1), channel));
        }
    }
    relations.counts(node, "num_groups", output, 1);
}

/// Elements of an axis for which `mixed` holds depend on one another.
pub(super) fn over(relations: &mut Relations, node: &Node, mixed: impl Fn(usize) -> bool) {
    let text = "it normalizes over this axis";
    relations.mixing(node, text, mixed);
    let reason = relations.reason(node, text);
    for value in node.inputs().iter().skip(1).chain(node.outputs().iter().skip(1)) {
        relations.elements.fix_all(value, reason);
    }
}
