//! Convolutions and pools.

use super::{
    Known,
    context::{Context, Inference, Outputs, Stop, contradiction, single, size},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Inference> {
    Some(match op {
        "Conv" => |context| convolution(context, 0, 1, 2, context.input(0)?.dtype),
        "ConvInteger" => |context| convolution(context, 0, 1, usize::MAX, DType::INT32),
        "QLinearConv" => |context| {
            let zero_point = context.input(7)?;
            convolution(context, 0, 3, 8, zero_point.dtype)
        },
        "ConvTranspose" => transposed,
        "MaxPool" | "AveragePool" | "LpPool" => pool,
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => global,
        _ => return None,
    })
}

/// How a window moves along each spatial axis.
struct Window {
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    /// Starts, then ends; `None` for `SAME_*`.
    pads: Option<Vec<i64>>,
}

impl Window {
    fn read(context: &Context, kernel: Vec<usize>) -> Result<Self, Stop> {
        let rank = kernel.len();
        let positive = |name: &str| -> Result<Vec<usize>, Stop> {
            let Some(values) = context.node.ints(name) else {
                return Ok(vec![1; rank]);
            };
            let sizes: Option<Vec<usize>> = values
                .iter()
                .map(|&value| usize::try_from(value).ok().filter(|&value| value > 0))
                .collect();
            match sizes {
                Some(sizes) if sizes.len() == rank => Ok(sizes),
                _ => contradiction(format!("`{name}` {values:?} does not fit {rank} axes")),
            }
        };
        let pads = match context.node.string("auto_pad").unwrap_or("NOTSET") {
            "SAME_UPPER" | "SAME_LOWER" => None,
            "VALID" => Some(vec![0; 2 * rank]),
            _ => match context.node.ints("pads") {
                None => Some(vec![0; 2 * rank]),
                Some(pads) if pads.len() == 2 * rank => Some(pads.to_vec()),
                Some(pads) => {
                    return contradiction(format!("`pads` {pads:?} do not fit {rank} axes"));
                }
            },
        };
        if kernel.contains(&0) {
            return contradiction("has an empty kernel");
        }
        Ok(Self {
            strides: positive("strides")?,
            dilations: positive("dilations")?,
            pads,
            kernel,
        })
    }

    fn extent(&self, axis: usize) -> i128 {
        (self.kernel[axis] as i128 - 1) * self.dilations[axis] as i128 + 1
    }

    fn padding(&self, axis: usize) -> Option<(i128, i128)> {
        let pads = self.pads.as_ref()?;
        Some((pads[axis].into(), pads[axis + self.kernel.len()].into()))
    }

    /// The size after the window moved over `input` elements.
    fn output(&self, axis: usize, input: usize, ceil: bool) -> Result<usize, Stop> {
        let (input, stride) = (input as i128, self.strides[axis] as i128);
        let Some((before, after)) = self.padding(axis) else {
            return size((input + stride - 1).div_euclid(stride));
        };
        let room = input + before + after - self.extent(axis);
        if room < 0 {
            return contradiction(format!(
                "a window of {} does not fit {input} padded by {before} and {after}",
                self.extent(axis)
            ));
        }
        let mut count = room / stride + 1;
        // A window that would start in the padding at the end is left out.
        if ceil && room % stride != 0 && count * stride < input + before {
            count += 1;
        }
        size(count)
    }
}

/// Batch, channels and spatial sizes of an input.
fn spatial(shape: &[usize]) -> Result<(usize, usize, &[usize]), Stop> {
    match shape {
        [batch, channels, spatial @ ..] if !spatial.is_empty() => Ok((*batch, *channels, spatial)),
        _ => contradiction(format!("takes batch, channels and spatial axes; got shape {shape:?}")),
    }
}

fn group(context: &Context) -> Result<usize, Stop> {
    match usize::try_from(context.int("group", 1)) {
        Ok(group) if group > 0 => Ok(group),
        _ => contradiction("`group` must be positive"),
    }
}

fn kernel(context: &Context, weight: &[usize]) -> Result<Vec<usize>, Stop> {
    let kernel = weight[2..].to_vec();
    match context.node.ints("kernel_shape") {
        Some(declared)
            if declared.len() != kernel.len() || declared.iter().zip(&kernel).any(|(&d, &k)| d != k as i64) =>
        {
            contradiction(format!(
                "`kernel_shape` {declared:?} contradicts a weight of shape {weight:?}"
            ))
        }
        _ => Ok(kernel),
    }
}

fn check_bias(context: &Context, position: usize, channels: usize) -> Result<(), Stop> {
    match context.optional(position)? {
        Some(bias) if bias.shape != [channels] => contradiction(format!(
            "a bias of shape {:?} does not fit {channels} output channels",
            bias.shape
        )),
        _ => Ok(()),
    }
}

fn convolution(context: &Context, input: usize, weight: usize, bias: usize, dtype: DType) -> Outputs {
    let (shape, weight) = (context.shape(input)?, context.shape(weight)?);
    let (batch, channels, sizes) = spatial(shape)?;
    let group = group(context)?;
    if weight.len() != shape.len() || weight[1].checked_mul(group) != Some(channels) || weight[0] % group != 0 {
        return contradiction(format!(
            "a weight of shape {weight:?} in {group} group(s) does not fit an input of shape {shape:?}"
        ));
    }
    check_bias(context, bias, weight[0])?;
    let window = Window::read(context, kernel(context, weight)?)?;
    let mut result = vec![batch, weight[0]];
    for (axis, &input) in sizes.iter().enumerate() {
        result.push(window.output(axis, input, false)?);
    }
    single(Known::new(dtype, result))
}

fn transposed(context: &Context) -> Outputs {
    let (input, weight) = (context.input(0)?, context.shape(1)?);
    let (batch, channels, sizes) = spatial(&input.shape)?;
    let group = group(context)?;
    if weight.len() != input.shape.len() || weight[0] != channels || channels % group != 0 {
        return contradiction(format!(
            "a weight of shape {weight:?} in {group} group(s) does not fit an input of shape {:?}",
            input.shape
        ));
    }
    let Some(out_channels) = weight[1].checked_mul(group) else {
        return contradiction("has too many output channels");
    };
    check_bias(context, 2, out_channels)?;
    let window = Window::read(context, kernel(context, weight)?)?;
    let mut result = vec![batch, out_channels];
    for (axis, &input) in sizes.iter().enumerate() {
        if let Some(declared) = context.node.ints("output_shape") {
            // Older files give the batch and the channels too.
            let skip = declared.len().saturating_sub(sizes.len());
            let declared = declared.get(skip + axis).copied().ok_or(Stop::Unknown)?;
            result.push(size(declared.into())?);
            continue;
        }
        let stride = window.strides[axis] as i128;
        result.push(size(match window.padding(axis) {
            None => input as i128 * stride,
            Some((before, after)) => {
                let extra = context.node.ints("output_padding").unwrap_or(&[]);
                let extra = extra.get(axis).copied().unwrap_or(0);
                stride * (input as i128 - 1) + i128::from(extra) + window.extent(axis) - before - after
            }
        })?);
    }
    single(Known::new(input.dtype, result))
}

fn pool(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let (batch, channels, sizes) = spatial(&input.shape)?;
    let Some(kernel) = context.node.ints("kernel_shape") else {
        return contradiction("has no attribute `kernel_shape`");
    };
    let kernel: Vec<usize> = kernel.iter().map(|&k| size(k.into())).collect::<Result<_, _>>()?;
    if kernel.len() != sizes.len() {
        return contradiction(format!(
            "`kernel_shape` {kernel:?} does not fit an input of shape {:?}",
            input.shape
        ));
    }
    let window = Window::read(context, kernel)?;
    let ceil = context.int("ceil_mode", 0) != 0;
    let mut result = vec![batch, channels];
    for (axis, &input) in sizes.iter().enumerate() {
        result.push(window.output(axis, input, ceil)?);
    }
    let indices = Known::new(DType::INT64, result.clone());
    Ok(vec![Some(Known::new(input.dtype, result)), Some(indices)])
}

fn global(context: &Context) -> Outputs {
    let input = context.input(0)?;
    let (batch, channels, sizes) = spatial(&input.shape)?;
    let mut result = vec![batch, channels];
    result.resize(2 + sizes.len(), 1);
    single(Known::new(input.dtype, result))
}
