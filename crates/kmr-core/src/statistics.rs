//! Paired tests on per-sample scores: is the quality lost within a margin?
//!
//! *Drop* is the mean of before − after: positive when quality was lost. Non-inferiority (H₀: drop ≥
//! margin) is tested one-sided. Scores that are all 0 or 1 use the score test for paired
//! proportions (T. Tango, Statistics in Medicine 17:891–908, 1998), which stays honest when few or
//! no answers flip, less half a flip for continuity, as counts are whole; other scores use the paired t-test with n − 1 degrees of freedom. A test that
//! may be looked at while samples come in is [`SequentialDrop`].

mod distributions;
mod sequential;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use distributions::{normal_upper_tail, quantile, student_upper_tail};
pub use sequential::SequentialDrop;

/// Samples on which nothing can be tested, or a question outside its domain.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// No score at all.
    #[error("a paired test needs scored samples; there are none")]
    NoSamples,
    /// The two models were scored on different numbers of samples.
    #[error("a paired test needs the same samples twice; got {before} and {after}")]
    Unpaired {
        /// Scores of the first.
        before: usize,
        /// Scores of the second.
        after: usize,
    },
    /// NaN or an infinity among the scores.
    #[error("the score of sample {sample} is not a finite number")]
    NotFinite {
        /// Its position.
        sample: usize,
    },
    /// A parameter outside its domain.
    #[error("{what} must be {domain}; got {value}")]
    Domain {
        /// Which parameter.
        what: &'static str,
        /// Its domain.
        domain: &'static str,
        /// What was given.
        value: f64,
    },
}

/// What a paired test needs to know of two lists of scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// n.
    pub samples: usize,
    /// Samples with a lower score than before. For scores of 0 and 1: right before, wrong now.
    pub lost: usize,
    /// Samples with a higher score than before.
    pub gained: usize,
    /// Mean of before − after.
    pub drop: f64,
    /// Standard deviation of before − after (n − 1 in the denominator; 0 for one sample).
    pub deviation: f64,
    /// Whether every score is 0 or 1.
    pub binary: bool,
}

impl Comparison {
    /// Compares scores of the same samples in the same order.
    pub fn new(before: &[f64], after: &[f64]) -> Result<Self, StatisticsError> {
        if before.len() != after.len() {
            let (before, after) = (before.len(), after.len());
            return Err(StatisticsError::Unpaired { before, after });
        }
        if before.is_empty() {
            return Err(StatisticsError::NoSamples);
        }
        let mut comparison = Comparison {
            samples: 0,
            lost: 0,
            gained: 0,
            drop: 0.0,
            deviation: 0.0,
            binary: true,
        };
        let mut squares = 0.0;
        for (sample, (&before, &after)) in before.iter().zip(after).enumerate() {
            let difference = before - after;
            if !difference.is_finite() {
                return Err(StatisticsError::NotFinite { sample });
            }
            comparison.samples += 1;
            comparison.lost += usize::from(after < before);
            comparison.gained += usize::from(after > before);
            comparison.binary &= [before, after].iter().all(|&score| score == 0.0 || score == 1.0);
            // Welford's recurrence.
            let off = difference - comparison.drop;
            comparison.drop += off / comparison.samples as f64;
            squares += off * (difference - comparison.drop);
        }
        if comparison.samples > 1 {
            comparison.deviation = (squares / (comparison.samples - 1) as f64).sqrt();
        }
        Ok(comparison)
    }

    /// Samples whose score changed, in either direction.
    pub fn flips(&self) -> usize {
        self.lost + self.gained
    }
}

/// The result of a non-inferiority test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NonInferiority {
    /// The drop allowed, in the meter's unit.
    pub margin: f64,
    /// The confidence asked for.
    pub confidence: f64,
    /// The observed drop.
    pub drop: f64,
    /// The largest drop that the samples allow at this confidence (one-sided).
    pub upper_bound: f64,
    /// The probability of a result as good as this if the drop were the margin.
    pub p_value: f64,
    /// Whether the drop is below the margin at this confidence.
    pub passed: bool,
}

/// Tests that less than `margin` was lost, with confidence in (0, 1), one-sided. With a margin of
/// 0 it tests that quality was won.
///
/// One sample of scores other than 0 and 1 proves nothing; several that all differ by the same are
/// taken at their word.
pub fn non_inferiority(
    comparison: &Comparison,
    margin: f64,
    confidence: f64,
) -> Result<NonInferiority, StatisticsError> {
    check_confidence(confidence)?;
    if !(margin.is_finite() && margin >= 0.0) {
        let (what, domain) = ("the margin", "zero or positive");
        return Err(StatisticsError::Domain {
            what,
            domain,
            value: margin,
        });
    }
    let test = Test::of(comparison);
    let p_value = test.p_value(margin);
    Ok(NonInferiority {
        margin,
        confidence,
        drop: comparison.drop,
        upper_bound: test.upper_bound(confidence),
        p_value,
        passed: p_value < 1.0 - confidence,
    })
}

/// The smallest margin that `samples` samples of 0/1 scores can prove when as many answers flip
/// to wrong as to right, together a share `flipped` in [0, 1] of the samples.
pub fn smallest_provable_drop(samples: usize, flipped: f64, confidence: f64) -> Result<f64, StatisticsError> {
    check_confidence(confidence)?;
    if samples == 0 {
        return Err(StatisticsError::NoSamples);
    }
    if !(0.0..=1.0).contains(&flipped) {
        let (what, domain) = ("the share of flips", "between 0 and 1");
        return Err(StatisticsError::Domain {
            what,
            domain,
            value: flipped,
        });
    }
    let samples = samples as f64;
    let each = samples * flipped / 2.0;
    Ok(Test::Proportions {
        samples,
        lost: each,
        gained: each,
    }
    .upper_bound(confidence))
}

/// The smallest margin that `samples` samples can prove when nothing is lost on average and the
/// differences have this standard deviation. Infinite for one sample.
pub fn smallest_provable_mean_drop(samples: usize, deviation: f64, confidence: f64) -> Result<f64, StatisticsError> {
    check_confidence(confidence)?;
    if samples == 0 {
        return Err(StatisticsError::NoSamples);
    }
    if !(deviation.is_finite() && deviation >= 0.0) {
        let (what, domain) = ("the deviation", "zero or positive");
        return Err(StatisticsError::Domain {
            what,
            domain,
            value: deviation,
        });
    }
    Ok(Test::Mean {
        samples: samples as f64,
        drop: 0.0,
        deviation,
    }
    .upper_bound(confidence))
}

fn check_confidence(value: f64) -> Result<(), StatisticsError> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(StatisticsError::Domain {
        what: "the confidence",
        domain: "between 0 and 1",
        value,
    })
}

enum Test {
    Proportions { samples: f64, lost: f64, gained: f64 },
    Mean { samples: f64, drop: f64, deviation: f64 },
}

impl Test {
    fn of(comparison: &Comparison) -> Self {
        let samples = comparison.samples as f64;
        if comparison.binary {
            let (lost, gained) = (comparison.lost as f64, comparison.gained as f64);
            Test::Proportions { samples, lost, gained }
        } else {
            Test::Mean {
                samples,
                drop: comparison.drop,
                deviation: comparison.deviation,
            }
        }
    }

    /// P(a drop as small as observed | the drop is `margin`).
    fn p_value(&self, margin: f64) -> f64 {
        match *self {
            Test::Proportions { samples, lost, gained } => {
                normal_upper_tail(-tango_statistic(samples, lost, gained, margin))
            }
            Test::Mean { samples, .. } if samples < 2.0 => 1.0,
            Test::Mean {
                samples,
                drop,
                deviation,
            } => {
                let error = deviation / samples.sqrt();
                match margin - drop {
                    distance if error > 0.0 => student_upper_tail(distance / error, samples - 1.0),
                    distance if distance > 0.0 => 0.0,
                    _ => 1.0,
                }
            }
        }
    }

    /// The margin whose p-value is 1 − confidence.
    fn upper_bound(&self, confidence: f64) -> f64 {
        let tail = 1.0 - confidence;
        match *self {
            Test::Proportions { .. } => {
                let (mut low, mut high) = (-1.0, 1.0);
                for _ in 0..60 {
                    let middle = 0.5 * (low + high);
                    if self.p_value(middle) < tail {
                        high = middle
                    } else {
                        low = middle
                    }
                }
                high
            }
            Test::Mean { samples, .. } if samples < 2.0 => f64::INFINITY,
            Test::Mean {
                samples,
                drop,
                deviation,
            } => {
                let times = quantile(tail, |t| student_upper_tail(t, samples - 1.0));
                drop + times * deviation / samples.sqrt()
            }
        }
    }
}

/// Tango's Z: standardized distance of the observed drop from `margin`, with the variance that the
/// constrained maximum-likelihood estimate has under a drop of exactly `margin`. Half a flip nearer:
/// without it, one test in nine passes instead of one in ten where few answers flip one way alone.
fn tango_statistic(samples: f64, lost: f64, gained: f64, margin: f64) -> f64 {
    // q, the probability of a gain, is the larger root of a q² + b q + c.
    let a = 2.0 * samples;
    let b = (2.0 * samples - lost + gained) * margin - lost - gained;
    let c = -gained * margin * (1.0 - margin);
    let q = ((b * b - 4.0 * a * c).max(0.0).sqrt() - b) / (2.0 * a);
    let distance = lost - gained - samples * margin + 0.5;
    let variance = samples * (2.0 * q + margin * (1.0 - margin));
    if variance > 0.0 {
        distance / variance.sqrt()
    } else if distance == 0.0 {
        0.0
    } else {
        distance.signum() * f64::INFINITY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(samples: usize, lost: usize, gained: usize) -> Comparison {
        let score = |right: bool| f64::from(u8::from(right));
        let before: Vec<f64> = (0..samples).map(|at| score(at >= gained)).collect();
        let after: Vec<f64> = (0..samples).map(|at| score(at < samples - lost)).collect();
        Comparison::new(&before, &after).unwrap()
    }

    #[test]
    fn flips_are_counted_where_the_accuracy_hides_them() {
        let comparison = binary(100, 7, 7);
        assert_eq!((comparison.lost, comparison.gained, comparison.flips()), (7, 7, 14));
        assert!(comparison.drop.abs() < 1e-15 && comparison.binary);
    }

    /// The constrained estimate is the one that maximizes the likelihood.
    #[test]
    fn the_closed_form_agrees_with_the_likelihood() {
        for (samples, lost, gained, margin) in [
            (50.0, 5.0, 2.0, 0.1),
            (1000.0, 30.0, 21.0, 0.02),
            (80.0, 3.0, 9.0, 0.05),
        ] {
            let likelihood = |q: f64| {
                lost * f64::ln(q + margin)
                    + gained * q.ln()
                    + (samples - lost - gained) * f64::ln(1.0 - 2.0 * q - margin)
            };
            let grid = (1..100_000).map(|at| f64::from(at) * (1.0 - margin) / 200_000.0);
            let best = grid.max_by(|x, y| likelihood(*x).total_cmp(&likelihood(*y))).unwrap();
            let variance: f64 = samples * (2.0 * best + margin * (1.0 - margin));
            let expected = (lost - gained - samples * margin + 0.5) / variance.sqrt();
            let actual = tango_statistic(samples, lost, gained, margin);
            assert!((actual - expected).abs() < 1e-3, "{actual} {expected}");
        }
    }

    /// Sums the exact probability of passing at the edge of the null hypothesis: a test at 95 %
    /// must pass about 5 % of the models that lost exactly the margin, and no more.
    #[test]
    fn the_error_rate_is_what_it_says() {
        let (samples, margin, confidence) = (120_usize, 0.05_f64, 0.95);
        let log_factorials: Vec<f64> = (0..=samples)
            .scan(0.0, |sum, at| {
                *sum += (at.max(1) as f64).ln();
                Some(*sum)
            })
            .collect();
        for gain in [0.001_f64, 0.01, 0.03, 0.1] {
            let loss = gain + margin;
            let mut passing = 0.0;
            for lost in 0..=samples {
                for gained in 0..=samples - lost {
                    let test = Test::Proportions {
                        samples: samples as f64,
                        lost: lost as f64,
                        gained: gained as f64,
                    };
                    if test.p_value(margin) < 1.0 - confidence {
                        let rest = samples - lost - gained;
                        let log = log_factorials[samples]
                            - log_factorials[lost]
                            - log_factorials[gained]
                            - log_factorials[rest]
                            + lost as f64 * loss.ln()
                            + gained as f64 * gain.ln()
                            + rest as f64 * (1.0 - loss - gain).ln();
                        passing += log.exp();
                    }
                }
            }
            assert!((0.01..0.051).contains(&passing), "gain {gain}: {passing}");
        }
    }

    #[test]
    fn few_samples_prove_little_even_without_a_flip() {
        // n m − ½ = z √(n m (1 − m)) with z = 1.6449 where nothing flips.
        let provable = smallest_provable_drop(100, 0.0, 0.95).unwrap();
        let deviation = (100.0 * provable * (1.0 - provable)).sqrt();
        assert!(
            (100.0 * provable - 0.5 - 1.644_854 * deviation).abs() < 1e-4,
            "{provable}"
        );
        let many = smallest_provable_drop(10_000, 0.03, 0.95).unwrap();
        assert!((0.0028..0.0030).contains(&many), "{many}");
        assert!(!non_inferiority(&binary(100, 0, 0), 0.03, 0.95).unwrap().passed);
        assert!(non_inferiority(&binary(100, 0, 0), 0.04, 0.95).unwrap().passed);
    }

    #[test]
    fn bound_and_verdict_agree() {
        for (samples, lost, gained) in [(200, 9, 3), (200, 3, 9), (200, 200, 0), (1, 0, 0)] {
            let comparison = binary(samples, lost, gained);
            let bound = non_inferiority(&comparison, 0.0, 0.9).unwrap().upper_bound;
            for margin in [0.01, 0.02, 0.05, 0.1, 0.5] {
                let test = non_inferiority(&comparison, margin, 0.9).unwrap();
                assert_eq!(test.passed, bound < margin, "{comparison:?} {margin} {bound}");
            }
        }
        // Winning is non-inferiority with nothing to lose: McNemar's test.
        assert!(non_inferiority(&binary(200, 3, 12), 0.0, 0.95).unwrap().passed);
        assert!(!non_inferiority(&binary(200, 9, 12), 0.0, 0.95).unwrap().passed);
    }

    /// Against a paired t-test worked by hand: differences 1, 2, 3, 4 have t = 2.5/(1.29099/2).
    #[test]
    fn other_scores_use_the_paired_t_test() {
        let comparison = Comparison::new(&[1.0, 2.0, 3.0, 4.0], &[0.0; 4]).unwrap();
        assert!(!comparison.binary && (comparison.deviation - 1.290_994).abs() < 1e-6);
        let test = non_inferiority(&comparison, 5.0, 0.95).unwrap();
        // t(0.95, 3) = 2.353363
        assert!((test.upper_bound - (2.5 + 2.353_363 * 0.645_497)).abs() < 1e-5);
        assert!(test.passed && !non_inferiority(&comparison, 4.0, 0.95).unwrap().passed);
    }

    #[test]
    fn untestable_scores_are_errors() {
        assert_eq!(Comparison::new(&[], &[]), Err(StatisticsError::NoSamples));
        assert!(Comparison::new(&[1.0], &[]).is_err());
        assert!(Comparison::new(&[f64::NAN], &[1.0]).is_err());
        let comparison = binary(10, 0, 0);
        for (margin, confidence) in [(-0.1, 0.95), (f64::NAN, 0.95), (0.1, 1.0), (0.1, f64::NAN)] {
            assert!(non_inferiority(&comparison, margin, confidence).is_err());
        }
    }
}
