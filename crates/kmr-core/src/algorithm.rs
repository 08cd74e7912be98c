//! Budgeted-KMR: Algorithm 1 with assignment semantics, floors and recoveries.

mod early;
mod search;

use thiserror::Error;

use crate::budget::{Budget, Floor};
use crate::history::{History, Remaining, SCHEMA, State};
use crate::knob::{Knob, KnobError, Knobs, Role};
use crate::measurement::{Fidelity, Measurement, Quality};
use crate::outcome::Conclusion;
use crate::policy::{Policy, PolicyError};
use crate::subject::{Event, Observer, Subject, SubjectError};
use search::Search;

/// What a search is to reach.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// What the costs must come down to.
    pub budget: Budget,
    /// What the quality must not fall below.
    pub floor: Option<Floor>,
    /// What a relative floor refers to. By default the start of this search.
    pub reference: Option<Measurement>,
    /// The quality at the start at full fidelity, where it is known already.
    pub known_quality: Option<Quality>,
}

impl Objective {
    /// A budget and nothing else.
    pub fn new(budget: Budget) -> Self {
        Objective {
            budget,
            floor: None,
            reference: None,
            known_quality: None,
        }
    }

    /// The same with a floor.
    pub fn with_floor(self, floor: Floor) -> Self {
        Objective {
            floor: Some(floor),
            ..self
        }
    }
}

/// What a rejected reduction means for the search.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnNoProgress {
    /// The search ends, as in the paper.
    Stop,
    /// The action is discarded and the policy asked again: each action at most once per state.
    #[default]
    Skip,
}

/// How a search goes about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What a rejected reduction means.
    pub on_no_progress: OnNoProgress,
    /// The most steps that are accepted. Default: N(1 + R), which steps away from off never
    /// reach before they run out of values.
    pub max_steps: Option<usize>,
    /// R: how many recoveries may follow one accepted reduction. Where no knob reduces, so many
    /// in all.
    pub recoveries: usize,
    /// With which confidence a recovery's quality must be above the present one, where samples
    /// are scored; in (0, 1). By default any rise will do.
    pub recovery_confidence: Option<f64>,
    /// The most probes from one state.
    pub max_probes: usize,
    /// After so many consecutive asks that bring nothing new, the policy counts as exhausted.
    pub max_useless_asks: usize,
    /// Whether clear losers are rejected on part of the data.
    pub early_rejection: Option<EarlyRejection>,
}

/// How reductions are given up before all samples are measured: their quality is asked for on
/// growing numbers of samples, rounded up to hundreds, and a reduction that fails a
/// [`SequentialDrop`](crate::statistics::SequentialDrop) against the floor is rejected by it at
/// once. Those that do not fail are judged on all samples as ever. Needs scores in [0, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyRejection {
    /// The most often that a reduction is given up whose mean score is not below the floor; in
    /// (0, 1).
    pub alpha: f64,
    /// Samples to begin with.
    pub first: usize,
    /// By which factor they grow; above 1.
    pub growth: f64,
}

impl Default for EarlyRejection {
    fn default() -> Self {
        EarlyRejection {
            alpha: 0.001,
            first: 100,
            growth: 2.0,
        }
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            on_no_progress: OnNoProgress::default(),
            max_steps: None,
            recoveries: 1,
            recovery_confidence: None,
            max_probes: 10_000,
            max_useless_asks: 100,
            early_rejection: None,
        }
    }
}

/// A search that could not go on. What was found until then is with the observer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KmrError<E> {
    /// The subject or the observer failed.
    #[error(transparent)]
    Subject(E),
    /// The policy failed.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The subject's knobs cannot be searched.
    #[error(transparent)]
    Knobs(#[from] KnobError),
    /// A floor or confidence that is no usable number.
    #[error("{what} must be {domain}; got {value}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// What it may be.
        domain: &'static str,
        /// What it is.
        value: f64,
    },
    /// The model to start from cannot be measured.
    #[error("the model to start from cannot be measured: {detail}")]
    Start {
        /// Why.
        detail: String,
    },
    /// The subject was interrupted before the start was measured.
    #[error("interrupted before the model to start from was measured")]
    InterruptedAtStart,
}

/// Algorithm 1: drives `subject` towards `objective` by what `policy` asks for.
///
/// From the state with every knob off, the loop asks the policy until the budget is met:
/// probes are measured and recorded; a proposed step is accepted if its cost strictly falls
/// (its violation Σ max(0, Cᵢ/Bᵢ − 1), under several limits) and then its quality honors the floor.
/// A step that changes recovering knobs alone is a recovery: its cost must not rise and its quality
/// must rise; at most R of them follow one accepted reduction, also the one that met the budget.
///
/// Proposition 1: cost never rises over accepted steps, no assignment is accepted by two
/// reductions, at most `max_steps` steps are accepted, at most N trials are made from one state
/// with N = Σ(|V_k| − 1) over all knobs, and the loop halts whatever policy and meters answer.
///
/// # Errors
/// When subject, observer or policy fail, and when the start cannot be measured. A search that
/// falls short is no error but an [`Outcome`](crate::Outcome).
pub fn budgeted_kmr<S, P, O>(
    subject: &mut S,
    policy: &mut P,
    objective: &Objective,
    options: &Options,
    observer: &mut O,
) -> Result<Conclusion, KmrError<S::Error>>
where
    S: Subject + ?Sized,
    P: Policy + ?Sized,
    O: Observer<S::Error> + ?Sized,
{
    check_settings(objective, options)?;
    let knobs = Knobs::new(subject.knobs().map_err(KmrError::Subject)?)?;
    let history = start(subject, knobs, objective, options)?;
    observer
        .observe(&Event::Started { history: &history })
        .map_err(KmrError::Subject)?;
    Search::new(subject, policy, observer, options, history).run()
}

fn check_settings<E>(objective: &Objective, options: &Options) -> Result<(), KmrError<E>> {
    if let Some(Floor::DropAtMost(value) | Floor::AtLeast(value)) = objective.floor
        && !value.is_finite()
    {
        return Err(KmrError::Setting {
            what: "the floor",
            domain: "a finite number",
            value,
        });
    }
    let setting = |what, domain, value| Err(KmrError::Setting { what, domain, value });
    let within = |value: f64| value > 0.0 && value < 1.0;
    match (options.recovery_confidence, options.early_rejection) {
        (Some(value), _) if !within(value) => setting("the confidence", "between 0 and 1", value),
        (_, Some(EarlyRejection { alpha, .. })) if !within(alpha) => {
            setting("the error rate of early rejections", "between 0 and 1", alpha)
        }
        (_, Some(EarlyRejection { growth, .. })) if !(growth.is_finite() && growth > 1.0) => {
            setting("the growth of early rejections", "above 1", growth)
        }
        _ => Ok(()),
    }
}

fn start<S: Subject + ?Sized>(
    subject: &mut S,
    knobs: Knobs,
    objective: &Objective,
    options: &Options,
) -> Result<History, KmrError<S::Error>> {
    let measurement = measure_start(subject, &knobs, objective)?;
    let met = objective
        .budget
        .standing(&measurement.costs)
        .is_ok_and(|standing| standing.met);
    let reducing = knobs.levels(Role::Reduce);
    let recovering = knobs.levels(Role::Recover);
    let recoveries = if recovering == 0 { 0 } else { options.recoveries };
    // Without reductions to follow, the recoveries stand by themselves.
    let (bound, at_once) = match reducing {
        0 => (recoveries, recoveries),
        _ => (reducing.saturating_mul(recoveries.saturating_add(1)), 0),
    };
    let reference = objective.reference.as_ref().unwrap_or(&measurement).clone();
    Ok(History {
        schema: SCHEMA,
        budget: objective.budget.clone(),
        floor: objective.floor,
        reference,
        step: 0,
        met,
        remaining: Remaining {
            steps: options.max_steps.unwrap_or(bound),
            trials: knobs.iter().map(Knob::levels).sum(),
            probes: options.max_probes,
            recoveries: at_once,
        },
        current: State {
            assignment: knobs.off(),
            measurement,
        },
        knobs,
        records: Vec::new(),
    })
}

fn measure_start<S: Subject + ?Sized>(
    subject: &mut S,
    knobs: &Knobs,
    objective: &Objective,
) -> Result<Measurement, KmrError<S::Error>> {
    let failed = |error| match error {
        SubjectError::Refused(detail) => KmrError::Start { detail },
        SubjectError::Interrupted => KmrError::InterruptedAtStart,
        SubjectError::Failed(error) => KmrError::Subject(error),
    };
    let costs = subject.cost(&knobs.off()).map_err(failed)?;
    let unmeasurable = |detail| KmrError::Start { detail };
    objective
        .budget
        .standing(&costs)
        .map_err(|error| unmeasurable(error.to_string()))?;
    let quality = match &objective.known_quality {
        Some(quality) => quality.clone(),
        None => subject.quality(&knobs.off(), Fidelity::FULL).map_err(failed)?,
    };
    let reference = match &objective.reference {
        Some(reference) => reference.quality_value().unwrap_or(f64::NAN),
        None => quality.value,
    };
    for value in [quality.value, reference] {
        if !value.is_finite() {
            let detail = format!("its quality is {value}, which is not a finite number");
            return Err(unmeasurable(detail));
        }
    }
    Ok(Measurement {
        costs,
        quality: Some(quality),
    })
}
