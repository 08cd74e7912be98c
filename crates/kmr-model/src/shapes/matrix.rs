//! Matrix products.

use super::{
    Known,
    context::{Context, Inference, Outputs, Stop, contradiction, single},
    elementwise::broadcast,
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "MatMul" => |context| product(context, 0, 1, context.input(0)?.dtype),
        "MatMulInteger" => |context| product(context, 0, 1, DType::INT32),
        "QLinearMatMul" => |context| product(context, 0, 3, context.input(7)?.dtype),
        "Gemm" => gemm,
        "Einsum" => einsum,
        _ => return None,
    })
}

/// The shape of a MatMul of two shapes, by NumPy's rules.
fn product_shape(left: &[usize], right: &[usize]) -> Result<Vec<usize>, Stop> {
    let unfit = || contradiction(format!("shapes {left:?} and {right:?} do not multiply"));
    let (Some(&left_inner), Some(&right_last)) = (left.last(), right.last()) else {
        return unfit();
    };
    let right_inner = match right {
        [.., inner, _] => *inner,
        _ => right_last,
    };
    if left_inner != right_inner {
        return unfit();
    }
    let batch = |shape: &[usize]| shape[..shape.len().saturating_sub(2)].to_vec();
    let mut result = broadcast(&[&batch(left), &batch(right)])?;
    if let [.., rows, _] = left {
        result.push(*rows);
    }
    if right.len() > 1 {
        result.push(right_last);
    }
    Ok(result)
}

fn product(context: &Context, left: usize, right: usize, dtype: DType) -> Outputs {
    let shape = product_shape(context.shape(left)?, context.shape(right)?)?;
    single(Known::new(dtype, shape))
}

fn gemm(context: &Context) -> Outputs {
    let (left, right) = (context.input(0)?, context.shape(1)?);
    let (&[a0, a1], &[b0, b1]) = (left.shape.as_slice(), right) else {
        return contradiction(format!("takes two matrices; got shapes {:?} and {right:?}", left.shape));
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
    if inner != other {
        return contradiction(format!("shapes {:?} and {right:?} do not multiply", left.shape));
    }
    let result = vec![rows, columns];
    if let Some(bias) = context.optional(2)?
        && broadcast(&[&bias.shape, &result])? != result
    {
        return contradiction(format!(
            "a bias of shape {:?} does not fit a result of shape {result:?}",
            bias.shape
        ));
    }
    single(Known::new(left.dtype, result))
}

/// Einsum over named axes, without ellipsis.
fn einsum(context: &Context) -> Outputs {
    let equation: String = context.node.string("equation").unwrap_or_default().into();
    let equation: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let Some((terms, result)) = equation.split_once("->") else {
        return Err(Stop::Unknown);
    };
    if equation.contains('.') {
        return Err(Stop::Unknown);
    }
    let inputs = context.inputs()?;
    let terms: Vec<&str> = terms.split(',').collect();
    let mut sizes = std::collections::BTreeMap::new();
    if terms.len() != inputs.len() {
        return contradiction(format!("`{equation}` does not fit {} inputs", inputs.len()));
    }
    for (term, input) in terms.iter().zip(&inputs) {
        let fits = term.chars().count() == input.shape.len()
            && term
                .chars()
                .zip(&input.shape)
                .all(|(name, &size)| *sizes.entry(name).or_insert(size) == size);
        if !fits {
            return contradiction(format!("`{term}` of `{equation}` does not fit shape {:?}", input.shape));
        }
    }
    let shape: Option<Vec<usize>> = result.chars().map(|c| sizes.get(&c).copied()).collect();
    match shape {
        Some(shape) => single(Known::new(context.input(0)?.dtype, shape)),
        None => contradiction(format!("`{equation}` makes an axis from nothing")),
    }
}
