//! Sampling planes and volumes at given points.

use super::{
    Operator, onnx,
    reals::{Reals, filled, rounded},
};
use crate::interpreter::{Call, Outputs};

pub const OPERATORS: &[Operator] = &[onnx("GridSample", sample), onnx("AffineGrid", affine)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    Nearest,
    Linear,
    Cubic,
}

/// What lies outside.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// One axis of what is sampled.
struct Axis {
    size: usize,
    align_corners: bool,
    padding: Padding,
}

impl Axis {
    /// The position of a coordinate in `[-1, 1]`.
    fn position(&self, coordinate: f64) -> f64 {
        let size = self.size as f64;
        let position = if self.align_corners {
            (coordinate + 1.0) / 2.0 * (size - 1.0)
        } else {
            ((coordinate + 1.0) * size - 1.0) / 2.0
        };
        f64::from(position as f32)
    }

    fn borders(&self) -> (f64, f64) {
        let size = self.size as f64;
        if self.align_corners {
            (0.0, size - 1.0)
        } else {
            (-0.5, size - 0.5)
        }
    }

    fn reflected(&self, position: f64) -> f64 {
        let (low, high) = self.borders();
        let range = high - low;
        if range <= 0.0 {
            return low;
        }
        let (distance, from_low) = if position < low {
            (low - position, true)
        } else if position > high {
            (position - high, false)
        } else {
            return position;
        };
        let turns = (distance / range).floor();
        let rest = distance - turns * range;
        if (turns % 2.0 == 0.0) == from_low {
            low + rest
        } else {
            high - rest
        }
    }

    /// The position, brought inside where the padding does that.
    fn inside(&self, position: f64) -> f64 {
        let (low, high) = self.borders();
        if (low..=high).contains(&position) {
            return position;
        }
        match self.padding {
            Padding::Zeros => position,
            Padding::Border => position.clamp(0.0, self.size as f64 - 1.0),
            Padding::Reflection => self.reflected(position),
        }
    }

    /// The element at a whole position, if it is not zero.
    fn element(&self, position: f64) -> Option<usize> {
        let last = self.size as f64 - 1.0;
        match self.padding {
            Padding::Zeros => (0.0..=last).contains(&position).then_some(position as usize),
            Padding::Border => Some(position.clamp(0.0, last) as usize),
            Padding::Reflection => Some(self.reflected(position).clamp(0.0, last) as usize),
        }
    }

    /// Elements and their weights for a coordinate.
    fn taps(&self, coordinate: f64, kernel: Kernel) -> Vec<(Option<usize>, f64)> {
        let mut position = self.position(coordinate);
        if kernel == Kernel::Nearest {
            position = position.round_ties_even();
        }
        let position = self.inside(position);
        let left = position.floor();
        let ratio = position - left;
        let weights = match kernel {
            Kernel::Nearest => return vec![(self.element(position.trunc()), 1.0)],
            Kernel::Linear => return vec![(self.element(left), 1.0 - ratio), (self.element(left + 1.0), ratio)],
            Kernel::Cubic => [1.0 + ratio, ratio, 1.0 - ratio, 2.0 - ratio].map(cubic),
        };
        let steps = weights.into_iter().zip([-1.0, 0.0, 1.0, 2.0]);
        steps
            .map(|(weight, step)| (self.element(left + step), weight))
            .collect()
    }
}

/// The cubic kernel of coefficient -0.75 at a distance of at most 2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.75;
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    }
}

fn sample(call: &mut Call<'_>) -> Outputs {
    let (x, grid) = (Reals::new(call, 0)?, Reals::new(call, 1)?);
    let kernel = match call.node.string("mode").unwrap_or("linear") {
        "nearest" => Kernel::Nearest,
        "linear" | "bilinear" => Kernel::Linear,
        "cubic" | "bicubic" => Kernel::Cubic,
        other => return Err(call.unsupported(format!("mode `{other}` is not known"))),
    };
    let padding = match call.node.string("padding_mode").unwrap_or("zeros") {
        "zeros" => Padding::Zeros,
        "border" => Padding::Border,
        "reflection" => Padding::Reflection,
        other => return Err(call.unsupported(format!("padding `{other}` is not known"))),
    };
    let align_corners = call.int("align_corners", 0) == 1;
    let rank = x.shape.len();
    let spatial = rank.saturating_sub(2);
    let fits =
        spatial > 0 && grid.shape.len() == rank && grid.shape[0] == x.shape[0] && grid.shape[rank - 1] == spatial;
    if !fits || x.shape.contains(&0) {
        return Err(call.wrong(format!("samples {:?} at {:?}", x.shape, grid.shape)));
    }
    let axes: Vec<Axis> = x.shape[2..]
        .iter()
        .map(|&size| Axis {
            size,
            align_corners,
            padding,
        })
        .collect();
    let (channels, plane) = (x.shape[1], x.shape[2..].iter().product::<usize>());
    let mut result = x.shape[..2].to_vec();
    result.extend_from_slice(&grid.shape[1..rank - 1]);
    let points: usize = result[2..].iter().product();
    let mut values = filled(call, &result, 0.0)?;
    for (number, point) in grid.values.chunks(spatial).enumerate() {
        if point.iter().any(|coordinate| !coordinate.is_finite()) {
            return Err(call.unsupported("a coordinate is not a finite number"));
        }
        let (sample, at) = (number / points, number % points);
        // The coordinates come in reverse order of the axes. Offsets of all taps in a plane:
        let mut taps = vec![(Some(0), 1.0)];
        for (axis, &coordinate) in axes.iter().zip(point.iter().rev()) {
            let own = axis.taps(coordinate, kernel);
            taps = taps
                .iter()
                .flat_map(|&(offset, weight)| {
                    own.iter().map(move |&(element, factor): &(Option<usize>, f64)| {
                        let offset = offset
                            .zip(element)
                            .map(|(offset, element): (usize, usize)| offset * axis.size + element);
                        (offset, weight * factor)
                    })
                })
                .collect();
        }
        for channel in 0..channels {
            let source = &x.values[(sample * channels + channel) * plane..][..plane];
            let terms = taps
                .iter()
                .filter_map(|&(offset, weight)| Some(source[offset?] * weight));
            values[(sample * channels + channel) * points + at] = terms.sum();
        }
    }
    Ok(vec![rounded(call, x.dtype, result, values)?])
}

fn affine(call: &mut Call<'_>) -> Outputs {
    let theta = Reals::new(call, 0)?;
    let size = call.integers(1)?;
    let size = super::constant::sizes(call, size)?;
    let spatial = size.len().saturating_sub(2);
    if !(2..=3).contains(&spatial) || theta.shape != [size[0], spatial, spatial + 1] {
        return Err(call.wrong(format!("a grid of {size:?} by {:?}", theta.shape)));
    }
    let align_corners = call.int("align_corners", 0) == 1;
    if align_corners && size[2..].contains(&1) {
        return Err(call.unsupported("an axis of one element has no corners to be aligned"));
    }
    let coordinate = |axis: usize, at: usize| -> f64 {
        let count = size[axis + 2] as f64;
        if align_corners {
            -1.0 + 2.0 * at as f64 / (count - 1.0)
        } else {
            -1.0 + (2.0 * at as f64 + 1.0) / count
        }
    };
    let mut result = vec![size[0]];
    result.extend_from_slice(&size[2..]);
    result.push(spatial);
    let mut values = filled(call, &result, 0.0)?;
    let points: usize = size[2..].iter().product();
    for (number, point) in values.chunks_mut(spatial).enumerate() {
        let (sample, mut rest) = (number / points, number % points);
        // Homogeneous coordinates: those of the last axis first.
        let mut own = Vec::with_capacity(spatial + 1);
        for axis in (0..spatial).rev() {
            own.push(coordinate(axis, rest % size[axis + 2]));
            rest /= size[axis + 2];
        }
        own.push(1.0);
        let matrix = &theta.values[sample * spatial * (spatial + 1)..];
        for (value, row) in point.iter_mut().zip(matrix.chunks(spatial + 1)) {
            *value = row.iter().zip(&own).map(|(a, b)| a * b).sum();
        }
    }
    Ok(vec![rounded(call, theta.dtype, result, values)?])
}
