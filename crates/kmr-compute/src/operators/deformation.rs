//! Convolutions at moved positions, and columns put together to images.

use burn::backend::ops::{DeformConvOptions, FloatTensorOps, ModuleOps, PadMode};

use super::{
    Operator,
    convolution::Window,
    onnx,
    reals::{Reals, filled, rounded},
};
use crate::interpreter::{B, Call, Outputs, Value, shape};

pub const OPERATORS: &[Operator] = &[onnx("DeformConv", deform), onnx("Col2Im", assemble)];

fn deform(call: &mut Call<'_>) -> Outputs {
    let (x, w, offset) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let (bias, mask) = (call.optional_float(3)?, call.optional_float(4)?);
    let (xs, ws, os) = (shape(&x), shape(&w), shape(&offset));
    if xs.len() != 4 || ws.len() != 4 || os.len() != 4 || xs.contains(&0) || ws.contains(&0) {
        return Err(call.unsupported(format!(
            "only two dimensions are supported; got {xs:?} with weights {ws:?} and offsets {os:?}"
        )));
    }
    let window = Window::new(call, &ws[2..])?;
    let pads = call.sizes("pads")?.unwrap_or_else(|| vec![0; 4]);
    let count = |name: &str| usize::try_from(call.int(name, 1)).unwrap_or(0);
    let (groups, offset_groups) = (count("group"), count("offset_group"));
    let kernel = ws[2] * ws[3];
    if groups == 0 || offset_groups == 0 || pads.len() != 4 {
        return Err(call.wrong(format!(
            "{groups} groups, {offset_groups} groups of offsets and pads {pads:?}"
        )));
    }
    let mut output = Vec::new();
    for axis in 0..2 {
        let padded = xs[axis + 2] + pads[axis] + pads[axis + 2];
        let Some(room) = padded.checked_sub(window.extent(axis)) else {
            return Err(call.wrong(format!("weights {ws:?} do not fit an input of {xs:?}")));
        };
        output.push(room / window.strides[axis] + 1);
    }
    let moved = [xs[0], offset_groups * kernel * 2, output[0], output[1]];
    let masked = [xs[0], offset_groups * kernel, output[0], output[1]];
    let fits = window.kernel == ws[2..]
        && ws[1] * groups == xs[1]
        && ws[0].is_multiple_of(groups)
        && xs[1].is_multiple_of(offset_groups)
        && os == moved
        && mask.as_ref().is_none_or(|mask| shape(mask) == masked)
        && bias.as_ref().is_none_or(|bias| shape(bias) == [ws[0]]);
    if !fits {
        return Err(call.wrong(format!(
            "weights {ws:?} in {groups} groups and offsets {os:?} in {offset_groups} do not fit an input of {xs:?}"
        )));
    }
    let around = [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])];
    let x = if pads.iter().any(|&pad| pad > 0) {
        B::float_pad(x, &around, PadMode::Constant(0.0))
    } else {
        x
    };
    let two = |sizes: &[usize]| [sizes[0], sizes[1]];
    let options = DeformConvOptions::<2>::new(
        two(&window.strides),
        [0; 2],
        two(&window.dilations),
        groups,
        offset_groups,
    );
    Ok(vec![Value::Float(B::deform_conv2d(x, offset, w, mask, bias, options))])
}

/// Adds up columns `[batch, channels·block, positions]` where their blocks lie in an image.
fn assemble(call: &mut Call<'_>) -> Outputs {
    let x = Reals::new(call, 0)?;
    let (image, block) = (call.integers(1)?, call.integers(2)?);
    let image = super::constant::sizes(call, image)?;
    let block = super::constant::sizes(call, block)?;
    let spatial = image.len();
    if spatial == 0 || block.len() != spatial || block.contains(&0) {
        return Err(call.wrong(format!("an image of {image:?} of blocks of {block:?}")));
    }
    let window = Window::new(call, &block)?;
    let pads = call.sizes("pads")?.unwrap_or_else(|| vec![0; 2 * spatial]);
    if window.strides.len() != spatial || pads.len() != 2 * spatial {
        return Err(call.wrong(format!("blocks of {block:?} with pads {pads:?}")));
    }
    let mut steps = Vec::with_capacity(spatial);
    for axis in 0..spatial {
        let padded = image[axis] + pads[axis] + pads[axis + spatial];
        let Some(room) = padded.checked_sub(window.extent(axis)) else {
            return Err(call.wrong(format!("blocks of {block:?} do not fit an image of {image:?}")));
        };
        steps.push(room / window.strides[axis] + 1);
    }
    let size = block.iter().try_fold(1_usize, |size, &axis| size.checked_mul(axis));
    let positions: usize = steps.iter().product();
    let (&[batch, channels, columns], Some(size)) = (&x.shape[..], size) else {
        return Err(call.wrong(format!("columns of {:?}", x.shape)));
    };
    if columns != positions || !channels.is_multiple_of(size) {
        return Err(call.wrong(format!("columns of {:?} for {positions} blocks of {block:?}", x.shape)));
    }
    let channels = channels / size;
    let mut result = vec![batch, channels];
    result.extend_from_slice(&image);
    let mut values = filled(call, &result, 0.0)?;
    let plane: usize = image.iter().product();
    for (at, &value) in x.values.iter().enumerate() {
        let (mut position, mut tap) = (at % positions, at / positions % size);
        let target = at / (positions * size);
        let (mut offset, mut stride, mut inside) = (0, 1, true);
        for axis in (0..spatial).rev() {
            let place = position % steps[axis] * window.strides[axis] + tap % block[axis] * window.dilations[axis];
            position /= steps[axis];
            tap /= block[axis];
            match place.checked_sub(pads[axis]).filter(|&place| place < image[axis]) {
                Some(place) => offset += place * stride,
                None => inside = false,
            }
            stride *= image[axis];
        }
        if inside {
            values[target * plane + offset] += value;
        }
    }
    Ok(vec![rounded(call, x.dtype, result, values)?])
}
