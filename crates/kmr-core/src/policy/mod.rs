//! Policies: who decides what to try next.

mod evolve;
mod greedy;
mod knapsack;
mod scheduled;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use evolve::{Evolve, EvolveSettings, Refinement};
pub use greedy::Greedy;
pub use knapsack::{Curve, Knapsack, KnapsackSettings};
pub use scheduled::Scheduled;

use crate::assignment::{Action, Assignment};
use crate::history::History;
use crate::knob::Role;
use crate::measurement::Fidelity;

/// What a policy wants next. The JSON forms:
///
/// ```json
/// {"ask": "probe", "assignments": [[0, 1], [1, 0]], "fidelity": {"samples": 256, "proxy": true}}
/// {"ask": "probe", "assignments": [[1, 1]], "labels": ["uniform"]}
/// {"ask": "step", "changes": [{"knob": 0, "value": 1}]}
/// {"ask": "done"}
/// ```
///
/// Knobs and values are indexes into the history's `knobs` and their `values`. A fidelity left
/// out is full; its `samples` left out are all samples, and 0 asks for costs alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Measure candidates without adopting any.
    Probe {
        /// The candidates.
        assignments: Vec<Assignment>,
        /// How thoroughly.
        #[serde(default)]
        fidelity: Fidelity,
        /// What to call them, in their order; may be left out. A named candidate that was measured
        /// in full from this state already gets the same measurement again.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        labels: Vec<String>,
    },
    /// Propose a step.
    Step {
        /// One change, or several at once.
        changes: Action,
    },
    /// There is nothing left to try.
    Done,
}

impl Ask {
    /// Measures candidates without naming them.
    pub fn probe(assignments: Vec<Assignment>, fidelity: Fidelity) -> Ask {
        Ask::Probe {
            assignments,
            fidelity,
            labels: Vec::new(),
        }
    }

    /// Reads the JSON form.
    pub fn from_json(json: &str) -> Result<Ask, PolicyError> {
        serde_json::from_str(json).map_err(|error| PolicyError::new(format!("the answer is not an ask: {error}")))
    }

    /// Writes the JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("an ask has text keys and whole numbers alone")
    }
}

/// A policy that could not answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("policy failed: {message}")]
pub struct PolicyError {
    message: String,
}

impl PolicyError {
    /// With what went wrong.
    pub fn new(message: impl Into<String>) -> Self {
        PolicyError {
            message: message.into(),
        }
    }
}

/// Decides what to try next from the history alone, so that a resumed run repeats its decisions.
pub trait Policy {
    /// The next ask.
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError>;
}

impl<P: Policy + ?Sized> Policy for &mut P {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        (**self).next(history)
    }
}

impl<P: Policy + ?Sized> Policy for Box<P> {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        (**self).next(history)
    }
}

/// The next recovery that has not been tried in this state, gentlest value first. Built-in
/// policies recover as soon as they may: what a reduction lost is cheapest to win back at once.
fn untried_recovery(history: &History) -> Option<Action> {
    if history.remaining.recoveries == 0 {
        return None;
    }
    let knobs = &history.knobs;
    let actions = knobs
        .with_role(Role::Recover)
        .flat_map(|knob| (1..knobs[knob].values.len()).map(move |value| Action::single(knob, value)));
    actions
        .into_iter()
        .find(|action| history.trials().all(|trial| trial.changes != *action))
}
