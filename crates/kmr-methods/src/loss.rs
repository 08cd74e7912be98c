//! Losses of training, each with its derivative.
//!
//! Class scores (logits) are rows × classes, row by row; a loss is the mean over rows. Sums are in float64 and in the
//! order of the rows, so they do not depend on the number of threads. What is not finite in, is not finite in the
//! [value](Loss::value): whoever trains looks there.

use rayon::prelude::*;

use crate::{MethodError, error::check_length};

/// A loss and its derivative.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// The mean over rows, in nats; of features, the mean square.
    pub value: f64,
    /// The derivative of the value by each element of what is being trained, in its order.
    pub derivative: Vec<f32>,
}

/// The mean cross entropy of `logits` (rows × `classes`) with one label for each row.
///
/// With `smoothing` s, the target of a row is 1 − s + s / classes for its label and s / classes for every other class
/// (Szegedy et al., "Rethinking the Inception Architecture", arXiv 1512.00567, section 7).
///
/// # Errors
/// If the lengths do not go together, `smoothing` is outside of 0 to 1, or a label is no class.
pub fn cross_entropy(logits: &[f32], classes: usize, labels: &[i64], smoothing: f64) -> Result<Loss, MethodError> {
    if !(0.0..1.0).contains(&smoothing) {
        return Err(domain("the label smoothing", "from 0 to less than 1", smoothing));
    }
    check_length("the logits", rows_times(labels.len(), classes)?, logits.len())?;
    let wrong = labels
        .iter()
        .position(|&label| usize::try_from(label).map_or(true, |label| label >= classes));
    if let Some(row) = wrong {
        let label = labels[row];
        return Err(MethodError::Label { label, row, classes });
    }
    let (other, own) = (smoothing / classes as f64, 1.0 - smoothing);
    rowwise(logits, classes, |row, derivative| {
        let label = labels[row] as usize;
        let scores = &logits[row * classes..][..classes];
        let (greatest, total) = partition(scores, 1.0);
        let normalizer = greatest + total.ln();
        let mut value = own * (normalizer - f64::from(scores[label]));
        for (class, (&score, slope)) in scores.iter().zip(derivative).enumerate() {
            let score = f64::from(score);
            let target = if class == label { own + other } else { other };
            if other > 0.0 {
                value += other * (normalizer - score);
            }
            *slope = (score - normalizer).exp() - target;
        }
        value
    })
}

/// The mean Kullback–Leibler divergence of the student's distribution from the teacher's, both softened by
/// `temperature` T, times T²: T² · KL(softmax(teacher / T) ‖ softmax(student / T)).
///
/// The factor keeps the size of gradients when T changes (Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural
/// Network", arXiv 1503.02531, section 2). The derivative is by the student's logits.
///
/// # Errors
/// If the lengths do not go together, or `temperature` is not positive and finite.
pub fn divergence(student: &[f32], teacher: &[f32], classes: usize, temperature: f64) -> Result<Loss, MethodError> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(domain("the temperature", "positive and finite", temperature));
    }
    check_length("the teacher's logits", student.len(), teacher.len())?;
    let rows = student.len().checked_div(classes).unwrap_or(0);
    check_length("the logits", rows_times(rows, classes)?, student.len())?;
    rowwise(student, classes, |row, derivative| {
        let range = row * classes..(row + 1) * classes;
        let (student, teacher) = (&student[range.clone()], &teacher[range]);
        let normalizer = |scores: &[f32]| {
            let (greatest, total) = partition(scores, temperature);
            greatest + total.ln()
        };
        let (of_student, of_teacher) = (normalizer(student), normalizer(teacher));
        let mut value = 0.0;
        for ((&student, &teacher), slope) in student.iter().zip(teacher).zip(derivative) {
            let log_student = f64::from(student) / temperature - of_student;
            let log_teacher = f64::from(teacher) / temperature - of_teacher;
            let (student, teacher) = (log_student.exp(), log_teacher.exp());
            // What the teacher rules out adds nothing, whatever the student says.
            if teacher != 0.0 {
                value += teacher * (log_teacher - log_student);
            }
            *slope = temperature * (student - teacher);
        }
        temperature * temperature * value
    })
}

/// The mean square of student − teacher, with the derivative by the student's features.
///
/// # Errors
/// If there is not one of the teacher's for each of the student's.
pub fn mean_square(student: &[f32], teacher: &[f32]) -> Result<Loss, MethodError> {
    check_length("the teacher's features", student.len(), teacher.len())?;
    let share = 1.0 / student.len().max(1) as f64;
    let off = |(&student, &teacher): (&f32, &f32)| f64::from(student) - f64::from(teacher);
    let sums: Vec<f64> = student
        .par_chunks(CHUNK)
        .zip(teacher.par_chunks(CHUNK))
        .map(|(student, teacher)| student.iter().zip(teacher).map(|pair| off(pair).powi(2)).sum())
        .collect();
    let slope = |pair: (&f32, &f32)| (2.0 * share * off(pair)) as f32;
    let derivative = student.iter().zip(teacher).map(slope).collect();
    Ok(Loss {
        value: sums.iter().sum::<f64>() * share,
        derivative,
    })
}

/// Elements that are summed up together.
const CHUNK: usize = 1 << 14;

/// The greatest of `scores` / `temperature`, and the sum of their exponentials after it is taken off.
fn partition(scores: &[f32], temperature: f64) -> (f64, f64) {
    let scores = || scores.iter().map(|&score| f64::from(score) / temperature);
    let greatest = scores().fold(f64::NEG_INFINITY, f64::max);
    (greatest, scores().map(|score| (score - greatest).exp()).sum())
}

/// The mean over rows of what `row` gives, which writes its own derivative, too.
fn rowwise(logits: &[f32], classes: usize, row: impl Fn(usize, &mut [f64]) -> f64 + Sync) -> Result<Loss, MethodError> {
    let rows = logits.len() / classes;
    let share = 1.0 / rows.max(1) as f64;
    let mut derivative = vec![0.0_f32; logits.len()];
    let values: Vec<f64> = derivative
        .par_chunks_mut(classes)
        .enumerate()
        .map_init(
            || vec![0.0; classes],
            |slopes, (at, derivative)| {
                let value = row(at, slopes);
                for (single, slope) in derivative.iter_mut().zip(slopes) {
                    *single = (*slope * share) as f32;
                }
                value
            },
        )
        .collect();
    Ok(Loss {
        value: values.iter().sum::<f64>() * share,
        derivative,
    })
}

fn rows_times(rows: usize, classes: usize) -> Result<usize, MethodError> {
    if classes == 0 {
        return Err(domain("the number of classes", "at least 1", 0.0));
    }
    Ok(rows.saturating_mul(classes))
}

fn domain(what: &'static str, domain: &'static str, value: f64) -> MethodError {
    MethodError::Domain { what, domain, value }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Softmax in float64, the plain way.
    fn softmax(scores: &[f64]) -> Vec<f64> {
        let total: f64 = scores.iter().map(|score| score.exp()).sum();
        scores.iter().map(|score| score.exp() / total).collect()
    }

    fn wide(scores: &[f32]) -> Vec<f64> {
        scores.iter().map(|&score| score.into()).collect()
    }

    fn plain_cross_entropy(logits: &[f64], classes: usize, labels: &[i64], smoothing: f64) -> f64 {
        let rows = logits.chunks_exact(classes).zip(labels).map(|(row, &label)| {
            let log = softmax(row).into_iter().map(f64::ln).enumerate();
            -log.map(|(class, log)| {
                let own = if class as i64 == label { 1.0 - smoothing } else { 0.0 };
                (own + smoothing / classes as f64) * log
            })
            .sum::<f64>()
        });
        rows.sum::<f64>() / labels.len() as f64
    }

    fn plain_divergence(student: &[f64], teacher: &[f64], classes: usize, temperature: f64) -> f64 {
        let soft = |row: &[f64]| softmax(&row.iter().map(|score| score / temperature).collect::<Vec<_>>());
        let pairs = student.chunks_exact(classes).zip(teacher.chunks_exact(classes));
        let rows = pairs.map(|(student, teacher)| {
            let both = soft(student).into_iter().zip(soft(teacher));
            both.map(|(q, p)| p * (p / q).ln()).sum::<f64>()
        });
        temperature * temperature * rows.sum::<f64>() / (student.len() / classes) as f64
    }

    /// Compares a derivative with central differences of a loss in float64.
    fn check_slope(values: &[f32], derivative: &[f32], loss: impl Fn(&[f64]) -> f64) {
        for (place, &slope) in derivative.iter().enumerate() {
            let moved = |by: f64| {
                let mut values = wide(values);
                values[place] += by;
                loss(&values)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (difference - f64::from(slope)).abs() < 1e-6,
                "{place}: {difference} {slope}"
            );
        }
    }

    fn batch() -> impl Strategy<Value = (usize, Vec<f32>, Vec<f32>, Vec<i64>)> {
        (1_usize..5, 1_usize..6).prop_flat_map(|(rows, classes)| {
            let scores = || prop::collection::vec(-6.0_f32..6.0, rows * classes);
            let labels = prop::collection::vec(0..classes as i64, rows);
            (Just(classes), scores(), scores(), labels)
        })
    }

    proptest! {
        #[test]
        fn cross_entropy_is_what_float64_says((classes, logits, _, labels) in batch(), smoothing in 0.0..0.9) {
            let loss = cross_entropy(&logits, classes, &labels, smoothing).unwrap();
            let plain = |logits: &[f64]| plain_cross_entropy(logits, classes, &labels, smoothing);
            prop_assert!((loss.value - plain(&wide(&logits))).abs() < 1e-9);
            check_slope(&logits, &loss.derivative, plain);
        }

        #[test]
        fn divergence_is_what_float64_says((classes, student, teacher, _) in batch(), temperature in 0.5..10.0) {
            let loss = divergence(&student, &teacher, classes, temperature).unwrap();
            let plain = |student: &[f64]| plain_divergence(student, &wide(&teacher), classes, temperature);
            prop_assert!((loss.value - plain(&wide(&student))).abs() < 1e-9 * (1.0 + loss.value));
            prop_assert!(loss.value >= -1e-12);
            check_slope(&student, &loss.derivative, plain);
        }

        #[test]
        fn the_same_distribution_costs_nothing((classes, logits, _, _) in batch(), shift in -5.0_f32..5.0) {
            let moved: Vec<f32> = logits.iter().map(|score| score + shift).collect();
            let loss = divergence(&logits, &moved, classes, 3.0).unwrap();
            prop_assert!(loss.value.abs() < 1e-9);
            prop_assert!(loss.derivative.iter().all(|slope| slope.abs() < 1e-5));
        }

        #[test]
        fn mean_square_is_what_float64_says((_, student, teacher, _) in batch()) {
            let loss = mean_square(&student, &teacher).unwrap();
            let plain = |student: &[f64]| {
                let squares = student.iter().zip(wide(&teacher)).map(|(student, teacher)| (student - teacher).powi(2));
                squares.sum::<f64>() / student.len() as f64
            };
            prop_assert!((loss.value - plain(&wide(&student))).abs() < 1e-9);
            check_slope(&student, &loss.derivative, plain);
        }
    }

    #[test]
    fn high_temperatures_compare_logits() {
        // arXiv 1503.02531, equation 4: for zero-mean logits the gradient tends to (z − v) / classes.
        let (student, teacher) = ([1.0_f32, -1.0, 0.0], [0.0_f32, 0.5, -0.5]);
        let loss = divergence(&student, &teacher, 3, 1e4).unwrap();
        for ((slope, student), teacher) in loss.derivative.iter().zip(student).zip(teacher) {
            assert!((slope - (student - teacher) / 3.0).abs() < 1e-3);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let loss = cross_entropy(&[1e4, -1e4, 0.0], 3, &[1], 0.0).unwrap();
        assert_eq!(loss.value, 2e4);
        let loss = divergence(&[1e4, 0.0], &[1e4, f32::NEG_INFINITY], 2, 1.0).unwrap();
        assert_eq!(loss.value, 0.0);
    }

    #[test]
    fn what_is_not_finite_is_seen_in_the_value() {
        for wrong in [f32::NAN, f32::INFINITY] {
            assert!(!cross_entropy(&[0.0, wrong], 2, &[0], 0.0).unwrap().value.is_finite());
            assert!(
                !divergence(&[0.0, wrong], &[0.0, 0.0], 2, 4.0)
                    .unwrap()
                    .value
                    .is_finite()
            );
            assert!(
                !divergence(&[0.0, 0.0], &[0.0, wrong], 2, 4.0)
                    .unwrap()
                    .value
                    .is_finite()
            );
            assert!(!mean_square(&[wrong], &[0.0]).unwrap().value.is_finite());
        }
    }

    #[test]
    fn wrong_arguments_are_refused() {
        let refused = |result: Result<Loss, MethodError>| result.unwrap_err().to_string();
        assert_eq!(
            refused(cross_entropy(&[0.0; 6], 3, &[0, 3], 0.0)),
            "label 3 of row 1 is none of the 3 classes, which count from 0"
        );
        assert!(refused(cross_entropy(&[0.0; 6], 3, &[0, -1], 0.0)).starts_with("label -1"));
        assert!(refused(cross_entropy(&[0.0; 6], 3, &[0], 0.0)).contains("must have 3 elements"));
        assert!(refused(cross_entropy(&[0.0; 3], 3, &[0], 1.0)).contains("smoothing"));
        assert!(refused(cross_entropy(&[], 0, &[], 0.0)).contains("classes"));
        assert!(refused(divergence(&[0.0; 4], &[0.0; 2], 2, 1.0)).contains("teacher"));
        assert!(refused(divergence(&[0.0; 3], &[0.0; 3], 2, 1.0)).contains("must have 2"));
        assert!(refused(divergence(&[0.0; 2], &[0.0; 2], 2, 0.0)).contains("temperature"));
        assert!(refused(divergence(&[], &[], 0, 1.0)).contains("classes"));
        assert!(refused(mean_square(&[0.0], &[])).contains("teacher"));
    }
}
