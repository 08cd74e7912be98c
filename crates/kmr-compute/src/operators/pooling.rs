//! Pools over windows and over whole planes.

use burn::backend::ops::{FloatTensorOps, ModuleOps, PadMode};

use super::{Operator, convolution::Window, onnx};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, from_vec, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[
    onnx("GlobalAveragePool", |call| global(call, |x| B::float_mean_dim(x, 2))),
    onnx("GlobalMaxPool", |call| global(call, |x| B::float_max_dim(x, 2))),
    onnx("AveragePool", average),
    onnx("MaxPool", maximum),
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
    let x = call.float(0)?;
    let pool = Pool::new(call, &shape(&x))?;
    if pool.window.dilations.iter().any(|&d| d != 1) {
        return Err(call.unsupported("averages over dilated windows are not supported"));
    }
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

fn maximum(call: &mut Call<'_>) -> Outputs {
    if call.names_output(1) {
        return Err(call.unsupported("indices are not given out"));
    }
    let x = call.float(0)?;
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
