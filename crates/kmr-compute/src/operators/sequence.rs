//! Sequences and optionals.

use std::sync::Arc;

use kmr_model::Tensor;

use super::{Operator, data, pieces};
use crate::{
    ComputeError,
    interpreter::{Call, Data, Datum, Value},
};

pub const OPERATORS: &[Operator] = &[
    data("Identity", |call| Ok(vec![call.datum(0)?])),
    data("SequenceEmpty", |_| Ok(vec![Datum::Sequence(Arc::default())])),
    data("SequenceConstruct", construct),
    data("SequenceInsert", insert),
    data("SequenceErase", erase),
    data("SequenceAt", at),
    data("SequenceLength", |call| {
        let length = sequence(call)?.len() as i64;
        Ok(vec![Datum::from_tensor(Tensor::scalar(length))])
    }),
    data("SplitToSequence", split),
    data("ConcatFromSequence", concat),
    data("Optional", |call| {
        let element = call.optional_datum(0).map(Box::new);
        Ok(vec![Datum::Optional(element)])
    }),
    data("OptionalHasElement", |call| {
        let present = !matches!(call.optional_datum(0), None | Some(Datum::Optional(None)));
        let tensor = Tensor::new(kmr_model::DType::BOOL, Vec::new(), vec![u8::from(present)].into());
        let tensor = tensor.map_err(|error| call.wrong(error.to_string()))?;
        Ok(vec![Datum::from_tensor(tensor)])
    }),
    data("OptionalGetElement", |call| match call.datum(0)? {
        Datum::Optional(Some(element)) => Ok(vec![*element]),
        Datum::Optional(None) => Err(call.wrong("the optional has no element")),
        // Since version 18, what is no optional is its own element.
        element => Ok(vec![element]),
    }),
];

/// Input 0, a sequence.
fn sequence(call: &mut Call<'_>) -> Result<Arc<Vec<Datum>>, ComputeError> {
    match call.datum(0)? {
        Datum::Sequence(elements) => Ok(elements),
        other => Err(call.wrong(format!("input 0 is {}; expected a sequence", other.kind()))),
    }
}

/// The position in input `input`; negative ones count from `length`. At most `last`.
fn position(call: &mut Call<'_>, input: usize, length: usize, last: usize) -> Result<Option<usize>, ComputeError> {
    if !call.has(input) {
        return Ok(None);
    }
    let [position] = call.integers(input)?[..] else {
        return Err(call.wrong("the position is not one number"));
    };
    let from_start = if position < 0 {
        position.saturating_add(length as i64)
    } else {
        position
    };
    let inside = usize::try_from(from_start).ok().filter(|&position| position <= last);
    inside
        .map(Some)
        .ok_or_else(|| call.wrong(format!("position {position} does not exist in a sequence of {length}")))
}

fn construct(call: &mut Call<'_>) -> Data {
    let elements = (0..call.input_count()).map(|position| call.datum(position));
    let elements = elements.collect::<Result<Vec<_>, _>>()?;
    Ok(vec![Datum::Sequence(Arc::new(elements))])
}

fn insert(call: &mut Call<'_>) -> Data {
    let mut elements = sequence(call)?;
    let element = call.datum(1)?;
    let length = elements.len();
    let position = position(call, 2, length, length)?.unwrap_or(length);
    Arc::make_mut(&mut elements).insert(position, element);
    Ok(vec![Datum::Sequence(elements)])
}

/// The position of an element, which must exist: by default the last one.
fn existing(call: &mut Call<'_>, length: usize) -> Result<usize, ComputeError> {
    let Some(last) = length.checked_sub(1) else {
        return Err(call.wrong("the sequence is empty"));
    };
    Ok(position(call, 1, length, last)?.unwrap_or(last))
}

fn erase(call: &mut Call<'_>) -> Data {
    let mut elements = sequence(call)?;
    let position = existing(call, elements.len())?;
    Arc::make_mut(&mut elements).remove(position);
    Ok(vec![Datum::Sequence(elements)])
}

fn at(call: &mut Call<'_>) -> Data {
    let elements = sequence(call)?;
    let position = existing(call, elements.len())?;
    Ok(vec![elements[position].clone()])
}

fn split(call: &mut Call<'_>) -> Data {
    let value = call.value(0)?;
    let shape = value.shape();
    let axis = call.axis(call.int("axis", 0), shape.len())?;
    let size = shape[axis];
    let wrong = |message: String| call.wrong(message);
    if !call.has(1) {
        let keeps = call.int("keepdims", 1) != 0;
        let elements = (0..size).map(|position| match keeps {
            true => pieces::cut(&value, axis, position, 1),
            false => pieces::element(&value, axis, position),
        });
        let elements = elements.map(|element| element.map(Datum::Tensor).map_err(wrong));
        return Ok(vec![Datum::Sequence(Arc::new(elements.collect::<Result<_, _>>()?))]);
    }
    let tensor = call.tensor(1)?;
    let split = tensor.to_i64().map_err(|error| call.wrong(error.to_string()))?;
    let lengths = match (tensor.shape(), split.as_slice()) {
        ([], &[chunk]) if chunk > 0 => {
            let chunk = usize::try_from(chunk).unwrap_or(usize::MAX);
            let starts = (0..size).step_by(chunk);
            starts.map(|start| chunk.min(size - start)).collect()
        }
        ([_], lengths) => super::constant::sizes(call, lengths.to_vec())?,
        _ => return Err(call.wrong(format!("`split` is {split:?}"))),
    };
    let total = lengths.iter().try_fold(0_usize, |sum, &length| sum.checked_add(length));
    if total != Some(size) {
        return Err(call.wrong(format!("parts {lengths:?} do not make up axis {axis} of {shape:?}")));
    }
    let mut start = 0;
    let mut elements = Vec::with_capacity(lengths.len());
    for length in lengths {
        let piece = pieces::cut(&value, axis, start, length);
        elements.push(Datum::Tensor(piece.map_err(|message| call.wrong(message))?));
        start += length;
    }
    Ok(vec![Datum::Sequence(Arc::new(elements))])
}

fn concat(call: &mut Call<'_>) -> Data {
    let elements = sequence(call)?;
    let tensors = elements.iter().map(|element| {
        let tensor = element.clone().tensor();
        tensor.map_err(|kind| call.wrong(format!("an element is {kind}; expected a tensor")))
    });
    let tensors: Vec<Value> = tensors.collect::<Result<_, _>>()?;
    let Some(first) = tensors.first() else {
        return Err(call.wrong("joins an empty sequence"));
    };
    let rank = first.shape().len();
    let (axis, stacks) = (call.int("axis", 0), call.int("new_axis", 0) != 0);
    let axis = call.axis(axis, if stacks { rank + 1 } else { rank })?;
    let joined = if stacks {
        pieces::stack(tensors, axis)
    } else {
        pieces::join(tensors, axis)
    };
    Ok(vec![Datum::Tensor(joined.map_err(|message| call.wrong(message))?)])
}
