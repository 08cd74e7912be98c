//! The rows that are quantized side by side.

use kmr_kernels::{LANES, Lanes, nearest_level};

use super::Options;
use crate::{
    Granularity, Grid, Matrix, Quantized,
    metric::{BLOCK, Metric},
};

/// Up to [`LANES`] rows, element by element. Lanes without a row stay zero.
pub(super) struct Tile {
    /// The first row.
    first: usize,
    /// How many columns share a scale.
    size: usize,
    grid: Grid,
    /// By column.
    weights: Vec<Lanes>,
    /// Codes less zero points, by column.
    levels: Vec<Lanes>,
    /// By group, as are the others below.
    scales: Vec<Lanes>,
    /// The lowest level.
    low: Vec<Lanes>,
    /// The highest level.
    high: Vec<Lanes>,
}

impl Tile {
    pub(super) fn new(weights: Matrix<'_>, quantized: &Quantized, first: usize) -> Self {
        let columns = weights.columns();
        let size = match quantized.granularity {
            Granularity::Group(size) => size,
            _ => columns.max(1),
        };
        let groups = columns.div_ceil(size);
        let mut tile = Self {
            first,
            size,
            grid: quantized.grid,
            weights: vec![[0.0; LANES]; columns],
            levels: vec![[0.0; LANES]; columns],
            scales: vec![[1.0; LANES]; groups],
            low: vec![[0.0; LANES]; groups],
            high: vec![[0.0; LANES]; groups],
        };
        let stride = quantized.granularity.per_row(columns);
        for (lane, row) in (first..weights.rows()).take(LANES).enumerate() {
            let zero_points = &quantized.zero_points[row * stride..][..groups];
            for (group, &zero_point) in zero_points.iter().enumerate() {
                let (low, high) = tile.grid.levels(zero_point);
                tile.scales[group][lane] = f64::from(quantized.scales[row * stride + group]);
                tile.low[group][lane] = f64::from(low);
                tile.high[group][lane] = f64::from(high);
            }
            for (column, (&weight, code)) in weights
                .row(row)
                .iter()
                .zip(&quantized.codes[row * columns..])
                .enumerate()
            {
                tile.weights[column][lane] = f64::from(weight);
                tile.levels[column][lane] = f64::from(i32::from(*code) - zero_points[column / size]);
            }
        }
        tile
    }

    /// Goes through the columns with the scales as they are, times each of `stretches`, and keeps what
    /// leaves least in each row: that, or the levels there are.
    pub(super) fn sweep<const N: usize>(&mut self, metric: &Metric<'_>, stretches: [f64; N]) {
        let mut least = self.error(metric);
        let stretched = stretches.map(|stretch| {
            let one = |scale: f64| f64::from(self.grid.admissible(scale * stretch));
            self.scales.iter().map(|scales| scales.map(one)).collect()
        });
        let rounded = self.round(metric, &stretched);
        for (scales, (levels, error)) in stretched.iter().zip(rounded) {
            for lane in 0..LANES {
                if error[lane] < least[lane] {
                    least[lane] = error[lane];
                    copy_lane(&mut self.levels, &levels, lane);
                    copy_lane(&mut self.scales, scales, lane);
                }
            }
        }
    }

    /// GPTQ's column by column, with each of `scales`: the levels and what they leave of each row in the metric.
    fn round<const N: usize>(&self, metric: &Metric<'_>, scales: &[Vec<Lanes>; N]) -> [(Vec<Lanes>, Lanes); N] {
        let columns = self.levels.len();
        let mut residuals: [Vec<Lanes>; N] = std::array::from_fn(|_| vec![[0.0; LANES]; columns]);
        let mut rounded = std::array::from_fn(|_| (vec![[0.0; LANES]; columns], [0.0; LANES]));
        for start in (0..columns).step_by(BLOCK).rev() {
            let end = columns.min(start + BLOCK);
            let beyond = residuals.each_ref().map(|residual| metric.beyond(start..end, residual));
            for position in (start..end).rev() {
                let (pivot, row) = metric.pivot(position);
                let near = residuals.each_ref().map(|residual| &residual[position + 1..end]);
                let near = metric.lanewise.dots(&row[..end - position - 1], near);
                let column = metric.order[position];
                let group = column / self.size;
                for (at, (levels, error)) in rounded.iter_mut().enumerate() {
                    let beyond = &beyond[at][position - start];
                    for lane in 0..LANES {
                        let scale = scales[at][group][lane];
                        let target = self.weights[column][lane] + (near[at][lane] + beyond[lane]) / pivot;
                        let (low, high) = (self.low[group][lane] as f32, self.high[group][lane] as f32);
                        let level = f64::from(nearest_level(target as f32, scale as f32, low, high));
                        levels[column][lane] = level;
                        residuals[at][position][lane] = self.weights[column][lane] - level * scale;
                        error[lane] += (pivot * (target - level * scale)).powi(2);
                    }
                }
            }
        }
        rounded
    }

    /// What the levels there are leave of each row in the metric.
    fn error(&self, metric: &Metric<'_>) -> Lanes {
        let residual: Vec<Lanes> = metric.order.iter().map(|&column| self.residual(column)).collect();
        metric.error(&residual)
    }

    /// What a column's levels leave of it.
    fn residual(&self, column: usize) -> Lanes {
        let (weights, levels, scales) = (
            &self.weights[column],
            &self.levels[column],
            &self.scales[column / self.size],
        );
        std::array::from_fn(|lane| weights[lane] - levels[lane] * scales[lane])
    }

    /// H × residual.
    fn gradient(&self, metric: &Metric<'_>) -> Vec<Lanes> {
        let residual: Vec<Lanes> = (0..self.levels.len()).map(|column| self.residual(column)).collect();
        metric.product(&residual)
    }

    /// Moves the scales of a group to the least-squares ones for their levels. `gradient` is H × residual.
    fn refit(&mut self, metric: &Metric<'_>, gradient: &mut [Lanes], group: usize) {
        let scales = &mut self.scales[group];
        let first = group * self.size;
        let levels = &self.levels[first..self.levels.len().min(first + self.size)];
        let own = first..first + levels.len();
        let direction = metric.product_of(levels, first, own.clone());
        let (mut along, mut square) = ([0.0; LANES], [0.0; LANES]);
        for ((levels, gradient), direction) in levels.iter().zip(&gradient[own.clone()]).zip(&direction) {
            for lane in 0..LANES {
                along[lane] += gradient[lane] * levels[lane];
                square[lane] += direction[lane] * levels[lane];
            }
        }
        let mut step = [0.0; LANES];
        for lane in 0..LANES {
            let scale = scales[lane] + along[lane] / square[lane];
            if square[lane] > 0.0 && scale > 0.0 {
                let scale = f64::from(self.grid.admissible(scale));
                step[lane] = scale - scales[lane];
                scales[lane] = scale;
            }
        }
        if step == [0.0; LANES] {
            return;
        }
        let before = metric.product_of(levels, first, 0..first);
        let after = metric.product_of(levels, first, own.end..gradient.len());
        for (gradient, direction) in gradient.iter_mut().zip([before, direction, after].iter().flatten()) {
            for lane in 0..LANES {
                gradient[lane] -= step[lane] * direction[lane];
            }
        }
    }

    /// Moves every level, in turn, to the best one while all others stay; whether any moved.
    fn descend(&mut self, metric: &Metric<'_>, gradient: &mut [Lanes]) -> bool {
        metric.descend(gradient, |column, gradient| {
            let group = column / self.size;
            let curvature = metric.diagonal()[column];
            let levels = &mut self.levels[column];
            std::array::from_fn(|lane| {
                let scale = self.scales[group][lane];
                let best = levels[lane] + nearest_integer(gradient[lane] / (scale * curvature));
                let best = best.clamp(self.low[group][lane], self.high[group][lane]);
                let step = (best - levels[lane]) * scale;
                levels[lane] = best;
                step
            })
        })
    }

    /// Writes codes and scales back.
    pub(super) fn store(&self, quantized: &mut Quantized) {
        let columns = self.levels.len();
        let stride = quantized.granularity.per_row(columns);
        for (lane, row) in (self.first..quantized.rows).take(LANES).enumerate() {
            for group in 0..stride {
                quantized.scales[row * stride + group] = self.scales[group][lane] as f32;
            }
            let low = i32::from(self.grid.low());
            for (column, code) in quantized.codes[row * columns..][..columns].iter_mut().enumerate() {
                let from_lowest = self.levels[column][lane] - self.low[column / self.size][lane];
                *code = (low + from_lowest as i32) as i16;
            }
        }
    }
}

/// Refits the scales of all tiles and moves their codes in turn, until nothing moves. Tiles go through the groups together:
/// what a group needs of H stays in the processor's cache while all of them use it.
pub(super) fn refine(tiles: &mut [Tile], metric: &Metric<'_>, options: &Options, refit: bool) {
    if !refit && options.passes == 0 {
        return;
    }
    let mut moving: Vec<(&mut Tile, Vec<Lanes>)> = tiles
        .iter_mut()
        .map(|tile| {
            let gradient = tile.gradient(metric);
            (tile, gradient)
        })
        .collect();
    let groups = moving.first().map_or(0, |(tile, _)| tile.scales.len());
    for pass in 0..=options.passes {
        for group in (0..groups).filter(|_| refit) {
            for (tile, gradient) in &mut moving {
                tile.refit(metric, gradient, group);
            }
        }
        if pass < options.passes {
            moving.retain_mut(|(tile, gradient)| tile.descend(metric, gradient));
        }
    }
}

/// The nearest integer, ties to even, of a number that is clamped to a few levels afterwards. `round_ties_even` would be a
/// call for each lane.
fn nearest_integer(value: f64) -> f64 {
    // Adding 1.5 × 2^52 leaves no fraction bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    (value + SHIFT) - SHIFT
}

fn copy_lane(to: &mut [Lanes], from: &[Lanes], lane: usize) {
    for (to, from) in to.iter_mut().zip(from) {
        to[lane] = from[lane];
    }
}
