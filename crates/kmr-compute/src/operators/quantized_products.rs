//! Matrix products and convolutions of 8-bit integers, exact.
//!
//! Sums are those of int32, which wrap around. Where the result is quantized again, its factor is
//! `(scale of a · scale of b) / scale of the result`, rounded to float32 after each step, and the sum is
//! converted to float32 before it is multiplied; then it is rounded to nearest even, and the zero point is added.

use kmr_model::{DType, Tensor};
use rayon::prelude::*;

use super::{
    Operator,
    convolution::Window,
    onnx,
    quantization::{limits, pack, unpack},
    strided,
};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs, Value},
};

pub const OPERATORS: &[Operator] = &[
    onnx("MatMulInteger", |call| {
        let (a, b) = (integers(call, 0)?, integers(call, 1)?);
        let (a_zero, b_zero) = (optional_integers(call, 2)?, optional_integers(call, 3)?);
        let product = matrix(call, &a, a_zero.as_ref(), &b, b_zero.as_ref())?;
        Ok(vec![Value::Host(Tensor::from_vec(product.shape, product.values))])
    }),
    onnx("QLinearMatMul", quantized_matrix),
    onnx("ConvInteger", |call| {
        let (x, w) = (integers(call, 0)?, integers(call, 1)?);
        let (x_zero, w_zero) = (optional_integers(call, 2)?, optional_integers(call, 3)?);
        let sums = convolution(call, &x, x_zero.as_ref(), &w, w_zero.as_ref())?;
        Ok(vec![Value::Host(Tensor::from_vec(sums.shape, sums.values))])
    }),
    onnx("QLinearConv", quantized_convolution),
];

/// Integers of a type of at most 32 bits.
struct Integers {
    dtype: DType,
    shape: Vec<usize>,
    values: Vec<i32>,
}

fn integers(call: &mut Call<'_>, position: usize) -> Result<Integers, ComputeError> {
    let tensor = call.constant(position)?;
    let known = matches!(tensor.dtype(), DType::UINT8 | DType::INT8 | DType::INT32);
    match unpack(&tensor).filter(|_| known) {
        Some(values) => Ok(Integers {
            dtype: tensor.dtype(),
            shape: tensor.shape().to_vec(),
            values,
        }),
        None => Err(call.unsupported(format!("input {position} is {}", tensor.dtype()))),
    }
}

fn optional_integers(call: &mut Call<'_>, position: usize) -> Result<Option<Integers>, ComputeError> {
    call.has(position).then(|| integers(call, position)).transpose()
}

/// float32 numbers with their shape.
fn scale(call: &mut Call<'_>, position: usize) -> Result<(Vec<usize>, Vec<f32>), ComputeError> {
    let tensor = call.constant(position)?;
    if tensor.dtype() != DType::FLOAT {
        return Err(call.unsupported(format!("a scale is {}", tensor.dtype())));
    }
    let values = tensor.to_f32().map_err(|e| call.wrong(e.to_string()))?;
    Ok((tensor.shape().to_vec(), values.into_owned()))
}

/// `values`, one for all or one for each of `count`, as one for each.
fn spread<T: Copy>(call: &Call<'_>, values: &[T], count: usize) -> Result<Vec<T>, ComputeError> {
    match values {
        [value] => Ok(vec![*value; count]),
        values if values.len() == count => Ok(values.to_vec()),
        values => Err(call.wrong(format!(
            "{} zero points or scales do not fit {count} channels",
            values.len()
        ))),
    }
}

/// Parameters of the rows of a matrix of this shape, or of its columns, from a scalar, a list, or a tensor whose
/// axis along the other one is 1.
fn per_line<T: Copy>(
    call: &Call<'_>,
    values: &[T],
    own: &[usize],
    matrix: &[usize],
    columns: bool,
) -> Result<Vec<T>, ComputeError> {
    let rank = matrix.len();
    let lines = match (rank, columns) {
        (0, _) => return Err(call.wrong("multiplies a scalar")),
        (1, _) => 1,
        (_, true) => matrix[rank - 1],
        (_, false) => matrix[rank - 2],
    };
    if own.len() <= 1 {
        return spread(call, values, lines);
    }
    // The lines of each matrix of a stack have their own.
    let mut expected = matrix.to_vec();
    expected[if columns { rank - 2 } else { rank - 1 }] = 1;
    if own == expected {
        return Ok(values.to_vec());
    }
    Err(call.wrong(format!("parameters of {own:?} do not fit {matrix:?}")))
}

/// Takes the zero points of the lines away.
fn shifted(call: &Call<'_>, x: &Integers, zero: Option<&Integers>, columns: bool) -> Result<Vec<i32>, ComputeError> {
    let Some(zero) = zero else {
        return Ok(x.values.clone());
    };
    let zeros = per_line(call, &zero.values, &zero.shape, &x.shape, columns)?;
    let line = line_of(&x.shape, zeros.len(), columns);
    let values = x.values.iter().enumerate();
    Ok(values.map(|(at, value)| value.wrapping_sub(zeros[line(at)])).collect())
}

/// Which of `count` parameters an element of a stack of matrices of this shape uses.
fn line_of(shape: &[usize], count: usize, columns: bool) -> impl Fn(usize) -> usize + use<> {
    let rank = shape.len();
    let width = shape[rank - 1].max(1);
    let height = if rank > 1 { shape[rank - 2].max(1) } else { 1 };
    let vector = rank == 1;
    move |at| {
        let line = match (vector, columns) {
            (true, _) => 0,
            (_, true) => at / (width * height) * width + at % width,
            (_, false) => at / width,
        };
        line % count.max(1)
    }
}

struct Product {
    shape: Vec<usize>,
    values: Vec<i32>,
}

/// The product of matrices, or of stacks of them, as NumPy has it.
fn matrix(
    call: &Call<'_>,
    a: &Integers,
    a_zero: Option<&Integers>,
    b: &Integers,
    b_zero: Option<&Integers>,
) -> Result<Product, ComputeError> {
    if a.shape.is_empty() || b.shape.is_empty() {
        return Err(call.wrong(format!("multiplies {:?} and {:?}", a.shape, b.shape)));
    }
    let (left, right) = (shifted(call, a, a_zero, false)?, shifted(call, b, b_zero, true)?);
    let (mut sa, mut sb) = (a.shape.clone(), b.shape.clone());
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
    let count: usize = outer.iter().product();
    let mut values = vec![0_i32; count * rows * columns];
    let (a_stack, b_stack) = (stack(&sa[..ra - 2], &outer), stack(&sb[..rb - 2], &outer));
    if columns > 0 {
        values.par_chunks_mut(columns).enumerate().for_each(|(line, result)| {
            let (number, row) = (line / rows, line % rows);
            let left = &left[(a_stack[number] * rows + row) * inner..][..inner];
            let right = &right[b_stack[number] * inner * columns..][..inner * columns];
            for (&factor, right) in left.iter().zip(right.chunks(columns)) {
                if factor != 0 {
                    for (sum, &value) in result.iter_mut().zip(right) {
                        *sum = sum.wrapping_add(factor.wrapping_mul(value));
                    }
                }
            }
        });
    }
    let mut shape = outer;
    if !row {
        shape.push(rows);
    }
    if !column {
        shape.push(columns);
    }
    Ok(Product { shape, values })
}

/// Which matrix of a stack of shape `own` each of a stack of shape `full`, to which it broadcasts, uses.
fn stack(own: &[usize], full: &[usize]) -> Vec<usize> {
    let strides = strided::strides(own);
    let lead = full.len() - own.len();
    let count: usize = full.iter().product();
    (0..count)
        .map(|number| {
            let (mut rest, mut at) = (number, 0);
            for axis in (0..full.len()).rev() {
                let index = rest % full[axis];
                rest /= full[axis];
                if axis >= lead && own[axis - lead] != 1 {
                    at += index * strides[axis - lead] as usize;
                }
            }
            at
        })
        .collect()
}

/// Quantizes sums again; `factor` and the zero point belong to the element's position.
fn requantized(
    call: &Call<'_>,
    product: Product,
    zero: &Integers,
    factor: impl Fn(usize) -> f32,
) -> Result<Value, ComputeError> {
    let Some((low, high, _)) = limits(zero.dtype).filter(|&(.., bits)| bits == 8) else {
        return Err(call.unsupported(format!("quantizes to {}", zero.dtype)));
    };
    let [zero_point] = zero.values[..] else {
        return Err(call.unsupported("the result's zero point is not one number"));
    };
    let values: Vec<i32> = product
        .values
        .iter()
        .enumerate()
        .map(|(at, &sum)| {
            let steps = (sum as f32 * factor(at)).round_ties_even();
            (steps as i32).saturating_add(zero_point).clamp(low, high)
        })
        .collect();
    let tensor = pack(zero.dtype, product.shape, &values);
    tensor
        .map(Value::Host)
        .ok_or_else(|| call.wrong("does not fill its shape"))
}

/// The one number that the scale `values` must hold.
fn single(call: &Call<'_>, values: &[f32]) -> Result<f32, ComputeError> {
    match values {
        [value] => Ok(*value),
        values => Err(call.unsupported(format!("{} scales where one is expected", values.len()))),
    }
}

fn quantized_matrix(call: &mut Call<'_>) -> Outputs {
    let (a, (a_shape, a_scale), a_zero) = (integers(call, 0)?, scale(call, 1)?, integers(call, 2)?);
    let (b, (b_shape, b_scale), b_zero) = (integers(call, 3)?, scale(call, 4)?, integers(call, 5)?);
    let ((_, scale), zero) = (scale(call, 6)?, integers(call, 7)?);
    let scale = single(call, &scale)?;
    let product = matrix(call, &a, Some(&a_zero), &b, Some(&b_zero))?;
    let shape = product.shape.clone();
    let plain = a.shape.len() > 1 && b.shape.len() > 1;
    if a_scale.len() == 1 && b_scale.len() == 1 {
        let factor = a_scale[0] * b_scale[0] / scale;
        return Ok(vec![requantized(call, product, &zero, |_| factor)?]);
    }
    let stacked = a.shape.len() > 2 || b.shape.len() > 2;
    if !plain || stacked && (a_shape.len() > 1 || b_shape.len() > 1) {
        return Err(call.unsupported(format!(
            "scales of {a_shape:?} and {b_shape:?} for each line of a stack"
        )));
    }
    let rows = per_line(call, &a_scale, &a_shape, &a.shape, false)?;
    let columns = per_line(call, &b_scale, &b_shape, &b.shape, true)?;
    let (row, column) = (line_of(&shape, rows.len(), false), line_of(&shape, columns.len(), true));
    let result = requantized(call, product, &zero, |at| rows[row(at)] * columns[column(at)] / scale)?;
    Ok(vec![result])
}

fn quantized_convolution(call: &mut Call<'_>) -> Outputs {
    let (x, (_, x_scale), x_zero) = (integers(call, 0)?, scale(call, 1)?, integers(call, 2)?);
    let (w, (_, w_scale), w_zero) = (integers(call, 3)?, scale(call, 4)?, integers(call, 5)?);
    let ((_, scale), zero) = (scale(call, 6)?, integers(call, 7)?);
    let bias = optional_integers(call, 8)?;
    let (x_scale, scale) = (single(call, &x_scale)?, single(call, &scale)?);
    let mut sums = convolution(call, &x, Some(&x_zero), &w, Some(&w_zero))?;
    let channels = sums.shape[1];
    let plane: usize = sums.shape[2..].iter().product::<usize>().max(1);
    if let Some(bias) = bias {
        if bias.dtype != DType::INT32 || bias.shape != [channels] {
            return Err(call.wrong(format!("a bias of {:?}, {}", bias.shape, bias.dtype)));
        }
        for (number, plane) in sums.values.chunks_mut(plane).enumerate() {
            for sum in plane {
                *sum = sum.wrapping_add(bias.values[number % channels]);
            }
        }
    }
    let factors: Vec<f32> = spread(call, &w_scale, channels)?
        .into_iter()
        .map(|w_scale| x_scale * w_scale / scale)
        .collect();
    let result = requantized(call, sums, &zero, |at| factors[at / plane % channels])?;
    Ok(vec![result])
}

/// A convolution in one or two dimensions; what is padded counts as the zero point.
fn convolution(
    call: &Call<'_>,
    x: &Integers,
    x_zero: Option<&Integers>,
    w: &Integers,
    w_zero: Option<&Integers>,
) -> Result<Product, ComputeError> {
    let rank = x.shape.len();
    if w.shape.len() != rank || !(3..=4).contains(&rank) {
        return Err(call.unsupported(format!(
            "only convolutions in one and two dimensions are supported; got {:?} with weights {:?}",
            x.shape, w.shape
        )));
    }
    let spatial = rank - 2;
    let window = Window::new(call, &w.shape[2..])?;
    let pads = window.pads(call, &x.shape[2..])?;
    let groups = usize::try_from(call.int("group", 1)).unwrap_or(0);
    let (channels, outputs) = (x.shape[1], w.shape[0]);
    let per_group = w.shape[1];
    let fits = groups > 0
        && outputs > 0
        && per_group * groups == channels
        && outputs.is_multiple_of(groups)
        && window.kernel == w.shape[2..];
    if !fits {
        return Err(call.wrong(format!(
            "weights {:?} in {groups} groups do not fit an input of {:?}",
            w.shape, x.shape
        )));
    }
    let two = |sizes: &[usize], default: usize| match sizes {
        [width] => [default, *width],
        sizes => [sizes[0], sizes[1]],
    };
    let [height, width] = two(&x.shape[2..], 1);
    let [rows, columns] = two(&w.shape[2..], 1);
    let (stride, dilation) = (two(&window.strides, 1), two(&window.dilations, 1));
    let before = two(&pads[..spatial], 0);
    let mut shape = vec![x.shape[0], outputs];
    for axis in 0..spatial {
        let padded = x.shape[axis + 2] + pads[axis] + pads[axis + spatial];
        let Some(room) = padded.checked_sub(window.extent(axis)) else {
            return Err(call.wrong(format!("weights {:?} do not fit an input of {:?}", w.shape, x.shape)));
        };
        shape.push(room / window.strides[axis] + 1);
    }
    let [out_height, out_width] = two(&shape[2..], 1);

    let x_zero = match x_zero {
        Some(zero) if zero.values.len() != 1 => return Err(call.wrong("the zero point of x is not one number")),
        Some(zero) => zero.values[0],
        None => 0,
    };
    let w_zeros = spread(call, w_zero.map_or(&[0][..], |zero| &zero.values), outputs)?;
    let source: Vec<i32> = x.values.iter().map(|value| value.wrapping_sub(x_zero)).collect();
    let taps = per_group * rows * columns;
    let mut values = vec![0_i32; shape.iter().product()];
    let plane = out_height * out_width;
    values.par_chunks_mut(plane).enumerate().for_each(|(number, result)| {
        let (sample, output) = (number / outputs, number % outputs);
        let first = sample * channels + output / (outputs / groups) * per_group;
        for (tap, &weight) in w.values[output * taps..][..taps].iter().enumerate() {
            let weight = weight.wrapping_sub(w_zeros[output]);
            let (channel, row, column) = (tap / (rows * columns), tap / columns % rows, tap % columns);
            let source = &source[(first + channel) * height * width..][..height * width];
            // The outputs whose tap lies inside the row: start + step·stride within [0, width).
            let shift = (column * dilation[1]) as isize - before[1] as isize;
            let low = (-shift).max(0).unsigned_abs().div_ceil(stride[1]);
            let high = (width as isize - shift)
                .max(0)
                .unsigned_abs()
                .div_ceil(stride[1])
                .min(out_width);
            if weight == 0 || low >= high {
                continue;
            }
            let start = (shift + (low * stride[1]) as isize).unsigned_abs();
            for out_row in 0..out_height {
                let at = out_row * stride[0] + row * dilation[0];
                let Some(at) = at.checked_sub(before[0]).filter(|&at| at < height) else {
                    continue;
                };
                let source = &source[at * width + start..(at + 1) * width];
                let result = &mut result[out_row * out_width + low..out_row * out_width + high];
                if stride[1] == 1 {
                    for (sum, &value) in result.iter_mut().zip(source) {
                        *sum = sum.wrapping_add(weight.wrapping_mul(value));
                    }
                } else {
                    for (sum, &value) in result.iter_mut().zip(source.iter().step_by(stride[1])) {
                        *sum = sum.wrapping_add(weight.wrapping_mul(value));
                    }
                }
            }
        }
    });
    Ok(Product { shape, values })
}
