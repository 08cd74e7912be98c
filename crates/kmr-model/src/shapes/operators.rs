//! From a node to what inference knows of its operator.

use super::{
    arithmetic, attention, constants,
    context::{Context, Rule, Stop},
    convolution, detection, elementwise,
    fact::Fact,
    foreign, layout, matrix, normalization, quantization, recurrent, reduction, resize, scatter, selection, sequence,
    signal, text,
};
use crate::Node;

/// A function that finds whole facts, for operators on other values than tensors.
pub(super) type WholeFunction = fn(&Context<'_>) -> Result<Vec<Option<Fact>>, Stop>;

/// The families of the standard operators.
const FAMILIES: [fn(&str) -> Option<Rule>; 16] = [
    elementwise::operator,
    arithmetic::operator,
    convolution::operator,
    matrix::operator,
    normalization::operator,
    reduction::operator,
    layout::operator,
    selection::operator,
    constants::operator,
    resize::operator,
    scatter::operator,
    quantization::operator,
    recurrent::operator,
    attention::operator,
    detection::operator,
    signal::operator,
];

/// The rule of a node's operator, if it is known.
pub(super) fn find(node: &Node) -> Option<Rule> {
    match node.domain() {
        "" => {
            let op = node.op_type();
            FAMILIES
                .iter()
                .find_map(|family| family(op))
                .or_else(|| text::operator(op))
        }
        domain => foreign::operator(domain, node.op_type()),
    }
}

/// The function of an operator that makes or takes sequences and options.
pub(super) fn whole(node: &Node) -> Option<WholeFunction> {
    match node.domain() {
        "" => sequence::operator(node.op_type()),
        domain => foreign::whole(domain, node.op_type()),
    }
}
