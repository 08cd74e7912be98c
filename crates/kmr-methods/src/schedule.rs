//! Learning rates over the steps of a training.

use std::f64::consts::PI;

use crate::MethodError;

/// What becomes of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// It stays.
    Constant,
    /// Half a cosine, down to zero ("SGDR", arXiv 1608.03983, without restarts). With a warm-up this is one cycle
    /// (arXiv 1708.07120).
    Cosine,
}

/// A learning rate that rises in a line and then decays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    peak: f64,
    warm_up: f64,
    decay: Decay,
}

impl Schedule {
    /// A rise to `peak` over the share `warm_up` of all steps, then `decay`.
    ///
    /// # Errors
    /// If `peak` is not positive and finite, or `warm_up` outside of 0 to 1.
    pub fn new(peak: f64, warm_up: f64, decay: Decay) -> Result<Self, MethodError> {
        let check = |what, domain, value, holds| match holds {
            true => Ok(()),
            false => Err(MethodError::Domain { what, domain, value }),
        };
        check(
            "the learning rate",
            "positive and finite",
            peak,
            peak > 0.0 && peak.is_finite(),
        )?;
        check(
            "the share of the warm-up",
            "from 0 to 1",
            warm_up,
            (0.0..=1.0).contains(&warm_up),
        )?;
        Ok(Self { peak, warm_up, decay })
    }

    /// The learning rate of step `step` of `steps`, counted from 0. Never zero before the last step is done.
    pub fn rate(&self, step: usize, steps: usize) -> f64 {
        let rise = (steps as f64 * self.warm_up).floor();
        let at = step as f64;
        if at < rise {
            return self.peak * (START + (1.0 - START) * at / rise);
        }
        match self.decay {
            Decay::Constant => self.peak,
            Decay::Cosine => {
                let left = (steps as f64 - rise).max(1.0);
                let done = ((at - rise) / left).min(1.0);
                self.peak * 0.5 * (1.0 + (PI * done).cos())
            }
        }
    }
}

/// The share of the peak that a warm-up begins with.
const START: f64 = 0.05;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rates(warm_up: f64, decay: Decay, steps: usize) -> Vec<f64> {
        let schedule = Schedule::new(0.1, warm_up, decay).unwrap();
        (0..steps).map(|step| schedule.rate(step, steps)).collect()
    }

    #[test]
    fn known_rates() {
        assert_eq!(rates(0.0, Decay::Constant, 3), [0.1; 3]);
        let cosine = rates(0.0, Decay::Cosine, 4);
        for (rate, expected) in cosine.iter().zip([1.0, 0.853_553_390_593, 0.5, 0.146_446_609_407]) {
            assert!((rate - 0.1 * expected).abs() < 1e-12);
        }
        let cycle = rates(0.5, Decay::Cosine, 8);
        for (rate, expected) in cycle
            .iter()
            .zip([0.05, 0.2875, 0.525, 0.7625, 1.0, 0.853_553_390_593, 0.5])
        {
            assert!((rate - 0.1 * expected).abs() < 1e-12, "{cycle:?}");
        }
        assert_eq!(rates(1.0, Decay::Cosine, 1), [0.1 * START]);
    }

    #[test]
    fn wrong_settings_are_refused() {
        for (peak, warm_up) in [
            (0.0, 0.1),
            (f64::NAN, 0.1),
            (f64::INFINITY, 0.1),
            (0.1, -0.1),
            (0.1, 1.1),
            (0.1, f64::NAN),
        ] {
            assert!(Schedule::new(peak, warm_up, Decay::Cosine).is_err());
        }
    }

    proptest! {
        #[test]
        fn rises_then_falls_and_stays_positive(steps in 1_usize..200, warm_up in 0.0..1.0, cosine: bool) {
            let decay = if cosine { Decay::Cosine } else { Decay::Constant };
            let rates = rates(warm_up, decay, steps);
            let top = (steps as f64 * warm_up).floor() as usize;
            let rising = &rates[..(top + 1).min(steps)];
            prop_assert!(rising.is_sorted());
            prop_assert!(rates[top.min(steps - 1)..].iter().rev().is_sorted());
            prop_assert!(rates.iter().all(|&rate| rate > 0.0 && rate <= 0.1 + 1e-15));
        }
    }
}
