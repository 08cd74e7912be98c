//! Products with weights: they make channels, and sum over them.

use super::{Adjustment, relations::Relations};
use crate::Node;

/// How a convolution's channels fall into its groups.
struct Grouping {
    groups: usize,
    inputs: usize,
    outputs: usize,
}

pub(super) fn convolution<'m>(relations: &mut Relations<'m>, position: usize, node: &'m Node) {
    let (Some(input), Some(weight)) = (node.input(0), node.input(1)) else {
        return relations.refuse(node, "it has no weight");
    };
    let output = node.id();
    let groups = usize::try_from(node.int("group").unwrap_or(1)).unwrap_or(0);
    if groups == 0 {
        return relations.refuse(node, "it has no groups");
    }
    let grouping = Grouping {
        groups,
        inputs: relations.size(input, 1) / groups,
        outputs: relations.size(weight, 0) / groups,
    };
    keep_batch_and_space(relations, node, input, weight);
    let elements = &mut relations.elements;
    elements.link((weight, 0), (output, 1));
    elements.link((node.input(2).unwrap_or_default(), 0), (output, 1));
    if groups == 1 {
        elements.link((input, 1), (weight, 1));
    } else if grouping.inputs == 1 {
        return depthwise(relations, node, input, &grouping);
    } else {
        // The groups stay equally large, so they lose the same channels.
        for group in 0..groups {
            for k in 0..grouping.inputs {
                elements.link_at(((input, 1), group * grouping.inputs + k), ((weight, 1), k));
            }
            for k in 0..grouping.outputs {
                elements.link_at(((output, 1), group * grouping.outputs + k), ((output, 1), k));
            }
        }
    }
    relations.note_producer(position, node, weight, 0);
}

/// Every group has one input channel: a group goes as a whole.
fn depthwise<'m>(relations: &mut Relations<'m>, node: &'m Node, input: &'m str, grouping: &Grouping) {
    for group in 0..grouping.groups {
        for k in 0..grouping.outputs {
            let output = ((node.id(), 1), group * grouping.outputs + k);
            relations.elements.link_at(((input, 1), group), output);
        }
    }
    relations.adjustments.push(Adjustment::GroupCount {
        node: node.id().to_owned(),
        input: input.to_owned(),
    });
}

fn keep_batch_and_space(relations: &mut Relations, node: &Node, input: &str, weight: &str) {
    relations.elements.link((input, 0), (node.id(), 0));
    let reason = relations.reason(node, "it convolves over this axis");
    for axis in 2..relations.rank(input) {
        for value in [input, weight, node.id()] {
            relations.elements.fix((value, axis), reason);
        }
    }
}

pub(super) fn transposed_convolution<'m>(relations: &mut Relations<'m>, position: usize, node: &'m Node) {
    let (Some(input), Some(weight)) = (node.input(0), node.input(1)) else {
        return relations.refuse(node, "it has no weight");
    };
    let groups = usize::try_from(node.int("group").unwrap_or(1)).unwrap_or(0);
    let channels = relations.size(input, 1);
    if groups != 1 && groups != channels {
        return relations.refuse(node, "it is a transposed convolution in groups");
    }
    keep_batch_and_space(relations, node, input, weight);
    let (bias, output) = (node.input(2).unwrap_or_default(), node.id());
    relations.elements.link((input, 1), (weight, 0));
    relations.elements.link((bias, 0), (output, 1));
    if groups == 1 {
        relations.elements.link((weight, 1), (output, 1));
        relations.note_producer(position, node, weight, 1);
    } else {
        let grouping = Grouping {
            groups,
            inputs: 1,
            outputs: relations.size(weight, 1),
        };
        depthwise(relations, node, input, &grouping);
    }
}

pub(super) fn gemm<'m>(relations: &mut Relations<'m>, position: usize, node: &'m Node) {
    let (Some(left), Some(right)) = (node.input(0), node.input(1)) else {
        return relations.refuse(node, "it has no weight");
    };
    let transposed = |name| usize::from(node.int(name).unwrap_or(0) != 0);
    let (rows, columns) = (transposed("transA"), 1 - transposed("transB"));
    let elements = &mut relations.elements;
    elements.link((left, 1 - rows), (right, 1 - columns));
    elements.link((left, rows), (node.id(), 0));
    elements.link((right, columns), (node.id(), 1));
    if let Some(bias) = node.input(2) {
        relations.align(bias, node.id(), 2);
    }
    relations.note_producer(position, node, left, rows);
    relations.note_producer(position, node, right, columns);
}

pub(super) fn matmul<'m>(relations: &mut Relations<'m>, position: usize, node: &'m Node) {
    let (Some(left), Some(right)) = (node.input(0), node.input(1)) else {
        return relations.refuse(node, "it has no weight");
    };
    let (output, rank) = (node.id(), relations.rank(node.id()));
    let (left_rank, right_rank) = (relations.rank(left), relations.rank(right));
    if left_rank == 0 || right_rank == 0 {
        return relations.refuse(node, "it multiplies scalars");
    }
    let inner = right_rank.saturating_sub(2);
    let elements = &mut relations.elements;
    elements.link((left, left_rank - 1), (right, inner));
    let columns = usize::from(right_rank > 1);
    if left_rank > 1 {
        elements.link((left, left_rank - 2), (output, rank - 1 - columns));
    }
    if columns == 1 {
        elements.link((right, right_rank - 1), (output, rank - 1));
    }
    let batch = left_rank.max(right_rank).saturating_sub(2);
    for (value, value_rank) in [(left, left_rank), (right, right_rank)] {
        let own = value_rank.saturating_sub(2);
        for axis in 0..own {
            elements.link((value, axis), (output, batch - own + axis));
        }
    }
    if left_rank > 1 {
        relations.note_producer(position, node, left, left_rank - 2);
    }
    if columns == 1 {
        relations.note_producer(position, node, right, right_rank - 1);
    }
}
