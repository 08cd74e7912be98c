//! Logistic regression in float64, by Newton's method.

/// Newton steps at most; a few are enough, as the loss is strictly convex.
const STEPS: usize = 50;
/// The norm of the gradient, per sample, that counts as none.
const ENOUGH: f64 = 1e-10;

/// A linear classifier: one line for each class.
pub struct Classifier {
    /// For each class, weights and behind them the intercept.
    lines: Vec<Vec<f64>>,
}

impl Classifier {
    /// Fits each class against the rest: ½‖w‖² + strength · Σ ln(1 + exp(∓(wx + b))), the intercept b being free, as
    /// scikit-learn's `LogisticRegression` has it with `C = strength`. Two classes share one line.
    pub fn fit(samples: &[Vec<f32>], labels: &[usize], classes: usize, strength: f64) -> Option<Self> {
        let line = |class: usize| {
            let signs: Vec<bool> = labels.iter().map(|label| *label == class).collect();
            fitted(samples, &signs, strength)
        };
        let lines = match classes {
            2 => {
                let one = line(1)?;
                vec![one.iter().map(|value| -value).collect(), one]
            }
            _ => (0..classes).map(line).collect::<Option<_>>()?,
        };
        Some(Self { lines })
    }

    /// Weights of a class, and behind them the intercept.
    #[cfg(test)]
    pub fn line(&self, class: usize) -> &[f64] {
        &self.lines[class]
    }

    /// The class whose line is highest; of equal ones the lower.
    pub fn class(&self, sample: &[f32]) -> usize {
        let heights: Vec<f64> = self.lines.iter().map(|line| height(line, sample)).collect();
        let mut best = 0;
        for (class, value) in heights.iter().enumerate() {
            if *value > heights[best] {
                best = class;
            }
        }
        best
    }
}

fn height(line: &[f64], sample: &[f32]) -> f64 {
    let products = line
        .iter()
        .zip(sample)
        .map(|(weight, value)| weight * f64::from(*value));
    products.sum::<f64>() + line[sample.len()]
}

/// Weights and intercept; none where numbers are not finite.
fn fitted(samples: &[Vec<f32>], signs: &[bool], strength: f64) -> Option<Vec<f64>> {
    let width = samples.first()?.len() + 1;
    let mut line = vec![0.0; width];
    let mut loss = objective(samples, signs, strength, &line);
    for _ in 0..STEPS {
        let mut gradient = line.clone();
        gradient[width - 1] = 0.0;
        let mut curvature = vec![0.0; width * width];
        for at in 0..width - 1 {
            curvature[at * width + at] = 1.0;
        }
        for (sample, sign) in samples.iter().zip(signs) {
            let probability = 1.0 / (1.0 + (-height(&line, sample)).exp());
            let slope = strength * (probability - f64::from(*sign));
            let bend = strength * probability * (1.0 - probability);
            let value = |at: usize| sample.get(at).map_or(1.0, |value| f64::from(*value));
            for row in 0..width {
                gradient[row] += slope * value(row);
                let factor = bend * value(row);
                let row = &mut curvature[row * width..][..=row];
                for (at, element) in row.iter_mut().enumerate() {
                    *element += factor * value(at);
                }
            }
        }
        let norm = gradient.iter().map(|value| value * value).sum::<f64>().sqrt();
        if !norm.is_finite() {
            return None;
        }
        if norm <= ENOUGH * samples.len() as f64 {
            break;
        }
        let step = solved(curvature, gradient, width)?;
        // Newton's step may go too far where classes are far apart.
        let mut share = 1.0;
        loop {
            let moved: Vec<f64> = line
                .iter()
                .zip(&step)
                .map(|(value, step)| value - share * step)
                .collect();
            let there = objective(samples, signs, strength, &moved);
            if there <= loss || share < 1e-6 {
                (line, loss) = (moved, there);
                break;
            }
            share /= 2.0;
        }
    }
    Some(line)
}

fn objective(samples: &[Vec<f32>], signs: &[bool], strength: f64, line: &[f64]) -> f64 {
    let weights = &line[..line.len() - 1];
    let losses = samples.iter().zip(signs).map(|(sample, sign)| {
        let margin = if *sign {
            height(line, sample)
        } else {
            -height(line, sample)
        };
        // ln(1 + exp(−margin)) without overflow.
        (-margin).max(0.0) + (-margin.abs()).exp().ln_1p()
    });
    weights.iter().map(|weight| weight * weight).sum::<f64>() / 2.0 + strength * losses.sum::<f64>()
}

/// x of A x = b, by the Cholesky factor of the lower triangle of A.
fn solved(mut matrix: Vec<f64>, mut right: Vec<f64>, size: usize) -> Option<Vec<f64>> {
    for row in 0..size {
        for column in 0..=row {
            let products = (0..column).map(|at| matrix[row * size + at] * matrix[column * size + at]);
            let rest = matrix[row * size + column] - products.sum::<f64>();
            matrix[row * size + column] = match row == column {
                // Rounding may leave nothing of an intercept that does not matter.
                true => rest.max(1e-12).sqrt(),
                false => rest / matrix[column * size + column],
            };
        }
        let products = (0..row).map(|at| matrix[row * size + at] * right[at]);
        right[row] = (right[row] - products.sum::<f64>()) / matrix[row * size + row];
    }
    for row in (0..size).rev() {
        let products = (row + 1..size).map(|at| matrix[at * size + row] * right[at]);
        right[row] = (right[row] - products.sum::<f64>()) / matrix[row * size + row];
    }
    right.iter().all(|value| value.is_finite()).then_some(right)
}
