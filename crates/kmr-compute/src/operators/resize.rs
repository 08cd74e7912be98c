//! Resizing along axes by interpolation: every axis by itself, as a weighted sum of shifted slices.

use burn::backend::ops::FloatTensorOps;
use kmr_model::{DType, Tensor};

use super::{Operator, gather, onnx, reals::filled};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Outputs, Value, from_vec, indices, mask, reshape, shape},
};

pub const OPERATORS: &[Operator] = &[onnx("Resize", resize), onnx("Upsample", upsample)];

/// How positions of the output fall on the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    TfHalfPixelForNn,
    AlignCorners,
    Asymmetric,
    TfCropAndResize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    Nearest(Rounding),
    Linear,
    /// With its coefficient.
    Cubic(f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// What all axes share.
struct Method {
    coordinates: Coordinates,
    kernel: Kernel,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f32,
}

/// One axis.
struct Axis {
    axis: usize,
    input: usize,
    output: usize,
    scale: f64,
    /// Start and end of the region of interest, in units of the axis.
    region: [f64; 2],
}

impl Axis {
    /// Where output position `at` falls.
    fn original(&self, coordinates: Coordinates, at: usize) -> f64 {
        let (at, last) = (at as f64, self.input as f64 - 1.0);
        // Not rounded down: so the specification's cases have it.
        let length = self.scale * self.input as f64;
        let [start, end] = self.region;
        match coordinates {
            Coordinates::HalfPixel => (at + 0.5) / self.scale - 0.5,
            Coordinates::HalfPixelSymmetric => {
                let adjustment = self.output as f64 / length;
                let offset = self.input as f64 / 2.0 * (1.0 - adjustment);
                offset + (at + 0.5) / self.scale - 0.5
            }
            Coordinates::PytorchHalfPixel if self.output > 1 => (at + 0.5) / self.scale - 0.5,
            Coordinates::PytorchHalfPixel => 0.0,
            Coordinates::TfHalfPixelForNn => (at + 0.5) / self.scale,
            Coordinates::AlignCorners if length == 1.0 => 0.0,
            Coordinates::AlignCorners => at * last / (length - 1.0),
            Coordinates::Asymmetric => at / self.scale,
            Coordinates::TfCropAndResize if self.output > 1 => {
                start * last + at * (end - start) * last / (self.output as f64 - 1.0)
            }
            Coordinates::TfCropAndResize => 0.5 * (start + end) * last,
        }
    }

    /// The position left of `x` and how far right of it `x` lies, in `(0, 1]`.
    fn split(x: f64) -> (i64, f64) {
        let left = x.ceil() - 1.0;
        (left as i64, x - left)
    }

    fn clamped(&self, position: i64) -> usize {
        position.clamp(0, self.input as i64 - 1) as usize
    }

    fn nearest(&self, x: f64, rounding: Rounding) -> usize {
        let position = match rounding {
            Rounding::PreferFloor => (x - 0.5).ceil(),
            Rounding::PreferCeil => (x + 0.5).floor(),
            Rounding::Floor => x.floor(),
            Rounding::Ceil => x.ceil(),
        };
        self.clamped(position as i64)
    }

    /// Positions and weights of what output position `at` is the sum of.
    fn taps(&self, method: &Method, at: usize) -> Vec<(usize, f64)> {
        let x = self.original(method.coordinates, at);
        // Antialiasing widens the kernel where there are fewer outputs than inputs.
        let widened = if method.antialias { self.scale.min(1.0) } else { 1.0 };
        let (reach, weight): (f64, &dyn Fn(f64) -> f64) = match method.kernel {
            Kernel::Nearest(rounding) => return vec![(self.nearest(x, rounding), 1.0)],
            Kernel::Linear => (1.0, &|x| (1.0 - x.abs()).max(0.0)),
            Kernel::Cubic(a) => (2.0, &move |x| cubic(a, x.abs())),
        };
        let (left, ratio) = Self::split(x);
        let first = (-reach / widened).floor() as i64 + 1;
        let mut taps: Vec<(i64, f64)> = (first..=1 - first)
            .map(|step| (left.saturating_add(step), weight((step as f64 - ratio) * widened)))
            .collect();
        let normalize = |taps: &mut Vec<(i64, f64)>| {
            let sum: f64 = taps.iter().map(|tap| tap.1).sum();
            taps.iter_mut().for_each(|tap| tap.1 /= sum);
        };
        if method.antialias {
            normalize(&mut taps);
        }
        if method.exclude_outside {
            let inside = 0..self.input as i64;
            taps.retain(|tap| inside.contains(&tap.0));
            normalize(&mut taps);
        }
        taps.into_iter()
            .map(|(position, weight)| (self.clamped(position), weight))
            .collect()
    }

    fn is_identity(&self, method: &Method) -> bool {
        self.input == self.output
            && self.scale == 1.0
            && method.coordinates != Coordinates::TfCropAndResize
            && method.coordinates != Coordinates::TfHalfPixelForNn
    }
}

/// The cubic kernel of coefficient `a` at distance `x`.
fn cubic(a: f64, x: f64) -> f64 {
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

/// One axis of a float32 tensor.
fn interpolated(x: Float, axis: &Axis, method: &Method) -> Float {
    let rank = shape(&x).len();
    let taps: Vec<Vec<(usize, f64)>> = (0..axis.output).map(|at| axis.taps(method, at)).collect();
    let along = |size: usize| {
        let mut shape = vec![1; rank];
        shape[axis.axis] = size;
        shape
    };
    let most = taps.iter().map(Vec::len).max().unwrap_or(0);
    let mut sum: Option<Float> = None;
    for number in 0..most {
        let tap = |taps: &Vec<(usize, f64)>| taps.get(number).copied().unwrap_or((0, 0.0));
        let weights: Vec<f32> = taps.iter().map(|taps| tap(taps).1 as f32).collect();
        if weights.iter().all(|&weight| weight == 0.0) {
            continue;
        }
        let positions = taps.iter().map(|taps| tap(taps).0 as i64).collect();
        let mut slices = B::float_select(x.clone(), axis.axis, indices(positions));
        if weights.iter().any(|&weight| weight != 1.0) {
            slices = B::float_mul(slices, from_vec(weights, along(axis.output)));
        }
        sum = Some(match sum {
            Some(sum) => B::float_add(sum, slices),
            None => slices,
        });
    }
    sum.unwrap_or(x)
}

/// Output positions of the axis that fall outside the input.
fn outside(axis: &Axis, method: &Method) -> Vec<bool> {
    (0..axis.output)
        .map(|at| {
            let x = axis.original(method.coordinates, at);
            x < 0.0 || x > axis.input as f64 - 1.0
        })
        .collect()
}

fn run(call: &mut Call<'_>, value: Value, axes: &[Axis], method: &Method) -> Outputs {
    let mut result = value.shape();
    if result.contains(&0) {
        return Err(call.unsupported(format!("resizes an empty input of {result:?}")));
    }
    for axis in axes {
        result[axis.axis] = axis.output;
    }
    let crops = method.coordinates == Coordinates::TfCropAndResize;
    if matches!(value.dtype(), DType::FLOAT | DType::FLOAT16 | DType::BFLOAT16) {
        let mut x = call.widened(value)?;
        // Room for the result is asked for before it is computed.
        drop(filled(call, &result, 0.0_f32)?);
        if result.contains(&0) {
            return Ok(vec![Value::from_tensor(Tensor::from_vec(result, Vec::<f32>::new()))]);
        }
        for axis in axes.iter().filter(|axis| !axis.is_identity(method)) {
            x = interpolated(x, axis, method);
        }
        if crops {
            for axis in axes {
                let outside = outside(axis, method);
                if outside.contains(&true) {
                    let inner: usize = result[axis.axis + 1..].iter().product();
                    let count: usize = result.iter().product();
                    let chosen = (0..count).map(|at| outside[at / inner % axis.output]).collect();
                    let chosen = mask(chosen, result.clone());
                    let fill = B::float_expand(
                        from_vec(vec![method.extrapolation], vec![1; result.len()]),
                        result.clone().into(),
                    );
                    x = B::float_mask_where(x, chosen, fill);
                }
            }
        }
        return Ok(vec![Value::Float(reshape(x, result))]);
    }
    let Kernel::Nearest(rounding) = method.kernel else {
        return Err(call.unsupported(format!("interpolates {}", value.dtype())));
    };
    if crops && axes.iter().any(|axis| outside(axis, method).contains(&true)) {
        return Err(call.unsupported(format!("extrapolates {}", value.dtype())));
    }
    let mut value = value;
    for axis in axes.iter().filter(|axis| !axis.is_identity(method)) {
        let positions: Vec<usize> = (0..axis.output)
            .map(|at| axis.nearest(axis.original(method.coordinates, at), rounding))
            .collect();
        let mut shape = value.shape();
        shape[axis.axis] = axis.output;
        value = gather::select(call, value, axis.axis, &positions, shape)?;
    }
    Ok(vec![value])
}

fn numbers(call: &mut Call<'_>, position: usize) -> Result<Option<Vec<f64>>, ComputeError> {
    if !call.has(position) {
        return Ok(None);
    }
    let tensor = call.constant(position)?;
    let reals = super::reals::Reals::of(call, &tensor)?;
    Ok(Some(reals.values).filter(|values| !values.is_empty()))
}

fn coordinates(call: &Call<'_>) -> Result<Coordinates, ComputeError> {
    if call.opset < 11 {
        return Ok(Coordinates::Asymmetric);
    }
    let name = call.node.string("coordinate_transformation_mode");
    Ok(match name.unwrap_or("half_pixel") {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNn,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_crop_and_resize" => Coordinates::TfCropAndResize,
        other => return Err(call.unsupported(format!("coordinates `{other}` are not known"))),
    })
}

fn kernel(call: &Call<'_>) -> Result<Kernel, ComputeError> {
    let rounding = match call.node.string("nearest_mode").unwrap_or("round_prefer_floor") {
        _ if call.opset < 11 => Rounding::Floor,
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => return Err(call.unsupported(format!("rounding `{other}` is not known"))),
    };
    match call.node.string("mode").unwrap_or("nearest") {
        "nearest" => Ok(Kernel::Nearest(rounding)),
        "linear" | "bilinear" => Ok(Kernel::Linear),
        "cubic" => Ok(Kernel::Cubic(call.float_attribute("cubic_coeff_a", -0.75).into())),
        other => Err(call.unsupported(format!("interpolation `{other}` is not known"))),
    }
}

fn positive(call: &Call<'_>, scales: &[f64]) -> Result<(), ComputeError> {
    if scales.iter().all(|&scale| scale > 0.0 && scale.is_finite()) {
        return Ok(());
    }
    Err(call.wrong(format!("scales {scales:?} are not positive")))
}

/// The versions whose scales alone say what is done: nearest is the position left of a fraction.
fn upsample(call: &mut Call<'_>) -> Outputs {
    let value = call.value(0)?;
    let scales = if call.node.op_type() == "Upsample" && call.opset < 9 {
        call.node
            .floats("scales")
            .map(|scales| scales.iter().map(|&scale| scale.into()).collect())
    } else {
        numbers(call, 1)?
    };
    let scales: Vec<f64> = scales.ok_or_else(|| call.wrong("has no scales"))?;
    positive(call, &scales)?;
    let full = value.shape();
    if scales.len() != full.len() {
        return Err(call.wrong(format!("scales {scales:?} do not fit {full:?}")));
    }
    let kernel = kernel(call)?;
    let fractional = |&scale: &f64| scale < 1.0 && scale.recip().fract() != 0.0;
    if matches!(kernel, Kernel::Nearest(_)) && scales.iter().any(fractional) {
        return Err(call.unsupported("which element is nearest where there are fewer is not specified before opset 11"));
    }
    let axes: Vec<Axis> = (0..full.len())
        .map(|axis| Axis {
            axis,
            input: full[axis],
            output: (scales[axis] * full[axis] as f64).floor() as usize,
            scale: scales[axis],
            region: [0.0, 1.0],
        })
        .collect();
    let method = Method {
        coordinates: Coordinates::Asymmetric,
        kernel,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    run(call, value, &axes, &method)
}

fn resize(call: &mut Call<'_>) -> Outputs {
    if call.opset < 11 {
        return upsample(call);
    }
    let value = call.value(0)?;
    let full = value.shape();
    let (region, scales) = (numbers(call, 1)?, numbers(call, 2)?);
    let sizes = call.optional_integers(3)?.filter(|sizes| !sizes.is_empty());
    let order: Vec<usize> = match call.node.ints("axes") {
        Some(axes) if !axes.is_empty() => axes
            .iter()
            .map(|&axis| call.axis(axis, full.len()))
            .collect::<Result<_, _>>()?,
        _ => (0..full.len()).collect(),
    };
    let mut distinct = order.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let count = order.len();
    let given = scales.as_ref().map(Vec::len).or(sizes.as_ref().map(Vec::len));
    if distinct.len() != count || given != Some(count) {
        return Err(call.wrong(format!(
            "resizes axes {order:?} of {full:?} by {scales:?} or to {sizes:?}"
        )));
    }
    let kernel = kernel(call)?;
    let coordinates = coordinates(call)?;
    if coordinates == Coordinates::TfHalfPixelForNn && !matches!(kernel, Kernel::Nearest(_)) {
        return Err(call.unsupported("coordinates `tf_half_pixel_for_nn` are those of `nearest`"));
    }
    let region = if coordinates == Coordinates::TfCropAndResize {
        let region = region.filter(|region| region.len() == 2 * count);
        region.ok_or_else(|| call.wrong("the region of interest does not fit the axes"))?
    } else {
        let ends = [0.0, 1.0];
        ends.into_iter()
            .flat_map(|end| std::iter::repeat_n(end, count))
            .collect()
    };
    let mut axes = Vec::with_capacity(count);
    match (scales, sizes) {
        (Some(scales), _) => {
            positive(call, &scales)?;
            for (number, &axis) in order.iter().enumerate() {
                let region = [region[number], region[number + count]];
                // In float32, as the scale is: the product of a rounded fraction is often meant to be whole.
                let extent = (region[1] - region[0]) as f32;
                let output = (full[axis] as f32 * extent * scales[number] as f32).floor();
                axes.push(Axis {
                    axis,
                    input: full[axis],
                    output: output as usize,
                    scale: scales[number],
                    region,
                });
            }
        }
        (None, Some(sizes)) => {
            let mut sizes = super::constant::sizes(call, sizes)?;
            let ratio = |number: usize| sizes[number] as f64 / full[order[number]] as f64;
            let ratios = (0..count).map(ratio);
            let kept = match call.node.string("keep_aspect_ratio_policy").unwrap_or("stretch") {
                "stretch" => None,
                "not_larger" => ratios.reduce(f64::min),
                "not_smaller" => ratios.reduce(f64::max),
                other => return Err(call.unsupported(format!("policy `{other}` is not known"))),
            };
            if let Some(scale) = kept {
                for (number, &axis) in order.iter().enumerate() {
                    sizes[number] = (scale * full[axis] as f64 + 0.5).floor() as usize;
                }
            }
            for (number, &axis) in order.iter().enumerate() {
                let stretched = sizes[number] as f64 / full[axis] as f64;
                axes.push(Axis {
                    axis,
                    input: full[axis],
                    output: sizes[number],
                    scale: kept.unwrap_or(stretched),
                    region: [region[number], region[number + count]],
                });
            }
        }
        (None, None) => return Err(call.wrong("has neither scales nor sizes")),
    }
    let method = Method {
        coordinates,
        kernel,
        antialias: call.int("antialias", 0) == 1 && !matches!(kernel, Kernel::Nearest(_)),
        exclude_outside: call.int("exclude_outside", 0) == 1,
        extrapolation: call.float_attribute("extrapolation_value", 0.0),
    };
    run(call, value, &axes, &method)
}
