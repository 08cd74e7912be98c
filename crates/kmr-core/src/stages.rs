//! Stages: searches in a row, each on what the one before left.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::algorithm::{KmrError, Objective, Options, budgeted_kmr};
use crate::budget::{Budget, Floor};
use crate::history::State;
use crate::knob::Role;
use crate::measurement::Measurement;
use crate::outcome::{Conclusion, Exhaustion, Outcome};
use crate::policy::Policy;
use crate::subject::{Event, Observer, StagedSubject};

/// A rule that takes part in a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageRule {
    /// The rule's id, as in [`Knob::rule`](crate::Knob::rule).
    pub id: String,
    /// What it is for.
    pub role: Role,
}

/// Rules that are searched jointly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name, unique in the pipeline.
    pub name: String,
    /// The rules, in the order in which they are applied.
    pub rules: Vec<StageRule>,
    /// The cost at which this stage ends: for every reducing stage but the last one.
    #[serde(default)]
    pub until: Option<Budget>,
    /// The floor within this stage. The last stage without one has the pipeline's; others
    /// without one have none, so that a deep cut can be repaired later.
    #[serde(default)]
    pub floor: Option<Floor>,
}

impl Stage {
    /// Whether any of its rules reduces.
    pub fn reduces(&self) -> bool {
        self.rules.iter().any(|rule| rule.role == Role::Reduce)
    }
}

/// Stages in order, under one budget and one final floor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Pipeline {
    stages: Vec<Stage>,
    budget: Budget,
    floor: Option<Floor>,
}

#[derive(Deserialize)]
struct Unchecked {
    stages: Vec<Stage>,
    budget: Budget,
    floor: Option<Floor>,
}

impl TryFrom<Unchecked> for Pipeline {
    type Error = PipelineError;

    fn try_from(unchecked: Unchecked) -> Result<Self, PipelineError> {
        Pipeline::new(unchecked.stages, unchecked.budget, unchecked.floor)
    }
}

/// Stages that do not make a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// No stage.
    #[error("a pipeline needs at least one stage")]
    NoStages,
    /// A stage without rules.
    #[error("stage `{stage}` has no rules")]
    NoRules {
        /// The stage.
        stage: String,
    },
    /// Two stages of one name.
    #[error("there are two stages named `{stage}`")]
    RepeatedStage {
        /// The name.
        stage: String,
    },
    /// A rule twice in one stage.
    #[error("stage `{stage}` names rule `{rule}` twice")]
    RepeatedRule {
        /// The stage.
        stage: String,
        /// The rule.
        rule: String,
    },
    /// A reducing stage with another after it, and no end.
    #[error("stage `{stage}` reduces and is not the last to do so, so it needs `until`")]
    NoUntil {
        /// The stage.
        stage: String,
    },
    /// An end that nothing in the stage works towards.
    #[error("stage `{stage}` has `until`, but none of its rules reduces the cost")]
    UselessUntil {
        /// The stage.
        stage: String,
    },
}

impl Pipeline {
    /// Checks the stages against one another.
    pub fn new(stages: Vec<Stage>, budget: Budget, floor: Option<Floor>) -> Result<Self, PipelineError> {
        let Some(last_reducing) = stages.len().checked_sub(1) else {
            return Err(PipelineError::NoStages);
        };
        let last_reducing = stages.iter().rposition(Stage::reduces).unwrap_or(last_reducing);
        let mut names = HashSet::new();
        for (index, stage) in stages.iter().enumerate() {
            let name = || stage.name.clone();
            if stage.rules.is_empty() {
                return Err(PipelineError::NoRules { stage: name() });
            }
            if !names.insert(&stage.name) {
                return Err(PipelineError::RepeatedStage { stage: name() });
            }
            for (position, rule) in stage.rules.iter().enumerate() {
                if stage.rules[..position].iter().any(|earlier| earlier.id == rule.id) {
                    let rule = rule.id.clone();
                    return Err(PipelineError::RepeatedRule { stage: name(), rule });
                }
            }
            match (&stage.until, stage.reduces()) {
                (None, true) if index < last_reducing => {
                    return Err(PipelineError::NoUntil { stage: name() });
                }
                (Some(_), false) => return Err(PipelineError::UselessUntil { stage: name() }),
                _ => {}
            }
        }
        Ok(Pipeline { stages, budget, floor })
    }

    /// The stages in order.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// What the final costs must come down to.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// What the final quality must not fall below.
    pub fn floor(&self) -> Option<Floor> {
        self.floor
    }
}

/// How a pipeline ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PipelineConclusion {
    /// Budget and final floor, judged on the final measurement.
    pub outcome: Outcome,
    /// The original model's measurement.
    pub reference: Measurement,
    /// The final model's measurement.
    pub measurement: Measurement,
    /// One conclusion for each stage that was entered.
    pub stages: Vec<Conclusion>,
}

/// Runs the stages in order: each is a search of its own from the base that the barrier of the one
/// before left, with a policy made for it. A stage that falls short of its `until` hands on the
/// best it has; budget and floor are judged once, at the end. A relative floor refers to the
/// original model, in every stage.
///
/// # Errors
/// As [`budgeted_kmr`].
pub fn run_stages<S, P, O>(
    subject: &mut S,
    pipeline: &Pipeline,
    mut policy_for: impl FnMut(&Stage) -> P,
    options: &Options,
    observer: &mut O,
) -> Result<PipelineConclusion, KmrError<S::Error>>
where
    S: StagedSubject + ?Sized,
    P: Policy,
    O: Observer<S::Error> + ?Sized,
{
    let mut before: Option<(Measurement, State)> = None;
    let mut conclusions: Vec<Conclusion> = Vec::new();
    let mut interrupted = false;
    for (index, stage) in pipeline.stages.iter().enumerate() {
        observer
            .observe(&Event::StageEntered { index, stage })
            .map_err(KmrError::Subject)?;
        subject.enter(stage).map_err(KmrError::Subject)?;
        let is_last = index + 1 == pipeline.stages.len();
        let objective = Objective {
            budget: stage.until.as_ref().unwrap_or(&pipeline.budget).clone(),
            floor: stage.floor.or(if is_last { pipeline.floor } else { None }),
            reference: before.as_ref().map(|(reference, _)| reference.clone()),
            known_quality: before.as_ref().and_then(|(_, last)| last.measurement.quality.clone()),
        };
        let mut policy = policy_for(stage);
        let conclusion = budgeted_kmr(subject, &mut policy, &objective, options, observer)?;
        interrupted = conclusion.outcome == Outcome::Interrupted;
        let reference = conclusion.history.reference.clone();
        before = Some((reference, conclusion.best.clone()));
        conclusions.push(conclusion);
        if interrupted {
            break;
        }
        subject.barrier().map_err(KmrError::Subject)?;
    }
    let Some((reference, State { measurement, .. })) = before else {
        return Err(KmrError::Start {
            detail: PipelineError::NoStages.to_string(),
        });
    };
    let outcome = if interrupted {
        Outcome::Interrupted
    } else {
        judge(pipeline, &reference, &measurement, &conclusions)
    };
    Ok(PipelineConclusion {
        outcome,
        reference,
        measurement,
        stages: conclusions,
    })
}

fn judge(pipeline: &Pipeline, reference: &Measurement, last: &Measurement, conclusions: &[Conclusion]) -> Outcome {
    let met = pipeline.budget.standing(&last.costs).is_ok_and(|standing| standing.met);
    let quality = last.quality_value().unwrap_or(f64::NAN);
    let original = reference.quality_value().unwrap_or(f64::NAN);
    let honored = pipeline.floor.is_none_or(|floor| floor.holds(quality, original));
    if met && honored {
        return Outcome::Feasible;
    }
    let stages = pipeline.stages.iter().zip(conclusions).rev();
    let mut shortfalls = stages
        .filter(|(stage, conclusion)| stage.reduces() && conclusion.outcome != Outcome::Feasible)
        .map(|(_, conclusion)| conclusion.outcome.clone());
    if met {
        let by_floor = |outcome: &Outcome| matches!(outcome, Outcome::QualityFloor { .. });
        let none = Outcome::QualityFloor {
            changes: Default::default(),
        };
        return shortfalls.find(by_floor).unwrap_or(none);
    }
    shortfalls.next().unwrap_or(Outcome::Exhausted {
        because: Exhaustion::Stages,
    })
}
