//! One search in progress.

use std::collections::HashSet;

use super::early::Heat;
use super::{KmrError, OnNoProgress, Options};
use crate::assignment::{Action, Assignment};
use crate::budget::Standing;
use crate::history::{History, Probe, Record, Rejection, State, Trial};
use crate::knob::{Knob, Role};
use crate::measurement::{Costs, Fidelity, Measurement, Quality};
use crate::outcome::{Blocked, Conclusion, Exhaustion, Outcome, Reached};
use crate::policy::{Ask, Policy};
use crate::statistics::{self, Comparison};
use crate::subject::{Event, Observer, Subject, SubjectError};

/// Why asking stopped.
enum Ending {
    Goal,
    Exhausted(Exhaustion),
    Rejected(Action, Rejection),
    Interrupted,
}

/// What leaves a measurement early.
enum Halt<E> {
    Interrupted,
    Failed(KmrError<E>),
}

impl<E> From<KmrError<E>> for Halt<E> {
    fn from(error: KmrError<E>) -> Self {
        Halt::Failed(error)
    }
}

/// What was learnt of a candidate: nothing, costs, or costs and quality; and why it is no step.
#[derive(Default)]
struct Evaluation {
    measurement: Option<Measurement>,
    rejection: Option<Rejection>,
}

impl Evaluation {
    fn rejected(rejection: Rejection) -> Self {
        Evaluation {
            measurement: None,
            rejection: Some(rejection),
        }
    }
}

pub(super) struct Search<'a, S: Subject + ?Sized, P: ?Sized, O: ?Sized> {
    subject: &'a mut S,
    policy: &'a mut P,
    observer: &'a mut O,
    options: &'a Options,
    history: History,
    /// Where reductions have led, recovering knobs aside.
    visited: HashSet<Assignment>,
    /// Where trials from the current state led.
    tried: HashSet<Assignment>,
    /// What was probed from the current state.
    probed: HashSet<(Assignment, Fidelity)>,
    /// Full measurements made from the current state, so that a step confirmed by a probe is not
    /// measured twice.
    confirmed: Vec<State>,
    useless: usize,
    best: State,
    smallest: (f64, Reached),
}

impl<'a, S, P, O> Search<'a, S, P, O>
where
    S: Subject + ?Sized,
    P: Policy + ?Sized,
    O: Observer<S::Error> + ?Sized,
{
    pub(super) fn new(
        subject: &'a mut S,
        policy: &'a mut P,
        observer: &'a mut O,
        options: &'a Options,
        history: History,
    ) -> Self {
        let State {
            assignment,
            measurement,
        } = history.current.clone();
        let reached = Reached {
            assignment: assignment.clone(),
            costs: measurement.costs.clone(),
        };
        let mut search = Search {
            subject,
            policy,
            observer,
            options,
            visited: HashSet::from([assignment.clone()]),
            tried: HashSet::new(),
            probed: HashSet::new(),
            confirmed: Vec::new(),
            useless: 0,
            best: State {
                assignment,
                measurement,
            },
            smallest: (f64::INFINITY, reached),
            history,
        };
        search.smallest.0 = search.current_standing().load;
        search
    }

    pub(super) fn run(mut self) -> Result<Conclusion, KmrError<S::Error>> {
        let ending = loop {
            if self.nothing_to_do() {
                break Ending::Goal;
            } else if self.history.remaining.steps == 0 {
                break Ending::Exhausted(self.out_of_steps());
            } else if self.useless >= self.options.max_useless_asks {
                break Ending::Exhausted(Exhaustion::UselessAsks);
            } else if self.subject.interrupted() {
                break Ending::Interrupted;
            }
            let ask = self.policy.next(&self.history)?;
            self.tell(&Event::Asked { ask: &ask })?;
            let answered = match ask {
                Ask::Done => break Ending::Exhausted(Exhaustion::Actions),
                Ask::Probe {
                    assignments,
                    fidelity,
                    labels,
                } => self.probe(assignments, fidelity, labels),
                Ask::Step { changes } => self.step(changes),
            };
            match answered {
                Ok(None) => {}
                Ok(Some(ending)) => break ending,
                Err(Halt::Interrupted) => break Ending::Interrupted,
                Err(Halt::Failed(error)) => return Err(error),
            }
        };
        self.conclude(ending)
    }

    fn nothing_to_do(&self) -> bool {
        let can_reduce = self.history.knobs.levels(Role::Reduce) > 0;
        let to_reduce = can_reduce && !self.history.met;
        !to_reduce && self.history.remaining.recoveries == 0
    }

    /// With every knob at its last value it is the actions that ran out.
    fn out_of_steps(&self) -> Exhaustion {
        let State { assignment, .. } = &self.history.current;
        let knobs = &self.history.knobs;
        let at_end = |knob: usize| assignment[knob] == knobs[knob].levels();
        if knobs.with_role(Role::Reduce).all(at_end) {
            Exhaustion::Actions
        } else {
            Exhaustion::Steps
        }
    }

    /// Measures what was not asked for before in this state.
    fn probe(
        &mut self,
        assignments: Vec<Assignment>,
        fidelity: Fidelity,
        labels: Vec<String>,
    ) -> Result<Option<Ending>, Halt<S::Error>> {
        let mut fresh = false;
        let mut labels = labels.into_iter();
        for assignment in assignments {
            let label = labels.next();
            let evaluation = match self.no_probe(&assignment, fidelity) {
                Some(Rejection::Repeated) if label.is_some() && fidelity == Fidelity::FULL => self.again(&assignment),
                Some(rejection) => Evaluation::rejected(rejection),
                None => {
                    let evaluation = self.evaluate(&assignment, fidelity)?;
                    self.probed.insert((assignment.clone(), fidelity));
                    self.history.remaining.probes -= 1;
                    fresh = true;
                    evaluation
                }
            };
            let Evaluation { measurement, rejection } = evaluation;
            if let (Some(measurement), None) = (&measurement, &rejection)
                && fidelity == Fidelity::FULL
            {
                let state = State {
                    assignment: assignment.clone(),
                    measurement: measurement.clone(),
                };
                self.consider(&state);
                self.confirmed.push(state);
            }
            let measurement = measurement.map(|measured| measured.without_scores());
            let step = self.history.step;
            let probe = Probe {
                step,
                assignment,
                fidelity,
                measurement,
                rejection,
                label,
            };
            self.tell(&Event::Probed { probe: &probe })?;
            self.history.records.push(Record::Probe(probe));
        }
        self.useless = if fresh { 0 } else { self.useless + 1 };
        Ok(None)
    }

    /// What a full probe from this state found before.
    fn again(&self, assignment: &Assignment) -> Evaluation {
        let same = |probe: &&Probe| probe.fidelity == Fidelity::FULL && probe.assignment == *assignment;
        let earlier = self.history.probes().find(same);
        Evaluation {
            measurement: earlier.and_then(|probe| probe.measurement.clone()),
            rejection: earlier.map_or(Some(Rejection::Repeated), |probe| probe.rejection.clone()),
        }
    }

    fn no_probe(&self, assignment: &Assignment, fidelity: Fidelity) -> Option<Rejection> {
        if let Err(error) = assignment.check(&self.history.knobs) {
            return Some(Rejection::Invalid {
                detail: error.to_string(),
            });
        }
        if self.probed.contains(&(assignment.clone(), fidelity)) {
            return Some(Rejection::Repeated);
        }
        if self.history.remaining.probes == 0 {
            return Some(Rejection::ProbeLimit);
        }
        if *assignment == self.history.current.assignment {
            return None;
        }
        self.out_of_place(assignment)
    }

    /// What no measurement is needed for: the kind of step is not due.
    fn out_of_place(&self, target: &Assignment) -> Option<Rejection> {
        match self.role_of(target) {
            Role::Recover if self.history.remaining.recoveries == 0 => Some(Rejection::RecoveryLimit),
            Role::Reduce if self.history.met => Some(Rejection::BudgetMet),
            _ => None,
        }
    }

    fn no_trial(&self, target: &Assignment) -> Option<Rejection> {
        if *target == self.history.current.assignment {
            return Some(Rejection::NoChange);
        }
        if let Some(rejection) = self.out_of_place(target) {
            return Some(rejection);
        }
        let settled = target.settled(&self.history.knobs);
        if self.role_of(target) == Role::Reduce && self.visited.contains(&settled) {
            return Some(Rejection::Visited);
        }
        if self.tried.contains(target) {
            return Some(Rejection::Repeated);
        }
        (self.history.remaining.trials == 0).then_some(Rejection::TrialLimit)
    }

    /// A step that changes any reducing knob is a reduction.
    fn role_of(&self, target: &Assignment) -> Role {
        let here = &self.history.current.assignment;
        if here.differs(target, &self.history.knobs, Role::Reduce) {
            Role::Reduce
        } else {
            Role::Recover
        }
    }

    /// Tries a step and takes it if it is accepted.
    fn step(&mut self, changes: Action) -> Result<Option<Ending>, Halt<S::Error>> {
        let target = self.history.current.assignment.apply(&self.history.knobs, &changes);
        let unmeasured = match &target {
            Err(error) => Some(Rejection::Invalid {
                detail: error.to_string(),
            }),
            Ok(target) => self.no_trial(target),
        };
        let mut trial = Trial {
            step: self.history.step,
            changes,
            assignment: target.as_ref().ok().cloned(),
            accepted: false,
            measurement: None,
            rejection: unmeasured,
        };
        let (Ok(target), None) = (target, &trial.rejection) else {
            self.useless += 1;
            self.record(trial)?;
            return Ok(None);
        };

        let Evaluation { measurement, rejection } = self.evaluate(&target, Fidelity::FULL)?;
        self.useless = 0;
        self.tried.insert(target.clone());
        self.history.remaining.trials -= 1;
        trial.measurement = measurement.as_ref().map(Measurement::without_scores);
        trial.rejection = rejection;
        trial.accepted = trial.rejection.is_none();
        let role = self.role_of(&target);
        let ending = match (&trial.rejection, self.options.on_no_progress, role) {
            (Some(rejection), OnNoProgress::Stop, Role::Reduce) => {
                Some(Ending::Rejected(trial.changes.clone(), rejection.clone()))
            }
            _ => None,
        };
        let accepted = trial.accepted;
        self.record(trial)?;
        if let (true, Some(measurement)) = (accepted, measurement) {
            self.accept(
                State {
                    assignment: target,
                    measurement,
                },
                role,
            )?;
        }
        Ok(ending)
    }

    fn record(&mut self, trial: Trial) -> Result<(), KmrError<S::Error>> {
        self.tell(&Event::Tried { trial: &trial })?;
        self.history.records.push(Record::Trial(trial));
        Ok(())
    }

    /// Costs first; quality only when they pass; then the floor, or the rise.
    fn evaluate(&mut self, target: &Assignment, fidelity: Fidelity) -> Result<Evaluation, Halt<S::Error>> {
        if fidelity == Fidelity::FULL
            && let Some(known) = self.confirmed.iter().find(|known| known.assignment == *target)
        {
            return Ok(Evaluation {
                measurement: Some(known.measurement.clone()),
                rejection: None,
            });
        }
        let costs = match self.ask_subject(|subject| subject.cost(target))? {
            Ok(costs) => costs,
            Err(rejection) => return Ok(Evaluation::rejected(rejection)),
        };
        let standing = match self.history.budget.standing(&costs) {
            Ok(standing) => standing,
            Err(error) => {
                let detail = error.to_string();
                return Ok(Evaluation::rejected(Rejection::Unmeasurable { detail }));
            }
        };
        self.note_smallest(target, &costs, standing);
        let mut measurement = Measurement { costs, quality: None };
        if let Some(rejection) = self.cost_fails(target, standing) {
            return Ok(Evaluation {
                measurement: Some(measurement),
                rejection: Some(rejection),
            });
        }
        if fidelity.samples == Some(0) {
            return Ok(Evaluation {
                measurement: Some(measurement),
                rejection: None,
            });
        }
        if fidelity == Fidelity::FULL
            && let Some((quality, rejection)) = self.lost_early(target)?
        {
            measurement.quality = Some(quality);
            return Ok(Evaluation {
                measurement: Some(measurement),
                rejection: Some(rejection),
            });
        }
        let rejection = match self.ask_subject(|subject| subject.quality(target, fidelity))? {
            Err(rejection) => Some(rejection),
            Ok(quality) if !quality.value.is_finite() => {
                let detail = format!(
                    "the quality meter answered {}, which is not a finite number",
                    quality.value
                );
                Some(Rejection::Unmeasurable { detail })
            }
            Ok(quality) => {
                let judged = fidelity == Fidelity::FULL;
                let rejection = if judged {
                    self.quality_fails(target, &quality)
                } else {
                    None
                };
                measurement.quality = Some(quality);
                rejection
            }
        };
        Ok(Evaluation {
            measurement: Some(measurement),
            rejection,
        })
    }

    /// Whether a reduction clearly loses too much on part of the data: its quality there, and why.
    fn lost_early(&mut self, target: &Assignment) -> Result<Option<(Quality, Rejection)>, Halt<S::Error>> {
        let here = *target == self.history.current.assignment;
        let (Some(settings), Some(floor), false) = (self.options.early_rejection, self.history.floor, here) else {
            return Ok(None);
        };
        let Some(reference) = self.history.reference.quality.clone() else {
            return Ok(None);
        };
        let mut heat = Heat::new(settings, floor, &reference).filter(|_| self.role_of(target) == Role::Reduce);
        while let Some(heat) = &mut heat
            && let Some(samples) = heat.samples()
        {
            let fidelity = Fidelity {
                samples: Some(samples),
                proxy: false,
            };
            let Ok(quality) = self.ask_subject(|subject| subject.quality(target, fidelity))? else {
                return Ok(None);
            };
            match heat.look(&quality) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(rejection) => return Ok(Some((quality, rejection))),
            }
        }
        Ok(None)
    }

    fn ask_subject<T>(
        &mut self,
        question: impl FnOnce(&mut S) -> Result<T, SubjectError<S::Error>>,
    ) -> Result<Result<T, Rejection>, Halt<S::Error>> {
        if self.subject.interrupted() {
            return Err(Halt::Interrupted);
        }
        match question(self.subject) {
            Ok(answer) => Ok(Ok(answer)),
            Err(SubjectError::Refused(detail)) => Ok(Err(Rejection::Refused { detail })),
            Err(SubjectError::Interrupted) => Err(Halt::Interrupted),
            Err(SubjectError::Failed(error)) => Err(Halt::Failed(KmrError::Subject(error))),
        }
    }

    fn cost_fails(&self, target: &Assignment, standing: Standing) -> Option<Rejection> {
        let load = standing.load;
        let current = self.current_standing().load;
        if *target == self.history.current.assignment {
            return None; // a probe of where we are
        }
        match self.role_of(target) {
            Role::Reduce if load >= current => Some(Rejection::NoProgress { load, current }),
            Role::Recover if load > current => Some(Rejection::CostRose { load, current }),
            _ => None,
        }
    }

    fn quality_fails(&self, target: &Assignment, quality: &Quality) -> Option<Rejection> {
        if *target == self.history.current.assignment {
            return None;
        }
        match self.role_of(target) {
            Role::Reduce => self.below_floor(quality.value),
            Role::Recover if self.rises(quality) => None,
            Role::Recover => Some(Rejection::NoRecovery {
                quality: quality.value,
                current: self.current_quality(),
            }),
        }
    }

    fn below_floor(&self, quality: f64) -> Option<Rejection> {
        let floor = self.history.floor?;
        let reference = self.history.reference.quality_value()?;
        let least = floor.least(reference);
        (!floor.holds(quality, reference)).then_some(Rejection::Floor { quality, least })
    }

    fn rises(&self, quality: &Quality) -> bool {
        let before = self.history.current.measurement.quality.as_ref();
        let scored = before.filter(|before| !before.scores.is_empty() && before.scores.len() == quality.scores.len());
        let significant = match (self.options.recovery_confidence, scored) {
            (Some(confidence), Some(before)) => Comparison::new(&before.scores, &quality.scores)
                .and_then(|paired| statistics::non_inferiority(&paired, 0.0, confidence))
                .is_ok_and(|test| test.passed),
            _ => true,
        };
        significant && quality.value > self.current_quality()
    }

    fn current_quality(&self) -> f64 {
        self.history
            .current
            .measurement
            .quality_value()
            .unwrap_or(f64::NEG_INFINITY)
    }

    fn standing(&self, costs: &Costs) -> Standing {
        // Only costs that had a standing are ever kept.
        let worst = Standing {
            load: f64::INFINITY,
            violation: f64::INFINITY,
            met: false,
        };
        self.history.budget.standing(costs).unwrap_or(worst)
    }

    fn current_standing(&self) -> Standing {
        self.standing(&self.history.current.measurement.costs)
    }

    fn accept(&mut self, state: State, role: Role) -> Result<(), KmrError<S::Error>> {
        self.subject.adopt(&state.assignment).map_err(KmrError::Subject)?;
        let adopted = state.assignment;
        let settled = adopted.settled(&self.history.knobs);
        let new_masters = settled != adopted;
        let state = State {
            assignment: settled,
            measurement: state.measurement,
        };
        self.visited.insert(state.assignment.clone());
        let met = self.standing(&state.measurement.costs).met;
        let remaining = &mut self.history.remaining;
        remaining.steps -= 1;
        remaining.probes = self.options.max_probes;
        remaining.trials = self.history.knobs.iter().map(Knob::levels).sum();
        remaining.recoveries = match role {
            Role::Recover => remaining.recoveries - 1,
            Role::Reduce if self.history.knobs.levels(Role::Recover) == 0 => 0,
            Role::Reduce => self.options.recoveries,
        };
        self.history.step += 1;
        self.history.met = met;
        self.history.current = state.clone();
        self.tried.clear();
        self.probed.clear();
        self.confirmed.clear();
        if new_masters {
            // Earlier states were made from masters that are gone.
            self.best = state.clone();
        } else {
            self.consider(&state);
        }
        self.tell(&Event::Adopted {
            assignment: &adopted,
            state: &state,
        })
    }

    fn note_smallest(&mut self, assignment: &Assignment, costs: &Costs, standing: Standing) {
        if standing.load < self.smallest.0 {
            let reached = Reached {
                assignment: assignment.clone(),
                costs: costs.clone(),
            };
            self.smallest = (standing.load, reached);
        }
    }

    fn consider(&mut self, state: &State) {
        if self.is_better(&state.measurement, &self.best.measurement) {
            self.best = state.clone();
        }
    }

    /// Within budget and floor by quality; then above the floor by cost; then by quality.
    fn is_better(&self, one: &Measurement, other: &Measurement) -> bool {
        let rank = |measured: &Measurement| {
            let standing = self.standing(&measured.costs);
            let quality = measured.quality_value().unwrap_or(f64::NEG_INFINITY);
            match (self.below_floor(quality).is_none(), standing.met) {
                (true, true) => (2, quality, -standing.load),
                (true, false) => (1, -standing.load, quality),
                (false, _) => (0, quality, -standing.load),
            }
        };
        rank(one).partial_cmp(&rank(other)).is_some_and(|order| order.is_gt())
    }

    fn conclude(mut self, ending: Ending) -> Result<Conclusion, KmrError<S::Error>> {
        if self.best.assignment != self.history.current.assignment {
            let adopted = self.best.assignment.clone();
            self.subject.adopt(&adopted).map_err(KmrError::Subject)?;
            self.best.assignment = adopted.settled(&self.history.knobs);
            let state = self.best.clone();
            self.tell(&Event::Adopted {
                assignment: &adopted,
                state: &state,
            })?;
        }
        let blocked = self.blocked();
        let outcome = self.outcome(ending, blocked.as_ref());
        let conclusion = Conclusion {
            blocked: blocked.filter(|_| outcome != Outcome::Feasible),
            outcome,
            best: self.best,
            smallest: self.smallest.1,
            history: self.history,
        };
        let event = Event::Concluded {
            conclusion: &conclusion,
        };
        self.observer.observe(&event).map_err(KmrError::Subject)?;
        Ok(conclusion)
    }

    fn outcome(&self, ending: Ending, blocked: Option<&Blocked>) -> Outcome {
        let quality = self.best.measurement.quality_value().unwrap_or(f64::NEG_INFINITY);
        let honored = self.below_floor(quality).is_none();
        let met = self.standing(&self.best.measurement.costs).met;
        let floor = |changes| Outcome::QualityFloor { changes };
        match ending {
            Ending::Interrupted => Outcome::Interrupted,
            _ if met && honored => Outcome::Feasible,
            Ending::Rejected(changes, Rejection::Floor { .. }) => floor(changes),
            Ending::Rejected(changes, _) => Outcome::NoProgress { changes },
            _ if met => floor(Action::default()),
            Ending::Exhausted(because) => match blocked {
                Some(Blocked {
                    changes,
                    rejection: Rejection::Floor { .. },
                }) => floor(changes.clone()),
                _ => Outcome::Exhausted { because },
            },
            Ending::Goal => Outcome::Exhausted {
                because: Exhaustion::Actions,
            },
        }
    }

    /// The last obstacle met in the final state, the floor before others.
    fn blocked(&self) -> Option<Blocked> {
        let here = &self.history.current.assignment;
        let probes = self.history.probes().filter_map(|probe| {
            let rejection = probe.rejection.clone()?;
            let known = probe.assignment.check(&self.history.knobs).is_ok();
            known.then(|| Blocked {
                changes: here.changes_to(&probe.assignment),
                rejection,
            })
        });
        let trials = self.history.trials().filter_map(|trial| {
            Some(Blocked {
                changes: trial.changes.clone(),
                rejection: trial.rejection.clone()?,
            })
        });
        let formal = |rejection: &Rejection| {
            matches!(
                rejection,
                Rejection::NoChange | Rejection::Repeated | Rejection::Visited
            )
        };
        let obstacles: Vec<Blocked> = probes
            .chain(trials)
            .filter(|blocked| !formal(&blocked.rejection))
            .collect();
        let by_floor = |blocked: &&Blocked| matches!(blocked.rejection, Rejection::Floor { .. });
        obstacles.iter().rfind(by_floor).or(obstacles.last()).cloned()
    }

    fn tell(&mut self, event: &Event<'_>) -> Result<(), KmrError<S::Error>> {
        self.observer.observe(event).map_err(KmrError::Subject)
    }
}
