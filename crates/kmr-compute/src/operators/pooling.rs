//! Pools over windows and over whole planes.

use burn::backend::ops::{FloatTensorOps, ModuleOps, PadMode};

use kmr_model::{DType, Tensor};

use super::{
    Operator,
    convolution::Window,
    onnx,
    reals::{Reals, filled, rounded},
    windows::Windows,
};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, from_vec, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("GlobalAveragePool", |call| global(call, |x| B::float_mean_dim(x, 2))),
    onnx("GlobalMaxPool", |call| global(call, |x| B::float_max_dim(x, 2))),
    onnx("AveragePool", average),
    onnx("MaxPool", maximum),
    onnx("LpPool", power),
    onnx("GlobalLpPool", global_power),
    onnx("MaxUnpool", unpool),
];

fn global(call: &mut Call<'_>, reduce: fn(Float) -> Float) -> Outputs {
    let x = call.float(0)?;
    let full = shape(&x);
    if full.len() < 3 || full.contains(&0) {
        return Err(call.wrong(format!("pools {full:?}")));
    }
    let plane = full[2..].iter().product();
    let reduced = reduce(reshape(x, vec![full[0], full[1], plane]));
    let mut result = vec![1; full.len()];
    result[..2].copy_from_slice(&full[..2]);
    Ok(vec![Value::Float(reshape(reduced, result))])
}

/// A pool over a padded input in two dimensions.
struct Pool {
    window: Window,
    /// Padding before each axis, then after each, without what rounding up adds.
    pads: [usize; 4],
    /// What rounding the output up adds after each axis.
    extra: [usize; 2],
    size: [usize; 2],
    output: [usize; 2],
    /// The result's shape, in the rank of the input.
    result: Vec<usize>,
}

impl Pool {
    fn new(call: &Call<'_>, full: &[usize]) -> Result<Self, ComputeError> {
        if !(3..=4).contains(&full.len()) {
            return Err(call.unsupported(format!(
                "only pools in one and two dimensions are supported; got {full:?}"
            )));
        }
        let spatial = full.len() - 2;
        let mut window = Window::new(call, &[])?;
        if window.kernel.len() != spatial {
            return Err(call.wrong(format!("kernel {:?} over {full:?}", window.kernel)));
        }
        let mut pads = window.pads(call, &full[2..])?;
        let mut size = full[2..].to_vec();
        if spatial == 1 {
            size.insert(0, 1);
            pads = vec![0, pads[0], 0, pads[1]];
            for list in [&mut window.kernel, &mut window.strides, &mut window.dilations] {
                list.insert(0, 1);
            }
        }
        let (mut output, mut extra) = ([0; 2], [0; 2]);
        for axis in 0..2 {
            let padded = size[axis] + pads[axis] + pads[axis + 2];
            let Some(room) = padded.checked_sub(window.extent(axis)) else {
                return Err(call.wrong(format!("kernel {:?} does not fit {full:?}", window.kernel)));
            };
            let stride = window.strides[axis];
            output[axis] = room / stride + 1;
            // A window that would start in the padding after the input does not count.
            if call.int("ceil_mode", 0) == 1
                && !room.is_multiple_of(stride)
                && output[axis] * stride < size[axis] + pads[axis]
            {
                extra[axis] = output[axis] * stride + window.extent(axis) - padded;
                output[axis] += 1;
            }
        }
        let mut result = full[..2].to_vec();
        result.extend_from_slice(&output[2 - spatial..]);
        Ok(Self {
            window,
            pads: [pads[0], pads[1], pads[2], pads[3]],
            extra,
            size: [size[0], size[1]],
            output,
            result,
        })
    }

    fn is_padded(&self) -> bool {
        self.pads.iter().chain(&self.extra).any(|&pad| pad > 0)
    }

    fn padded(&self, x: Float, fill: f32) -> Float {
        let full = shape(&x);
        let x = reshape(x, vec![full[0], full[1], self.size[0], self.size[1]]);
        if !self.is_padded() {
            return x;
        }
        let around = [
            (0, 0),
            (0, 0),
            (self.pads[0], self.pads[2] + self.extra[0]),
            (self.pads[1], self.pads[3] + self.extra[1]),
        ];
        B::float_pad(x, &around, PadMode::Constant(fill))
    }

    fn pair(list: &[usize]) -> [usize; 2] {
        [list[0], list[1]]
    }

    /// How many elements each window along `axis` averages.
    fn counts(&self, axis: usize, include_pads: bool) -> Vec<usize> {
        let (first, end) = if include_pads {
            (0, self.pads[axis] + self.size[axis] + self.pads[axis + 2])
        } else {
            (self.pads[axis], self.pads[axis] + self.size[axis])
        };
        (0..self.output[axis])
            .map(|step| {
                let taps = (0..self.window.kernel[axis])
                    .map(|tap| step * self.window.strides[axis] + tap * self.window.dilations[axis]);
                taps.filter(|at| (first..end).contains(at)).count()
            })
            .collect()
    }
}

fn average(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let plain = (3..=4).contains(&value.shape().len())
        && call
            .sizes("dilations")?
            .is_none_or(|dilations| dilations.iter().all(|&d| d == 1));
    if value.dtype() == DType::DOUBLE || !plain {
        return average_on_host(call, value);
    }
    let x = call.widened(value)?;
    let pool = Pool::new(call, &shape(&x))?;
    let kernel = Pool::pair(&pool.window.kernel);
    let strides = Pool::pair(&pool.window.strides);
    let mut result = B::avg_pool2d(pool.padded(x, 0.0), kernel, strides, [0, 0], true, false);
    if pool.is_padded() {
        let include = call.int("count_include_pad", 0) == 1;
        let (rows, columns) = (pool.counts(0, include), pool.counts(1, include));
        let area = (kernel[0] * kernel[1]) as f32;
        let scale = rows
            .iter()
            .flat_map(|row| columns.iter().map(move |column| area / (row * column) as f32));
        let scale = from_vec(scale.collect(), vec![1, 1, pool.output[0], pool.output[1]]);
        result = B::float_mul(result, scale);
    }
    Ok(vec![Value::Float(reshape(result, pool.result))])
}

/// The planes of a value and the windows over them, for pools without a derivative.
fn planes(call: &mut Call<'_>, value: Value) -> Result<(Reals, Windows), ComputeError> {
    let tensor = call.untracked(value, 0)?;
    let reals = Reals::of(call, &tensor)?;
    if reals.shape.contains(&0) {
        return Err(call.unsupported(format!("pools {:?}", reals.shape)));
    }
    let windows = Windows::new(call, &reals.shape)?;
    Ok((reals, windows))
}

/// Applies `reduce` to every window of every plane; it gets the window's values and how many elements of it
/// lie in the plane or its padding.
fn pooled(call: &Call<'_>, x: &Reals, windows: &Windows, reduce: impl Fn(&[f64], usize) -> f64) -> Outputs {
    let plane: usize = x.shape[2..].iter().product();
    let steps: usize = windows.output.iter().product();
    let mut result = x.shape[..2].to_vec();
    result.extend_from_slice(&windows.output);
    let mut values = filled(call, &result, 0.0)?;
    let mut window = Vec::new();
    windows.for_each(|taps| {
        for (number, plane) in x.values.chunks(plane).enumerate() {
            window.clear();
            window.extend(taps.inside.iter().map(|&at| plane[at]));
            values[number * steps + taps.position] = reduce(&window, taps.padded);
        }
    });
    Ok(vec![rounded(call, x.dtype, result, values)?])
}

fn average_on_host(call: &mut Call<'_>, value: Value) -> Outputs {
    let (x, windows) = planes(call, value)?;
    let include = call.int("count_include_pad", 0) == 1;
    pooled(call, &x, &windows, |window, padded| {
        let count = if include { padded } else { window.len() };
        window.iter().sum::<f64>() / count as f64
    })
}

fn power(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let exponent = call.int("p", 2) as f64;
    let (x, windows) = planes(call, value)?;
    pooled(call, &x, &windows, |window, _| norm(window, exponent))
}

fn norm(values: &[f64], exponent: f64) -> f64 {
    let sum: f64 = values.iter().map(|value| value.abs().powf(exponent)).sum();
    sum.powf(exponent.recip())
}

fn global_power(call: &mut Call<'_>) -> Outputs {
    let x = Reals::new(call, 0)?;
    let exponent = call.int("p", 2) as f64;
    if x.shape.len() < 3 || x.shape.contains(&0) {
        return Err(call.wrong(format!("pools {:?}", x.shape)));
    }
    let plane: usize = x.shape[2..].iter().product();
    let values = x.values.chunks(plane).map(|plane| norm(plane, exponent)).collect();
    let mut result = vec![1; x.shape.len()];
    result[..2].copy_from_slice(&x.shape[..2]);
    Ok(vec![rounded(call, x.dtype, result, values)?])
}

fn maximum(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let plain = matches!(value.dtype(), DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16)
        && (3..=4).contains(&value.shape().len())
        && !call.names_output(1);
    if !plain {
        return maximum_on_host(call, value);
    }
    let x = call.widened(value)?;
    let pool = Pool::new(call, &shape(&x))?;
    let result = B::max_pool2d(
        pool.padded(x, f32::NEG_INFINITY),
        Pool::pair(&pool.window.kernel),
        Pool::pair(&pool.window.strides),
        [0, 0],
        Pool::pair(&pool.window.dilations),
        false,
    );
    Ok(vec![Value::Float(reshape(result, pool.result))])
}

fn maximum_on_host(call: &mut Call<'_>, value: Value) -> Outputs {
    let (x, windows) = planes(call, value)?;
    let plane: usize = x.shape[2..].iter().product();
    let steps: usize = windows.output.iter().product();
    // Column-major indices count the first axis fastest.
    let column_major = call.int("storage_order", 0) == 1;
    let renumbered = |at: usize| {
        if !column_major {
            return at;
        }
        let (mut rest, mut result) = (at, 0);
        let mut strides = vec![1; x.shape.len() - 2];
        for axis in 1..strides.len() {
            strides[axis] = strides[axis - 1] * x.shape[axis + 1];
        }
        for axis in (0..strides.len()).rev() {
            result += rest % x.shape[axis + 2] * strides[axis];
            rest /= x.shape[axis + 2];
        }
        result
    };
    let mut result = x.shape[..2].to_vec();
    result.extend_from_slice(&windows.output);
    let mut values = filled(call, &result, f64::NEG_INFINITY)?;
    let mut indices = filled(call, &result, 0_i64)?;
    let mut empty = false;
    windows.for_each(|taps| {
        empty |= taps.inside.is_empty();
        for (number, elements) in x.values.chunks(plane).enumerate() {
            let mut best: Option<usize> = None;
            for &at in taps.inside {
                if best.is_none_or(|best| elements[at] > elements[best] || elements[at].is_nan()) {
                    best = Some(at);
                }
            }
            if let Some(best) = best {
                let to = number * steps + taps.position;
                values[to] = elements[best];
                indices[to] = (number * plane + renumbered(best)) as i64;
            }
        }
    });
    if empty {
        return Err(call.unsupported("a window lies in the padding alone"));
    }
    let pooled = rounded(call, x.dtype, result.clone(), values)?;
    Ok(vec![pooled, Value::Host(Tensor::from_vec(result, indices))])
}

fn unpool(call: &mut Call<'_>) -> Outputs {
    let x = Reals::new(call, 0)?;
    let indices = call.integers(1)?;
    let wanted = call.optional_integers(2)?;
    let window = Window::new(call, &[])?;
    let spatial = window.kernel.len();
    let pads = call.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * spatial]);
    if x.shape.len() != spatial + 2 || pads.len() != 2 * spatial || indices.len() != x.values.len() {
        return Err(call.wrong(format!("kernel {:?} over {:?}", window.kernel, x.shape)));
    }
    let mut inferred = x.shape[..2].to_vec();
    for axis in 0..spatial {
        let full = x.shape[axis + 2].saturating_sub(1) * window.strides[axis] + window.kernel[axis];
        let size = full.checked_sub(pads[axis] + pads[axis + spatial]);
        inferred.push(size.ok_or_else(|| call.wrong(format!("pads {pads:?} are larger than the result")))?);
    }
    let output = match wanted {
        Some(wanted) => super::constant::sizes(call, wanted)?,
        None => inferred.clone(),
    };
    let fits = output.len() == inferred.len() && output.iter().zip(&inferred).all(|(out, size)| out >= size);
    if !fits {
        return Err(call.unsupported(format!("an output of {output:?} is smaller than {inferred:?}")));
    }
    let count: usize = inferred.iter().product();
    let mut values = filled(call, &output, 0.0)?;
    for (&index, &value) in indices.iter().zip(&x.values) {
        let Some(mut rest) = usize::try_from(index).ok().filter(|&index| index < count) else {
            return Err(call.wrong(format!("index {index} lies outside {inferred:?}")));
        };
        // The index counts the inferred shape, which lies in the corner of the output.
        let (mut at, mut stride) = (0, 1);
        for axis in (0..output.len()).rev() {
            at += rest % inferred[axis] * stride;
            rest /= inferred[axis];
            stride *= output[axis];
        }
        values[at] = value;
    }
    Ok(vec![rounded(call, x.dtype, output, values)?])
}
