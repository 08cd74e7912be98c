//! Matrix products.

use burn::backend::ops::FloatTensorOps;

use super::{Operator, activation::scalar, arithmetic::aligned, comparison::expanded, onnx};
use crate::interpreter::{B, Call, Outputs, Value, reshape, shape};

pub const OPERATORS: &[Operator] = &[onnx("MatMul", product), onnx("Gemm", general)];

fn product(call: &mut Call<'_>) -> Outputs {
    let (a, b) = (call.float(0)?, call.float(1)?);
    let (mut sa, mut sb) = (shape(&a), shape(&b));
    if sa.is_empty() || sb.is_empty() {
        return Err(call.wrong(format!("multiplies {sa:?} and {sb:?}")));
    }
    // A vector on the left is a row, on the right a column, and its axis vanishes from the result.
    let (row, column) = (sa.len() == 1, sb.len() == 1);
    if row {
        sa.insert(0, 1);
    }
    if column {
        sb.push(1);
    }
    let (ra, rb) = (sa.len(), sb.len());
    let (rows, inner, columns) = (sa[ra - 2], sa[ra - 1], sb[rb - 1]);
    if sb[rb - 2] != inner {
        return Err(call.wrong(format!("{sa:?} times {sb:?}: inner sizes differ")));
    }
    let outer = call.broadcast(&sa[..ra - 2], &sb[..rb - 2])?;
    let (a, b) = (reshape(a, sa.clone()), reshape(b, sb.clone()));
    let mut result = outer.clone();
    if !row {
        result.push(rows);
    }
    if !column {
        result.push(columns);
    }
    let product = if rb == 2 {
        let flat: usize = sa[..ra - 1].iter().product();
        B::float_matmul(reshape(a, vec![flat, inner]), b)
    } else {
        let full = |last: [usize; 2]| outer.iter().copied().chain(last).collect::<Vec<_>>();
        let a = expanded(a, &full([rows, inner]));
        let b = expanded(b, &full([inner, columns]));
        B::float_matmul(a, b)
    };
    Ok(vec![Value::Float(reshape(product, result))])
}

fn general(call: &mut Call<'_>) -> Outputs {
    let (a, b) = (call.float(0)?, call.float(1)?);
    let c = call.optional_float(2)?;
    let (sa, sb) = (shape(&a), shape(&b));
    if sa.len() != 2 || sb.len() != 2 {
        return Err(call.wrong(format!("multiplies {sa:?} and {sb:?}")));
    }
    let a = if call.int("transA", 0) == 0 {
        a
    } else {
        B::float_swap_dims(a, 0, 1)
    };
    let b = if call.int("transB", 0) == 0 {
        b
    } else {
        B::float_swap_dims(b, 0, 1)
    };
    if shape(&a)[1] != shape(&b)[0] {
        return Err(call.wrong(format!("{sa:?} times {sb:?}: inner sizes differ")));
    }
    let (alpha, beta) = (call.float_attribute("alpha", 1.0), call.float_attribute("beta", 1.0));
    let mut result = B::float_matmul(a, b);
    if alpha != 1.0 {
        result = B::float_mul_scalar(result, scalar(alpha));
    }
    if let Some(mut c) = c {
        let expected = shape(&result);
        if beta != 1.0 {
            c = B::float_mul_scalar(c, scalar(beta));
        }
        let (product, addend, sum) = aligned(call, result, c)?;
        if sum != expected {
            return Err(call.wrong(format!("adds {:?} to {expected:?}", shape(&addend))));
        }
        result = B::float_add(product, addend);
    }
    Ok(vec![Value::Float(result)])
}
