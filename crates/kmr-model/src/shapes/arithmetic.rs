//! Operators that broadcast their inputs, and arithmetic, computed where these are small constants.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Stop, Types::*, computed, contradiction, rule, show, single},
    fact::{FOLLOWED_ELEMENTS, Fact, Values},
};
use crate::{DType, tensor::element_count};

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "And" | "Or" | "Xor" | "BitShift" | "BitwiseAnd" | "BitwiseOr"
        | "BitwiseXor" => rule(Same(&[0, 1]), binary),
        "Pow" => rule(Same(&[0]), binary),
        "Max" | "Min" | "Sum" | "Mean" => rule(Same(&[0, 1]), variadic),
        "Equal" | "Greater" | "GreaterOrEqual" | "Less" | "LessOrEqual" => rule(Always(DType::BOOL), binary),
        "Where" => rule(Same(&[1, 2]), choose),
        "Not" | "Neg" | "Abs" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Sign" => rule(Same(&[0]), unary),
        _ => None,
    }
}

/// The shape that `shapes` broadcast to, by ONNX's multidirectional rule.
pub(super) fn broadcast(shapes: &[&[Dim]]) -> Result<Vec<Dim>, Stop> {
    let rank = shapes.iter().map(|shape| shape.len()).max().unwrap_or(0);
    let mut result = vec![Dim::Fixed(1); rank];
    for shape in shapes {
        for (size, other) in result[rank - shape.len()..].iter_mut().zip(*shape) {
            *size = match (&*size, other) {
                (Dim::Fixed(1), other) => other.clone(),
                (size, Dim::Fixed(1)) => size.clone(),
                (Dim::Fixed(a), Dim::Fixed(b)) if a != b => {
                    let shapes: Vec<String> = shapes.iter().map(|shape| show(shape)).collect();
                    return contradiction(format!("shapes [{}] do not broadcast", shapes.join(", ")));
                }
                // The other one must be 1 or the same.
                (Dim::Fixed(size), _) | (_, Dim::Fixed(size)) => Dim::Fixed(*size),
                (size, other) => size.join(other),
            };
        }
    }
    Ok(result)
}

fn unary(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let op = context.node.op_type();
    let values = match &input.values {
        Some(Values::Integers(values)) => {
            let values = values.iter().map(|value| match (op, value.fixed()) {
                ("Not", Some(value)) => (value == 0).into(),
                ("Neg", _) => Dim::Fixed(0).minus(value),
                ("Abs", Some(value)) => value.abs().into(),
                ("Abs", None) if value.minimum().is_some_and(|least| least >= 0) => value.clone(),
                ("Sign", Some(value)) => value.signum().into(),
                ("Floor" | "Ceil" | "Round", _) => value.clone(),
                _ => Dim::Unknown,
            });
            Some(Values::Integers(values.collect()))
        }
        Some(Values::Floats(values)) => {
            let values = values.iter().map(|&value| match op {
                "Neg" => Some(-value),
                "Abs" => Some(value.abs()),
                "Floor" => Some(value.floor()),
                "Ceil" => Some(value.ceil()),
                "Round" => Some(value.round_ties_even()),
                "Sqrt" => Some(value.sqrt()),
                _ => None,
            });
            values.collect::<Option<_>>().map(Values::Floats)
        }
        None => None,
    };
    computed(context.shape(0)?.to_vec(), values)
}

fn binary(context: &Context) -> Outputs {
    // Up to operator set 6, the second input is broadcast to the first, along a given axis.
    if context.opset < 7 {
        return single(context.shape(0)?.to_vec());
    }
    let shape = broadcast(&[context.shape(0)?, context.shape(1)?])?;
    let (left, right) = (context.input(0)?, context.input(1)?);
    let modulo = context.int("fmod", 0) == 0;
    let values = combine(context.node.op_type(), modulo, left, right, &shape);
    computed(shape, values)
}

fn variadic(context: &Context) -> Outputs {
    if context.opset < 8 {
        return single(context.shape(0)?.to_vec());
    }
    let shape = broadcast(&context.shapes()?)?;
    let values = match context.node.inputs().len() {
        1 => context.input(0)?.values.clone(),
        2 => combine(
            context.node.op_type(),
            true,
            context.input(0)?,
            context.input(1)?,
            &shape,
        ),
        _ => None,
    };
    computed(shape, values)
}

fn combine(op: &str, modulo: bool, left: &Fact, right: &Fact, shape: &[Dim]) -> Option<Values> {
    match (left.values.as_ref()?, right.values.as_ref()?) {
        (Values::Integers(a), Values::Integers(b)) => {
            let (a, b) = (spread(a, left, shape)?, spread(b, right, shape)?);
            let pairs = a.iter().zip(&b);
            Some(Values::Integers(
                pairs.map(|(a, b)| combined(op, modulo, a, b)).collect(),
            ))
        }
        (Values::Floats(a), Values::Floats(b)) => {
            let (a, b) = (spread(a, left, shape)?, spread(b, right, shape)?);
            let pairs = || a.iter().zip(&b).map(|(&a, &b)| (a, b));
            let compared = match op {
                "Equal" => Some(pairs().map(|(a, b)| (a == b).into()).collect()),
                "Greater" => Some(pairs().map(|(a, b)| (a > b).into()).collect()),
                "GreaterOrEqual" => Some(pairs().map(|(a, b)| (a >= b).into()).collect()),
                "Less" => Some(pairs().map(|(a, b)| (a < b).into()).collect()),
                "LessOrEqual" => Some(pairs().map(|(a, b)| (a <= b).into()).collect()),
                _ => None,
            };
            if let Some(compared) = compared {
                return Some(Values::Integers(compared));
            }
            let results = pairs().map(|(a, b)| match op {
                "Add" => Some(a + b),
                "Sub" => Some(a - b),
                "Mul" => Some(a * b),
                "Div" => Some(a / b),
                _ => None,
            });
            results.collect::<Option<_>>().map(Values::Floats)
        }
        _ => None,
    }
}

fn combined(op: &str, modulo: bool, a: &Dim, b: &Dim) -> Dim {
    let truth = |known: Option<bool>| known.map_or(Dim::Unknown, Dim::from);
    match op {
        "Add" | "Sum" => a.plus(b),
        "Sub" => a.minus(b),
        "Mul" => a.times(b),
        "Div" => match (a, b) {
            (_, Dim::Fixed(0)) => Dim::Unknown,
            // Integers are divided toward zero.
            (Dim::Fixed(a), Dim::Fixed(b)) => a.checked_div(*b).map_or(Dim::Unknown, Dim::Fixed),
            (a, Dim::Fixed(b)) if *b > 0 && a.minimum().is_some_and(|least| least >= 0) => a.floor_div(*b),
            (a, b) => a.exact_div(b),
        },
        "Mod" => match (a, b) {
            (_, Dim::Fixed(0)) => Dim::Unknown,
            // The sign is that of the divisor, or with `fmod` that of the dividend.
            (Dim::Fixed(a), Dim::Fixed(b)) if modulo => Dim::Fixed((a % b + b) % b),
            (Dim::Fixed(a), Dim::Fixed(b)) => Dim::Fixed(a % b),
            (a, Dim::Fixed(b)) if *b > 0 && modulo => a.minus(a.floor_div(*b).times(*b)),
            _ => Dim::Unknown,
        },
        "Max" => match a.below(b) {
            Some(true) => b.clone(),
            Some(false) => a.clone(),
            None => Dim::Unknown,
        },
        "Min" => match a.below(b) {
            Some(true) => a.clone(),
            Some(false) => b.clone(),
            None => Dim::Unknown,
        },
        "And" => match (a.equals(&Dim::Fixed(0)), b.equals(&Dim::Fixed(0))) {
            (Some(true), _) | (_, Some(true)) => false.into(),
            (Some(false), Some(false)) => true.into(),
            _ => Dim::Unknown,
        },
        "Or" => match (a.equals(&Dim::Fixed(0)), b.equals(&Dim::Fixed(0))) {
            (Some(false), _) | (_, Some(false)) => true.into(),
            (Some(true), Some(true)) => false.into(),
            _ => Dim::Unknown,
        },
        "Xor" => match (a.fixed(), b.fixed()) {
            (Some(a), Some(b)) => ((a != 0) != (b != 0)).into(),
            _ => Dim::Unknown,
        },
        "Equal" => truth(a.equals(b)),
        "Less" => truth(a.below(b)),
        "Greater" => truth(b.below(a)),
        "LessOrEqual" => truth(b.below(a).map(|above| !above)),
        "GreaterOrEqual" => truth(a.below(b).map(|below| !below)),
        _ => Dim::Unknown,
    }
}

fn choose(context: &Context) -> Outputs {
    let (condition, left, right) = (context.input(0)?, context.input(1)?, context.input(2)?);
    let shape = broadcast(&[context.shape(0)?, context.shape(1)?, context.shape(2)?])?;
    let spread_integers = |fact: &Fact| match &fact.values {
        Some(Values::Integers(values)) => spread(values, fact, &shape),
        _ => None,
    };
    let parts = (
        spread_integers(condition),
        spread_integers(left),
        spread_integers(right),
    );
    let values = match parts {
        (Some(conditions), Some(a), Some(b)) => {
            let choices = conditions.iter().zip(a.iter().zip(&b));
            let chosen = choices.map(|(condition, (a, b))| match condition.fixed() {
                Some(0) => b.clone(),
                Some(_) => a.clone(),
                None => a.join(b),
            });
            Some(Values::Integers(chosen.collect()))
        }
        _ => None,
    };
    computed(shape, values)
}

/// `values` broadcast from their fact's shape to `shape`, if that is of numbers and stays small.
pub(super) fn spread<T: Clone>(values: &[T], from: &Fact, shape: &[Dim]) -> Option<Vec<T>> {
    let sizes = shape.iter().map(|size| usize::try_from(size.fixed()?).ok());
    let shape: Vec<usize> = sizes.collect::<Option<_>>()?;
    let from = from.fixed_shape()?;
    let count = element_count(&shape).filter(|&count| count <= FOLLOWED_ELEMENTS)?;
    let lead = shape.len().checked_sub(from.len())?;
    (0..count)
        .map(|position| {
            let (mut rest, mut index, mut stride) = (position, 0, 1);
            for axis in (0..shape.len()).rev() {
                let coordinate = rest % shape[axis];
                rest /= shape[axis];
                if axis >= lead {
                    let size = from[axis - lead];
                    index += stride * if size == 1 { 0 } else { coordinate };
                    stride *= size;
                }
            }
            values.get(index).cloned()
        })
        .collect()
}

/// Small values in another order: `source` gives the index in each axis of `from` that an index of `shape` comes from.
pub(super) fn rearranged(
    values: &Values,
    from: &[usize],
    shape: &[usize],
    source: &dyn Fn(&[usize], usize) -> Option<usize>,
) -> Option<Values> {
    let count = element_count(shape).filter(|&count| count <= FOLLOWED_ELEMENTS)?;
    let mut places = Vec::with_capacity(count);
    let mut index = vec![0; shape.len()];
    for position in 0..count {
        let mut rest = position;
        for axis in (0..shape.len()).rev() {
            index[axis] = rest % shape[axis];
            rest /= shape[axis];
        }
        let place = (0..from.len()).try_fold(0_usize, |place, axis| {
            place.checked_mul(from[axis])?.checked_add(source(&index, axis)?)
        });
        places.push(place?);
    }
    let places = places.into_iter();
    match values {
        Values::Integers(values) => {
            let values = places.map(|place| values.get(place).cloned());
            values.collect::<Option<_>>().map(Values::Integers)
        }
        Values::Floats(values) => {
            let values = places.map(|place| values.get(place).copied());
            values.collect::<Option<_>>().map(Values::Floats)
        }
    }
}
