//! The error rates that the statistical tests promise, on simulated scores.
//!
//! `cargo test --release -p kmr-core error_rates -- --nocapture` prints what was measured.

use kmr_core::statistics::{Comparison, SequentialDrop, non_inferiority};

use crate::toy::Dice;

const STREAMS: usize = 10_000;

/// How the scores of one sample before and after come about; the mean drop is exactly `drop`.
#[derive(Clone, Copy, Debug)]
enum Scores {
    /// Right or wrong: a share `gained` of the answers flips to right, `gained` + `drop` to wrong.
    Flips { gained: f64 },
    /// Scores between 0 and 1 with uniform noise on each.
    Uniform,
    /// As under [`Scores::Uniform`], with all of the drop in one sample out of twenty.
    Rare,
}

impl Scores {
    fn draw(self, drop: f64, dice: &mut Dice) -> (f64, f64) {
        match self {
            Scores::Flips { gained } => match dice.unit() {
                draw if draw < gained => (0.0, 1.0),
                draw if draw < gained + gained + drop => (1.0, 0.0),
                _ => (1.0, 1.0),
            },
            Scores::Uniform => (drop + (1.0 - drop) * dice.unit(), (1.0 - drop) * dice.unit()),
            Scores::Rare => {
                let (before, after) = (dice.unit(), dice.unit());
                // A uniform score set to 0 loses 1/2 on average.
                let lost = dice.unit() < 0.05;
                let share = 0.05 / 2.0;
                assert!(drop <= share, "a drop beyond what one sample in twenty can lose");
                (before, if lost { after * (1.0 - drop / share) } else { after })
            }
        }
    }
}

/// Three standard errors of a rate that is `rate`, over all streams.
fn noise(rate: f64) -> f64 {
    3.0 * (rate * (1.0 - rate) / STREAMS as f64).sqrt()
}

/// Samples until rejection, for each stream; none where it never came.
fn race(scores: Scores, drop: f64, margin: f64, alpha: f64, samples: usize) -> Vec<Option<usize>> {
    let stream = |seed| {
        let mut dice = Dice::new(seed);
        let mut test = SequentialDrop::new(margin, alpha).unwrap();
        (0..samples).find_map(|_| {
            let (before, after) = scores.draw(drop, &mut dice);
            test.update(&[before], &[after]).unwrap();
            test.rejected().then(|| test.samples())
        })
    };
    (0..STREAMS as u64).map(stream).collect()
}

/// Looked at after every single sample, 1,000 times, it must reject no more than α of the
/// candidates that lost exactly the margin.
#[test]
fn the_sequential_test_errs_no_more_often_than_it_says() {
    let cases = [
        (Scores::Flips { gained: 0.0 }, 0.005),
        (Scores::Flips { gained: 0.002 }, 0.005),
        (Scores::Flips { gained: 0.02 }, 0.005),
        (Scores::Flips { gained: 0.1 }, 0.02),
        (Scores::Flips { gained: 0.01 }, 0.0),
        (Scores::Uniform, 0.01),
        (Scores::Rare, 0.02),
    ];
    for (scores, margin) in cases {
        for alpha in [0.05, 0.001] {
            let times = race(scores, margin, margin, alpha, 1000);
            let rate = times.iter().flatten().count() as f64 / STREAMS as f64;
            println!("sequential, {scores:?}, drop = margin = {margin}: rejects {rate:.4} at alpha {alpha}");
            assert!(rate <= alpha + noise(alpha), "{scores:?} {margin} {alpha}: {rate}");
        }
    }
}

/// A clear loser must go early, or the test saves nothing.
#[test]
fn the_sequential_test_finds_clear_losers_early() {
    let cases = [
        (Scores::Flips { gained: 0.02 }, 0.05, 0.005, 1000),
        (Scores::Flips { gained: 0.02 }, 0.1, 0.005, 400),
        (Scores::Flips { gained: 0.02 }, 0.3, 0.005, 100),
        (Scores::Uniform, 0.2, 0.01, 300),
    ];
    for (scores, drop, margin, most) in cases {
        let mut times = race(scores, drop, margin, 0.001, 5000);
        times.sort_by_key(|time| time.unwrap_or(usize::MAX));
        let (median, late) = (times[STREAMS / 2], times[STREAMS * 95 / 100]);
        println!(
            "sequential, {scores:?}, drop {drop}, margin {margin}, alpha 0.001: half by {median:?}, 95 % by {late:?}"
        );
        assert!(
            median.is_some_and(|median| median <= most),
            "{scores:?} {drop}: {median:?}"
        );
    }
}

/// The final test must pass no more than 1 − confidence of the models that lost exactly the margin.
#[test]
fn the_final_test_errs_no_more_often_than_it_says() {
    let cases = [
        (Scores::Flips { gained: 0.0 }, 0.02),
        (Scores::Flips { gained: 0.005 }, 0.02),
        (Scores::Flips { gained: 0.02 }, 0.01),
        (Scores::Flips { gained: 0.1 }, 0.02),
        (Scores::Uniform, 0.01),
    ];
    for (scores, margin) in cases {
        for samples in [150, 600, 2500] {
            let mut passed = [0; 2];
            let confidences = [0.9, 0.95];
            for seed in 0..STREAMS as u64 {
                let mut dice = Dice::new(seed);
                let (before, after): (Vec<f64>, Vec<f64>) =
                    (0..samples).map(|_| scores.draw(margin, &mut dice)).unzip();
                let comparison = Comparison::new(&before, &after).unwrap();
                for (passed, confidence) in passed.iter_mut().zip(confidences) {
                    *passed += usize::from(non_inferiority(&comparison, margin, confidence).unwrap().passed);
                }
            }
            for (passed, confidence) in passed.into_iter().zip(confidences) {
                let rate = passed as f64 / STREAMS as f64;
                println!(
                    "final, {scores:?}, drop = margin = {margin}, {samples} samples: passes {rate:.4} at confidence {confidence}"
                );
                let most = 1.0 - confidence;
                assert!(
                    rate <= most + noise(most),
                    "{scores:?} {margin} {samples} {confidence}: {rate}"
                );
            }
        }
    }
}
