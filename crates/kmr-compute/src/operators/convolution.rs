//! Convolutions in one and two dimensions.
//!
//! Off the tape they run on the kernels of `kmr-kernels`, on it on Burn's, which have derivatives.

use std::sync::{Arc, PoisonError};

use burn::backend::ops::{ConvOptions, ModuleOps};
use kmr_kernels::{Affine, Convolution, Finish, Geometry};

use super::{Operator, onnx};
use crate::{
    ComputeError,
    interpreter::{B, Call, Float, Value, from_vec, is_tracked, reshape, shape, with_slice},
};

pub const OPERATORS: &[Operator] = &[onnx("Conv", |call| {
    let operands = Operands::new(call)?;
    let result = operands.run(call, Fused::default())?;
    Ok(vec![Value::Float(result)])
})];

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
        let groups = call.int("group", 1);
        let groups = usize::try_from(groups).map_err(|_| call.wrong("group is negative"))?;
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
