//! Matrix products.

use burn::backend::ops::FloatTensorOps;
use kmr_model::{DType, Tensor};

use super::{
    Operator,
    activation::scalar,
    arithmetic::aligned,
    cast,
    comparison::expanded,
    host::{self, Number, with_number, zip_numbers},
    layout, onnx, strided,
};
use crate::{
    ComputeError,
    interpreter::{B, Call, Outputs, Value, from_vec, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("MatMul", |call| {
        let (a, b) = (call.value(0)?, call.value(1)?);
        Ok(vec![product(call, a, b)?])
    }),
    onnx("Gemm", general),
    onnx("Det", determinant),
];

/// The shapes of a product of stacks of matrices.
struct Stacks {
    /// The left operand as matrices.
    left: Vec<usize>,
    /// The right operand as matrices.
    right: Vec<usize>,
    /// The axes in front of the matrices, broadcast.
    outer: Vec<usize>,
    /// The shape of the product.
    result: Vec<usize>,
}

impl Stacks {
    fn new(call: &Call<'_>, mut left: Vec<usize>, mut right: Vec<usize>) -> Result<Self, ComputeError> {
        if left.is_empty() || right.is_empty() {
            return Err(call.wrong(format!("multiplies {left:?} and {right:?}")));
        }
        // A vector on the left is a row, on the right a column, and its axis vanishes from the result.
        let (row, column) = (left.len() == 1, right.len() == 1);
        if row {
            left.insert(0, 1);
        }
        if column {
            right.push(1);
        }
        let (ra, rb) = (left.len(), right.len());
        if right[rb - 2] != left[ra - 1] {
            return Err(call.wrong(format!("{left:?} times {right:?}: inner sizes differ")));
        }
        let outer = call.broadcast(&left[..ra - 2], &right[..rb - 2])?;
        let mut result = outer.clone();
        if !row {
            result.push(left[ra - 2]);
        }
        if !column {
            result.push(right[rb - 1]);
        }
        host::count(call, &result)?;
        Ok(Self {
            left,
            right,
            outer,
            result,
        })
    }
}

/// The product of two stacks of matrices, for every number type.
pub fn product(call: &mut Call<'_>, a: Value, b: Value) -> Result<Value, ComputeError> {
    if a.dtype() != b.dtype() {
        return Err(call.wrong(format!("mixes {} and {}", a.dtype(), b.dtype())));
    }
    let stacks = Stacks::new(call, a.shape(), b.shape())?;
    if !matches!(a.dtype(), DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16) {
        let (a, b) = (a.into_tensor(), b.into_tensor());
        let result = with_number!(a.dtype(), N => multiply::<N>(call, &a, &b, &stacks)?,
            else return Err(host::unknown(call, a.dtype())));
        return Ok(Value::Host(result));
    }
    let (a, b) = (call.widened(a)?, call.widened(b)?);
    let Stacks {
        left,
        right,
        outer,
        result,
    } = stacks;
    let (ra, rb) = (left.len(), right.len());
    let (rows, inner, columns) = (left[ra - 2], left[ra - 1], right[rb - 1]);
    if inner == 0 || result.contains(&0) {
        // A sum over nothing.
        if crate::interpreter::is_tracked(&a) || crate::interpreter::is_tracked(&b) {
            return Err(call.unsupported("has no derivative by an empty operand"));
        }
        return Ok(Value::Float(from_vec(vec![0.0; result.iter().product()], result)));
    }
    let (a, b) = (reshape(a, left.clone()), reshape(b, right));
    let product = if rb == 2 {
        let flat: usize = left[..ra - 1].iter().product();
        B::float_matmul(reshape(a, vec![flat, inner]), b)
    } else {
        let full = |last: [usize; 2]| outer.iter().copied().chain(last).collect::<Vec<_>>();
        let a = expanded(a, &full([rows, inner]));
        let b = expanded(b, &full([inner, columns]));
        B::float_matmul(a, b)
    };
    Ok(Value::Float(reshape(product, result)))
}

fn multiply<N: Number>(call: &Call<'_>, a: &Tensor, b: &Tensor, stacks: &Stacks) -> Result<Tensor, ComputeError> {
    let (x, y) = (host::values::<N>(call, a)?, host::values::<N>(call, b)?);
    let (ra, rb) = (stacks.left.len(), stacks.right.len());
    let (rows, inner, columns) = (stacks.left[ra - 2], stacks.left[ra - 1], stacks.right[rb - 1]);
    let matrices = |own: &[usize], size: usize| {
        let steps = strided::broadcast_strides(own, &stacks.outer);
        let positions = strided::positions(&stacks.outer, &steps, 0);
        positions.into_iter().map(move |position| position * size)
    };
    let lefts = matrices(&stacks.left[..ra - 2], rows * inner);
    let rights = matrices(&stacks.right[..rb - 2], inner * columns);
    let mut result = vec![N::ZERO; stacks.result.iter().product()];
    for (matrix, (left, right)) in lefts.zip(rights).enumerate() {
        for row in 0..rows {
            let start = (matrix * rows + row) * columns;
            for k in 0..inner {
                let factor = x[left + row * inner + k];
                let line = &y[right + k * columns..][..columns];
                for (sum, &value) in result[start..start + columns].iter_mut().zip(line) {
                    *sum = sum.add(factor.multiply(value));
                }
            }
        }
    }
    Ok(Tensor::from_vec(stacks.result.clone(), result))
}

fn general(call: &mut Call<'_>) -> Outputs {
    let (mut a, mut b) = (call.value(0)?, call.value(1)?);
    let c = call.optional_value(2);
    let (sa, sb) = (a.shape(), b.shape());
    if sa.len() != 2 || sb.len() != 2 {
        return Err(call.wrong(format!("multiplies {sa:?} and {sb:?}")));
    }
    if call.int("transA", 0) != 0 {
        a = layout::permute(call, a, &[1, 0])?;
    }
    if call.int("transB", 0) != 0 {
        b = layout::permute(call, b, &[1, 0])?;
    }
    let (alpha, beta) = (call.float_attribute("alpha", 1.0), call.float_attribute("beta", 1.0));
    let dtype = a.dtype();
    let result = product(call, a, b)?;
    let expected = result.shape();
    if let Some(c) = &c {
        if c.dtype() != dtype {
            return Err(call.wrong(format!("adds {} to {dtype}", c.dtype())));
        }
        if call.broadcast(&c.shape(), &expected)? != expected {
            return Err(call.wrong(format!("adds {:?} to {expected:?}", c.shape())));
        }
    }
    match result {
        Value::Float(mut result) => {
            if alpha != 1.0 {
                result = B::float_mul_scalar(result, scalar(alpha));
            }
            if let Some(c) = c {
                let mut c = call.widened(c)?;
                if beta != 1.0 {
                    c = B::float_mul_scalar(c, scalar(beta));
                }
                let (product, addend, _) = aligned(call, result, c)?;
                result = B::float_add(product, addend);
            }
            debug_assert_eq!(shape(&result), expected);
            Ok(vec![Value::Float(result)])
        }
        result => {
            let scaled = |call: &Call<'_>, tensor: Tensor, factor: f32| {
                if factor == 1.0 {
                    return Ok(tensor);
                }
                if !tensor.dtype().is_float() && factor.fract() != 0.0 {
                    return Err(call.unsupported(format!("scales {} by {factor}", tensor.dtype())));
                }
                let factor = cast::converted(call, &Tensor::scalar(factor), tensor.dtype())?;
                let (x, factor) = host::broadcast(call, &tensor, &factor)?;
                zip_numbers!(call, &x, &factor, N, |x: N, factor: N| Some(x.multiply(factor)))
            };
            let mut result = scaled(call, result.into_tensor(), alpha)?;
            if let Some(c) = c {
                let c = scaled(call, c.into_tensor(), beta)?;
                let (x, c) = host::broadcast(call, &result, &c)?;
                result = zip_numbers!(call, &x, &c, N, |x: N, c: N| Some(x.add(c)))?;
            }
            Ok(vec![Value::Host(result)])
        }
    }
}

/// Determinants of a stack of matrices, by elimination with pivots in float64.
fn determinant(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    if matches!(&value, Value::Float(float) if crate::interpreter::is_tracked(float)) {
        return Err(call.unsupported("has no derivative"));
    }
    let tensor = host::numbers(call, value)?;
    let full = tensor.shape();
    let size = match full {
        [.., rows, columns] if rows == columns => *rows,
        _ => return Err(call.wrong(format!("{full:?} are no square matrices"))),
    };
    if !tensor.dtype().is_float() {
        return Err(host::unknown(call, tensor.dtype()));
    }
    let outer = full[..full.len() - 2].to_vec();
    let values = cast::Numbers::of(&tensor)
        .map_err(|message| call.unsupported(message))?
        .into_f64();
    let mut results = vec![1.0; host::count(call, &outer)?];
    for (matrix, result) in results.iter_mut().enumerate().filter(|_| size > 0) {
        *result = eliminate(&mut values[matrix * size * size..][..size * size].to_vec(), size);
    }
    let result = cast::converted(call, &Tensor::from_vec(outer, results), tensor.dtype())?;
    Ok(vec![Value::from_tensor(result)])
}

fn eliminate(matrix: &mut [f64], size: usize) -> f64 {
    let mut product = 1.0;
    for column in 0..size {
        let at = |row: usize| row * size + column;
        let pivot = (column..size).max_by(|&a, &b| matrix[at(a)].abs().total_cmp(&matrix[at(b)].abs()));
        let pivot = pivot.unwrap_or(column);
        if pivot != column {
            for k in 0..size {
                matrix.swap(pivot * size + k, column * size + k);
            }
            product = -product;
        }
        let divisor = matrix[at(column)];
        product *= divisor;
        if divisor == 0.0 {
            return 0.0;
        }
        for row in column + 1..size {
            let factor = matrix[at(row)] / divisor;
            for k in column..size {
                matrix[row * size + k] -= factor * matrix[column * size + k];
            }
        }
    }
    product
}
