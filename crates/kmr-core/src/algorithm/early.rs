//! Giving up clear losers before all samples are measured.

use super::EarlyRejection;
use crate::budget::Floor;
use crate::history::Rejection;
use crate::measurement::Quality;
use crate::statistics::SequentialDrop;

/// Answers are kept by the hundred: a round number of samples costs nothing twice.
const ROUND: usize = 100;

/// The trial of one reduction on growing numbers of samples.
pub(super) struct Heat<'r> {
    reference: &'r [f64],
    floor: Floor,
    test: SequentialDrop,
    growth: f64,
    next: usize,
}

impl<'r> Heat<'r> {
    /// None where nothing can be tested: no scores in [0, 1] to compare with, or a floor that no
    /// such scores can miss.
    pub fn new(settings: EarlyRejection, floor: Floor, reference: &'r Quality) -> Option<Self> {
        let scored = !reference.scores.is_empty() && reference.scores.iter().all(|score| (0.0..=1.0).contains(score));
        let margin = reference.value - floor.least(reference.value);
        Some(Heat {
            reference: scored.then_some(&reference.scores)?,
            floor,
            test: SequentialDrop::new(margin, settings.alpha).ok()?,
            growth: settings.growth,
            next: settings.first.max(1).next_multiple_of(ROUND),
        })
    }

    /// How many samples to look at next; none when these would be all.
    pub fn samples(&self) -> Option<usize> {
        (self.next < self.reference.len()).then_some(self.next)
    }

    /// Looks at the reduction's quality on so many samples. Err is the verdict; Ok(false) means
    /// that nothing can be said of such scores.
    pub fn look(&mut self, quality: &Quality) -> Result<bool, Rejection> {
        let seen = self.test.samples();
        let (Some(before), Some(after)) = (self.reference.get(seen..self.next), quality.scores.get(seen..)) else {
            return Ok(false);
        };
        if self.test.update(before, after).is_err() {
            return Ok(false);
        }
        let before = self.reference[..self.next].iter().sum::<f64>() / self.next as f64;
        if self.test.rejected() && !self.floor.holds(quality.value, before) {
            return Err(Rejection::Floor {
                quality: quality.value,
                least: self.floor.least(before),
            });
        }
        self.next = ((self.next as f64 * self.growth) as usize)
            .max(self.next + 1)
            .next_multiple_of(ROUND);
        Ok(true)
    }
}
