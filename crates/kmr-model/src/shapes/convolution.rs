//! Convolutions and pools.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Stop, Types::*, contradiction, product, rule, several, show, single},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "Conv" => rule(Same(&[0, 1, 2]), |context| convolution(context, 0, 1, 2)),
        "DeformConv" => rule(Same(&[0, 1, 2, 3]), |context| convolution(context, 0, 1, 3)),
        "ConvInteger" => rule(Always(DType::INT32), |context| convolution(context, 0, 1, usize::MAX)),
        "QLinearConv" => rule(Same(&[7]), |context| convolution(context, 0, 3, 8)),
        "ConvTranspose" => rule(Same(&[0, 1, 2]), transposed),
        "CausalConvWithState" => rule(Same(&[0, 1, 2, 3]), causal),
        "MaxPool" => rule(Then(&[0], DType::INT64), |context| {
            let shape = pool(context)?;
            several([shape.clone(), shape])
        }),
        "AveragePool" | "LpPool" => rule(Same(&[0]), |context| single(pool(context)?)),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => rule(Same(&[0]), global),
        "MaxUnpool" => rule(Same(&[0]), unpool),
        "Col2Im" => rule(Same(&[0]), col2im),
        _ => None,
    }
}

/// How a window moves along each spatial axis.
struct Window {
    kernel: Vec<Dim>,
    strides: Vec<i128>,
    dilations: Vec<i128>,
    /// Starts, then ends; `None` for `SAME_*`.
    pads: Option<Vec<i64>>,
}

impl Window {
    fn read(context: &Context, kernel: Vec<Dim>) -> Result<Self, Stop> {
        let rank = kernel.len();
        let positive = |name: &str| -> Result<Vec<i128>, Stop> {
            let Some(values) = context.node.ints(name).filter(|values| !values.is_empty()) else {
                return Ok(vec![1; rank]);
            };
            if values.len() != rank || values.iter().any(|&value| value <= 0) {
                return contradiction(format!("`{name}` {values:?} does not fit {rank} axes"));
            }
            Ok(values.iter().map(|&value| value.into()).collect())
        };
        let pads = match context.node.string("auto_pad").unwrap_or("NOTSET") {
            "SAME_UPPER" | "SAME_LOWER" => None,
            "VALID" => Some(vec![0; 2 * rank]),
            _ => match context.node.ints("pads").filter(|pads| !pads.is_empty()) {
                None => Some(vec![0; 2 * rank]),
                Some(pads) if pads.len() == 2 * rank => Some(pads.to_vec()),
                Some(pads) => {
                    return contradiction(format!("`pads` {pads:?} do not fit {rank} axes"));
                }
            },
        };
        if kernel.iter().any(|size| size.fixed().is_some_and(|size| size <= 0)) {
            return contradiction("has an empty kernel");
        }
        Ok(Self {
            strides: positive("strides")?,
            dilations: positive("dilations")?,
            pads,
            kernel,
        })
    }

    fn extent(&self, axis: usize) -> Dim {
        self.kernel[axis].minus(1).times(self.dilations[axis]).plus(1)
    }

    fn padding(&self, axis: usize) -> Option<(i64, i64)> {
        let pads = self.pads.as_ref()?;
        Some((pads[axis], pads[axis + self.kernel.len()]))
    }

    /// The size after the window moved over `input` elements.
    fn output(&self, axis: usize, input: &Dim, ceil: bool) -> Result<Dim, Stop> {
        let stride = self.strides[axis];
        let Some((before, after)) = self.padding(axis) else {
            return Ok(input.ceil_div(stride));
        };
        let extent = self.extent(axis);
        let room = input.plus(before).plus(after).minus(&extent);
        if room.fixed().is_some_and(|room| room < 0) {
            return contradiction(format!(
                "a window of {extent} does not fit {input} padded by {before} and {after}"
            ));
        }
        let whole = room.floor_div(stride).plus(1);
        if !ceil || stride == 1 {
            return Ok(whole);
        }
        let ceiling = room.ceil_div(stride).plus(1);
        // A window that would start in the padding at the end is left out.
        let starts = whole.times(stride);
        match starts.below(&input.plus(before)) {
            Some(true) => Ok(ceiling),
            Some(false) => Ok(whole),
            // A window that is no smaller than a step and the padding never starts there.
            None if extent.below(&Dim::from(i128::from(after) + stride)) == Some(false) => Ok(ceiling),
            None => Ok(Dim::Unknown),
        }
    }
}

/// Batch, channels and spatial sizes of an input.
fn spatial(shape: &[Dim]) -> Result<(&Dim, &Dim, &[Dim]), Stop> {
    match shape {
        [batch, channels, spatial @ ..] if !spatial.is_empty() => Ok((batch, channels, spatial)),
        _ => contradiction(format!(
            "takes batch, channels and spatial axes; got shape {}",
            show(shape)
        )),
    }
}

fn group(context: &Context) -> Result<i64, Stop> {
    match context.int("group", 1) {
        group if group > 0 => Ok(group),
        _ => contradiction("`group` must be positive"),
    }
}

/// The window's sizes: those of the weight, or as declared where that has none that are known.
fn kernel(context: &Context, weight: &[Dim]) -> Result<Vec<Dim>, Stop> {
    let kernel = &weight[2..];
    let Some(declared) = context.node.ints("kernel_shape") else {
        return Ok(kernel.to_vec());
    };
    let unfit = || {
        let weight = show(weight);
        contradiction(format!(
            "`kernel_shape` {declared:?} contradicts a weight of shape {weight}"
        ))
    };
    if declared.len() != kernel.len() {
        return unfit();
    }
    let both = declared
        .iter()
        .zip(kernel)
        .map(|(&declared, size)| size.unify(&declared.into()));
    both.collect::<Option<_>>().map_or_else(unfit, Ok)
}

fn check_bias(context: &Context, position: usize, channels: &Dim) -> Result<(), Stop> {
    let unfit = |bias: &[Dim]| {
        let bias = show(bias);
        contradiction(format!(
            "a bias of shape {bias} does not fit {channels} output channels"
        ))
    };
    match context.optional_shape(position) {
        Some([size]) if size.unify(channels).is_some() => Ok(()),
        Some(bias) => unfit(bias),
        None => Ok(()),
    }
}

fn convolution(context: &Context, input: usize, weight: usize, bias: usize) -> Outputs {
    let shape = context.shape(input)?;
    let (batch, channels, spatial) = spatial(shape)?;
    let weight = match context.shape(weight) {
        Err(Stop::Unknown) => {
            // The attribute alone gives the window.
            let kernel = context.node.ints("kernel_shape").ok_or(Stop::Unknown)?;
            if kernel.len() != spatial.len() {
                return contradiction(format!("`kernel_shape` {kernel:?} does not fit shape {}", show(shape)));
            }
            [
                &[Dim::Unknown, Dim::Unknown],
                kernel.iter().map(|&k| k.into()).collect::<Vec<_>>().as_slice(),
            ]
            .concat()
        }
        weight => weight?.to_vec(),
    };
    let group = group(context)?;
    let fits = weight.len() == shape.len()
        && weight[1].times(group).unify(channels).is_some()
        && weight[0].fixed().is_none_or(|count| count % i128::from(group) == 0);
    if !fits {
        return contradiction(format!(
            "a weight of shape {} in {group} group(s) does not fit an input of shape {}",
            show(&weight),
            show(shape)
        ));
    }
    check_bias(context, bias, &weight[0])?;
    let window = Window::read(context, kernel(context, &weight)?)?;
    let mut result = vec![batch.clone(), weight[0].clone()];
    for (axis, input) in spatial.iter().enumerate() {
        result.push(window.output(axis, input, false)?);
    }
    single(result)
}

fn transposed(context: &Context) -> Outputs {
    let (shape, weight) = (context.shape(0)?, context.shape(1)?);
    let (batch, channels, spatial) = spatial(shape)?;
    let group = group(context)?;
    let fits = weight.len() == shape.len()
        && weight[0].unify(channels).is_some()
        && channels.fixed().is_none_or(|count| count % i128::from(group) == 0);
    if !fits {
        return contradiction(format!(
            "a weight of shape {} in {group} group(s) does not fit an input of shape {}",
            show(weight),
            show(shape)
        ));
    }
    let out_channels = weight[1].times(group);
    check_bias(context, 2, &out_channels)?;
    let window = Window::read(context, kernel(context, weight)?)?;
    let declared = context
        .node
        .ints("output_shape")
        .filter(|declared| !declared.is_empty());
    let mut result = vec![batch.clone(), out_channels];
    for (axis, input) in spatial.iter().enumerate() {
        if let Some(declared) = declared {
            // Older files give the batch and the channels too.
            let skip = declared.len().saturating_sub(spatial.len());
            let Some(&size) = declared.get(skip + axis) else {
                return contradiction(format!(
                    "`output_shape` {declared:?} does not fit shape {}",
                    show(shape)
                ));
            };
            result.push(size.into());
            continue;
        }
        let stride = window.strides[axis];
        result.push(match window.padding(axis) {
            None => input.times(stride),
            Some((before, after)) => {
                let extra = context.node.ints("output_padding").unwrap_or(&[]);
                let extra = extra.get(axis).copied().unwrap_or(0);
                let extent = window.extent(axis).plus(extra);
                input.minus(1).times(stride).plus(&extent).minus(before).minus(after)
            }
        });
    }
    single(result)
}

/// A depthwise convolution over the last axis, and the inputs that the next call needs.
fn causal(context: &Context) -> Outputs {
    let shape = context.shape(0)?;
    let [batch, channels, _] = shape else {
        return contradiction(format!("takes batch, channels and length; got shape {}", show(shape)));
    };
    let length = match context.optional_shape(1) {
        Some([_, _, kernel]) => kernel.minus(1),
        _ => Dim::Unknown,
    };
    let state = vec![batch.clone(), channels.clone(), length];
    several([shape.to_vec(), state])
}

fn pool(context: &Context) -> Result<Vec<Dim>, Stop> {
    let shape = context.shape(0)?;
    let (batch, channels, spatial) = spatial(shape)?;
    let Some(kernel) = context.node.ints("kernel_shape") else {
        return contradiction("has no attribute `kernel_shape`");
    };
    if kernel.len() != spatial.len() {
        return contradiction(format!(
            "`kernel_shape` {kernel:?} does not fit an input of shape {}",
            show(shape)
        ));
    }
    let window = Window::read(context, kernel.iter().map(|&size| size.into()).collect())?;
    let ceil = context.int("ceil_mode", 0) != 0;
    let mut result = vec![batch.clone(), channels.clone()];
    for (axis, input) in spatial.iter().enumerate() {
        result.push(window.output(axis, input, ceil)?);
    }
    Ok(result)
}

fn global(context: &Context) -> Outputs {
    let (batch, channels, sizes) = spatial(context.shape(0)?)?;
    let mut result = vec![batch.clone(), channels.clone()];
    result.resize(2 + sizes.len(), Dim::Fixed(1));
    single(result)
}

fn unpool(context: &Context) -> Outputs {
    let shape = context.shape(0)?;
    if context.has(2) {
        let wanted = context.list(2)?;
        if wanted.len() != shape.len() {
            return contradiction(format!(
                "an output of {} axes does not fit shape {}",
                wanted.len(),
                show(shape)
            ));
        }
        return single(wanted);
    }
    let (batch, channels, sizes) = spatial(shape)?;
    let kernel = context.node.ints("kernel_shape").unwrap_or_default();
    if kernel.len() != sizes.len() {
        return contradiction(format!("`kernel_shape` {kernel:?} does not fit shape {}", show(shape)));
    }
    let window = Window::read(context, kernel.iter().map(|&size| size.into()).collect())?;
    let mut result = vec![batch.clone(), channels.clone()];
    for (axis, input) in sizes.iter().enumerate() {
        let (before, after) = window.padding(axis).unwrap_or_default();
        let moved = input.minus(1).times(window.strides[axis]);
        result.push(moved.plus(&window.kernel[axis]).minus(before).minus(after));
    }
    single(result)
}

fn col2im(context: &Context) -> Outputs {
    let (image, block) = (context.list(1)?, context.list(2)?);
    if image.len() != block.len() {
        return contradiction("image and block differ in rank");
    }
    let (batch, columns) = match context.shape(0) {
        Ok([batch, columns, ..]) => (batch.clone(), columns.clone()),
        _ => (Dim::Unknown, Dim::Unknown),
    };
    let channels = columns.exact_div(&product(&block));
    single([vec![batch, channels], image].concat())
}
