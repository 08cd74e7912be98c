//! What the loop drives, and who watches it.

use serde::Serialize;
use thiserror::Error;

use crate::assignment::Assignment;
use crate::history::{History, Probe, State, Trial};
use crate::knob::Knob;
use crate::measurement::{Costs, Fidelity, Quality};
use crate::outcome::Conclusion;
use crate::policy::Ask;
use crate::stages::Stage;

/// Why a subject gave no answer about a candidate.
#[derive(Debug, Error)]
pub enum SubjectError<E> {
    /// This candidate cannot be made or measured, others can: it is rejected with this reason.
    #[error("{0}")]
    Refused(String),
    /// Somebody asked to stop during the measurement; nothing is recorded.
    #[error("interrupted")]
    Interrupted,
    /// The run cannot go on.
    #[error(transparent)]
    Failed(#[from] E),
}

/// A model under reduction, as the loop sees it.
///
/// Assignments name candidates made from the subject's present *masters*. Answers must be the same
/// whenever the same candidate is asked about; the loop stays safe when they are not.
///
/// **Recovering knobs.** A candidate with a recovering knob away from off has that recovery (some
/// training, say) done on it. [`adopt`](Subject::adopt)ing it replaces the masters by the
/// recovered ones, after which the knob is off again in the loop's assignment: the effect lives in
/// the masters, and the same recovery can be asked for once more after the next reduction.
pub trait Subject {
    /// What makes the run impossible to continue.
    type Error;

    /// The knobs on offer, in an order that does not change during a search.
    fn knobs(&mut self) -> Result<Vec<Knob>, Self::Error>;

    /// Every cost of a candidate: cheap, exact, counted on what would be exported.
    fn cost(&mut self, assignment: &Assignment) -> Result<Costs, SubjectError<Self::Error>>;

    /// The quality of a candidate: expensive, and asked only after its cost has passed.
    fn quality(&mut self, assignment: &Assignment, fidelity: Fidelity) -> Result<Quality, SubjectError<Self::Error>>;

    /// Makes a candidate the subject's present state. Called for each accepted step, and once more
    /// at the end when the best state is not the last one accepted.
    fn adopt(&mut self, assignment: &Assignment) -> Result<(), Self::Error>;

    /// Whether somebody asked to stop. Looked at before every ask and every measurement.
    fn interrupted(&self) -> bool {
        false
    }
}

/// A subject that goes through stages.
pub trait StagedSubject: Subject {
    /// Opens a stage: from now on [`knobs`](Subject::knobs) offers those of its rules alone, on
    /// the present base.
    fn enter(&mut self, stage: &Stage) -> Result<(), Self::Error>;

    /// Closes the stage: the adopted state becomes the base of the next one, in which all knobs
    /// off mean this very state.
    fn barrier(&mut self) -> Result<(), Self::Error>;
}

/// What happens during a search, in order. The first thing to be written to a journal.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event<'a> {
    /// A stage begins.
    StageEntered {
        /// Its position.
        index: usize,
        /// The stage.
        stage: &'a Stage,
    },
    /// The start has been measured; the history is still empty.
    Started {
        /// Knobs, budget, floor, reference and start.
        history: &'a History,
    },
    /// The policy answered.
    Asked {
        /// Its answer, unchecked.
        ask: &'a Ask,
    },
    /// A candidate was measured without adopting it, or was not worth measuring.
    Probed {
        /// What came of it.
        probe: &'a Probe,
    },
    /// A step was judged: accepted or rejected with a reason.
    Tried {
        /// What came of it.
        trial: &'a Trial,
    },
    /// The subject has made a candidate its present state.
    Adopted {
        /// The candidate, with its recoveries on.
        assignment: &'a Assignment,
        /// The state that it became, with its recoveries in the masters.
        state: &'a State,
    },
    /// The search ended.
    Concluded {
        /// How.
        conclusion: &'a Conclusion,
    },
}

/// Sees every event as it happens. An error (a journal that cannot be written) ends the run.
pub trait Observer<E> {
    /// Takes notice of one event.
    fn observe(&mut self, event: &Event<'_>) -> Result<(), E>;
}

impl<E, F: FnMut(&Event<'_>) -> Result<(), E>> Observer<E> for F {
    fn observe(&mut self, event: &Event<'_>) -> Result<(), E> {
        self(event)
    }
}

/// The observer that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl<E> Observer<E> for Silent {
    fn observe(&mut self, _: &Event<'_>) -> Result<(), E> {
        Ok(())
    }
}
