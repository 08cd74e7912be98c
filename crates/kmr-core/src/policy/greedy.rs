//! Greedy: the least quality lost per cost saved, by a cheap proxy, confirmed by the real meter.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::{Ask, Policy, PolicyError, untried_recovery};
use crate::assignment::{Action, Assignment, Change};
use crate::history::{History, Record, Rejection};
use crate::knob::Role;
use crate::measurement::{Fidelity, Measurement};

/// From each state, asks for the costs of every knob's next value, ranks these candidates by
/// proxy quality lost per cost saved, measures the first few in full and proposes the best of them.
///
/// When candidates already meet the budget, the one that loses least is preferred, so a gentler
/// one is never passed over for an overshoot. When the first few all break the floor, the next
/// few are measured. A knob whose next value saves nothing is asked for the value after it.
/// Ties go to the knob, then the value, that comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greedy {
    /// Samples for the proxy; see [`Fidelity::proxy`].
    pub proxy_samples: usize,
    /// How many candidates are measured in full before each step. With 0 the proxy alone decides
    /// the order, and the step's own measurement is the confirmation.
    pub confirm: usize,
    /// Whether to consider all further values of a knob, not just the next one.
    pub jump: bool,
    /// Whether what a change lost when it was last probed, from an earlier state, may rank it
    /// until it comes up among the first; then it is probed anew. Saves most proxy measurements,
    /// at the risk of overlooking a change that has become cheaper since.
    pub reuse: bool,
}

impl Default for Greedy {
    fn default() -> Self {
        Greedy {
            proxy_samples: 256,
            confirm: 3,
            jump: false,
            reuse: true,
        }
    }
}

impl Policy for Greedy {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        if let Some(changes) = untried_recovery(history) {
            return Ok(Ask::Step { changes });
        }
        if history.met {
            return Ok(Ask::Done);
        }
        let known = Known::from(history, self.proxy());
        let candidates = self.candidates(history, &known);
        Ok(self
            .missing_costs(&candidates, &known)
            .or_else(|| self.missing_losses(history, &candidates, &known))
            .unwrap_or_else(|| self.confirm_or_step(history, &candidates, &known)))
    }
}

/// A single change, where it leads, and what is known of it.
struct Candidate {
    change: Change,
    assignment: Assignment,
    /// Rejected, by the floor or for a reason that no further value can be blamed for.
    rejected: bool,
}

/// What the history says, by assignment for the current state and by change for earlier ones.
struct Known<'a> {
    costs: HashMap<&'a Assignment, &'a Measurement>,
    proxies: HashMap<&'a Assignment, f64>,
    full: HashMap<&'a Assignment, f64>,
    rejections: HashMap<&'a Assignment, &'a Rejection>,
    earlier_losses: HashMap<Change, f64>,
}

impl<'a> Known<'a> {
    fn from(history: &'a History, proxy: Fidelity) -> Self {
        let mut known = Known {
            costs: HashMap::new(),
            proxies: HashMap::new(),
            full: HashMap::new(),
            rejections: HashMap::new(),
            earlier_losses: earlier_losses(history, proxy),
        };
        for probe in history.probes() {
            if matches!(probe.rejection, Some(Rejection::Repeated)) {
                continue;
            }
            let at = &probe.assignment;
            known
                .costs
                .extend(probe.measurement.as_ref().map(|measured| (at, measured)));
            known
                .rejections
                .extend(probe.rejection.as_ref().map(|rejection| (at, rejection)));
            let quality = probe.measurement.as_ref().and_then(Measurement::quality_value);
            if let (Some(quality), None) = (quality, &probe.rejection) {
                if probe.fidelity == proxy {
                    known.proxies.insert(at, quality);
                } else if probe.fidelity == Fidelity::FULL {
                    known.full.insert(at, quality);
                }
            }
        }
        for trial in history.trials() {
            if let (Some(at), Some(rejection)) = (&trial.assignment, &trial.rejection) {
                known.rejections.insert(at, rejection);
            }
        }
        known
    }
}

/// What single changes lost by the proxy when they were last probed, from states before this one.
fn earlier_losses(history: &History, proxy: Fidelity) -> HashMap<Change, f64> {
    let mut losses = HashMap::new();
    let mut here = history.knobs.off();
    let mut here_quality = None;
    for record in &history.records {
        match record {
            Record::Probe(probe) if probe.step < history.step && probe.fidelity == proxy => {
                let quality = probe.measurement.as_ref().and_then(Measurement::quality_value);
                let (Some(quality), None) = (quality, &probe.rejection) else {
                    continue;
                };
                match here.changes_to(&probe.assignment).changes() {
                    [] => here_quality = Some(quality),
                    [change] => {
                        losses.extend(here_quality.map(|before: f64| (*change, before - quality)));
                    }
                    _ => {}
                }
            }
            Record::Trial(trial) if trial.accepted => {
                if let Some(next) = &trial.assignment {
                    // From another value of its knob, the same change loses something else.
                    losses.retain(|change: &Change, _| next[change.knob] == here[change.knob]);
                    here = next.settled(&history.knobs);
                    here_quality = None;
                }
            }
            _ => {}
        }
    }
    losses
}

impl Greedy {
    fn proxy(&self) -> Fidelity {
        Fidelity::proxy(self.proxy_samples.max(1))
    }

    fn candidates(&self, history: &History, known: &Known) -> Vec<Candidate> {
        let here = &history.current.assignment;
        let mut candidates = Vec::new();
        for knob in history.knobs.with_role(Role::Reduce) {
            for value in here[knob] + 1..history.knobs[knob].values.len() {
                let assignment = here.with(knob, value);
                let rejection = known.rejections.get(&assignment);
                let at_floor = matches!(rejection, Some(Rejection::Floor { .. }));
                if rejection.is_some() && !at_floor {
                    continue; // the value itself is to blame: look at the one after it
                }
                let change = Change { knob, value };
                candidates.push(Candidate {
                    change,
                    assignment,
                    rejected: at_floor,
                });
                if !self.jump {
                    break;
                }
            }
        }
        candidates
    }

    fn missing_costs(&self, candidates: &[Candidate], known: &Known) -> Option<Ask> {
        let missing = candidates
            .iter()
            .filter(|one| !known.costs.contains_key(&one.assignment));
        // A trial's rejection needs no costs any more.
        ask_for(missing.filter(|one| !one.rejected), Fidelity::COSTS)
    }

    /// Losses that no state has told, or that a candidate among the first needs anew.
    fn missing_losses(&self, history: &History, candidates: &[Candidate], known: &Known) -> Option<Ask> {
        let fresh = |one: &&Candidate| known.proxies.contains_key(&one.assignment);
        let stale = |one: &&Candidate| self.reuse && known.earlier_losses.contains_key(&one.change);
        let open = candidates.iter().filter(|one| !one.rejected);
        let mut missing: Vec<&Candidate> = open.filter(|one| !fresh(one) && !stale(one)).collect();
        if missing.is_empty() {
            missing = self.first_few(history, candidates, known);
            missing.retain(|one| !fresh(one));
        }
        if missing.is_empty() {
            return None;
        }
        let here = &history.current.assignment;
        let mut assignments: Vec<Assignment> = Vec::new();
        if !known.proxies.contains_key(here) {
            assignments.push(here.clone());
        }
        assignments.extend(missing.into_iter().map(|one| one.assignment.clone()));
        Some(Ask::probe(assignments, self.proxy()))
    }

    fn confirm_or_step(&self, history: &History, candidates: &[Candidate], known: &Known) -> Ask {
        let few = self.first_few(history, candidates, known);
        if self.confirm > 0 {
            let unconfirmed = few.iter().copied();
            let unconfirmed = unconfirmed.filter(|one| !known.full.contains_key(&one.assignment));
            if let Some(ask) = ask_for(unconfirmed, Fidelity::FULL) {
                return ask;
            }
        }
        let before = history.current.measurement.quality_value().unwrap_or(f64::NAN);
        let confirmed_merit = |one: &Candidate| {
            let after = known.full.get(&one.assignment).copied().unwrap_or(f64::NAN);
            merit(history, known, one, before - after)
        };
        let best = few
            .into_iter()
            .min_by(|one, other| compare(&confirmed_merit(one), &confirmed_merit(other)));
        best.map_or(Ask::Done, step)
    }

    /// Of the ranked candidates, taken a few at a time, the first few that are not all rejected,
    /// without the rejected ones.
    fn first_few<'c>(&self, history: &History, candidates: &'c [Candidate], known: &Known) -> Vec<&'c Candidate> {
        let ranked = self.ranked(history, candidates, known);
        let mut few = ranked
            .chunks(self.confirm.max(1))
            .map(|few| -> Vec<&Candidate> { few.iter().copied().filter(|one| !one.rejected).collect() });
        few.find(|few| !few.is_empty()).unwrap_or_default()
    }

    /// Best first. Equal merits keep their order.
    fn ranked<'c>(&self, history: &History, candidates: &'c [Candidate], known: &Known) -> Vec<&'c Candidate> {
        let here = known.proxies.get(&history.current.assignment);
        let loss = |one: &Candidate| match (here, known.proxies.get(&one.assignment)) {
            (Some(before), Some(after)) => before - after,
            _ => known.earlier_losses.get(&one.change).copied().unwrap_or(f64::INFINITY),
        };
        let mut ranked: Vec<(Merit, &Candidate)> = candidates
            .iter()
            .map(|one| (merit(history, known, one, loss(one)), one))
            .collect();
        ranked.sort_by(|(one, _), (other, _)| compare(one, other));
        ranked.into_iter().map(|(_, one)| one).collect()
    }
}

/// Lower is better: first whether the budget would still be missed, then whether quality is
/// lost, then the price.
type Merit = (bool, bool, f64);

fn merit(history: &History, known: &Known, candidate: &Candidate, loss: f64) -> Merit {
    let load = |measured: &Measurement| history.budget.standing(&measured.costs).ok();
    let after = known
        .costs
        .get(&candidate.assignment)
        .and_then(|measured| load(measured));
    let before = load(&history.current.measurement);
    let (Some(before), Some(after)) = (before, after) else {
        return (true, true, f64::INFINITY);
    };
    let saved = before.load - after.load;
    match (after.met, loss > 0.0) {
        (true, _) => (false, false, loss),
        (false, true) => (true, true, loss / saved),
        (false, false) => (true, false, -saved),
    }
}

fn compare(one: &Merit, other: &Merit) -> Ordering {
    (one.0, one.1).cmp(&(other.0, other.1)).then(one.2.total_cmp(&other.2))
}

fn step(candidate: &Candidate) -> Ask {
    Ask::Step {
        changes: Action(vec![candidate.change]),
    }
}

fn ask_for<'c>(candidates: impl Iterator<Item = &'c Candidate>, fidelity: Fidelity) -> Option<Ask> {
    let assignments: Vec<Assignment> = candidates.map(|one| one.assignment.clone()).collect();
    (!assignments.is_empty()).then(|| Ask::probe(assignments, fidelity))
}
