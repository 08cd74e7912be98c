//! The end of a run: the holdout's verdict, the artifact, its proof, and the report.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use kmr_core::{
    Assignment, Conclusion, Outcome as Found, PipelineConclusion, Role, SubjectError,
    statistics::{Comparison, non_inferiority},
};
use kmr_formats::Dataset;
use kmr_manifest::Floor;
use kmr_model::{
    Model,
    codec::ModelFiles,
    cost::{Costs, LayerCost},
    shapes::Shapes,
};
use kmr_platform::Content;
use kmr_run::{
    ArtifactReport, BeforeAfter, BudgetReport, Certificate, ContenderReport, EngineReading, FileReport, FloorTest,
    HoldoutReport, LatencyReport, Outcome, PluginReport, QualityReport, REPORT_SCHEMA, Report, RunFolder, SearchReport,
    sha256,
};

use super::{
    catalog::COST_METERS,
    context::{Context, Executor},
    forward::{BATCH, Forward},
    journal::Recorder,
    layers::layers,
    plan::Plan,
    subject::{Candidate, Subject, SubjectFailure},
};
use crate::{exit, failure::Failure, files, latency, table::number};

/// What a finished search hands over.
pub struct Finish<'r> {
    /// What was asked for.
    pub plan: &'r Plan,
    /// What every part shares.
    pub context: Arc<Context>,
    /// The search's subject, at its best state.
    pub subject: &'r mut Subject,
    /// What was recorded.
    pub recorder: Recorder,
    /// How the search ended.
    pub conclusion: PipelineConclusion,
    /// The budget's limits: meter and value.
    pub limits: Vec<(String, f64)>,
    /// The run's folder.
    pub folder: &'r RunFolder,
    /// Whether latency is measured where ONNX Runtime is there.
    pub latency: bool,
    /// The model's file.
    pub model: FileReport,
    /// The manifest's file.
    pub manifest: FileReport,
    /// When the run began.
    pub started: Instant,
}

/// Judges, writes and proves the result.
pub fn finish(mut run: Finish<'_>) -> Result<Report, Failure> {
    let original = run.subject.original();
    let result = run.subject.current().clone();
    // Whatever goes wrong from here on, the model that was found is on disk.
    run.write_files(RunFolder::BEST_EFFORT, &run.context.files(&result.model)?)?;
    // Stopping ended the search; what it found is still judged.
    run.context.interrupted.store(false, Ordering::Relaxed);
    let quality = run.quality(&original, &result)?;
    let (outcome, message) = run.outcome(&quality);
    let name = match outcome {
        Outcome::Feasible => RunFolder::MODEL,
        _ => RunFolder::BEST_EFFORT,
    };
    let before = measured(run.subject.original_costs())?;
    let after = run.costs(&result)?;
    let meters = run.meters(&original, &result, &before, &after, &quality)?;
    let contenders = run.contenders()?;
    // Only now: who interrupts the judging finds no artifact that looks judged.
    run.context.progress.now("writing and verifying the artifact");
    let artifact = run.write(name, &result.model)?;
    let limits: Vec<BudgetReport> = run
        .limits
        .iter()
        .map(|(meter, limit)| {
            let reached = after.get(meter).copied().unwrap_or(f64::NAN);
            BudgetReport {
                meter: meter.clone(),
                limit: *limit,
                reached,
                met: reached <= *limit,
            }
        })
        .collect();
    if outcome == Outcome::Feasible
        && let Some(missed) = limits.iter().find(|limit| !limit.met)
    {
        return Err(unverified(format!(
            "the artifact reads {} {} where {} is allowed",
            number(missed.reached),
            missed.meter,
            number(missed.limit)
        )));
    }
    let report = Report {
        schema: REPORT_SCHEMA,
        kmr: env!("CARGO_PKG_VERSION").to_owned(),
        outcome,
        exit_code: exit_code(outcome),
        message,
        manifest: run.manifest.clone(),
        model: run.model.clone(),
        models: run
            .context
            .models
            .iter()
            .map(|(name, further)| (name.clone(), further.file.clone()))
            .collect(),
        engine: engine(&run.context),
        seed: run.context.seed,
        budget: limits
            .first()
            .cloned()
            .ok_or_else(|| Failure::new(exit::INTERNAL, "the budget has no limit"))?,
        limits,
        artifact,
        meters,
        quality,
        latency: run.latency(&result, outcome),
        steps: std::mem::take(&mut run.recorder.steps),
        contenders,
        layers: layers(
            &costs(&run.context.reference, &run.context.reference_shapes),
            &costs(&result.model, &result.shapes),
            &result.changes,
        ),
        plugins: run
            .subject
            .plugins()
            .iter()
            .map(|plugin| PluginReport {
                name: plugin.metadata().plugin.name.clone(),
                version: plugin.metadata().plugin.version.clone(),
                sha256: plugin.sha256().to_owned().into(),
            })
            .collect(),
        seconds: run.started.elapsed().as_secs_f64(),
    };
    run.folder.write_report(&report)?;
    let certificate = Certificate::of(&report, run.context.splits.digests());
    run.folder.write_certificate(&certificate)?;
    Ok(report)
}

fn exit_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Feasible => exit::SUCCESS,
        Outcome::Exhausted | Outcome::NoProgress => exit::BUDGET,
        Outcome::QualityFloor => exit::QUALITY,
        Outcome::Interrupted => exit::INTERRUPTED,
    }
}

fn engine(context: &Context) -> String {
    let identity = context.builtin.engine.identity();
    format!("{} {} {}", identity.name, identity.version, identity.instruction_set)
}

fn unverified(message: String) -> Failure {
    Failure::new(exit::VERIFICATION, format!("the artifact does not verify: {message}"))
        .help("this is a defect of kmr or of the disk; the journal in the run's folder has every step")
}

/// What was measured, or why the run cannot go on.
pub fn measured<T>(result: Result<T, SubjectError<SubjectFailure>>) -> Result<T, Failure> {
    result.map_err(|error| match error {
        SubjectError::Failed(SubjectFailure(failure)) => failure,
        SubjectError::Interrupted => Failure::new(exit::INTERRUPTED, "interrupted while the result was judged"),
        SubjectError::Refused(message) => Failure::new(exit::PLUGIN_FAILED, message),
    })
}

impl Finish<'_> {
    /// Quality on the search split, and the verdict of the holdout.
    fn quality(&mut self, original: &Candidate, result: &Candidate) -> Result<QualityReport, Failure> {
        let meter = self.plan.resolved.quality.meter.clone();
        let search = self.context.splits.search.clone();
        self.context.progress.now("judging the result");
        let before = measured(self.subject.read(&meter, original, &search, None))?;
        let after = measured(self.subject.read(&meter, result, &search, None))?;
        let floor = self.plan.resolved.quality.floor;
        let search_report = SearchReport {
            before: before.value,
            after: after.value,
            samples: search.len(),
        };
        let interrupted = self.conclusion.outcome == Found::Interrupted;
        let holdout = match self.context.splits.holdout.clone().filter(|_| !interrupted) {
            Some(data) => Some(self.holdout(&meter, original, result, &data)?),
            None => None,
        };
        Ok(QualityReport {
            floor: match floor {
                Floor::DropAtMost(drop) if drop.is_infinite() => "none".to_owned(),
                Floor::DropAtMost(drop) => format!("a drop of at most {drop}"),
                Floor::AtLeast(least) => format!("at least {least}"),
            },
            meter,
            search: search_report,
            holdout,
        })
    }

    /// The holdout in every engine that is there; the verdict is ONNX Runtime's where that runs the result.
    fn holdout(
        &mut self,
        meter: &str,
        original: &Candidate,
        result: &Candidate,
        data: &Arc<Dataset>,
    ) -> Result<HoldoutReport, Failure> {
        let context = self.context.clone();
        let report = self.holdout_in(&context.builtin, meter, original, result, data)?;
        let Some(runtime) = &context.runtime else {
            return Ok(report);
        };
        match self.holdout_in(runtime, meter, original, result, data) {
            Ok(judged) => Ok(HoldoutReport {
                engines: [report.engines, judged.engines].concat(),
                ..judged
            }),
            Err(failure) if Arc::ptr_eq(runtime, &context.search) => Err(failure),
            Err(failure) => {
                let failure = failure.render(false);
                log::warn!("ONNX Runtime does not judge the holdout: {}", failure.trim_end());
                Ok(report)
            }
        }
    }

    fn holdout_in(
        &mut self,
        executor: &Arc<Executor>,
        meter: &str,
        original: &Candidate,
        result: &Candidate,
        data: &Arc<Dataset>,
    ) -> Result<HoldoutReport, Failure> {
        let before = measured(self.subject.read_in(executor, meter, original, data, None))?;
        let after = measured(self.subject.read_in(executor, meter, result, data, None))?;
        let binary = |reading: &kmr_sdk::Reading| reading.scores.iter().all(|score| [0.0, 1.0].contains(score));
        let binary = !before.scores.is_empty() && binary(&before) && binary(&after);
        let before = self.subject.quality_of(meter, &before, data.len());
        let after = self.subject.quality_of(meter, &after, data.len());
        let report = self.verdict(meter, &before, &after)?;
        let identity = executor.engine.identity();
        let reading = EngineReading {
            engine: identity.name.clone(),
            version: identity.version,
            instruction_set: identity.instruction_set,
            before: report.before,
            after: report.after,
            lost: report.lost,
            gained: report.gained,
            binary,
        };
        Ok(HoldoutReport {
            engine: identity.name,
            engines: vec![reading],
            ..report
        })
    }

    /// How long inference takes, before and after; nothing is decided by it.
    fn latency(&self, result: &Candidate, outcome: Outcome) -> Vec<LatencyReport> {
        let wanted = self.latency && self.context.runtime.is_some() && outcome != Outcome::Interrupted;
        let Some(found) = kmr_onnxruntime::find().ok().flatten().filter(|_| wanted) else {
            return Vec::new();
        };
        self.context.progress.now("measuring latency");
        let models = [&self.context.reference, &result.model];
        latency::compare(found, models, &self.context.feed_shapes).unwrap_or_else(|error| {
            log::warn!("latency is not measured: {error}");
            Vec::new()
        })
    }

    fn verdict(
        &self,
        meter: &str,
        before: &kmr_core::Quality,
        after: &kmr_core::Quality,
    ) -> Result<HoldoutReport, Failure> {
        let quality = &self.plan.resolved.quality;
        let sign = self.subject.sign(meter);
        // A floor of its own value is a drop from where the original stands on this very split.
        let margin = match quality.floor {
            Floor::DropAtMost(drop) => drop,
            Floor::AtLeast(least) => before.value - sign * least,
        };
        let failed =
            |error: kmr_core::statistics::StatisticsError| Failure::new(exit::PLUGIN_FAILED, error.to_string());
        let (mut lost, mut gained, mut test) = (0, 0, None);
        let mut passed = after.value >= before.value - margin;
        if !before.scores.is_empty() && before.scores.len() == after.scores.len() {
            let comparison = Comparison::new(&before.scores, &after.scores).map_err(failed)?;
            (lost, gained) = (comparison.lost, comparison.gained);
            if margin.is_finite() && margin > 0.0 {
                let tested = non_inferiority(&comparison, margin, quality.confidence).map_err(failed)?;
                passed = tested.passed;
                test = Some(FloorTest {
                    margin,
                    confidence: quality.confidence,
                    upper_bound: tested.upper_bound,
                });
            }
        }
        Ok(HoldoutReport {
            before: sign * before.value,
            after: sign * after.value,
            samples: after.samples,
            lost,
            gained,
            test,
            passed,
            engine: String::new(),
            engines: Vec::new(),
        })
    }

    /// How the run ended, and in words.
    fn outcome(&self, quality: &QualityReport) -> (Outcome, String) {
        let words = self
            .conclusion
            .stages
            .last()
            .map(Conclusion::describe)
            .unwrap_or_default();
        match &self.conclusion.outcome {
            Found::Feasible => match &quality.holdout {
                Some(holdout) if !holdout.passed => (Outcome::QualityFloor, holdout_words(quality, holdout)),
                _ => (Outcome::Feasible, words),
            },
            Found::Exhausted { .. } => (Outcome::Exhausted, format!("no action is left; {words}")),
            Found::NoProgress { .. } => (
                Outcome::NoProgress,
                format!("an action did not lower the cost; {words}"),
            ),
            Found::QualityFloor { .. } => (
                Outcome::QualityFloor,
                match self.only_recovers() {
                    true => format!("no recovery brings the quality up to the floor; {words}"),
                    false => format!("every further action breaks the quality floor; {words}"),
                },
            ),
            Found::Interrupted => (Outcome::Interrupted, format!("interrupted; {words}")),
        }
    }

    /// Whether the stage that ended the search has nothing to reduce.
    fn only_recovers(&self) -> bool {
        let last = self.conclusion.stages.last();
        last.is_some_and(|stage| stage.history.knobs.iter().all(|knob| knob.role == Role::Recover))
    }

    fn write_files(&self, name: &str, files: &ModelFiles) -> Result<PathBuf, Failure> {
        let mut own = |file: &mut File| files::buffered(file, |writer| files.write_model(writer));
        let mut weights = files
            .data()
            .map(|data| move |file: &mut File| files::buffered(file, |writer| data.write(writer)));
        let weights = weights.as_mut().map(|weights| weights as Content<'_>);
        Ok(self.folder.write_artifact(name, &mut own, weights)?)
    }

    /// Writes the model, reads it again, and proves that the files are the model in memory.
    fn write(&self, name: &str, model: &Model) -> Result<ArtifactReport, Failure> {
        let files = self.context.files(model)?;
        let path = self.write_files(name, &files)?;
        let written = files::read_back(&path, &files, |damaged| {
            unverified(format!("{} is not what was written to it", damaged.display()))
        })?;
        let weights = files.data().zip(written.data).map(|(data, read)| FileReport {
            path: data.location().to_owned(),
            bytes: read.len() as u64,
            sha256: sha256(&read),
        });
        let bytes = written.model.len() as u64 + weights.as_ref().map_or(0, |file| file.bytes);
        if bytes != files.len() {
            return Err(unverified(format!(
                "{} has {bytes} bytes where {} were counted",
                path.display(),
                files.len()
            )));
        }
        self.same_answers(model, &files::decode(&path, written.model.clone())?)?;
        Ok(ArtifactReport {
            path: name.to_owned(),
            bytes,
            sha256: sha256(&written.model),
            weights,
        })
    }

    /// The model that was `read` again answers like `model`, to the last bit.
    fn same_answers(&self, model: &Model, read: &Model) -> Result<(), Failure> {
        let engine = &self.context.builtin.engine;
        let load = |model: &Model| engine.load(model).map_err(|error| unverified(error.to_string()));
        let data = self.context.splits.search.clone();
        let answer = |model: &Model| {
            let forward = Forward {
                program: Arc::from(load(model)?),
                data: data.clone(),
                cache: None,
            };
            let answers = forward.outputs(&[], 0..BATCH.min(data.len()));
            answers.map_err(|error| unverified(error.to_string()))
        };
        if answer(model)? != answer(read)? {
            return Err(unverified(
                "the file answers otherwise than the model in memory".to_owned(),
            ));
        }
        Ok(())
    }

    fn costs(&mut self, candidate: &Candidate) -> Result<kmr_core::Costs, Failure> {
        measured(self.subject.costs(candidate))
    }

    /// The policy's contenders; those of the last stage made again, and judged on the holdout as well.
    fn contenders(&mut self) -> Result<Vec<ContenderReport>, Failure> {
        let meter = self.plan.resolved.quality.meter.clone();
        let last = self.plan.resolved.stages.last().map(|stage| stage.name.clone());
        let interrupted = self.conclusion.outcome == Found::Interrupted;
        let holdout = self.context.splits.holdout.clone().filter(|_| !interrupted);
        let mut judged: HashMap<Assignment, f64> = HashMap::new();
        let mut contenders = Vec::new();
        for (assignment, mut contender) in std::mem::take(&mut self.recorder.contenders) {
            if let Some(data) = holdout.as_ref().filter(|_| last.as_ref() == Some(&contender.stage)) {
                let quality = match judged.get(&assignment) {
                    Some(known) => *known,
                    None => {
                        let candidate = measured(self.subject.again(&assignment))?;
                        let context = self.context.clone();
                        measured(self.subject.read_in(context.judge(), &meter, &candidate, data, None))?.value
                    }
                };
                judged.insert(assignment, quality);
                contender.holdout = Some(quality);
            }
            contenders.push(contender);
        }
        Ok(contenders)
    }

    /// Every meter of the run, and the host's own, before and after.
    fn meters(
        &mut self,
        original: &Candidate,
        result: &Candidate,
        before: &kmr_core::Costs,
        after: &kmr_core::Costs,
        quality: &QualityReport,
    ) -> Result<BTreeMap<String, BeforeAfter>, Failure> {
        let mut meters = BTreeMap::new();
        for (id, before) in before {
            let unit = COST_METERS
                .iter()
                .find(|(name, _)| name == id)
                .map_or("", |(_, unit)| unit);
            let after = after.get(id).copied().unwrap_or(f64::NAN);
            let reading = BeforeAfter {
                before: *before,
                after,
                unit: unit.to_owned(),
            };
            meters.insert(id.clone(), reading);
        }
        let search = self.context.splits.search.clone();
        for meter in self.plan.resolved.meters.clone() {
            let id = meter.offer.id;
            if meters.contains_key(&id) {
                continue;
            }
            let (before, after) = if id == quality.meter {
                (quality.search.before, quality.search.after)
            } else {
                let before = measured(self.subject.read(&id, original, &search, None))?;
                let after = measured(self.subject.read(&id, result, &search, None))?;
                (before.value, after.value)
            };
            let unit = meter.offer.unit;
            meters.insert(id, BeforeAfter { before, after, unit });
        }
        Ok(meters)
    }
}

fn holdout_words(quality: &QualityReport, holdout: &HoldoutReport) -> String {
    let numbers = format!(
        "{} went from {:.4} to {:.4}",
        quality.meter, holdout.before, holdout.after
    );
    match &holdout.test {
        Some(test) => format!(
            "the budget is met, but the holdout does not prove the floor: {numbers} on {} samples, \
             which allows a drop of {:.4} at confidence {}; the floor is {}",
            holdout.samples, test.upper_bound, test.confidence, quality.floor
        ),
        None => format!(
            "the budget is met, but the holdout breaks the floor: {numbers}; the floor is {}",
            quality.floor
        ),
    }
}

/// What each layer costs; nothing where that cannot be told.
fn costs(model: &Model, shapes: &Shapes) -> Vec<LayerCost> {
    Costs::with_shapes(model, shapes).map_or_else(|_| Vec::new(), |costs| costs.layers)
}
