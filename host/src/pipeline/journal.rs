//! What a run did, written down as it happens and shown as it goes.

use std::sync::Arc;

use kmr_core::{Action, Assignment, Event, Fidelity, Knobs, Measurement, Observer, Probe, Trial};
use kmr_run::{ContenderReport, Journal, SettingReport, StepReport};
use serde_json::Value;

use super::{context::Context, subject::SubjectFailure};
use crate::{failure::Failure, table::number};

/// Writes every event to the journal, shows progress, and keeps what the report needs.
pub struct Recorder {
    context: Arc<Context>,
    journal: Journal,
    budget_meter: String,
    quality_meter: String,
    /// -1 where less of the quality meter is better.
    sign: f64,
    stage: String,
    knobs: Knobs,
    probes: usize,
    trials: usize,
    /// Every step that was tried.
    pub steps: Vec<StepReport>,
    /// Every candidate that the policy named and had measured in full, not yet on the holdout.
    pub contenders: Vec<(Assignment, ContenderReport)>,
}

impl Recorder {
    /// A recorder into `journal`.
    pub fn new(context: Arc<Context>, journal: Journal, budget_meter: &str, quality_meter: &str, sign: f64) -> Self {
        Self {
            context,
            journal,
            budget_meter: budget_meter.to_owned(),
            quality_meter: quality_meter.to_owned(),
            sign,
            stage: String::new(),
            knobs: Knobs::default(),
            probes: 0,
            trials: 0,
            steps: Vec::new(),
            contenders: Vec::new(),
        }
    }

    fn tried(&mut self, trial: &Trial) {
        self.trials += 1;
        let step = self.step(trial);
        let (verdict, reason) = if step.accepted {
            ("kept", String::new())
        } else {
            ("dropped", format!(": {}", step.reason))
        };
        self.context.progress.line(&format!(
            "{:>4}  {}{}  {verdict}{reason}",
            self.trials,
            trial.changes.describe(&self.knobs),
            self.readings(trial.measurement.as_ref()),
        ));
        self.steps.push(step);
    }

    /// A candidate that the policy has a name for.
    fn named(&mut self, label: &str, probe: &Probe) {
        let Some(measured) = &probe.measurement else {
            return;
        };
        let quality = measured.quality.as_ref();
        let readings = self.readings(Some(measured));
        let rejection = probe.rejection.as_ref().map(|rejection| format!("  {rejection}"));
        self.context
            .progress
            .line(&format!("      {label}{readings}{}", rejection.unwrap_or_default()));
        let contender = ContenderReport {
            stage: self.stage.clone(),
            label: label.to_owned(),
            assignment: self.settings(&probe.assignment),
            costs: measured.costs.clone(),
            quality: quality.map(|quality| self.sign * quality.value),
            samples: quality.map(|quality| quality.samples),
            holdout: None,
        };
        self.contenders.push((probe.assignment.clone(), contender));
    }

    /// The readings of the budget's first meter and of the quality meter.
    fn readings(&self, measured: Option<&Measurement>) -> String {
        let cost = measured.and_then(|measured| measured.costs.get(&self.budget_meter));
        let cost = cost.map(|cost| format!("  {} {}", self.budget_meter, number(*cost)));
        let quality = measured.and_then(Measurement::quality_value);
        let quality = quality.map(|quality| format!("  {} {:.4}", self.quality_meter, self.sign * quality));
        cost.unwrap_or_default() + &quality.unwrap_or_default()
    }

    /// The knobs that are not off.
    fn settings(&self, assignment: &Assignment) -> Vec<SettingReport> {
        let knobs = self.knobs.iter().zip(assignment.as_slice());
        let on = knobs.filter(|(_, value)| **value > 0);
        let setting = on.map(|(knob, &value)| SettingReport {
            rule: knob.rule.clone(),
            knob: knob.name.clone(),
            target: knob.target.clone(),
            value: serde_json::to_value(knob.values.get(value)).unwrap_or(Value::Null),
        });
        setting.collect()
    }

    fn step(&self, trial: &Trial) -> StepReport {
        let measured = trial.measurement.as_ref();
        let quality = measured.and_then(|measurement| measurement.quality.as_ref());
        let (rule, knob, target, value) = self.described(&trial.changes);
        StepReport {
            stage: self.stage.clone(),
            rule,
            knob,
            target,
            value,
            accepted: trial.accepted,
            reason: match &trial.rejection {
                Some(rejection) => rejection.to_string(),
                None => "the cost fell and the quality holds".to_owned(),
            },
            cost: measured.and_then(|measurement| measurement.costs.get(&self.budget_meter).copied()),
            quality: quality.map(|quality| self.sign * quality.value),
            samples: quality.map(|quality| quality.samples),
            costs: measured
                .map(|measurement| measurement.costs.clone())
                .unwrap_or_default(),
        }
    }

    /// Rule, knob, target and value of an action; those of several changes joined.
    fn described(&self, action: &Action) -> (String, String, String, Value) {
        let known: Vec<_> = action
            .changes()
            .iter()
            .filter_map(|change| Some((self.knobs.get(change.knob)?, change.value)))
            .collect();
        let joined = |names: Vec<&str>| {
            let mut unique: Vec<&str> = Vec::new();
            for name in names {
                if !unique.contains(&name) {
                    unique.push(name);
                }
            }
            unique.join("+")
        };
        let values: Vec<Value> = known
            .iter()
            .map(|(knob, value)| serde_json::to_value(knob.values.get(*value)).unwrap_or(Value::Null))
            .collect();
        (
            joined(known.iter().map(|(knob, _)| knob.rule.as_str()).collect()),
            joined(known.iter().map(|(knob, _)| knob.name.as_str()).collect()),
            joined(known.iter().map(|(knob, _)| knob.target.as_str()).collect()),
            match <[Value; 1]>::try_from(values) {
                Ok([single]) => single,
                Err(several) => Value::Array(several),
            },
        )
    }
}

impl Observer<SubjectFailure> for Recorder {
    fn observe(&mut self, event: &Event<'_>) -> Result<(), SubjectFailure> {
        self.journal
            .append(event)
            .map_err(|error| SubjectFailure(Failure::from(error)))?;
        match event {
            Event::StageEntered { stage, .. } => {
                self.stage.clone_from(&stage.name);
                self.context.progress.line(&format!("stage {}", stage.name));
            }
            Event::Started { history } => {
                self.knobs = history.knobs.clone();
                let knobs = self.knobs.len();
                let plural = if knobs == 1 { "" } else { "s" };
                self.context.progress.line(&format!("      {knobs} knob{plural}"));
            }
            Event::Probed { probe } => {
                self.probes += 1;
                if let (Some(label), Fidelity::FULL) = (&probe.label, probe.fidelity) {
                    self.named(label, probe);
                }
                self.context.progress.now(format!(
                    "{} candidates compared, {} steps tried",
                    self.probes, self.trials
                ));
            }
            Event::Tried { trial } => self.tried(trial),
            _ => {}
        }
        Ok(())
    }
}
