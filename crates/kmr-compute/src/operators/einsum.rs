//! Sums of products in Einstein's notation, as matrix products.

use burn::backend::ops::FloatTensorOps;
use kmr_model::DType;

use super::{
    Operator,
    host::{self, Number, with_number},
    layout, matrix,
    movement::collect,
    onnx, strided,
};
use crate::{
    ComputeError,
    interpreter::{B, Call, Outputs, Value, reshape},
};

pub const OPERATORS: &[Operator] = &[onnx("Einsum", einsum)];

/// An index: a letter, or one of the axes behind the ellipsis, counted from the last one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// An operand and the label of each of its axes.
struct Term {
    value: Value,
    labels: Vec<Label>,
}

fn einsum(call: &mut Call<'_>) -> Outputs {
    let equation = call.node.string("equation").unwrap_or_default();
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (equation.as_str(), None),
    };
    let patterns: Vec<&str> = left.split(',').collect();
    if patterns.len() != call.input_count() {
        return Err(call.wrong(format!(
            "`{equation}` has {} terms for {} inputs",
            patterns.len(),
            call.input_count()
        )));
    }
    let mut terms = Vec::with_capacity(patterns.len());
    for (position, pattern) in patterns.iter().enumerate() {
        let mut value = call.value(position)?;
        if matches!(value.dtype(), DType::FLOAT16 | DType::BFLOAT16) {
            value = Value::Float(call.widened(value)?);
        }
        let labels = labels(call, pattern, value.shape().len())?;
        terms.push(diagonal(call, Term { value, labels })?);
    }
    let all = || terms.iter().flat_map(|term| term.labels.iter().copied());
    let broadcast = all().filter_map(|label| match label {
        Label::Ellipsis(axis) => Some(axis + 1),
        Label::Letter(_) => None,
    });
    let ellipsis = broadcast.max().unwrap_or(0);
    let wanted = match right {
        Some(right) => labels(call, right, right.chars().filter(|c| *c != '.').count() + ellipsis)?,
        None => {
            // The ellipsis, and the letters that occur once, in alphabetical order.
            let mut letters: Vec<char> = left.chars().filter(char::is_ascii_alphabetic).collect();
            letters.sort_unstable();
            let once = letters
                .iter()
                .filter(|c| letters.iter().filter(|other| other == c).count() == 1);
            let once = once.map(|&letter| Label::Letter(letter));
            (0..ellipsis).rev().map(Label::Ellipsis).chain(once).collect()
        }
    };
    let repeats = (1..wanted.len()).any(|position| wanted[..position].contains(&wanted[position]));
    if repeats || wanted.iter().any(|label| !all().any(|other| other == *label)) {
        return Err(call.wrong(format!("the result of `{equation}` has an index twice or from nowhere")));
    }
    let mut terms = terms.into_iter();
    let Some(mut sum) = terms.next() else {
        return Err(call.wrong("has no inputs"));
    };
    let mut rest: Vec<Term> = terms.collect();
    while !rest.is_empty() {
        let next = rest.remove(0);
        let later = |label: &Label| wanted.contains(label) || rest.iter().any(|term| term.labels.contains(label));
        sum = contract(call, sum, next, later)?;
    }
    let dropped: Vec<Label> = sum
        .labels
        .iter()
        .copied()
        .filter(|label| !wanted.contains(label))
        .collect();
    let sum = sum_out(call, sum, &dropped)?;
    Ok(vec![arrange(call, sum, &wanted)?])
}

/// The labels of a term of rank `rank`.
fn labels(call: &Call<'_>, pattern: &str, rank: usize) -> Result<Vec<Label>, ComputeError> {
    let wrong = || call.wrong(format!("`{pattern}` does not label {rank} axes"));
    let (before, after) = match pattern.split_once("...") {
        Some((before, after)) => (before, Some(after)),
        None => (pattern, None),
    };
    let letters = before.chars().chain(after.unwrap_or_default().chars());
    if !letters.clone().all(|c| c.is_ascii_alphabetic()) {
        return Err(wrong());
    }
    let hidden = rank.checked_sub(letters.count()).ok_or_else(wrong)?;
    let mut labels: Vec<Label> = before.chars().map(Label::Letter).collect();
    match after {
        Some(after) => {
            labels.extend((0..hidden).rev().map(Label::Ellipsis));
            labels.extend(after.chars().map(Label::Letter));
        }
        None if hidden > 0 => return Err(wrong()),
        None => {}
    }
    Ok(labels)
}

/// The term without repeated labels: elements whose repeated indices are equal.
fn diagonal(call: &Call<'_>, term: Term) -> Result<Term, ComputeError> {
    let shape = term.value.shape();
    let strides = strided::strides(&shape);
    let mut labels: Vec<Label> = Vec::new();
    let (mut sizes, mut steps) = (Vec::new(), Vec::new());
    for (axis, label) in term.labels.iter().enumerate() {
        match labels.iter().position(|known| known == label) {
            Some(known) if sizes[known] != shape[axis] => {
                return Err(call.wrong(format!(
                    "a repeated index has sizes {} and {}",
                    sizes[known], shape[axis]
                )));
            }
            Some(known) => steps[known] += strides[axis],
            None => {
                labels.push(*label);
                sizes.push(shape[axis]);
                steps.push(strides[axis]);
            }
        }
    }
    if labels.len() == shape.len() {
        return Ok(term);
    }
    let from = strided::positions(&sizes, &steps, 0);
    let value = collect(call, vec![term.value], sizes, from)?;
    Ok(Term { value, labels })
}

/// The product of two terms, summed over what is not needed later.
fn contract(call: &mut Call<'_>, a: Term, b: Term, later: impl Fn(&Label) -> bool) -> Result<Term, ComputeError> {
    let alone = |own: &Term, other: &Term| -> Vec<Label> {
        let labels = own.labels.iter().copied();
        labels
            .filter(|label| !other.labels.contains(label) && !later(label))
            .collect()
    };
    let (only_a, only_b) = (alone(&a, &b), alone(&b, &a));
    let (a, b) = (sum_out(call, a, &only_a)?, sum_out(call, b, &only_b)?);
    let size = |term: &Term, label: &Label| {
        let axis = term.labels.iter().position(|other| other == label);
        axis.map(|axis| term.value.shape()[axis])
    };
    let mut batch = Vec::new();
    let (mut rows, mut columns, mut inner) = (Vec::new(), Vec::new(), Vec::new());
    for label in &a.labels {
        match (size(&a, label), size(&b, label)) {
            (_, None) => rows.push(*label),
            (Some(x), Some(y)) if x != y && x != 1 && y != 1 => {
                return Err(call.wrong(format!("an index has sizes {x} and {y}")));
            }
            // An index of size 1 is broadcast: it belongs to the other operand alone.
            (Some(1), Some(y)) if y != 1 => columns.push(*label),
            (Some(x), Some(1)) if x != 1 => rows.push(*label),
            _ if later(label) => batch.push(*label),
            _ => inner.push(*label),
        }
    }
    columns.extend(b.labels.iter().copied().filter(|label| !a.labels.contains(label)));
    let flat = |call: &Call<'_>, term: Term, groups: [&[Label]; 3]| -> Result<Value, ComputeError> {
        let sizes = groups.map(|group| group.iter().filter_map(|label| size(&term, label)).product::<usize>());
        let order: Vec<Label> = groups.concat();
        let extra: Vec<Label> = term
            .labels
            .iter()
            .copied()
            .filter(|label| !order.contains(label))
            .collect();
        // What is left has size 1.
        let value = arrange(call, term, &[order, extra].concat())?;
        layout::with_shape(call, value, sizes.to_vec())
    };
    let mut shape = Vec::new();
    for label in &batch {
        shape.extend(size(&a, label));
    }
    for label in &rows {
        shape.extend(size(&a, label));
    }
    for label in &columns {
        shape.extend(size(&b, label));
    }
    let left = flat(call, a, [&batch, &rows, &inner])?;
    let right = flat(call, b, [&batch, &inner, &columns])?;
    let product = matrix::product(call, left, right)?;
    let value = layout::with_shape(call, product, shape)?;
    let result = Term {
        value,
        labels: [batch, rows, columns].concat(),
    };
    // A broadcast index may still have to be summed.
    let dropped: Vec<Label> = result.labels.iter().copied().filter(|label| !later(label)).collect();
    sum_out(call, result, &dropped)
}

/// The axes of a term in the order of `labels`, which are its own.
fn arrange(call: &Call<'_>, term: Term, labels: &[Label]) -> Result<Value, ComputeError> {
    let position = |label: &Label| term.labels.iter().position(|other| other == label);
    let order: Vec<usize> = labels.iter().filter_map(position).collect();
    layout::permute(call, term.value, &order)
}

fn sum_out(call: &mut Call<'_>, term: Term, labels: &[Label]) -> Result<Term, ComputeError> {
    if labels.is_empty() {
        return Ok(term);
    }
    let kept: Vec<Label> = term
        .labels
        .iter()
        .copied()
        .filter(|label| !labels.contains(label))
        .collect();
    let order = [kept.as_slice(), labels].concat();
    let count = kept.len();
    let value = arrange(call, term, &order)?;
    let full = value.shape();
    let groups = full[..count].iter().product::<usize>();
    let size = full[count..].iter().product::<usize>();
    let value = layout::with_shape(call, value, vec![groups, size])?;
    let shape = full[..count].to_vec();
    let value = match value.dtype() {
        DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16 if groups > 0 && size > 0 => {
            Value::Float(reshape(B::float_sum_dim(call.widened(value)?, 1), shape))
        }
        _ => {
            let tensor = host::numbers(call, value)?;
            Value::from_tensor(with_number!(tensor.dtype(), N => {
                let values = host::values::<N>(call, &tensor)?;
                let sum = |group: usize| values[group * size..][..size].iter().fold(N::ZERO, |sum, &x| sum.add(x));
                kmr_model::Tensor::from_vec(shape, (0..groups).map(sum).collect())
            }, else return Err(host::unknown(call, tensor.dtype()))))
        }
    };
    Ok(Term { value, labels: kept })
}
