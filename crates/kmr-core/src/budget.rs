//! The budget on costs and the floor under quality.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::measurement::Costs;

/// An upper limit on one cost meter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The meter's id.
    pub meter: String,
    /// The largest cost allowed, in the meter's unit; positive.
    pub at_most: f64,
}

/// A budget that no cost can be held against.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum BudgetError {
    /// No limit at all.
    #[error("a budget needs at least one limit")]
    Empty,
    /// A limit that is zero, negative or not a number.
    #[error("the limit on `{meter}` must be a positive finite number; got {at_most}")]
    NotPositive {
        /// The meter.
        meter: String,
        /// What was given.
        at_most: f64,
    },
    /// Two limits on one meter.
    #[error("`{meter}` is limited twice; keep the smaller limit")]
    Repeated {
        /// The meter.
        meter: String,
    },
}

/// A cost that cannot be held against a budget.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Unmeasurable {
    /// The meter gave no reading.
    #[error("no cost was measured for `{meter}`, which the budget limits")]
    Missing {
        /// The meter.
        meter: String,
    },
    /// NaN or an infinity.
    #[error("cost meter `{meter}` answered {value}, which is not a finite number")]
    NotFinite {
        /// The meter.
        meter: String,
        /// Its answer.
        value: f64,
    },
}

/// One or several limits, all of which must hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Limit>", into = "Vec<Limit>")]
pub struct Budget(Vec<Limit>);

/// Where costs stand against a budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// What must strictly fall for progress: the cost itself under one limit, the violation under
    /// several.
    pub load: f64,
    /// Σ max(0, Cᵢ/Bᵢ − 1).
    pub violation: f64,
    /// Whether every limit holds.
    pub met: bool,
}

impl Budget {
    /// A budget of several limits.
    pub fn new(limits: Vec<Limit>) -> Result<Self, BudgetError> {
        if limits.is_empty() {
            return Err(BudgetError::Empty);
        }
        for (position, limit) in limits.iter().enumerate() {
            let meter = limit.meter.clone();
            if !(limit.at_most.is_finite() && limit.at_most > 0.0) {
                return Err(BudgetError::NotPositive {
                    meter,
                    at_most: limit.at_most,
                });
            }
            if limits[..position].iter().any(|earlier| earlier.meter == meter) {
                return Err(BudgetError::Repeated { meter });
            }
        }
        Ok(Budget(limits))
    }

    /// A budget of one limit.
    pub fn at_most(meter: impl Into<String>, at_most: f64) -> Result<Self, BudgetError> {
        Budget::new(vec![Limit {
            meter: meter.into(),
            at_most,
        }])
    }

    /// The limits.
    pub fn limits(&self) -> &[Limit] {
        &self.0
    }

    /// Holds costs against the limits. Every cost must be finite, also those without a limit.
    pub fn standing(&self, costs: &Costs) -> Result<Standing, Unmeasurable> {
        if let Some((meter, &value)) = costs.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Unmeasurable::NotFinite {
                meter: meter.clone(),
                value,
            });
        }
        let mut standing = Standing {
            load: 0.0,
            violation: 0.0,
            met: true,
        };
        for Limit { meter, at_most } in &self.0 {
            let Some(&cost) = costs.get(meter) else {
                return Err(Unmeasurable::Missing { meter: meter.clone() });
            };
            if cost > *at_most {
                standing.met = false;
                standing.violation += (cost - at_most) / at_most;
            }
            standing.load = cost;
        }
        // An overflow stays a number that JSON can carry.
        standing.violation = standing.violation.min(f64::MAX);
        if self.0.len() > 1 {
            standing.load = standing.violation;
        }
        Ok(standing)
    }
}

impl TryFrom<Vec<Limit>> for Budget {
    type Error = BudgetError;

    fn try_from(limits: Vec<Limit>) -> Result<Self, BudgetError> {
        Budget::new(limits)
    }
}

impl From<Budget> for Vec<Limit> {
    fn from(budget: Budget) -> Self {
        budget.0
    }
}

/// The least quality allowed, on the samples that the search judges.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Floor {
    /// At most this far below the reference, in the meter's unit.
    DropAtMost(f64),
    /// At least this value.
    AtLeast(f64),
}

impl Floor {
    /// The least value allowed, given the reference's quality.
    pub fn least(&self, reference: f64) -> f64 {
        match *self {
            Floor::DropAtMost(drop) => reference - drop,
            Floor::AtLeast(least) => least,
        }
    }

    /// Whether a quality honors the floor; NaN never does.
    ///
    /// A relative slack of 1e-12 keeps decimal fractions of sample counts from failing on their
    /// last binary digit (0.93 − 0.005 against 0.925).
    pub fn holds(&self, quality: f64, reference: f64) -> bool {
        let least = self.least(reference);
        quality >= least - 1e-12 * least.abs().max(reference.abs()).max(f64::MIN_POSITIVE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(pairs: &[(&str, f64)]) -> Costs {
        pairs.iter().map(|&(meter, cost)| (meter.to_owned(), cost)).collect()
    }

    #[test]
    fn one_limit_is_loaded_by_its_cost_and_several_by_their_violation() {
        let one = Budget::at_most("size", 100.0).unwrap();
        let standing = one.standing(&costs(&[("macs", 7.0), ("size", 150.0)])).unwrap();
        assert_eq!(
            standing,
            Standing {
                load: 150.0,
                violation: 0.5,
                met: false
            }
        );
        assert!(one.standing(&costs(&[("size", 100.0)])).unwrap().met);

        let limit = |meter: &str, at_most| Limit {
            meter: meter.to_owned(),
            at_most,
        };
        let two = Budget::new(vec![limit("size", 100.0), limit("macs", 10.0)]).unwrap();
        let standing = two.standing(&costs(&[("size", 150.0), ("macs", 5.0)])).unwrap();
        assert_eq!(
            standing,
            Standing {
                load: 0.5,
                violation: 0.5,
                met: false
            }
        );
    }

    #[test]
    fn costs_that_cannot_be_judged_are_errors() {
        let budget = Budget::at_most("size", 100.0).unwrap();
        assert!(matches!(
            budget.standing(&costs(&[])),
            Err(Unmeasurable::Missing { .. })
        ));
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(budget.standing(&costs(&[("size", bad)])).is_err());
            assert!(budget.standing(&costs(&[("size", 1.0), ("macs", bad)])).is_err());
            assert!(Budget::at_most("size", bad).is_err());
        }
        assert!(Budget::at_most("size", 0.0).is_err());
    }

    #[test]
    fn a_quality_on_the_floor_honors_it() {
        let floor = Floor::DropAtMost(0.005);
        for correct in 0..=2000 {
            let reference = correct as f64 / 2000.0 + 0.005;
            assert!(floor.holds(correct as f64 / 2000.0, reference), "{correct}");
            assert!(!floor.holds((correct as f64 - 1.0) / 2000.0, reference), "{correct}");
        }
        assert!(!floor.holds(f64::NAN, 0.9));
        assert!(Floor::AtLeast(0.9).holds(0.9, f64::NAN));
    }

    #[test]
    fn the_wire_form_is_plain() {
        let budget = Budget::at_most("size_bytes", 120000.0).unwrap();
        let json = serde_json::to_string(&(budget, Floor::DropAtMost(0.005))).unwrap();
        assert_eq!(
            json,
            r#"[[{"meter":"size_bytes","at_most":120000.0}],{"drop_at_most":0.005}]"#
        );
        assert!(serde_json::from_str::<Budget>("[]").is_err());
    }
}
