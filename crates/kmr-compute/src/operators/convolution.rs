//! Convolutions and transposed convolutions in one to three dimensions.
//!
//! Convolutions in one and two run off the tape on the kernels of `kmr-kernels`; all else runs on Burn's, which
//! have derivatives.

use std::sync::{Arc, PoisonError};

use burn::backend::{
    Slice,
    ops::{ConvOptions, ConvTransposeOptions, FloatTensorOps, ModuleOps, PadMode},
};
use kmr_kernels::{Affine, Convolution, Finish, Geometry, Gradient};

use super::{Operator, onnx};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Recorded, Value, from_vec, is_tracked, kernel_error, reshape, shape, with_slice},
};

pub const OPERATORS: &[Operator] = &[
    onnx("Conv", |call| {
        let result = if call.rank(0) == Some(5) {
            volumes(call)?
        } else {
            Operands::new(call)?.run(call, Fused::default())?
        };
        Ok(vec![Value::Float(result)])
    })
    .recorded(convolved),
    onnx("ConvTranspose", transposed),
];

/// A convolution in three dimensions.
fn volumes(call: &mut Call<'_>) -> Result<Float, ComputeError> {
    let (x, w) = (call.float(0)?, call.float(1)?);
    let bias = call.optional_float(2)?;
    let (xs, ws) = (shape(&x), shape(&w));
    if xs.len() != 5 || ws.len() != 5 {
        return Err(call.wrong(format!("convolves {xs:?} with {ws:?}")));
    }
    let window = Window::new(call, &ws[2..])?;
    let pads = window.pads(call, &xs[2..])?;
    let groups = groups(call)?;
    let biased = bias.as_ref().is_none_or(|bias| shape(bias) == [ws[0]]);
    if window.kernel != ws[2..] || ws[1] * groups != xs[1] || !ws[0].is_multiple_of(groups) || !biased {
        return Err(call.wrong(format!(
            "weights {ws:?} in {groups} groups do not fit an input of {xs:?}"
        )));
    }
    let fits = (0..3).all(|axis| xs[axis + 2] + pads[axis] + pads[axis + 3] >= window.extent(axis));
    if !fits || xs.contains(&0) || ws.contains(&0) {
        return Err(call.wrong(format!("weights {ws:?} do not fit an input of {xs:?}")));
    }
    let mut around = vec![(0, 0); 2];
    around.extend((0..3).map(|axis| (pads[axis], pads[axis + 3])));
    let x = if pads.iter().any(|&pad| pad > 0) {
        B::float_pad(x, &around, PadMode::Constant(0.0))
    } else {
        x
    };
    let options = ConvOptions::<3>::new(three(&window.strides), [0; 3], three(&window.dilations), groups);
    Ok(B::conv3d(x, w, bias, options))
}

fn three(sizes: &[usize]) -> [usize; 3] {
    [sizes[0], sizes[1], sizes[2]]
}

fn groups(call: &Call<'_>) -> Result<usize, ComputeError> {
    let groups = call.int("group", 1);
    let groups = usize::try_from(groups).ok().filter(|&groups| groups > 0);
    groups.ok_or_else(|| call.wrong("attribute `group` is not positive"))
}

/// The transposed convolution without padding, of which the asked part is cut out; what lies behind it is zero.
fn transposed(call: &mut Call<'_>) -> Result<Vec<Value>, ComputeError> {
    let (x, w) = (call.float(0)?, call.float(1)?);
    let bias = call.optional_float(2)?;
    let (xs, ws) = (shape(&x), shape(&w));
    if xs.len() != ws.len() || !(3..=5).contains(&xs.len()) {
        return Err(call.unsupported(format!(
            "only one to three dimensions are supported; got {xs:?} with weights {ws:?}"
        )));
    }
    let spatial = xs.len() - 2;
    let window = Window::new(call, &ws[2..])?;
    let groups = groups(call)?;
    let channels = ws[1] * groups;
    let biased = bias.as_ref().is_none_or(|bias| shape(bias) == [channels]);
    if window.kernel != ws[2..] || ws[0] != xs[1] || !xs[1].is_multiple_of(groups) || !biased {
        return Err(call.wrong(format!(
            "weights {ws:?} in {groups} groups do not fit an input of {xs:?}"
        )));
    }
    if xs.contains(&0) || ws.contains(&0) {
        return Err(call.unsupported(format!("convolves {xs:?} with {ws:?}")));
    }
    let full: Vec<usize> = (0..spatial)
        .map(|axis| (xs[axis + 2] - 1) * window.strides[axis] + window.extent(axis))
        .collect();
    let (before, output) = transposed_output(call, &window, &xs[2..], &full)?;

    let mut result = if spatial == 3 {
        let options =
            ConvTransposeOptions::<3>::new(three(&window.strides), [0; 3], [0; 3], three(&window.dilations), groups);
        B::conv_transpose3d(x, w, None, options)
    } else {
        let two = |sizes: &[usize]| match sizes {
            [width] => [1, *width],
            sizes => [sizes[0], sizes[1]],
        };
        let plane = |shape: &[usize]| {
            let [height, width] = two(&shape[2..]);
            vec![shape[0], shape[1], height, width]
        };
        let options =
            ConvTransposeOptions::<2>::new(two(&window.strides), [0; 2], [0; 2], two(&window.dilations), groups);
        let result = B::conv_transpose2d(reshape(x, plane(&xs)), reshape(w, plane(&ws)), None, options);
        let mut flat = vec![xs[0], channels];
        flat.extend_from_slice(&full);
        reshape(result, flat)
    };
    let mut slices = vec![
        Slice::new(0, Some(xs[0] as isize), 1),
        Slice::new(0, Some(channels as isize), 1),
    ];
    let mut behind = vec![(0, 0); 2];
    for axis in 0..spatial {
        let end = (before[axis] + output[axis]).min(full[axis]);
        if before[axis] >= end {
            return Err(call.unsupported(format!("nothing but padding lies in an output of {output:?}")));
        }
        slices.push(Slice::new(before[axis] as isize, Some(end as isize), 1));
        behind.push((0, before[axis] + output[axis] - end));
    }
    if output != full || before.iter().any(|&pad| pad > 0) {
        result = B::float_slice(result, &slices);
    }
    if behind.iter().any(|&(_, pad)| pad > 0) {
        result = B::float_pad(result, &behind, PadMode::Constant(0.0));
    }
    if let Some(bias) = bias {
        let mut full = vec![1; xs.len()];
        full[1] = channels;
        result = B::float_add(result, reshape(bias, full));
    }
    Ok(vec![Value::Float(result)])
}

/// What is cut off before each axis of the full result, and the sizes of the output.
fn transposed_output(
    call: &Call<'_>,
    window: &Window,
    sizes: &[usize],
    full: &[usize],
) -> Result<(Vec<usize>, Vec<usize>), ComputeError> {
    let spatial = sizes.len();
    let extra = call.sizes("output_padding")?.unwrap_or_else(|| vec![0; spatial]);
    let mut wanted = call.sizes("output_shape")?;
    // Some exporters name all axes.
    if let Some(sizes) = &mut wanted
        && sizes.len() == spatial + 2
    {
        sizes.drain(..2);
    }
    let automatic = call.node.string("auto_pad").unwrap_or("NOTSET");
    let same = matches!(automatic, "SAME_UPPER" | "SAME_LOWER");
    if wanted.is_none() && same {
        wanted = Some((0..spatial).map(|axis| sizes[axis] * window.strides[axis]).collect());
    }
    if extra.len() != spatial || wanted.as_ref().is_some_and(|wanted| wanted.len() != spatial) {
        return Err(call.wrong(format!("output_padding {extra:?} and output_shape {wanted:?}")));
    }
    if let Some(output) = wanted {
        let before = (0..spatial)
            .map(|axis| {
                let total = (full[axis] + extra[axis]).saturating_sub(output[axis]);
                if automatic == "SAME_UPPER" {
                    total / 2
                } else {
                    total - total / 2
                }
            })
            .collect();
        return Ok((before, output));
    }
    let pads = window.pads(call, sizes)?;
    let output = (0..spatial)
        .map(|axis| (full[axis] + extra[axis]).checked_sub(pads[axis] + pads[axis + spatial]))
        .collect::<Option<Vec<_>>>();
    let output = output.ok_or_else(|| call.wrong(format!("pads {pads:?} are larger than the result {full:?}")))?;
    Ok((pads[..spatial].to_vec(), output))
}

/// What the nodes merged into a convolution do to its result, in this order.
#[derive(Default)]
pub(crate) struct Fused {
    pub affine: Option<Affine>,
    pub add: Option<Float>,
    pub relu: bool,
}

/// Runs a convolution with what was merged into it; `None` if the merged nodes must run by themselves.
pub(crate) fn fused(call: &mut Call<'_>, fused: Fused) -> Result<Option<Float>, ComputeError> {
    let operands = Operands::new(call)?;
    let plain_sum = fused
        .add
        .as_ref()
        .is_none_or(|add| !is_tracked(add) && shape(add) == operands.output);
    let channels = operands.geometry.out_channels;
    let fits = fused
        .affine
        .as_ref()
        .is_none_or(|affine| affine.scale.len() == channels);
    if operands.tracked() || !plain_sum || !fits {
        return Ok(None);
    }
    operands.run(call, fused).map(Some)
}

/// A convolution in one or two dimensions, with its derivative.
fn convolved(call: &mut Call<'_>, needs: &[bool]) -> Result<Option<Recorded>, ComputeError> {
    if call.rank(0) == Some(5) {
        return Ok(None);
    }
    let operands = Operands::new(call)?;
    let gradient = Gradient::new(operands.geometry).map_err(kernel_error)?;
    let (x, w) = (operands.x.clone(), operands.w.clone());
    let (batch, size) = (operands.batch, operands.size);
    let needs = [0, 1, 2].map(|position| needs.get(position) == Some(&true));
    let result = operands.run(call, Fused::default())?;
    Ok(Some(Recorded::one(result, move |cotangent| {
        let (xs, ws) = (shape(&x), shape(&w));
        with_slice(cotangent, |cotangent| {
            let input = needs[0].then(|| with_slice(w.clone(), |w| gradient.input(w, cotangent, batch, size)));
            let weights = needs[1].then(|| with_slice(x, |x| gradient.weights(x, cotangent, batch, size)));
            let bias = needs[2].then(|| gradient.bias(cotangent, batch, size));
            let whole = |values: Option<Result<Vec<f32>, _>>, shape: Vec<usize>| {
                values
                    .transpose()
                    .map(|values| values.map(|values| from_vec(values, shape)))
                    .map_err(kernel_error)
            };
            let channels = vec![ws[0]];
            Ok(vec![whole(input, xs)?, whole(weights, ws)?, whole(bias, channels)?])
        })
    })))
}

/// The inputs of a convolution, checked.
struct Operands {
    x: Float,
    w: Float,
    bias: Option<Float>,
    geometry: Geometry,
    batch: usize,
    size: [usize; 2],
    output: Vec<usize>,
}

impl Operands {
    fn new(call: &mut Call<'_>) -> Result<Self, ComputeError> {
        let (x, w) = (call.float(0)?, call.float(1)?);
        let bias = call.optional_float(2)?;
        let (xs, ws) = (shape(&x), shape(&w));
        if xs.len() != ws.len() || !(3..=4).contains(&xs.len()) {
            return Err(call.unsupported(format!(
                "only convolutions in one and two dimensions are supported; got {xs:?} with weights {ws:?}"
            )));
        }
        let spatial = xs.len() - 2;
        let window = Window::new(call, &ws[2..])?;
        if window.kernel != ws[2..] {
            return Err(call.wrong(format!("kernel_shape is {:?}; the weights are {ws:?}", window.kernel)));
        }
        let groups = groups(call)?;
        let pads = window.pads(call, &xs[2..])?;
        // One dimension is two, one of them of size 1.
        let two = |sizes: &[usize], default: usize| match sizes {
            [width] => [default, *width],
            [height, width, ..] => [*height, *width],
            [] => [default; 2],
        };
        let (before, after) = (two(&pads[..spatial], 0), two(&pads[spatial..], 0));
        let geometry = Geometry {
            in_channels: xs[1],
            out_channels: ws[0],
            groups,
            kernel: two(&ws[2..], 1),
            stride: two(&window.strides, 1),
            dilation: two(&window.dilations, 1),
            pads: [before[0], before[1], after[0], after[1]],
        };
        let wrong = |e: kmr_kernels::GeometryError| call.wrong(e.to_string());
        geometry.check().map_err(wrong)?;
        if ws[1] * groups != xs[1] {
            return Err(call.wrong(format!(
                "weights {ws:?} in {groups} groups do not fit an input of {xs:?}"
            )));
        }
        if let Some(bias) = &bias
            && shape(bias) != [ws[0]]
        {
            return Err(call.wrong(format!("weights {ws:?} with a bias of {:?}", shape(bias))));
        }
        let size = two(&xs[2..], 1);
        let out = geometry.output(size).map_err(wrong)?;
        let mut output = vec![xs[0], ws[0]];
        output.extend_from_slice(&out[2 - spatial..]);
        Ok(Self {
            x,
            w,
            bias,
            geometry,
            batch: xs[0],
            size,
            output,
        })
    }

    fn tracked(&self) -> bool {
        [Some(&self.x), Some(&self.w), self.bias.as_ref()]
            .into_iter()
            .flatten()
            .any(is_tracked)
    }

    fn run(self, call: &Call<'_>, fused: Fused) -> Result<Float, ComputeError> {
        if self.tracked() {
            return Ok(self.recorded());
        }
        let convolution = self.packed(call)?;
        let wrong = |e: kmr_kernels::GeometryError| call.wrong(e.to_string());
        let result = with_slice(self.x, |x| {
            let run = |add: Option<&[f32]>| {
                let finish = Finish {
                    affine: fused.affine.as_ref(),
                    add,
                    relu: fused.relu,
                };
                convolution.run(x, self.batch, self.size, finish)
            };
            match fused.add {
                Some(add) => with_slice(add, |add| run(Some(add))),
                None => run(None),
            }
        });
        Ok(from_vec(result.map_err(wrong)?, self.output))
    }

    /// The convolution with its weights packed, kept if they are constant.
    fn packed(&self, call: &Call<'_>) -> Result<Arc<Convolution>, ComputeError> {
        let mut kept = call
            .packed
            .map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(Some(kept)) = kept.as_deref()
            && *kept.geometry() == self.geometry
        {
            return Ok(kept.clone());
        }
        let packed = with_slice(self.w.clone(), |w| match self.bias.clone() {
            Some(bias) => with_slice(bias, |bias| Convolution::new(self.geometry, w, Some(bias))),
            None => Convolution::new(self.geometry, w, None),
        });
        let packed = Arc::new(packed.map_err(|e| call.wrong(e.to_string()))?);
        if let Some(kept) = &mut kept {
            **kept = Some(packed.clone());
        }
        Ok(packed)
    }

    /// On the tape.
    fn recorded(self) -> Float {
        let Geometry {
            kernel,
            stride,
            dilation,
            groups,
            pads,
            ..
        } = self.geometry;
        let mut options = ConvOptions::<2>::new(stride, [pads[0], pads[1]], dilation, groups);
        options.padding = [(pads[0], pads[2]), (pads[1], pads[3])];
        let x = reshape(
            self.x,
            vec![self.batch, self.geometry.in_channels, self.size[0], self.size[1]],
        );
        let weights = shape(&self.w);
        let w = reshape(self.w, vec![weights[0], weights[1], kernel[0], kernel[1]]);
        reshape(B::conv2d(x, w, self.bias, options), self.output)
    }
}

/// The attributes that convolutions and pools share.
pub struct Window {
    pub kernel: Vec<usize>,
    pub strides: Vec<usize>,
    pub dilations: Vec<usize>,
}

impl Window {
    /// Reads the attributes; `kernel` is the kernel where none is given.
    pub fn new(call: &Call<'_>, kernel: &[usize]) -> Result<Self, ComputeError> {
        let kernel = call.sizes("kernel_shape")?.unwrap_or_else(|| kernel.to_vec());
        let rank = kernel.len();
        let list = |name: &str| {
            let sizes = call.sizes(name)?.unwrap_or_else(|| vec![1; rank]);
            if sizes.len() != rank || sizes.contains(&0) {
                return Err(call.wrong(format!("attribute `{name}` is {sizes:?}")));
            }
            Ok(sizes)
        };
        if kernel.contains(&0) {
            return Err(call.wrong(format!("attribute `kernel_shape` is {kernel:?}")));
        }
        Ok(Self {
            strides: list("strides")?,
            dilations: list("dilations")?,
            kernel,
        })
    }

    /// What the kernel spans along `axis`.
    pub fn extent(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// Padding before each axis, then after each, for an input of these sizes.
    pub fn pads(&self, call: &Call<'_>, sizes: &[usize]) -> Result<Vec<usize>, ComputeError> {
        let rank = self.kernel.len();
        let lower = match call.node.string("auto_pad").unwrap_or("NOTSET") {
            "SAME_LOWER" => true,
            "SAME_UPPER" => false,
            "VALID" => return Ok(vec![0; 2 * rank]),
            "NOTSET" | "" => {
                let pads = call.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * rank]);
                if pads.len() != 2 * rank {
                    return Err(call.wrong(format!("attribute `pads` is {pads:?}")));
                }
                return Ok(pads);
            }
            other => return Err(call.wrong(format!("attribute `auto_pad` is `{other}`"))),
        };
        let mut pads = vec![0; 2 * rank];
        for axis in 0..rank {
            let steps = sizes[axis].div_ceil(self.strides[axis]);
            let needed = steps.saturating_sub(1) * self.strides[axis] + self.extent(axis);
            let total = needed.saturating_sub(sizes[axis]);
            let smaller = total / 2;
            pads[axis] = if lower { total - smaller } else { smaller };
            pads[axis + rank] = total - pads[axis];
        }
        Ok(pads)
    }
}
