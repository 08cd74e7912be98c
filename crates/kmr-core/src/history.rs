//! What a policy decides from: everything tried so far, in the form that crosses to plugins.
//!
//! The JSON form of [`History`] and [`Ask`](crate::Ask) is the whole protocol of a policy written
//! in another language. It only grows: a reader must ignore fields that it does not know.
//!
//! ```json
//! { "schema": 1,
//!   "knobs": [{"rule": "prune", "name": "sparsity", "target": "conv1_out", "label": "layer1",
//!              "role": "reduce", "values": [0, 0.25, 0.5]}],
//!   "budget": [{"meter": "size_bytes", "at_most": 120000.0}],
//!   "floor": {"drop_at_most": 0.005},
//!   "reference": {"costs": {"size_bytes": 400000.0}, "quality": {"value": 0.93, "samples": 5000}},
//!   "step": 0,
//!   "current": {"assignment": [0], "measurement": {"costs": {...}, "quality": {...}}},
//!   "met": false,
//!   "remaining": {"steps": 2, "trials": 2, "probes": 10000, "recoveries": 0},
//!   "records": [
//!     {"kind": "probe", "step": 0, "assignment": [1], "fidelity": {"samples": 256, "proxy": true},
//!      "measurement": {...}, "rejection": null},
//!     {"kind": "trial", "step": 0, "changes": [{"knob": 0, "value": 2}], "assignment": [2],
//!      "accepted": false, "measurement": {...}, "rejection": {"reason": "floor", "least": 0.925}}] }
//! ```

use serde::{Deserialize, Serialize};

use crate::assignment::{Action, Assignment};
use crate::budget::{Budget, Floor};
use crate::knob::Knobs;
use crate::measurement::{Fidelity, Measurement};

/// The version of the JSON form of [`History`] and [`Ask`](crate::Ask).
pub const SCHEMA: u32 = 1;

/// A candidate with what is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Its knob values.
    pub assignment: Assignment,
    /// Its costs and quality.
    pub measurement: Measurement,
}

/// Everything a policy may know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The knobs that assignments and changes refer to by index.
    pub knobs: Knobs,
    /// What the costs must come down to.
    pub budget: Budget,
    /// What the quality must not fall below.
    pub floor: Option<Floor>,
    /// The measurement that a relative floor refers to: the original model's.
    pub reference: Measurement,
    /// How many steps have been accepted. Records carry the number at their time, so those made
    /// from the current state are the ones with the same number.
    pub step: usize,
    /// The current state.
    pub current: State,
    /// Whether the current state is within the budget, so that only recoveries are left to do.
    pub met: bool,
    /// What may still be asked for.
    pub remaining: Remaining,
    /// Every probe and every trial in order.
    pub records: Vec<Record>,
}

/// What may still be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// Steps that can still be accepted.
    pub steps: usize,
    /// Trials from the current state.
    pub trials: usize,
    /// Probes from the current state.
    pub probes: usize,
    /// Recoveries before the next reduction.
    pub recoveries: usize,
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A measurement without adoption.
    Probe(Probe),
    /// A step proposed, accepted or not.
    Trial(Trial),
}

/// A candidate measured without adopting it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The history's `step` at the time.
    pub step: usize,
    /// The candidate.
    pub assignment: Assignment,
    /// How thoroughly quality was asked for.
    pub fidelity: Fidelity,
    /// What was measured; costs alone when these already failed.
    pub measurement: Option<Measurement>,
    /// Why a step to this candidate would be rejected, where that is known.
    pub rejection: Option<Rejection>,
    /// What the policy calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// A step proposed by the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The history's `step` at the time.
    pub step: usize,
    /// What was proposed.
    pub changes: Action,
    /// Where it leads; absent when the changes are invalid.
    pub assignment: Option<Assignment>,
    /// Whether it was taken.
    pub accepted: bool,
    /// What was measured; costs alone when these already failed.
    pub measurement: Option<Measurement>,
    /// Why it was not taken.
    pub rejection: Option<Rejection>,
}

/// Why a candidate is not taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejection {
    /// The indexes make no sense.
    #[error("{detail}")]
    Invalid {
        /// What is wrong.
        detail: String,
    },
    /// It is the current assignment.
    #[error("it changes nothing")]
    NoChange,
    /// The same step was tried from this state already, or the same probe made.
    #[error("the same was asked for before in this state")]
    Repeated,
    /// An earlier step led there.
    #[error("this assignment was accepted before")]
    Visited,
    /// The cost does not strictly fall.
    #[error("no progress: {load} is not below {current}")]
    NoProgress {
        /// Its cost, or violation under several limits.
        load: f64,
        /// The current one.
        current: f64,
    },
    /// A recovery that costs.
    #[error("a recovery must not cost: {load} is above {current}")]
    CostRose {
        /// Its cost, or violation under several limits.
        load: f64,
        /// The current one.
        current: f64,
    },
    /// The quality is below the floor.
    #[error("the quality {quality} is below the floor {least}")]
    Floor {
        /// Its quality.
        quality: f64,
        /// The least allowed.
        least: f64,
    },
    /// A recovery that does not recover.
    #[error("the quality {quality} does not rise above {current} with confidence")]
    NoRecovery {
        /// Its quality.
        quality: f64,
        /// The current one.
        current: f64,
    },
    /// No recovery is left before the next reduction.
    #[error("no recovery is left before the next reduction")]
    RecoveryLimit,
    /// The budget is met: nothing needs to be reduced.
    #[error("the budget is met already")]
    BudgetMet,
    /// Too many trials from one state.
    #[error("no trial is left from this state")]
    TrialLimit,
    /// Too many probes from one state.
    #[error("no probe is left from this state")]
    ProbeLimit,
    /// A meter's answer is not a finite number, or is missing.
    #[error("{detail}")]
    Unmeasurable {
        /// Which, and what it answered.
        detail: String,
    },
    /// The subject cannot make or measure this candidate.
    #[error("{detail}")]
    Refused {
        /// Its reason.
        detail: String,
    },
}

impl History {
    /// The JSON form that policies of any language read.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a history has text keys and finite numbers alone")
    }

    /// The probes made from the current state.
    pub fn probes(&self) -> impl Iterator<Item = &Probe> {
        self.recent().filter_map(|record| match record {
            Record::Probe(probe) => Some(probe),
            Record::Trial(_) => None,
        })
    }

    /// The trials made from the current state.
    pub fn trials(&self) -> impl Iterator<Item = &Trial> {
        self.recent().filter_map(|record| match record {
            Record::Trial(trial) => Some(trial),
            Record::Probe(_) => None,
        })
    }

    /// Every accepted step in order.
    pub fn steps(&self) -> impl Iterator<Item = &Trial> {
        self.all_trials().filter(|trial| trial.accepted)
    }

    /// Every trial in order, from whatever state.
    pub fn all_trials(&self) -> impl Iterator<Item = &Trial> {
        self.records.iter().filter_map(|record| match record {
            Record::Trial(trial) => Some(trial),
            Record::Probe(_) => None,
        })
    }

    /// Records are in order of `step`, so those of the current state end the list.
    fn recent(&self) -> impl Iterator<Item = &Record> {
        let first = self.records.partition_point(|record| record.step() < self.step);
        self.records[first..].iter()
    }
}

impl Record {
    fn step(&self) -> usize {
        match self {
            Record::Probe(probe) => probe.step,
            Record::Trial(trial) => trial.step,
        }
    }
}
