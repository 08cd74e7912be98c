//! Linear regression with a penalty on the weights' squares (Hoerl and Kennard, "Ridge Regression", 1970).

use rayon::prelude::*;

use crate::{
    Matrix, MethodError,
    cholesky::factorize,
    error::{check_finite, check_length},
};

/// Weights of a linear prediction of several targets.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Targets × inputs, row by row.
    pub weights: Vec<f64>,
    /// What is added to each target.
    pub intercepts: Vec<f64>,
}

/// Whether predictions may be moved as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// By as much as fits best.
    Fitted,
    /// No: the prediction of zero is zero.
    Zero,
}

/// The weights and intercepts with the least Σ‖target − prediction‖² + λ‖weights‖² over the rows of `inputs` and
/// `targets` (one row each, `outputs` numbers), λ being `damping` times the mean square of the inputs (about their
/// means, where an intercept is fitted), added up over rows. Intercepts are not penalized. Inputs that never vary get no weight.
///
/// # Errors
/// If sizes do not fit, there is no row, a number is not finite, or `damping` is not greater than 0.
pub fn ridge(
    inputs: Matrix<'_>,
    targets: &[f64],
    outputs: usize,
    damping: f64,
    intercept: Intercept,
) -> Result<Linear, MethodError> {
    let (rows, columns) = (inputs.rows(), inputs.columns());
    check_length(
        "the targets of a regression",
        rows.saturating_mul(outputs),
        targets.len(),
    )?;
    if !(damping > 0.0 && damping.is_finite()) {
        return Err(MethodError::Domain {
            what: "the damping of a regression",
            domain: "greater than 0",
            value: damping,
        });
    }
    check_finite("target", outputs, targets)?;
    if rows == 0 {
        return Err(MethodError::NothingObserved);
    }
    let mean = |at: &dyn Fn(usize) -> f64| match intercept {
        Intercept::Fitted => (0..rows).map(at).sum::<f64>() / rows as f64,
        Intercept::Zero => 0.0,
    };
    let input_means: Vec<f64> = (0..columns)
        .map(|column| mean(&|row| f64::from(inputs.row(row)[column])))
        .collect();
    let target_means: Vec<f64> = (0..outputs)
        .map(|output| mean(&|row| targets[row * outputs + output]))
        .collect();
    // Column by column, so that each product is one chain of operations.
    let centered: Vec<Vec<f64>> = (0..columns)
        .into_par_iter()
        .map(|column| {
            (0..rows)
                .map(|row| f64::from(inputs.row(row)[column]) - input_means[column])
                .collect()
        })
        .collect();
    let products = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut gram: Vec<f64> = (0..columns)
        .into_par_iter()
        .flat_map_iter(|row| {
            let below = std::iter::repeat_n(0.0, row);
            below.chain(
                (row..columns)
                    .map(|column| products(&centered[row], &centered[column]))
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    let trace: f64 = (0..columns).map(|at| gram[at * columns + at]).sum();
    let penalty = damping * trace / columns.max(1) as f64;
    // Where nothing varies, any penalty gives weights of zero.
    let penalty = if penalty > 0.0 { penalty } else { 1.0 };
    (0..columns).for_each(|at| gram[at * columns + at] += penalty);
    factorize(&mut gram, columns).map_err(|column| MethodError::NotPositive { column })?;
    let solve = |output: usize| -> Vec<f64> {
        let target: Vec<f64> = (0..rows)
            .map(|row| targets[row * outputs + output] - target_means[output])
            .collect();
        let mut values: Vec<f64> = centered.iter().map(|column| products(column, &target)).collect();
        for at in 0..columns {
            values[at] /= gram[at * columns + at];
            for after in at + 1..columns {
                values[after] -= gram[at * columns + after] * values[at];
            }
        }
        for at in (0..columns).rev() {
            let known = products(&gram[at * columns + at + 1..][..columns - at - 1], &values[at + 1..]);
            values[at] = (values[at] - known) / gram[at * columns + at];
        }
        values
    };
    let solved: Vec<Vec<f64>> = (0..outputs).into_par_iter().map(solve).collect();
    let intercepts = solved.iter().zip(&target_means);
    Ok(Linear {
        intercepts: intercepts
            .map(|(weights, mean)| mean - products(weights, &input_means))
            .collect(),
        weights: solved.concat(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loss(inputs: Matrix<'_>, targets: &[f64], outputs: usize, penalty: f64, linear: &Linear) -> f64 {
        let columns = inputs.columns();
        let mut sum = penalty * linear.weights.iter().map(|weight| weight * weight).sum::<f64>();
        for (row, targets) in targets.chunks(outputs).enumerate() {
            for (output, target) in targets.iter().enumerate() {
                let weights = &linear.weights[output * columns..][..columns];
                let predicted: f64 = inputs
                    .row(row)
                    .iter()
                    .zip(weights)
                    .map(|(&x, weight)| f64::from(x) * weight)
                    .sum();
                sum += (target - predicted - linear.intercepts[output]).powi(2);
            }
        }
        sum
    }

    proptest! {
        #[test]
        fn whatever_is_moved_the_loss_grows(
            values in prop::collection::vec(-1.0_f32..1.0, 8 * 3),
            targets in prop::collection::vec(-1.0_f64..1.0, 8 * 2),
            damping in 0.01_f64..2.0,
        ) {
            let inputs = Matrix::new(8, 3, &values).unwrap();
            let found = ridge(inputs, &targets, 2, damping, Intercept::Fitted).unwrap();
            let variance: f64 = (0..3).map(|column| {
                let mean: f64 = (0..8).map(|row| f64::from(inputs.row(row)[column])).sum::<f64>() / 8.0;
                (0..8).map(|row| (f64::from(inputs.row(row)[column]) - mean).powi(2)).sum::<f64>()
            }).sum();
            let penalty = damping * variance / 3.0;
            let least = loss(inputs, &targets, 2, penalty, &found);
            for at in 0..8 {
                for step in [-1e-3, 1e-3] {
                    let mut moved = found.clone();
                    if at < 6 { moved.weights[at] += step } else { moved.intercepts[at - 6] += step }
                    prop_assert!(loss(inputs, &targets, 2, penalty, &moved) > least);
                }
            }
        }
    }

    #[test]
    fn a_plane_is_found_and_nonsense_refused() {
        let values: Vec<f32> = (0..40).map(|at| ((at * 7 % 11) as f32 - 5.0) / 5.0).collect();
        let inputs = Matrix::new(20, 2, &values).unwrap();
        let targets: Vec<f64> = (0..20)
            .map(|row| 3.0 - f64::from(inputs.row(row)[0]) + 2.0 * f64::from(inputs.row(row)[1]))
            .collect();
        let found = ridge(inputs, &targets, 1, 1e-9, Intercept::Fitted).unwrap();
        for (found, expected) in found.weights.iter().chain(&found.intercepts).zip([-1.0, 2.0, 3.0]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
        // Inputs that never vary.
        let still = ridge(
            Matrix::new(3, 1, &[1.0; 3]).unwrap(),
            &[1.0, 2.0, 3.0],
            1,
            0.1,
            Intercept::Fitted,
        )
        .unwrap();
        assert_eq!((still.weights, still.intercepts), (vec![0.0], vec![2.0]));
        // Through zero: Σxy / (Σx² + λ).
        let zero = ridge(
            Matrix::new(2, 1, &[1.0, 2.0]).unwrap(),
            &[3.0, 5.0],
            1,
            0.2,
            Intercept::Zero,
        )
        .unwrap();
        assert!((zero.weights[0] - 13.0 / 6.0).abs() < 1e-12 && zero.intercepts == [0.0]);
        assert!(ridge(inputs, &targets, 1, 0.0, Intercept::Fitted).is_err());
        assert!(ridge(inputs, &targets, 2, 0.1, Intercept::Fitted).is_err());
        assert!(ridge(Matrix::new(0, 2, &[]).unwrap(), &[], 1, 0.1, Intercept::Fitted).is_err());
        assert!(
            ridge(
                Matrix::new(1, 1, &[1.0]).unwrap(),
                &[f64::NAN],
                1,
                0.1,
                Intercept::Fitted
            )
            .is_err()
        );
    }
}
