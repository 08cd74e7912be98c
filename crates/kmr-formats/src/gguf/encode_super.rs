//! From numbers to blocks of 256 whose parts have coded scales: each part is fitted by least squares, then fitted again
//! to the scales that its block can say.

use super::encode::push_half;

/// Codes of a part: value ≈ scale · code − least.
#[derive(Clone, Copy, Default)]
struct Line {
    scale: f32,
    least: f32,
}

impl Line {
    fn code(self, value: f32) -> f32 {
        if self.scale == 0.0 {
            return 0.0;
        }
        ((value + self.least) / self.scale).round().clamp(0.0, 15.0)
    }

    fn error(self, values: &[f32]) -> f32 {
        let off = |&value: &f32| value - (self.scale * self.code(value) - self.least);
        values.iter().map(off).map(|off| off * off).sum()
    }
}

/// The line with the least squared error among those that come from rounding on slightly other grids.
fn fitted_line(values: &[f32]) -> Line {
    let least = values.iter().copied().fold(0.0, f32::min);
    let greatest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if greatest <= least {
        // All are the same and not above 0.
        return Line {
            scale: 0.0,
            least: -least,
        };
    }
    let mut best = Line {
        scale: (greatest - least) / 15.0,
        least: -least,
    };
    let mut best_error = best.error(values);
    for step in 0..=20 {
        let grid = Line {
            scale: (greatest - least) / (13.5 + 0.125 * step as f32),
            least: -least,
        };
        let line = refitted(values, grid);
        let error = line.error(values);
        if error < best_error {
            (best, best_error) = (line, error);
        }
    }
    best
}

/// The line of least squares through the codes that `grid` gives; one whose minimum would lie above 0 goes through 0.
fn refitted(values: &[f32], grid: Line) -> Line {
    let count = values.len() as f32;
    let (mut codes, mut squares, mut sum, mut products) = (0.0, 0.0, 0.0, 0.0);
    for &value in values {
        let code = grid.code(value);
        codes += code;
        squares += code * code;
        sum += value;
        products += code * value;
    }
    let determinant = count * squares - codes * codes;
    if determinant <= 0.0 {
        return grid;
    }
    let scale = (count * products - codes * sum) / determinant;
    let least = (codes * scale - sum) / count;
    match (scale > 0.0, least >= 0.0) {
        (false, _) => grid,
        (true, true) => Line { scale, least },
        (true, false) => Line {
            scale: (products / squares).max(0.0),
            least: 0.0,
        },
    }
}

/// The step of `levels` steps that reach the greatest of these numbers, as float16 says it.
fn step(numbers: impl Iterator<Item = f32>, levels: f32) -> f32 {
    half::f16::from_f32(numbers.fold(0.0, f32::max) / levels).to_f32()
}

fn nearest(value: f32, step: f32) -> i32 {
    if step == 0.0 {
        0
    } else {
        (value / step).round().clamp(-1000.0, 1000.0) as i32
    }
}

pub(super) fn q4_k(values: &[f32], bytes: &mut Vec<u8>) {
    let parts: Vec<Line> = values.chunks_exact(32).map(fitted_line).collect();
    let scale_step = step(parts.iter().map(|line| line.scale), 63.0);
    let least_step = step(parts.iter().map(|line| line.least), 63.0);
    let mut factors = [(0_u8, 0_u8); 8];
    let mut codes = [0_u8; 256];
    for (part, values) in values.chunks_exact(32).enumerate() {
        let (scale, least) = (
            nearest(parts[part].scale, scale_step),
            nearest(parts[part].least, least_step),
        );
        let mut best_error = f32::INFINITY;
        let mut best = Line::default();
        for scale in scale - 1..=scale + 1 {
            for least in least - 1..=least + 1 {
                let (scale, least) = (scale.clamp(0, 63) as u8, least.clamp(0, 63) as u8);
                let line = Line {
                    scale: scale_step * f32::from(scale),
                    least: least_step * f32::from(least),
                };
                let error = line.error(values);
                if error < best_error {
                    (best_error, best, factors[part]) = (error, line, (scale, least));
                }
            }
        }
        for (at, &value) in values.iter().enumerate() {
            codes[part * 32 + at] = best.code(value) as u8;
        }
    }
    push_half(bytes, scale_step);
    push_half(bytes, least_step);
    let high = |factor: u8| (factor & 0x30) << 2;
    bytes.extend((0..4).map(|part| factors[part].0 | high(factors[part + 4].0)));
    bytes.extend((0..4).map(|part| factors[part].1 | high(factors[part + 4].1)));
    bytes.extend((4..8).map(|part| factors[part].0 & 15 | factors[part].1 << 4));
    for pair in codes.chunks_exact(64) {
        bytes.extend((0..32).map(|at| pair[at] | pair[at + 32] << 4));
    }
}

/// The code of −32 to 31 that is nearest.
fn signed_code(value: f32, scale: f32) -> f32 {
    if scale == 0.0 {
        0.0
    } else {
        (value / scale).round().clamp(-32.0, 31.0)
    }
}

/// The scale with the least squared error among those that come from rounding on slightly other grids. It has the sign
/// that brings the number farthest from 0 to the longer side of the codes.
fn fitted_scale(values: &[f32]) -> f32 {
    let mut far = 0.0_f32;
    for &value in values {
        if value.abs() > far.abs() {
            far = value;
        }
    }
    if far == 0.0 {
        return 0.0;
    }
    let (mut best, mut best_gain) = (far / -32.0, 0.0);
    for step in 0..=20 {
        let grid = far / -(30.0 + 0.15 * step as f32);
        let (mut products, mut squares) = (0.0, 0.0);
        for &value in values {
            let code = signed_code(value, grid);
            products += code * value;
            squares += code * code;
        }
        // What the scale of least squares takes off the squared error.
        let gain = products * products / squares;
        if squares > 0.0 && gain > best_gain {
            (best, best_gain) = (products / squares, gain);
        }
    }
    best
}

pub(super) fn q6_k(values: &[f32], bytes: &mut Vec<u8>) {
    let scales: Vec<f32> = values.chunks_exact(16).map(fitted_scale).collect();
    let mut far = 0.0_f32;
    for &scale in &scales {
        if scale.abs() > far.abs() {
            far = scale;
        }
    }
    let step = half::f16::from_f32(far / -128.0).to_f32();
    let mut factors = [0_i8; 16];
    let mut codes = [0_u8; 256];
    for (part, values) in values.chunks_exact(16).enumerate() {
        factors[part] = nearest(scales[part], step).clamp(-128, 127) as i8;
        let scale = step * f32::from(factors[part]);
        for (at, &value) in values.iter().enumerate() {
            codes[part * 16 + at] = (signed_code(value, scale) + 32.0) as u8;
        }
    }
    for half in codes.chunks_exact(128) {
        bytes.extend((0..64).map(|at| half[at] & 15 | (half[at + 64] & 15) << 4));
    }
    for half in codes.chunks_exact(128) {
        bytes.extend(
            (0..32).map(|at| (0..4).fold(0, |byte, quarter| byte | half[at + quarter * 32] >> 4 << (quarter * 2))),
        );
    }
    bytes.extend(factors.map(|factor| factor as u8));
    push_half(bytes, step);
}
