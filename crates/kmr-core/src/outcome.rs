//! How a search ends.

use serde::{Deserialize, Serialize};

use crate::assignment::{Action, Assignment};
use crate::history::{History, Rejection, State};
use crate::knob::Role;
use crate::measurement::Costs;

/// The verdict on a search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Budget and floor hold.
    Feasible,
    /// No action is left.
    Exhausted {
        /// What ran out.
        because: Exhaustion,
    },
    /// An action did not lower the cost, and the search was told to stop there.
    NoProgress {
        /// The action.
        changes: Action,
    },
    /// The cost could fall further, were it not for the floor.
    QualityFloor {
        /// The last action that the floor rejected; empty when the start itself is below it.
        changes: Action,
    },
    /// Somebody asked to stop; the run can be resumed.
    Interrupted,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exhaustion {
    /// The policy has no further action.
    Actions,
    /// The limit on accepted steps.
    Steps,
    /// The policy kept asking for what is invalid, known or not allowed.
    UselessAsks,
    /// Every stage reached its own target, but together they miss the budget.
    Stages,
}

/// The smallest cost that any candidate had, allowed or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reached {
    /// The candidate, from the masters of its time.
    pub assignment: Assignment,
    /// Its costs.
    pub costs: Costs,
}

/// What stood in the way at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blocked {
    /// The action that was not taken.
    pub changes: Action,
    /// Why.
    pub rejection: Rejection,
}

/// A search's end: verdict, best state and the whole record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Conclusion {
    /// The verdict.
    pub outcome: Outcome,
    /// The best state seen, which the subject has adopted: among those within budget and floor the
    /// one of the highest quality; if there is none, the one closest to the budget that honors the
    /// floor. Probes count when they were made at full fidelity on the present masters.
    pub best: State,
    /// The smallest cost that was seen at all.
    pub smallest: Reached,
    /// The last obstacle met in the final state; the floor rather than others.
    pub blocked: Option<Blocked>,
    /// Everything that was tried.
    pub history: History,
}

impl Conclusion {
    /// Accepted steps.
    pub fn step_count(&self) -> usize {
        self.history.step
    }

    /// The knobs that have no value left.
    fn spent(&self) -> String {
        const NAMED: usize = 4;
        let (knobs, at) = (&self.history.knobs, &self.best.assignment);
        let reducing = knobs.with_role(Role::Reduce);
        let spent: Vec<String> = reducing
            .into_iter()
            .filter(|&knob| at[knob] + 1 == knobs[knob].values.len())
            .map(|knob| format!("{} = {}", knobs[knob], knobs[knob].values[at[knob]]))
            .collect();
        if spent.is_empty() {
            return String::new();
        }
        let more = match spent.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = spent[..spent.len().min(NAMED)].join(", ");
        format!("; at their last value: {named}{more}")
    }

    /// What people should know beside the outcome, in one line.
    pub fn describe(&self) -> String {
        let knobs = &self.history.knobs;
        let reached: Vec<String> = self
            .history
            .budget
            .limits()
            .iter()
            .map(|limit| {
                let cost = |costs: &Costs| costs.get(&limit.meter).map_or("?".to_owned(), f64::to_string);
                format!(
                    "{} {} (limit {}, smallest seen {})",
                    limit.meter,
                    cost(&self.best.measurement.costs),
                    limit.at_most,
                    cost(&self.smallest.costs)
                )
            })
            .collect();
        let mut text = reached.join(", ");
        if self.blocked.is_none() && self.outcome != Outcome::Feasible {
            text += &self.spent();
        }
        if let Some(blocked) = &self.blocked {
            let what = blocked.changes.describe(knobs);
            text += &format!("; blocked at {what}: {}", blocked.rejection);
        }
        text
    }
}
