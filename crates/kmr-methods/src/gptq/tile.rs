//! The rows that are quantized side by side.

use super::Options;
use crate::{
    Granularity, Grid, Matrix, Quantized,
    lanes::{LANES, Lanes, dot},
    metric::Metric,
    rounding::level,
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
    pub(super) fn sweep<G: Copy + Into<f64>>(&mut self, metric: &Metric<'_, G>, stretches: &[f64]) {
        let fitted = self.scales.clone();
        let mut least = self.error(metric);
        for stretch in stretches {
            let stretched = |scale: f64| f64::from(self.grid.admissible(scale * stretch));
            let scales: Vec<Lanes> = fitted.iter().map(|scales| scales.map(stretched)).collect();
            let (levels, error) = self.round(metric, &scales);
            for lane in 0..LANES {
                if error[lane] < least[lane] {
                    least[lane] = error[lane];
                    copy_lane(&mut self.levels, &levels, lane);
                    copy_lane(&mut self.scales, &scales, lane);
                }
            }
        }
    }

    /// GPTQ's column by column: the levels and what they leave of each row in the metric.
    fn round<G: Copy + Into<f64>>(&self, metric: &Metric<'_, G>, scales: &[Lanes]) -> (Vec<Lanes>, Lanes) {
        let mut levels = vec![[0.0; LANES]; self.levels.len()];
        let mut residual = levels.clone();
        let mut error = [0.0; LANES];
        for (position, &column) in metric.order.iter().enumerate().rev() {
            let (pivot, row) = metric.pivot(position);
            let others = dot(row, &residual[position + 1..]);
            let group = column / self.size;
            for lane in 0..LANES {
                let scale = scales[group][lane];
                let target = self.weights[column][lane] + others[lane] / pivot;
                let (low, high) = (self.low[group][lane] as f32, self.high[group][lane] as f32);
                let level = f64::from(level(target as f32, scale as f32, low, high));
                levels[column][lane] = level;
                residual[position][lane] = self.weights[column][lane] - level * scale;
                error[lane] += (pivot * (target - level * scale)).powi(2);
            }
        }
        (levels, error)
    }

    /// What the levels there are leave of each row in the metric.
    fn error<G: Copy + Into<f64>>(&self, metric: &Metric<'_, G>) -> Lanes {
        let residual: Vec<Lanes> = metric.order.iter().map(|&column| self.residual(column)).collect();
        let mut error = [0.0; LANES];
        for position in 0..residual.len() {
            let (pivot, row) = metric.pivot(position);
            let others = dot(row, &residual[position + 1..]);
            for lane in 0..LANES {
                error[lane] += (pivot * residual[position][lane] + others[lane]).powi(2);
            }
        }
        error
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

    /// Refits scales and moves codes in turn, until nothing moves.
    pub(super) fn refine<G: Copy + Into<f64>>(&mut self, metric: &Metric<'_, G>, options: &Options, refit: bool) {
        if !refit && options.passes == 0 {
            return;
        }
        let residual: Vec<Lanes> = (0..self.levels.len()).map(|column| self.residual(column)).collect();
        let mut gradient = metric.product(&residual);
        for _ in 0..options.passes {
            if refit {
                self.refit(metric, &mut gradient);
            }
            if !self.descend(metric, &mut gradient) {
                return;
            }
        }
        if refit {
            self.refit(metric, &mut gradient);
        }
    }

    /// Moves every scale to the least-squares one for its levels. `gradient` is H × residual.
    fn refit<G: Copy + Into<f64>>(&mut self, metric: &Metric<'_, G>, gradient: &mut [Lanes]) {
        for (group, scales) in self.scales.iter_mut().enumerate() {
            let first = group * self.size;
            let levels = &self.levels[first..self.levels.len().min(first + self.size)];
            let direction = metric.product_of(levels, first);
            let (mut along, mut square) = ([0.0; LANES], [0.0; LANES]);
            for (at, levels) in levels.iter().enumerate() {
                for lane in 0..LANES {
                    along[lane] += gradient[first + at][lane] * levels[lane];
                    square[lane] += direction[first + at][lane] * levels[lane];
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
            for (gradient, direction) in gradient.iter_mut().zip(direction) {
                for lane in 0..LANES {
                    gradient[lane] -= step[lane] * direction[lane];
                }
            }
        }
    }

    /// Moves every level, in turn, to the best one while all others stay; whether any moved.
    fn descend<G: Copy + Into<f64>>(&mut self, metric: &Metric<'_, G>, gradient: &mut [Lanes]) -> bool {
        let mut moved = false;
        for (column, levels) in self.levels.iter_mut().enumerate() {
            let group = column / self.size;
            let curvature = metric.diagonal()[column];
            let mut step = [0.0; LANES];
            for lane in 0..LANES {
                let scale = self.scales[group][lane];
                let best = levels[lane] + (gradient[column][lane] / (scale * curvature)).round_ties_even();
                let best = best.clamp(self.low[group][lane], self.high[group][lane]);
                step[lane] = (best - levels[lane]) * scale;
                levels[lane] = best;
            }
            if step != [0.0; LANES] {
                moved = true;
                metric.subtract(gradient, column, &step);
            }
        }
        moved
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

fn copy_lane(to: &mut [Lanes], from: &[Lanes], lane: usize) {
    for (to, from) in to.iter_mut().zip(from) {
        to[lane] = from[lane];
    }
}
