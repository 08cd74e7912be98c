//! What the history tells of the current state. What it does not tell becomes an ask: a policy is
//! written as if every measurement were at hand, and leaves with the ask for the first that is not.
//! Run again on the longer history, it gets that far and further.

use std::collections::HashMap;

use crate::assignment::Assignment;
use crate::history::{History, Probe, Rejection};
use crate::knob::Role;
use crate::measurement::{Costs, Fidelity, Measurement};
use crate::policy::Ask;

/// A value, or what must be asked for first.
pub(in crate::policy) type Answer<T> = Result<T, Ask>;

/// A candidate measured in full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::policy) struct Judged {
    pub quality: f64,
    pub rejected: bool,
}

/// The history's probes from the current state, by candidate.
pub(in crate::policy) struct Known<'h> {
    pub history: &'h History,
    costs: HashMap<&'h Assignment, Option<&'h Costs>>,
    qualities: HashMap<(&'h Assignment, Fidelity), &'h Probe>,
    labels: Vec<(&'h Assignment, &'h str)>,
    spent: usize,
}

impl<'h> Known<'h> {
    pub fn new(history: &'h History) -> Self {
        let mut known = Known {
            history,
            costs: HashMap::from([(&history.current.assignment, Some(&history.current.measurement.costs))]),
            qualities: HashMap::new(),
            labels: Vec::new(),
            spent: 0,
        };
        for probe in history.probes() {
            let at = &probe.assignment;
            known.labels.extend(probe.label.as_deref().map(|label| (at, label)));
            if matches!(probe.rejection, Some(Rejection::Repeated)) {
                continue;
            }
            let unmade = matches!(probe.rejection, Some(Rejection::ProbeLimit | Rejection::Invalid { .. }));
            let costs = probe.measurement.as_ref().map(|measured| &measured.costs);
            let kept = known.costs.entry(at).or_insert(costs);
            *kept = kept.or(costs);
            let earlier = known.qualities.insert((at, probe.fidelity), probe);
            known.spent += usize::from(earlier.is_none() && !unmade);
        }
        known
    }

    /// Probes that this state had to begin with.
    pub fn probes_at_first(&self) -> usize {
        self.history.remaining.probes + self.spent
    }

    /// The costs of candidates; none where they cannot be made or measured.
    pub fn costs(&self, candidates: &[Assignment]) -> Answer<Vec<Option<&'h Costs>>> {
        self.ask_for(candidates, Fidelity::COSTS, |candidate| {
            self.costs.contains_key(candidate)
        })?;
        Ok(candidates.iter().map(|candidate| self.costs[candidate]).collect())
    }

    /// The qualities of candidates at a fidelity; none where they cannot be measured or their costs
    /// are no progress.
    pub fn qualities(&self, candidates: &[Assignment], fidelity: Fidelity) -> Answer<Vec<Option<f64>>> {
        self.ask_for(candidates, fidelity, |candidate| {
            self.qualities.contains_key(&(candidate, fidelity))
        })?;
        let quality = |candidate| self.qualities[&(candidate, fidelity)].measurement.as_ref();
        Ok(candidates
            .iter()
            .map(|candidate| quality(candidate).and_then(Measurement::quality_value))
            .collect())
    }

    /// Full measurements of candidates under these names, one for each.
    pub fn judged(&self, candidates: &[Assignment], labels: &[&str]) -> Answer<Vec<Option<Judged>>> {
        let named = candidates.iter().zip(labels.iter().copied());
        let missing: Vec<_> = named
            .filter(|&(candidate, label)| !self.labels.contains(&(candidate, label)))
            .collect();
        if !missing.is_empty() {
            return Err(Ask::Probe {
                assignments: missing.iter().map(|&(candidate, _)| candidate.clone()).collect(),
                fidelity: Fidelity::FULL,
                labels: missing.iter().map(|&(_, label)| label.to_owned()).collect(),
            });
        }
        let judged = |candidate: &Assignment| {
            let probe = self.qualities.get(&(candidate, Fidelity::FULL))?;
            Some(Judged {
                quality: probe.measurement.as_ref()?.quality_value()?,
                rejected: probe.rejection.is_some(),
            })
        };
        Ok(candidates.iter().map(judged).collect())
    }

    /// Whether a step to `candidate` was tried from this state.
    pub fn tried(&self, candidate: &Assignment) -> bool {
        self.history
            .trials()
            .any(|trial| trial.assignment.as_ref() == Some(candidate))
    }

    /// Whether costs are within the budget.
    pub fn meets(&self, costs: &Costs) -> bool {
        self.history.budget.standing(costs).is_ok_and(|standing| standing.met)
    }

    /// What must fall: the cost, or the violation of several limits. Infinite if it is unknown.
    pub fn load(&self, costs: &Costs) -> f64 {
        self.history
            .budget
            .standing(costs)
            .map_or(f64::INFINITY, |standing| standing.load)
    }

    /// The step from the current state to `target`.
    pub fn step(&self, target: &Assignment) -> Ask {
        Ask::Step {
            changes: self.history.current.assignment.changes_to(target),
        }
    }

    /// Whether a reduction was accepted before.
    pub fn has_reduced(&self) -> bool {
        let knobs = &self.history.knobs;
        let reduces = |knob: usize| knobs.get(knob).is_some_and(|knob| knob.role == Role::Reduce);
        self.history
            .steps()
            .any(|step| step.changes.changes().iter().any(|change| reduces(change.knob)))
    }

    fn ask_for(
        &self,
        candidates: &[Assignment],
        fidelity: Fidelity,
        is_known: impl Fn(&Assignment) -> bool,
    ) -> Answer<()> {
        let mut missing: Vec<Assignment> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for candidate in candidates {
            if !is_known(candidate) && seen.insert(candidate) {
                missing.push(candidate.clone());
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        Err(Ask::probe(missing, fidelity))
    }
}
