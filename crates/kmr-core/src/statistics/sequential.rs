//! A test that may be looked at as often as one likes: has a candidate clearly lost too much?
//!
//! Testing by betting, after I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random
//! variables by betting" (JRSS B 86:1–27, 2024). A gambler who starts with wealth 1 stakes a share λ
//! on every sample's drop d exceeding the margin m: wealth grows by the factor 1 + λ (d − m). If the
//! mean drop is at most m, no way of staking that knows only the samples before gains on average;
//! so by Ville's inequality wealth ever reaches 1/α with probability at most α, however often one
//! looks and whenever one stops.

use super::StatisticsError;

/// The largest share of what may be staked without the wealth becoming negative.
const BOLDNESS: f64 = 0.75;

/// Tests H₀: the mean drop is at most `margin`, on paired samples that come batch by batch.
///
/// Stakes follow the paper's aGRAPA: the mean excess over the margin by its second moment, both
/// estimated from earlier samples.
///
/// ```
/// use kmr_core::statistics::SequentialDrop;
///
/// let mut test = SequentialDrop::new(0.01, 0.001)?;
/// while !test.rejected() {
///     test.update(&[1.0; 10], &[1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0])?;
/// }
/// assert!(test.samples() < 100);
/// # Ok::<(), kmr_core::statistics::StatisticsError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SequentialDrop {
    margin: f64,
    threshold: f64,
    log_wealth: f64,
    rejected: bool,
    samples: usize,
    mean: f64,
    squares: f64,
}

impl SequentialDrop {
    /// A test that errs with probability at most `alpha` in (0, 1). The margin lies in [-1, 1), in
    /// the unit of the scores.
    ///
    /// # Errors
    /// [`StatisticsError::Domain`] for other values.
    pub fn new(margin: f64, alpha: f64) -> Result<Self, StatisticsError> {
        let domain = |what, domain, value| StatisticsError::Domain { what, domain, value };
        if !(-1.0..1.0).contains(&margin) {
            return Err(domain("the margin", "at least -1 and below 1", margin));
        }
        if !(alpha > 0.0 && alpha < 1.0) {
            return Err(domain("the error rate", "between 0 and 1", alpha));
        }
        Ok(SequentialDrop {
            margin,
            threshold: -alpha.ln(),
            log_wealth: 0.0,
            rejected: false,
            samples: 0,
            mean: margin,
            squares: 0.25, // the largest variance of scores in [0, 1], counted as one sample
        })
    }

    /// Takes the scores of further samples before and after, in [0, 1].
    ///
    /// # Errors
    /// For lists of different lengths and scores outside [0, 1]; nothing is counted then.
    pub fn update(&mut self, before: &[f64], after: &[f64]) -> Result<(), StatisticsError> {
        if before.len() != after.len() {
            let (before, after) = (before.len(), after.len());
            return Err(StatisticsError::Unpaired { before, after });
        }
        if let Some(&value) = before.iter().chain(after).find(|score| !(0.0..=1.0).contains(*score)) {
            return Err(StatisticsError::Domain {
                what: "a score",
                domain: "between 0 and 1",
                value,
            });
        }
        for (before, after) in before.iter().zip(after) {
            self.bet(before - after);
        }
        Ok(())
    }

    /// Stakes by what is known, then learns.
    fn bet(&mut self, drop: f64) {
        let excess = self.mean - self.margin;
        let variance = self.squares / (self.samples + 1) as f64;
        let most = BOLDNESS / (1.0 + self.margin).max(f64::MIN_POSITIVE);
        let stake = (excess / (variance + excess * excess)).clamp(0.0, most);
        self.log_wealth += (stake * (drop - self.margin)).ln_1p();
        self.rejected |= self.log_wealth >= self.threshold;
        self.samples += 1;
        let off = drop - self.mean;
        self.mean += off / (self.samples + 1) as f64;
        self.squares += off * (drop - self.mean);
    }

    /// Whether the mean drop exceeds the margin. Once true, it stays so.
    pub fn rejected(&self) -> bool {
        self.rejected
    }

    /// How many samples were seen.
    pub fn samples(&self) -> usize {
        self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_tested_is_an_error_and_counts_nothing() {
        for (margin, alpha) in [(1.0, 0.1), (f64::NAN, 0.1), (-1.1, 0.1), (0.0, 0.0), (0.0, f64::NAN)] {
            assert!(SequentialDrop::new(margin, alpha).is_err(), "{margin} {alpha}");
        }
        let mut test = SequentialDrop::new(0.1, 0.05).unwrap();
        let fresh = test.clone();
        assert!(test.update(&[1.0], &[]).is_err());
        assert!(test.update(&[1.0, 1.5], &[0.0, 0.0]).is_err());
        assert!(test.update(&[1.0], &[f64::NAN]).is_err());
        assert_eq!(test, fresh);
    }

    #[test]
    fn batches_do_not_matter_and_verdicts_stay() {
        let before = [1.0; 60];
        let after: Vec<f64> = (0..60).map(|at| f64::from(u8::from(at % 3 > 0))).collect();
        let mut whole = SequentialDrop::new(0.05, 0.05).unwrap();
        whole.update(&before, &after).unwrap();
        let mut parts = SequentialDrop::new(0.05, 0.05).unwrap();
        for (before, after) in before.chunks(7).zip(after.chunks(7)) {
            parts.update(before, after).unwrap();
        }
        assert_eq!(whole, parts);
        assert!(whole.rejected());
        whole.update(&[0.0; 500], &[1.0; 500]).unwrap();
        assert!(whole.rejected());
    }
}
