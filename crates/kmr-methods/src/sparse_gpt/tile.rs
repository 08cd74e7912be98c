//! The rows that are gone through side by side.

use kmr_kernels::{LANES, Lanes, Panel};

use super::pattern::{Plan, Quota, Tally};
use crate::{
    Matrix,
    metric::{Metric, SECTION},
    tiles::{copy_lane, parts},
};

/// Whether each lane keeps a column.
type Kept = [bool; LANES];

/// Up to [`LANES`] rows, column by column. Lanes without a row are zero.
pub(super) struct Tile {
    weights: Vec<Lanes>,
    values: Vec<Lanes>,
    kept: Vec<Kept>,
}

impl Tile {
    pub fn new(weights: Matrix<'_>, first: usize) -> Self {
        let mut lanes = vec![[0.0; LANES]; weights.columns()];
        for (lane, row) in (first..weights.rows()).take(LANES).enumerate() {
            for (lanes, &weight) in lanes.iter_mut().zip(weights.row(row)) {
                lanes[lane] = f64::from(weight);
            }
        }
        Self {
            kept: lanes
                .iter()
                .map(|weights| weights.map(|weight| weight != 0.0))
                .collect(),
            values: lanes.clone(),
            weights: lanes,
        }
    }

    /// Sets zeros block by block; where that leaves a row worse than zeros that nothing makes up for, these.
    pub fn sweep(&mut self, metric: &Metric, plan: &Plan) {
        let swept = self.made_up(metric, plan);
        let plain = self.plain(metric, plan);
        let errors = self
            .error(metric, &swept.0)
            .into_iter()
            .zip(self.error(metric, &plain.0));
        for (lane, (swept_error, plain_error)) in errors.enumerate() {
            let (values, kept) = if swept_error <= plain_error { &swept } else { &plain };
            copy_lane(&mut self.values, values, lane);
            copy_lane(&mut self.kept, kept, lane);
        }
    }

    /// SparseGPT: values, and which are not set to zero.
    fn made_up(&self, metric: &Metric, plan: &Plan) -> (Vec<Lanes>, Vec<Kept>) {
        let (mut values, mut kept) = (self.weights.clone(), self.kept.clone());
        let mut tallies = self.tallies(plan.quota);
        // By position, as the factor is.
        let mut residual = vec![[0.0; LANES]; self.weights.len()];
        let mut end = residual.len();
        for &size in &plan.blocks {
            let start = end - size;
            // What the columns that are done ask of this block's, and how these would move if none were set to zero.
            let asked = metric.beyond(start..end, &residual);
            let mut moved = vec![[0.0; LANES]; size];
            let mut costs = vec![[0.0; LANES]; size];
            for at in (0..size).rev() {
                let column = metric.order[start + at];
                let pivot = metric.pivot(start + at);
                let taken = metric.near(start + at, &moved[at + 1..]);
                let scale = if metric.is_dead(column) { 0.0 } else { pivot };
                for lane in 0..LANES {
                    let own = (asked[at][lane] - taken[lane]) / pivot;
                    moved[at][lane] = own as f32;
                    costs[at][lane] = (scale * (self.weights[column][lane] + own)).powi(2);
                }
            }
            let columns = &metric.order[start..end];
            choose(&mut kept, columns, &costs, &mut tallies);
            for at in (0..size).rev() {
                let column = columns[at];
                let pivot = metric.pivot(start + at);
                let near = metric.near(start + at, &residual[start + at + 1..end]);
                for lane in 0..LANES {
                    let weight = self.weights[column][lane];
                    let value = match kept[column][lane] {
                        true => weight + (asked[at][lane] + near[lane]) / pivot,
                        false => 0.0,
                    };
                    values[column][lane] = value;
                    residual[start + at][lane] = (weight - value) as f32;
                }
            }
            end = start;
        }
        (values, kept)
    }

    /// Zeros where the weight times the size of its input is least, and everything else as it is.
    fn plain(&self, metric: &Metric, plan: &Plan) -> (Vec<Lanes>, Vec<Kept>) {
        let (mut values, mut kept) = (self.weights.clone(), self.kept.clone());
        let mut tallies = self.tallies(plan.quota);
        let whole = [plan.columns.len()];
        let blocks = match plan.quota {
            Quota::Removed(_) => &whole,
            Quota::Keep(_) => plan.blocks.as_slice(),
        };
        let mut first = 0;
        for &size in blocks {
            let columns = &plan.columns[first..first + size];
            let cost = |column: &usize| {
                let scale = if metric.is_dead(*column) {
                    0.0
                } else {
                    metric.diagonal()[*column]
                };
                self.weights[*column].map(|weight| weight * weight * scale)
            };
            let costs: Vec<Lanes> = columns.iter().map(cost).collect();
            choose(&mut kept, columns, &costs, &mut tallies);
            first += size;
        }
        for (values, kept) in values.iter_mut().zip(&kept) {
            for (value, &kept) in values.iter_mut().zip(kept) {
                *value = if kept { *value } else { 0.0 };
            }
        }
        (values, kept)
    }

    fn tallies(&self, quota: Quota) -> [Tally; LANES] {
        std::array::from_fn(|lane| {
            let live = self.kept.iter().filter(|kept| kept[lane]).count();
            Tally::new(quota, self.kept.len(), live)
        })
    }

    /// What `values` leave of each row in the metric.
    fn error(&self, metric: &Metric, values: &[Lanes]) -> Lanes {
        let residual: Vec<Panel> = metric
            .order
            .iter()
            .map(|&column| difference(&self.weights[column], &values[column]))
            .collect();
        metric.error(&residual)
    }

    /// Moves every weight that remains, in turn, to where the error is least while all others stay.
    pub fn refine(&mut self, metric: &Metric, passes: usize) {
        let residual = self.weights.iter().zip(&self.values);
        let mut residual: Vec<Panel> = residual.map(|(weights, values)| difference(weights, values)).collect();
        for _ in 0..passes {
            for columns in parts(0..residual.len(), SECTION) {
                let mut gradient = metric.product(columns.clone(), 0, &residual);
                metric.descend(columns.clone(), &mut gradient, |column, gradient| {
                    let curvature = metric.diagonal()[column];
                    let mut step = [0.0; LANES];
                    for lane in 0..LANES {
                        // Weights beyond what products in float32 can hold stay where they are.
                        if self.kept[column][lane] && gradient[lane].is_finite() {
                            step[lane] = gradient[lane] / curvature;
                            self.values[column][lane] += step[lane];
                        }
                    }
                    step
                });
                for column in columns {
                    residual[column] = difference(&self.weights[column], &self.values[column]);
                }
            }
        }
    }

    /// Writes rows back.
    pub fn store(&self, values: &mut [f32]) {
        for (lane, row) in values.chunks_mut(self.values.len().max(1)).enumerate() {
            for (value, lanes) in row.iter_mut().zip(&self.values) {
                *value = lanes[lane] as f32;
            }
        }
    }
}

fn difference(left: &Lanes, right: &Lanes) -> Panel {
    std::array::from_fn(|lane| (left[lane] - right[lane]) as f32)
}

/// Gives up those of a block's `columns` that cost each lane least. Of equal costs the last go first.
fn choose(kept: &mut [Kept], columns: &[usize], costs: &[Lanes], tallies: &mut [Tally; LANES]) {
    for (lane, tally) in tallies.iter_mut().enumerate() {
        let mut live: Vec<(f64, usize)> = columns
            .iter()
            .zip(costs)
            .filter(|(column, _)| kept[**column][lane])
            .map(|(&column, costs)| (costs[lane], column))
            .collect();
        let count = tally.of_block(live.len());
        live.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        for &(_, column) in &live[..count.min(live.len())] {
            kept[column][lane] = false;
        }
    }
}
