//! Boxes and regions of interest.

use kmr_model::{DType, Tensor};

use super::{
    Operator, onnx,
    reals::{Reals, filled, number, rounded},
};
use crate::{
    ComputeError,
    interpreter::{Call, Outputs, Value},
};

pub const OPERATORS: &[Operator] = &[
    onnx("NonMaxSuppression", suppress),
    onnx("RoiAlign", align),
    onnx("MaxRoiPool", pool),
];

/// A box by its corners.
struct Corners {
    low: [f32; 2],
    high: [f32; 2],
}

impl Corners {
    fn new(numbers: &[f32], centered: bool) -> Self {
        if centered {
            let [x, y, width, height] = [numbers[0], numbers[1], numbers[2], numbers[3]];
            return Self {
                low: [x - width / 2.0, y - height / 2.0],
                high: [x + width / 2.0, y + height / 2.0],
            };
        }
        // Any two opposite corners.
        Self {
            low: [numbers[1].min(numbers[3]), numbers[0].min(numbers[2])],
            high: [numbers[1].max(numbers[3]), numbers[0].max(numbers[2])],
        }
    }

    fn area(&self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// The area of the intersection over that of the union.
    fn overlap(&self, other: &Self) -> f32 {
        let side = |axis: usize| (self.high[axis].min(other.high[axis]) - self.low[axis].max(other.low[axis])).max(0.0);
        let common = side(0) * side(1);
        let union = self.area() + other.area() - common;
        if common <= 0.0 || union <= 0.0 {
            0.0
        } else {
            common / union
        }
    }
}

fn suppress(call: &mut Call<'_>) -> Outputs {
    let (boxes, scores) = (call.constant(0)?, call.constant(1)?);
    if boxes.dtype() != DType::FLOAT || scores.dtype() != DType::FLOAT {
        return Err(call.unsupported(format!("boxes of {} with scores of {}", boxes.dtype(), scores.dtype())));
    }
    let limit = if call.has(2) { number(call, 2)? } else { 0.0 };
    let most_overlap = if call.has(3) { number(call, 3)? as f32 } else { 0.0 };
    let least_score = if call.has(4) {
        Some(number(call, 4)? as f32)
    } else {
        None
    };
    let centered = call.int("center_point_box", 0) == 1;
    let (&[batch, count, 4], &[batches, classes, scored]) = (boxes.shape(), scores.shape()) else {
        return Err(call.wrong(format!(
            "boxes of {:?} with scores of {:?}",
            boxes.shape(),
            scores.shape()
        )));
    };
    if batch != batches || count != scored {
        return Err(call.wrong(format!(
            "boxes of {:?} with scores of {:?}",
            boxes.shape(),
            scores.shape()
        )));
    }
    let numbers = boxes.to_f32().map_err(|e| call.wrong(e.to_string()))?;
    let scores = scores.to_f32().map_err(|e| call.wrong(e.to_string()))?;
    let corners: Vec<Corners> = numbers
        .chunks(4)
        .map(|numbers| Corners::new(numbers, centered))
        .collect();
    let limit = limit.max(0.0) as usize;
    let mut selected = Vec::new();
    for (line, scores) in scores.chunks(count.max(1)).enumerate() {
        let (sample, class) = (line / classes, line % classes);
        let corners = &corners[sample * count..][..count];
        let mut order: Vec<usize> = (0..count)
            .filter(|&at| !scores[at].is_nan() && least_score.is_none_or(|least| scores[at] > least))
            .collect();
        // Of equal scores the first one comes first.
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut kept: Vec<usize> = Vec::new();
        for at in order {
            if kept.len() >= limit {
                break;
            }
            if kept
                .iter()
                .all(|&other| corners[at].overlap(&corners[other]) <= most_overlap)
            {
                kept.push(at);
                selected.extend([sample as i64, class as i64, at as i64]);
            }
        }
    }
    let tensor = Tensor::from_vec(vec![selected.len() / 3, 3], selected);
    Ok(vec![Value::Host(tensor)])
}

/// Regions of interest over planes.
struct Regions {
    x: Reals,
    rois: Reals,
    /// The sample of each region.
    samples: Vec<usize>,
}

impl Regions {
    fn new(call: &Call<'_>, x: Reals, rois: Reals, samples: Vec<Option<usize>>) -> Result<Self, ComputeError> {
        let batch = x.shape.first().copied().unwrap_or(0);
        let samples: Option<Vec<usize>> = samples
            .into_iter()
            .map(|sample| sample.filter(|&sample| sample < batch))
            .collect();
        let samples = samples.ok_or_else(|| call.wrong("a region belongs to a sample that does not exist"))?;
        if x.shape.len() != 4 || x.shape.contains(&0) {
            return Err(call.unsupported(format!("takes regions of {:?}", x.shape)));
        }
        Ok(Self { x, rois, samples })
    }

    /// Applies `each` to a region, a plane of its sample and a bin of the output.
    fn map(&self, call: &Call<'_>, bins: [usize; 2], each: impl Fn(&[f64], &[f64], [usize; 2]) -> f64) -> Outputs {
        let [_, channels, height, width] = self.x.shape[..] else {
            return Err(call.wrong("is no batch of planes"));
        };
        let shape = vec![self.samples.len(), channels, bins[0], bins[1]];
        let mut values = filled(call, &shape, 0.0)?;
        let columns = self.rois.shape.get(1).copied().unwrap_or(1);
        for (at, value) in values.iter_mut().enumerate() {
            let bin = [at / bins[1] % bins[0], at % bins[1]];
            let line = at / (bins[0] * bins[1]);
            let (region, channel) = (line / channels, line % channels);
            let plane = (self.samples[region] * channels + channel) * height * width;
            *value = each(
                &self.rois.values[region * columns..][..columns],
                &self.x.values[plane..][..height * width],
                bin,
            );
        }
        Ok(vec![rounded(call, self.x.dtype, shape, values)?])
    }
}

fn positive(call: &Call<'_>, value: i64, name: &str) -> Result<usize, ComputeError> {
    let size = usize::try_from(value).ok().filter(|&size| size > 0);
    size.ok_or_else(|| call.wrong(format!("attribute `{name}` is {value}")))
}

/// The four neighbors of a point of a plane, with their weights; none where it lies outside.
fn neighbors(y: f64, x: f64, height: usize, width: usize) -> Option<[(usize, f64); 4]> {
    if y < -1.0 || y > height as f64 || x < -1.0 || x > width as f64 || y.is_nan() || x.is_nan() {
        return None;
    }
    let split = |at: f64, size: usize| {
        let at = at.max(0.0);
        let low = at as usize;
        if low >= size - 1 {
            (size - 1, size - 1, 0.0)
        } else {
            (low, low + 1, at - low as f64)
        }
    };
    let ((top, bottom, down), (left, right, across)) = (split(y, height), split(x, width));
    Some([
        (top * width + left, (1.0 - down) * (1.0 - across)),
        (top * width + right, (1.0 - down) * across),
        (bottom * width + left, down * (1.0 - across)),
        (bottom * width + right, down * across),
    ])
}

fn align(call: &mut Call<'_>) -> Outputs {
    let (x, rois) = (Reals::new(call, 0)?, Reals::new(call, 1)?);
    let samples = call.integers(2)?;
    if rois.shape != [samples.len(), 4] {
        return Err(call.wrong(format!("{} samples with regions of {:?}", samples.len(), rois.shape)));
    }
    let bins = [
        positive(call, call.int("output_height", 1), "output_height")?,
        positive(call, call.int("output_width", 1), "output_width")?,
    ];
    let ratio = call.int("sampling_ratio", 0).max(0) as usize;
    let scale = f64::from(call.float_attribute("spatial_scale", 1.0));
    let mode = call.node.string("coordinate_transformation_mode");
    let half_pixel = match mode.unwrap_or("half_pixel") {
        _ if call.opset < 16 => false,
        "half_pixel" => true,
        "output_half_pixel" => false,
        other => return Err(call.unsupported(format!("coordinates `{other}` are not known"))),
    };
    let most = match call.node.string("mode").unwrap_or("avg") {
        "avg" => false,
        "max" => true,
        other => return Err(call.unsupported(format!("mode `{other}` is not known"))),
    };
    let [_, _, height, width] = x.shape[..] else {
        return Err(call.wrong(format!("takes regions of {:?}", x.shape)));
    };
    let samples = samples.iter().map(|&sample| usize::try_from(sample).ok()).collect();
    let regions = Regions::new(call, x, rois, samples)?;
    let offset = if half_pixel { 0.5 } else { 0.0 };
    let extents = |roi: &[f64]| {
        let [left, top, right, bottom] = [0, 1, 2, 3].map(|side| roi[side] * scale - offset);
        let (mut across, mut down) = (right - left, bottom - top);
        if !half_pixel {
            (across, down) = (across.max(1.0), down.max(1.0));
        }
        ([top, left], [down / bins[0] as f64, across / bins[1] as f64])
    };
    let grid = |size: f64| {
        if ratio > 0 {
            ratio
        } else {
            size.ceil().max(0.0) as usize
        }
    };
    // A region far larger than the plane would be sampled in as many points.
    let points: f64 = regions
        .rois
        .values
        .chunks(4)
        .map(|roi| {
            let (_, size) = extents(roi);
            grid(size[0]) as f64 * grid(size[1]) as f64
        })
        .fold(0.0, f64::max);
    if points.is_nan() || points > 1e8 {
        return Err(call.unsupported("a region is sampled in more than 1e8 points"));
    }
    regions.map(call, bins, |roi, plane, bin| {
        let (start, size) = extents(roi);
        let grids = [grid(size[0]), grid(size[1])];
        let (mut sum, mut best) = (0.0, f64::NEG_INFINITY);
        for step in 0..grids[0] * grids[1] {
            let steps = [step / grids[1], step % grids[1]];
            let at = [0, 1].map(|axis| {
                start[axis]
                    + bin[axis] as f64 * size[axis]
                    + (steps[axis] as f64 + 0.5) * size[axis] / grids[axis] as f64
            });
            let terms = neighbors(at[0], at[1], height, width).map(|four| four.map(|(at, weight)| plane[at] * weight));
            let terms = terms.unwrap_or_default();
            sum += terms.iter().sum::<f64>();
            // The largest of the weighted neighbors, not of their sums.
            best = terms.into_iter().fold(best, f64::max);
        }
        let count = (grids[0] * grids[1]).max(1) as f64;
        match most {
            true if best == f64::NEG_INFINITY => 0.0,
            true => best,
            false => sum / count,
        }
    })
}

fn pool(call: &mut Call<'_>) -> Outputs {
    let (x, rois) = (Reals::new(call, 0)?, Reals::new(call, 1)?);
    let scale = f64::from(call.float_attribute("spatial_scale", 1.0));
    let bins = call.sizes("pooled_shape")?.unwrap_or_default();
    let (&[rows, columns], &[_, 5], &[_, _, height, width]) = (&bins[..], &rois.shape[..], &x.shape[..]) else {
        return Err(call.wrong(format!(
            "pools {:?} by regions of {:?} to {bins:?}",
            x.shape, rois.shape
        )));
    };
    let samples = rois
        .values
        .chunks(5)
        .map(|roi| (roi[0] >= 0.0).then_some(roi[0] as usize))
        .collect();
    let regions = Regions::new(call, x, rois, samples)?;
    regions.map(call, [rows, columns], |roi, plane, bin| {
        let range = |low: f64, high: f64, bin: usize, bins: usize, size: usize| {
            let (low, high) = ((low * scale).round(), (high * scale).round());
            let step = (high - low + 1.0).max(1.0) / bins as f64;
            let clip = |at: f64| (at + low).clamp(0.0, size as f64) as usize;
            clip((bin as f64 * step).floor())..clip(((bin + 1) as f64 * step).ceil())
        };
        let lines = range(roi[2], roi[4], bin[0], rows, height);
        let across = range(roi[1], roi[3], bin[1], columns, width);
        if lines.is_empty() || across.is_empty() {
            return 0.0;
        }
        lines
            .flat_map(|line| plane[line * width..][across.clone()].iter().copied())
            .fold(f64::NEG_INFINITY, f64::max)
    })
}
