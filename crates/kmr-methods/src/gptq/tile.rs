//! The rows that are quantized side by side.

use std::ops::Range;

use kmr_kernels::{LANES, Lanes, Panel, nearest_level};

use super::Options;
use crate::{
    Granularity, Grid, Matrix, Quantized,
    metric::Metric,
    tiles::{copy_lane, parts},
};

/// Up to [`LANES`] rows, element by element. Lanes without a row stay zero.
pub(super) struct Tile {
    /// The first row.
    first: usize,
    /// How many columns share a scale.
    size: usize,
    grid: Grid,
    /// By column.
    weights: Vec<Panel>,
    /// Codes less zero points, by column.
    levels: Vec<Panel>,
    /// What the levels leave of the weights, by column.
    residual: Vec<Panel>,
    /// By group, as are the others below.
    scales: Vec<Panel>,
    /// The lowest level.
    low: Vec<Panel>,
    /// The highest level.
    high: Vec<Panel>,
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
            residual: Vec::new(),
            scales: vec![[1.0; LANES]; groups],
            low: vec![[0.0; LANES]; groups],
            high: vec![[0.0; LANES]; groups],
        };
        let stride = quantized.granularity.per_row(columns);
        for (lane, row) in (first..weights.rows()).take(LANES).enumerate() {
            let zero_points = &quantized.zero_points[row * stride..][..groups];
            for (group, &zero_point) in zero_points.iter().enumerate() {
                tile.scales[group][lane] = quantized.scales[row * stride + group];
                (tile.low[group][lane], tile.high[group][lane]) = tile.grid.levels(zero_point);
            }
            for (column, (&weight, code)) in weights
                .row(row)
                .iter()
                .zip(&quantized.codes[row * columns..])
                .enumerate()
            {
                tile.weights[column][lane] = weight;
                tile.levels[column][lane] = (i32::from(*code) - zero_points[column / size]) as f32;
            }
        }
        tile.residual = (0..columns).map(|column| tile.left(column)).collect();
        tile
    }

    /// What a column's levels leave of it.
    fn left(&self, column: usize) -> Panel {
        let (weights, levels) = (&self.weights[column], &self.levels[column]);
        left(weights, levels, &self.scales[column / self.size])
    }

    /// Goes through the columns with the scales as they are, times each of `stretches`, and keeps what
    /// leaves least in each row: that, or the levels there are.
    pub(super) fn sweep(&mut self, metric: &Metric, stretches: &[f64]) {
        let residual: Vec<Panel> = metric.order.iter().map(|&column| self.residual[column]).collect();
        let mut least = metric.error(&residual);
        let fitted = self.scales.clone();
        for stretch in stretches {
            let one = |scale: f32| self.grid.admissible(f64::from(scale) * stretch);
            let scales: Vec<Panel> = fitted.iter().map(|scales| scales.map(one)).collect();
            let (levels, error) = self.round(metric, &scales);
            for lane in 0..LANES {
                if error[lane] < least[lane] {
                    least[lane] = error[lane];
                    copy_lane(&mut self.levels, &levels, lane);
                    copy_lane(&mut self.scales, &scales, lane);
                }
            }
        }
        self.settle(0..self.levels.len());
    }

    /// GPTQ's column by column, with `scales`: the levels and what they leave of each row in the metric.
    fn round(&self, metric: &Metric, scales: &[Panel]) -> (Vec<Panel>, Lanes) {
        let columns = self.levels.len();
        let mut residual = vec![[0.0; LANES]; columns];
        let mut levels = vec![[0.0; LANES]; columns];
        let mut error = [0.0; LANES];
        for block in parts(0..columns, LANES).rev() {
            let beyond = metric.beyond(block.clone(), &residual);
            for (position, beyond) in block.clone().zip(&beyond).rev() {
                let pivot = metric.pivot(position);
                let near = metric.near(position, &residual[position + 1..block.end]);
                let column = metric.order[position];
                let group = column / self.size;
                let (weights, scales) = (&self.weights[column], &scales[group]);
                let (low, high) = (&self.low[group], &self.high[group]);
                let targets: Lanes =
                    std::array::from_fn(|lane| f64::from(weights[lane]) + (near[lane] + beyond[lane]) / pivot);
                let rounded: Panel = std::array::from_fn(|lane| {
                    nearest_level(targets[lane] as f32, scales[lane], low[lane], high[lane])
                });
                for lane in 0..LANES {
                    error[lane] +=
                        (pivot * (targets[lane] - f64::from(rounded[lane]) * f64::from(scales[lane]))).powi(2);
                }
                residual[position] = left(weights, &rounded, scales);
                levels[column] = rounded;
            }
        }
        (levels, error)
    }

    /// Brings the residual of columns up to date.
    fn settle(&mut self, columns: Range<usize>) {
        for column in columns {
            self.residual[column] = self.left(column);
        }
    }

    /// Moves the scales of a group, of these columns, to the least-squares ones for their levels. `gradient` is what
    /// H × residual has there.
    fn refit(&mut self, metric: &Metric, columns: Range<usize>, gradient: &mut [Lanes]) {
        let levels = &self.levels[columns.clone()];
        let direction = metric.product(columns.clone(), columns.start, levels);
        let (mut along, mut square) = ([0.0; LANES], [0.0; LANES]);
        for ((levels, gradient), direction) in levels.iter().zip(&*gradient).zip(&direction) {
            for lane in 0..LANES {
                let level = f64::from(levels[lane]);
                along[lane] += gradient[lane] * level;
                square[lane] += direction[lane] * level;
            }
        }
        let scales = &mut self.scales[columns.start / self.size];
        let mut step = [0.0; LANES];
        for lane in 0..LANES {
            let scale = f64::from(scales[lane]) + along[lane] / square[lane];
            if square[lane] > 0.0 && scale > 0.0 {
                let scale = self.grid.admissible(scale);
                step[lane] = f64::from(scale) - f64::from(scales[lane]);
                scales[lane] = scale;
            }
        }
        if step == [0.0; LANES] {
            return;
        }
        for (gradient, direction) in gradient.iter_mut().zip(&direction) {
            for lane in 0..LANES {
                gradient[lane] -= step[lane] * direction[lane];
            }
        }
        self.settle(columns);
    }

    /// Moves every level of a group, of these columns, in turn, to the best one while all others stay; whether any moved.
    fn descend(&mut self, metric: &Metric, columns: Range<usize>, gradient: &mut [Lanes]) -> bool {
        let group = columns.start / self.size;
        let (scales, low, high) = (&self.scales[group], &self.low[group], &self.high[group]);
        let scales = scales.map(f64::from);
        let levels = &mut self.levels;
        let moved = metric.descend(columns.clone(), gradient, |column, gradient| {
            let curvature = metric.diagonal()[column];
            let levels = &mut levels[column];
            std::array::from_fn(|lane| {
                let before = f64::from(levels[lane]);
                let step = gradient[lane] / (scales[lane] * curvature);
                // Weights beyond what products in float32 can hold stay where they are.
                let step = if step.is_finite() { nearest_integer(step) } else { 0.0 };
                let best = (before + step).max(low[lane].into()).min(high[lane].into());
                levels[lane] = best as f32;
                (best - before) * scales[lane]
            })
        });
        if moved {
            self.settle(columns);
        }
        moved
    }

    /// Writes codes and scales back.
    pub(super) fn store(&self, quantized: &mut Quantized) {
        let columns = self.levels.len();
        let stride = quantized.granularity.per_row(columns);
        for (lane, row) in (self.first..quantized.rows).take(LANES).enumerate() {
            for group in 0..stride {
                quantized.scales[row * stride + group] = self.scales[group][lane];
            }
            let low = i32::from(self.grid.low());
            for (column, code) in quantized.codes[row * columns..][..columns].iter_mut().enumerate() {
                let from_lowest = self.levels[column][lane] - self.low[column / self.size][lane];
                *code = (low + from_lowest as i32) as i16;
            }
        }
    }
}

/// Goes through the groups of all tiles a few times: refits a group's scales, then moves its codes. Tiles go together: what a
/// group needs of H stays in the processor's cache while all of them use it. A tile of which no code moves is done.
pub(super) fn refine(tiles: &mut [Tile], metric: &Metric, options: &Options, refit: bool) {
    let Some((columns, size)) = tiles.first().map(|tile| (tile.levels.len(), tile.size)) else {
        return;
    };
    let mut moving: Vec<(&mut Tile, bool)> = tiles.iter_mut().map(|tile| (tile, false)).collect();
    // After the last pass, scales are refitted once more.
    for pass in 0..options.passes + usize::from(refit) {
        for group in parts(0..columns, size) {
            for (tile, moved) in &mut moving {
                let mut gradient = metric.product(group.clone(), 0, &tile.residual);
                if refit {
                    tile.refit(metric, group.clone(), &mut gradient);
                }
                if pass < options.passes {
                    *moved |= tile.descend(metric, group.clone(), &mut gradient);
                }
            }
        }
        moving.retain_mut(|(_, moved)| std::mem::take(moved));
    }
}

/// What levels leave of weights.
fn left(weights: &Panel, levels: &Panel, scales: &Panel) -> Panel {
    std::array::from_fn(|lane| (f64::from(weights[lane]) - f64::from(levels[lane]) * f64::from(scales[lane])) as f32)
}

/// The nearest integer, ties to even, of a number that is clamped to a few levels afterwards. `round_ties_even` would be a
/// call for each lane.
fn nearest_integer(value: f64) -> f64 {
    // Adding 1.5 × 2^52 leaves no fraction bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    (value + SHIFT) - SHIFT
}
