//! Matrix products.

use std::{collections::BTreeMap, slice::from_ref};

use super::{
    Dim,
    arithmetic::broadcast,
    context::{Context, Outputs, Rule, Stop, Types::*, contradiction, rule, show, single},
    elementwise::fits_in,
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "MatMul" => rule(Same(&[0, 1]), |context| product(context, 0, 1)),
        "MatMulInteger" => rule(Always(DType::INT32), |context| product(context, 0, 1)),
        "QLinearMatMul" => rule(Same(&[7]), |context| product(context, 0, 3)),
        "Gemm" => rule(Same(&[0, 1, 2]), gemm),
        "Einsum" => rule(Same(&[0, 1, 2]), einsum),
        "Det" => rule(Same(&[0]), determinant),
        _ => None,
    }
}

/// The shape of a MatMul of two shapes, by NumPy's rules.
fn product(context: &Context, left: usize, right: usize) -> Outputs {
    let (left, right) = (context.shape(left)?, context.shape(right)?);
    let unfit = || contradiction(format!("shapes {} and {} do not multiply", show(left), show(right)));
    let (Some(left_inner), Some(right_last)) = (left.last(), right.last()) else {
        return unfit();
    };
    let right_inner = match right {
        [.., inner, _] => inner,
        _ => right_last,
    };
    if left_inner.unify(right_inner).is_none() {
        return unfit();
    }
    let batch = |shape: &[Dim]| shape[..shape.len().saturating_sub(2)].to_vec();
    let mut result = broadcast(&[&batch(left), &batch(right)])?;
    if let [.., rows, _] = left {
        result.push(rows.clone());
    }
    if right.len() > 1 {
        result.push(right_last.clone());
    }
    single(result)
}

fn gemm(context: &Context) -> Outputs {
    let (left, right) = (context.shape(0)?, context.shape(1)?);
    let ([a0, a1], [b0, b1]) = (left, right) else {
        return contradiction(format!(
            "takes two matrices; got shapes {} and {}",
            show(left),
            show(right)
        ));
    };
    let (rows, inner) = if context.int("transA", 0) != 0 {
        (a1, a0)
    } else {
        (a0, a1)
    };
    let (other, columns) = if context.int("transB", 0) != 0 {
        (b1, b0)
    } else {
        (b0, b1)
    };
    if inner.unify(other).is_none() {
        return contradiction(format!("shapes {} and {} do not multiply", show(left), show(right)));
    }
    let result = vec![rows.clone(), columns.clone()];
    if context.opset >= 7
        && let Some(bias) = context.optional_shape(2)
        && !fits_in(bias, &result)
    {
        return contradiction(format!(
            "a bias of shape {} does not fit a result of shape {}",
            show(bias),
            show(&result)
        ));
    }
    single(result)
}

fn determinant(context: &Context) -> Outputs {
    match context.shape(0)? {
        [batch @ .., rows, columns] if rows.unify(columns).is_some() => single(batch.to_vec()),
        other => contradiction(format!("takes square matrices; got shape {}", show(other))),
    }
}

/// The parts of an Einsum equation.
pub(crate) struct Equation {
    /// The axes of each input: `None` where an ellipsis stands.
    pub terms: Vec<Vec<Option<char>>>,
    /// The axes of the result.
    pub result: Vec<Option<char>>,
}

impl Equation {
    /// Parses an equation; `None` if it is none.
    pub fn parse(equation: &str) -> Option<Self> {
        let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = match equation.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (equation.as_str(), None),
        };
        let terms = left.split(',').map(axes).collect::<Option<Vec<_>>>()?;
        let result = match right {
            Some(right) => axes(right)?,
            // Without a result, axes that occur once are kept, in alphabetical order.
            None => {
                let mut times = BTreeMap::new();
                for axis in terms.iter().flatten().flatten() {
                    *times.entry(*axis).or_insert(0) += 1;
                }
                let kept = times
                    .into_iter()
                    .filter(|(_, times)| *times == 1)
                    .map(|(axis, _)| Some(axis));
                let ellipsis = terms.iter().flatten().any(Option::is_none).then_some(None);
                ellipsis.into_iter().chain(kept).collect()
            }
        };
        Some(Self { terms, result })
    }

    /// The number of combinations of indices of all axes, for inputs of these shapes.
    pub fn space(&self, shapes: &[&[usize]]) -> Option<u64> {
        let shapes: Vec<Vec<Dim>> = shapes
            .iter()
            .map(|shape| shape.iter().map(|&size| size.into()).collect())
            .collect();
        let shapes: Vec<&[Dim]> = shapes.iter().map(Vec::as_slice).collect();
        let (sizes, ellipsis) = self.sizes(&shapes).ok()?;
        sizes.values().chain(&ellipsis).try_fold(1_u64, |product, size| {
            product.checked_mul(u64::try_from(size.fixed()?).ok()?)
        })
    }

    /// The size of each named axis, and the shape that the ellipses broadcast to.
    pub(super) fn sizes(&self, shapes: &[&[Dim]]) -> Result<(BTreeMap<char, Dim>, Vec<Dim>), Stop> {
        let mut sizes: BTreeMap<char, Dim> = BTreeMap::new();
        let mut ellipses: Vec<&[Dim]> = Vec::new();
        if self.terms.len() != shapes.len() {
            return contradiction(format!(
                "the equation has {} terms for {} inputs",
                self.terms.len(),
                shapes.len()
            ));
        }
        for (term, shape) in self.terms.iter().zip(shapes) {
            let named = term.iter().flatten().count();
            let unfit = || contradiction(format!("the equation does not fit an input of shape {}", show(shape)));
            let Some(free) = shape.len().checked_sub(named) else {
                return unfit();
            };
            if free > 0 && named == term.len() {
                return unfit();
            }
            let mut position = 0;
            for axis in term {
                let Some(axis) = axis else {
                    ellipses.push(&shape[position..position + free]);
                    position += free;
                    continue;
                };
                let size = &shape[position];
                position += 1;
                match sizes
                    .get(axis)
                    .map(|known| broadcast(&[from_ref(known), from_ref(size)]))
                {
                    Some(Ok(both)) => sizes.extend(both.into_iter().map(|size| (*axis, size))),
                    Some(Err(_)) => return unfit(),
                    None => {
                        sizes.insert(*axis, size.clone());
                    }
                }
            }
        }
        Ok((sizes, broadcast(&ellipses)?))
    }
}

fn axes(term: &str) -> Option<Vec<Option<char>>> {
    let marked = term.replace("...", ".");
    let axes = marked.chars().map(|c| match c {
        '.' => Some(None),
        c if c.is_ascii_alphabetic() => Some(Some(c)),
        _ => None,
    });
    let axes: Vec<Option<char>> = axes.collect::<Option<_>>()?;
    (axes.iter().filter(|axis| axis.is_none()).count() <= 1).then_some(axes)
}

fn einsum(context: &Context) -> Outputs {
    let equation = context.node.string("equation").unwrap_or_default();
    let Some(parsed) = Equation::parse(equation) else {
        return contradiction(format!("`{equation}` is no equation"));
    };
    let (sizes, ellipsis) = parsed.sizes(&context.shapes()?)?;
    let mut shape = Vec::new();
    for axis in &parsed.result {
        match axis {
            None => shape.extend(ellipsis.iter().cloned()),
            Some(axis) => match sizes.get(axis) {
                Some(size) => shape.push(size.clone()),
                None => return contradiction(format!("`{equation}` makes an axis from nothing")),
            },
        }
    }
    single(shape)
}
