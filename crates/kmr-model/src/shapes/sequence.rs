//! Sequences and options of tensors.

use super::{
    Dim,
    context::{Context, Stop, axis, contradiction},
    fact::{Fact, Values, Wrapping, join_shapes},
    operators::WholeFunction,
};
use crate::DType;

type Whole = Result<Vec<Option<Fact>>, Stop>;

pub(super) fn operator(op: &str) -> Option<WholeFunction> {
    Some(match op {
        "Identity" => |context| Ok(vec![Some(context.any(0)?.clone())]),
        "SequenceConstruct" => construct,
        "SequenceEmpty" => empty,
        "SequenceInsert" => insert,
        "SequenceErase" => erase,
        "SequenceAt" => at,
        "SequenceLength" => |_| Ok(vec![Some(Fact::sized(DType::INT64, &[]))]),
        "SplitToSequence" => split,
        "ConcatFromSequence" => concat,
        "Optional" => optional,
        "OptionalGetElement" => |context| {
            let mut fact = context.any(0)?.clone();
            fact.wrapping = match fact.wrapping {
                Wrapping::Optional | Wrapping::Tensor => Wrapping::Tensor,
                Wrapping::OptionalSequence | Wrapping::Sequence => Wrapping::Sequence,
            };
            Ok(vec![Some(fact)])
        },
        "OptionalHasElement" => |context| {
            let absent = !context.has(0);
            let present = context.has(0)
                && matches!(
                    context.any(0).map(|fact| fact.wrapping),
                    Ok(Wrapping::Tensor | Wrapping::Sequence)
                );
            let known = (absent || present).then(|| Values::Integers(vec![present.into()]));
            Ok(vec![Some(Fact::sized(DType::BOOL, &[]).with_values(known))])
        },
        _ => return None,
    })
}

fn sequence(dtype: Option<DType>, shape: Option<Vec<Dim>>) -> Whole {
    Ok(vec![Some(Fact {
        wrapping: Wrapping::Sequence,
        ..Fact::tensor(dtype, shape)
    })])
}

/// The shape that all of these have, as far as it is known.
fn shared<'f>(mut shapes: impl Iterator<Item = Option<&'f [Dim]>>) -> Option<Vec<Dim>> {
    let first = shapes.next()??.to_vec();
    shapes.try_fold(first, |shared, shape| join_shapes(&shared, shape?))
}

fn construct(context: &Context) -> Whole {
    let count = context.node.inputs().len();
    let dtype = (0..count).find_map(|position| context.dtype(position));
    sequence(
        dtype,
        shared((0..count).map(|position| context.optional_shape(position))),
    )
}

fn empty(context: &Context) -> Whole {
    let number = i32::try_from(context.int("dtype", 1)).map_err(|_| Stop::Unknown)?;
    Ok(vec![Some(Fact {
        wrapping: Wrapping::Sequence,
        empty: true,
        ..Fact::tensor(Some(DType::from_number(number)), None)
    })])
}

fn given(context: &Context) -> Result<Fact, Stop> {
    let fact = context.any(0)?;
    match fact.wrapping {
        Wrapping::Sequence => Ok(fact.clone()),
        _ => contradiction("input 0 is not a sequence"),
    }
}

fn insert(context: &Context) -> Whole {
    let given = given(context)?;
    let dtype = given.dtype.or(context.dtype(1));
    let inserted = context.optional_shape(1);
    if given.empty {
        return sequence(dtype, inserted.map(<[Dim]>::to_vec));
    }
    sequence(dtype, shared([given.shape.as_deref(), inserted].into_iter()))
}

fn erase(context: &Context) -> Whole {
    let given = given(context)?;
    sequence(given.dtype, given.shape)
}

fn at(context: &Context) -> Whole {
    let given = given(context)?;
    Ok(vec![Some(Fact::tensor(given.dtype, given.shape))])
}

fn split(context: &Context) -> Whole {
    let Ok(input) = context.shape(0) else {
        return sequence(context.dtype(0), None);
    };
    let along = axis(context.int("axis", 0), input.len())?;
    let mut shape = input.to_vec();
    let keep = context.int("keepdims", 1) != 0;
    if !context.has(1) {
        // Parts of one index each.
        if keep {
            shape[along] = Dim::Fixed(1);
        } else {
            shape.remove(along);
        }
        return sequence(context.dtype(0), Some(shape));
    }
    let scalar = matches!(context.optional_shape(1), Some([]));
    shape[along] = match context.list(1).as_deref() {
        // Parts of this size, the last one smaller where they cannot be.
        Ok([part]) if scalar => match (part.fixed(), input[along].fixed()) {
            (Some(part), Some(total)) if part > 0 && total % part == 0 => Dim::Fixed(part),
            _ => Dim::Unknown,
        },
        Ok([first, rest @ ..]) => rest.iter().fold(first.clone(), |shared, part| shared.join(part)),
        _ => Dim::Unknown,
    };
    sequence(context.dtype(0), Some(shape))
}

fn concat(context: &Context) -> Whole {
    let given = given(context)?;
    let Some(mut shape) = given.shape else {
        return Ok(vec![Some(Fact::tensor(given.dtype, None))]);
    };
    let along = context.required("axis")?;
    if context.int("new_axis", 0) != 0 {
        let along = axis(along, shape.len() + 1)?;
        shape.insert(along, Dim::Unknown);
    } else {
        let along = axis(along, shape.len())?;
        shape[along] = Dim::Unknown;
    }
    Ok(vec![Some(Fact::tensor(given.dtype, Some(shape)))])
}

fn optional(context: &Context) -> Whole {
    let fact = if context.has(0) {
        context.any(0)?.clone()
    } else {
        let declared = context.node.attribute("type").and_then(|a| a.tp.as_option());
        let declared = declared.and_then(|declared| {
            Fact::of_type(declared, &|_, dimension| match dimension {
                crate::Dimension::Fixed(size) => (*size).into(),
                _ => Dim::Unknown,
            })
        });
        declared.ok_or(Stop::Unknown)?
    };
    let wrapping = match fact.wrapping {
        Wrapping::Tensor => Wrapping::Optional,
        Wrapping::Sequence => Wrapping::OptionalSequence,
        _ => return contradiction("an option cannot hold an option"),
    };
    Ok(vec![Some(Fact {
        wrapping,
        ..Fact::tensor(fact.dtype, fact.shape)
    })])
}
