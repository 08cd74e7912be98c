//! Recurrent layers: LSTM, GRU and RNN.
//!
//! A hidden unit lies in every gate's rows of the weights, in the columns of the recurrent ones, in both halves of
//! the bias, in the initial states and in all outputs. Both directions of a layer have as many hidden units, so they
//! lose the same ones.

use super::relations::Relations;
use crate::Node;

pub(super) fn layer<'m>(relations: &mut Relations<'m>, position: usize, node: &'m Node, gates: usize) {
    let (Some(input), Some(weight), Some(recurrence)) = (node.input(0), node.input(1), node.input(2)) else {
        return relations.refuse(node, "it has no weights");
    };
    let hidden = relations.size(recurrence, 2);
    let rows = [weight, recurrence].map(|value| relations.size(value, 1));
    if hidden == 0 || rows != [gates * hidden; 2] {
        return relations.refuse(node, "its weights do not fit each other");
    }
    relations.elements.link((input, 2), (weight, 2));
    let unit = |k: usize| ((recurrence, 2), k);

    // Rows of gates, one block of hidden units after another.
    let bias = node.input(3).unwrap_or_default();
    let peephole = node.input(7).unwrap_or_default();
    for stacked in [weight, recurrence, bias, peephole] {
        for row in 0..relations.size(stacked, 1) {
            relations.elements.link_at(((stacked, 1), row), unit(row % hidden));
        }
    }

    let batch_first = node.int("layout").unwrap_or(0) != 0;
    let (batch, time) = if batch_first { (0, 1) } else { (1, 0) };
    let text = "it runs along this axis";
    let reason = relations.reason(node, text);
    relations.elements.fix((input, time), reason);
    for weight in [weight, recurrence, bias, peephole] {
        relations.elements.fix((weight, 0), reason);
    }
    let output = |slot: usize| node.outputs().get(slot).map_or("", String::as_str);
    // Where the batch and the direction are in each state; the hidden units come last.
    let state = if batch_first { (0, 1) } else { (1, 0) };
    let all = if batch_first { (0, 2) } else { (2, 1) };
    let state_inputs = [5, 6].map(|slot| (node.input(slot).unwrap_or_default(), state));
    let values = [(output(0), all), (output(1), state), (output(2), state)];
    for (value, (batch_axis, direction)) in state_inputs.into_iter().chain(values) {
        let Some(last) = relations.rank(value).checked_sub(1) else {
            continue;
        };
        relations.elements.link((value, batch_axis), (input, batch));
        relations.elements.fix((value, direction), reason);
        for k in 0..relations.size(value, last) {
            relations.elements.link_at(((value, last), k), unit(k));
        }
    }
    relations.elements.fix((output(0), time), reason);
    if let Some(lengths) = node.input(4) {
        relations.elements.link((lengths, 0), (input, batch));
    }
    relations.counts(node, "hidden_size", recurrence, 2);
    relations.note_producer(position, node, weight, 1);
}
