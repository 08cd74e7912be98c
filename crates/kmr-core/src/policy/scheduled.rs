//! The paper's fixed schedule.

use super::{Ask, Policy, PolicyError, untried_recovery};
use crate::assignment::Action;
use crate::history::History;
use crate::knob::Role;

/// Follows a schedule without looking at quality.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scheduled {
    /// All reducing knobs together, one value further each time, as one composite action; a knob
    /// with fewer values stays at its last one.
    #[default]
    Lockstep,
    /// These actions, each proposed once, in order.
    List(Vec<Action>),
}

impl Policy for Scheduled {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        let action = match self {
            Scheduled::Lockstep => untried_recovery(history).or_else(|| next_level(history)),
            Scheduled::List(actions) => actions.get(history.all_trials().count()).cloned(),
        };
        Ok(action.map_or(Ask::Done, |changes| Ask::Step { changes }))
    }
}

fn next_level(history: &History) -> Option<Action> {
    if history.met {
        return None;
    }
    let knobs = &history.knobs;
    let tops: Vec<(usize, usize)> = knobs
        .with_role(Role::Reduce)
        .map(|knob| (knob, knobs[knob].levels()))
        .collect();
    let highest = tops.iter().map(|&(_, top)| top).max()?;
    (1..=highest).find_map(|level| {
        let mut target = history.current.assignment.clone();
        for &(knob, top) in &tops {
            target = target.with(knob, level.min(top));
        }
        let tried = history
            .all_trials()
            .any(|trial| trial.assignment.as_ref() == Some(&target));
        let changes = history.current.assignment.changes_to(&target);
        (!tried && !changes.changes().is_empty()).then_some(changes)
    })
}
