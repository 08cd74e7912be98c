//! Products with weights: they make channels, and sum over them.

use super::{
    elements::{Axis, Elements},
    relations::Relations,
};
use crate::Node;

/// Where a product has its operands.
pub(super) struct Operands {
    left: usize,
    right: usize,
    /// Added to each output channel.
    bias: Option<usize>,
    /// Scales and zero points that the left operand may have one of for each row.
    per_row: &'static [usize],
    /// Those that the right operand may have one of for each output channel.
    per_channel: &'static [usize],
}

impl Operands {
    pub const CONVOLUTION: Self = Self {
        left: 0,
        right: 1,
        bias: Some(2),
        per_row: &[],
        per_channel: &[],
    };
    pub const INTEGER_CONVOLUTION: Self = Self {
        bias: None,
        per_channel: &[3],
        ..Self::CONVOLUTION
    };
    pub const QUANTIZED_CONVOLUTION: Self = Self {
        right: 3,
        bias: Some(8),
        per_channel: &[4, 5],
        ..Self::CONVOLUTION
    };
    pub const PRODUCT: Self = Self {
        bias: None,
        ..Self::CONVOLUTION
    };
    pub const INTEGER_PRODUCT: Self = Self {
        per_row: &[2],
        per_channel: &[3],
        ..Self::PRODUCT
    };
    pub const QUANTIZED_PRODUCT: Self = Self {
        right: 3,
        per_row: &[1, 2],
        per_channel: &[4, 5],
        ..Self::PRODUCT
    };

    /// Links scales and zero points with more than one element to `axis` of `value`.
    fn link_parameters(relations: &mut Relations, node: &Node, slots: &[usize], (value, axis): (&str, usize)) {
        for parameter in slots.iter().filter_map(|&slot| node.input(slot)) {
            if relations.rank(parameter) == 1 && relations.size(parameter, 0) > 1 {
                relations.elements.link((parameter, 0), (value, axis));
            } else if relations.rank(parameter) > 1 {
                let reason = relations.reason(node, "it has parameters for every batch");
                relations.elements.fix_all(parameter, reason);
                relations.elements.fix_all(value, reason);
            }
        }
    }
}

/// How a convolution's channels fall into its groups.
struct Grouping {
    groups: usize,
    inputs: usize,
    outputs: usize,
}

impl Grouping {
    /// The groups of `node`; none if they do not divide its channels, or there are none that are followed.
    fn of(node: &Node, inputs: usize, outputs: usize) -> Option<Self> {
        let groups = usize::try_from(node.int("group").unwrap_or(1)).unwrap_or(0);
        let divides =
            groups > 0 && inputs > 0 && outputs > 0 && inputs.is_multiple_of(groups) && outputs.is_multiple_of(groups);
        divides.then(|| Self {
            groups,
            inputs: inputs / groups,
            outputs: outputs / groups,
        })
    }

    /// Whether there are more groups to choose among than channels in each: then groups go as a whole. A depthwise
    /// convolution is the plainest of these.
    fn goes_whole(&self) -> bool {
        self.inputs == 1 || self.groups > self.inputs.min(self.outputs)
    }
}

pub(super) fn convolution<'m>(relations: &mut Relations<'m>, position: usize, node: &'m Node, operands: &Operands) {
    let (Some(input), Some(weight)) = (node.input(operands.left), node.input(operands.right)) else {
        return relations.refuse(node, "it has no weight");
    };
    let output = node.id();
    let Some(grouping) = Grouping::of(node, relations.size(input, 1), relations.size(weight, 0)) else {
        return relations.refuse(node, "its groups do not divide its channels");
    };
    keep_batch_and_space(relations, node, input, weight);
    Operands::link_parameters(relations, node, operands.per_channel, (output, 1));
    let elements = &mut relations.elements;
    elements.link((weight, 0), (output, 1));
    if let Some(bias) = operands.bias.and_then(|slot| node.input(slot)) {
        elements.link((bias, 0), (output, 1));
    }
    if grouping.groups == 1 {
        elements.link((input, 1), (weight, 1));
    } else if grouping.goes_whole() {
        whole_groups(relations, node, input, &grouping);
        if grouping.inputs == 1 {
            return;
        }
    } else {
        equal_groups(elements, ((input, 1), (weight, 1)), (grouping.groups, grouping.inputs));
        equal_groups(
            elements,
            ((output, 1), (output, 1)),
            (grouping.groups, grouping.outputs),
        );
    }
    relations.note_producer(position, node, weight, 0);
}

/// The groups stay equally large, so they lose the same channels: each channel of the first axis goes with the one at
/// its place within a group on the second.
fn equal_groups(elements: &mut Elements<'_>, (all, one): (Axis<'_>, Axis<'_>), (groups, channels): (usize, usize)) {
    for group in 0..groups {
        for k in 0..channels {
            elements.link_at((all, group * channels + k), (one, k));
        }
    }
}

/// A group goes with all of its inputs and outputs.
fn whole_groups<'m>(relations: &mut Relations<'m>, node: &'m Node, input: &'m str, grouping: &Grouping) {
    for group in 0..grouping.groups {
        let first = ((input, 1), group * grouping.inputs);
        for k in 0..grouping.inputs {
            let next = ((input, 1), group * grouping.inputs + k);
            relations.elements.link_at(first, next);
        }
        for k in 0..grouping.outputs {
            let output = ((node.id(), 1), group * grouping.outputs + k);
            relations.elements.link_at(first, output);
        }
    }
    relations.counts(node, "group", input, 1);
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
    let outputs = groups.saturating_mul(relations.size(weight, 1));
    let Some(grouping) = Grouping::of(node, relations.size(input, 1), outputs) else {
        return relations.refuse(node, "its groups do not divide its channels");
    };
    keep_batch_and_space(relations, node, input, weight);
    let (bias, output) = (node.input(2).unwrap_or_default(), node.id());
    let elements = &mut relations.elements;
    elements.link((input, 1), (weight, 0));
    elements.link((bias, 0), (output, 1));
    if grouping.groups == 1 {
        elements.link((weight, 1), (output, 1));
    } else if grouping.goes_whole() {
        return whole_groups(relations, node, input, &grouping);
    } else {
        equal_groups(elements, ((input, 1), (input, 1)), (grouping.groups, grouping.inputs));
        equal_groups(
            elements,
            ((output, 1), (weight, 1)),
            (grouping.groups, grouping.outputs),
        );
    }
    relations.note_producer(position, node, weight, 1);
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

pub(super) fn matmul<'m>(relations: &mut Relations<'m>, position: usize, node: &'m Node, operands: &Operands) {
    let (Some(left), Some(right)) = (node.input(operands.left), node.input(operands.right)) else {
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
        elements.link((left, left_rank - 2), (output, rank.wrapping_sub(1 + columns)));
    }
    if columns == 1 {
        elements.link((right, right_rank - 1), (output, rank.wrapping_sub(1)));
    }
    let batch = left_rank.max(right_rank).saturating_sub(2);
    for (value, value_rank) in [(left, left_rank), (right, right_rank)] {
        let own = value_rank.saturating_sub(2);
        for axis in 0..own {
            elements.link((value, axis), (output, batch - own + axis));
        }
    }
    if left_rank > 1 {
        let rows = (output, rank.wrapping_sub(1 + columns));
        Operands::link_parameters(relations, node, operands.per_row, rows);
    }
    if columns == 1 {
        let columns = (output, rank.wrapping_sub(1));
        Operands::link_parameters(relations, node, operands.per_channel, columns);
    }
    if left_rank > 1 {
        relations.note_producer(position, node, left, left_rank - 2);
    }
    if columns == 1 {
        relations.note_producer(position, node, right, right_rank - 1);
    }
}

/// The weight of a product and the axis of its output channels, as far as the node alone tells.
pub(super) fn plain_weight(node: &Node) -> Option<(&str, usize)> {
    let axis = match node.op_type() {
        "Conv" => 0,
        "ConvTranspose" | "MatMul" | "LSTM" | "GRU" | "RNN" => 1,
        "Gemm" => usize::from(node.int("transB").unwrap_or(0) == 0),
        _ => return None,
    };
    Some((node.input(1)?, axis))
}
