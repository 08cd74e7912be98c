//! The model under reduction, as the formalism's loop sees it.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use kmr_core::{Assignment, Costs, Fidelity, Knob, Quality, Role, Stage, StagedSubject, SubjectError};
use kmr_formats::Dataset;
use kmr_loader::{LoaderError, MeterInstance, Plugin, RuleInstance};
use kmr_manifest::Resolved;
use kmr_model::{
    Model, cost,
    shapes::{self, Shapes},
};
use kmr_sdk::{
    ErrorCode,
    wire::{self, Change, MeasureRequest, MeterConfiguration, RuleConfiguration, Split},
};

use super::{
    catalog::{COST_METERS, loader_failure},
    context::{Context, Executor},
    forward::Answers,
    plan::{self, Plan},
    services::{Caller, Services},
    transaction::Transaction,
};
use crate::{exit, failure::Failure, table::number};

/// Why the search cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.render(false))]
pub struct SubjectFailure(pub Failure);

impl From<Failure> for SubjectFailure {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

/// A candidate that was made.
pub struct Candidate {
    /// The model.
    pub model: Model,
    /// What its rules did, with the rule's id; earlier stages' first.
    pub changes: Vec<(String, Change)>,
    /// The shapes of its values.
    pub shapes: Arc<Shapes>,
    answers: Answers,
}

/// A use of a rule in the present stage.
struct StageRule {
    id: String,
    /// Its settings.
    configuration: serde_json::Value,
    instance: Box<dyn RuleInstance>,
    targets: Vec<wire::Target>,
    /// Position of its first knob among the stage's knobs.
    first_knob: usize,
}

struct QualityMeter {
    instance: Box<dyn MeterInstance>,
    /// -1 for meters of which less is better.
    sign: f64,
}

/// The model under reduction.
pub struct Subject {
    context: Arc<Context>,
    resolved: Resolved,
    plugins: Vec<Box<dyn Plugin>>,
    platform: wire::Platform,
    /// Where the manifest uses each rule.
    places: HashMap<String, String>,
    meters: HashMap<String, QualityMeter>,
    /// Cost meters that come from plugins.
    foreign_costs: Vec<String>,
    quality_meter: String,
    proxy_meter: String,
    base: Arc<Candidate>,
    rules: Vec<StageRule>,
    knobs: Vec<Knob>,
    made: HashMap<Assignment, Arc<Candidate>>,
    /// Whether a limit or a meter of costs reads the values of tensors.
    values_cost: bool,
    /// The costs of candidates that were made for these alone.
    counted: HashMap<Assignment, Costs>,
    current: Arc<Candidate>,
    /// Base and rules of the stage that was closed last.
    closed: (Arc<Candidate>, Vec<StageRule>),
}

/// The cost that is counted on what would be written.
const SIZE: &str = "size_bytes";

/// The cost that reads the values of tensors.
const VALUES_COST: &str = "nonzero_params";

/// What a candidate is made for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Everything.
    Use,
    /// Its costs: the values of its tensors may be anything.
    Costs,
}

/// Candidates kept at hand, and the bytes of their tensors; making one again is cheap beside measuring it.
const KEPT: usize = 64;
const KEPT_BYTES: usize = 1 << 30;

impl Subject {
    /// The subject of a plan, before its first stage.
    pub fn new(
        context: Arc<Context>,
        plan: &Plan,
        plugins: Vec<Box<dyn Plugin>>,
        proxy_meter: Option<&str>,
    ) -> Result<Self, Failure> {
        let resolved = plan.resolved.clone();
        let mut meters = HashMap::new();
        let mut foreign_costs = Vec::new();
        for meter in &resolved.meters {
            let (Some(name), Some(info)) = (&meter.offer.plugin, plan.meter_info(&meter.offer.id)) else {
                continue;
            };
            let configuration: MeterConfiguration = configuration(&serde_json::json!({"config": meter.config}))?;
            let instance = plan::plugin(&plugins, name)?
                .meter(&meter.offer.id, &configuration)
                .map_err(|error| loader_failure(&error))?;
            let is_cost = info.measures == wire::Measures::Cost;
            if is_cost {
                foreign_costs.push(meter.offer.id.clone());
            }
            let sign = if is_cost || info.higher_is_better { 1.0 } else { -1.0 };
            meters.insert(meter.offer.id.clone(), QualityMeter { instance, sign });
        }
        let base = Arc::new(Candidate {
            model: context.reference.clone(),
            changes: Vec::new(),
            shapes: context.reference_shapes.clone(),
            answers: Answers::of_candidate(),
        });
        let untils = resolved.stages.iter().filter_map(|stage| stage.until.as_ref());
        let mut limits = resolved.limits.iter().chain(untils);
        let values_cost = !foreign_costs.is_empty() || limits.any(|limit| limit.meter == VALUES_COST);
        let quality_meter = resolved.quality.meter.clone();
        Ok(Self {
            proxy_meter: proxy_meter.unwrap_or(&quality_meter).to_owned(),
            quality_meter,
            context,
            resolved,
            plugins,
            places: plan.rule_places(),
            platform: plan.platform(),
            meters,
            foreign_costs,
            current: base.clone(),
            closed: (base.clone(), Vec::new()),
            base,
            rules: Vec::new(),
            knobs: Vec::new(),
            made: HashMap::new(),
            values_cost,
            counted: HashMap::new(),
        })
    }

    /// The present state.
    pub fn current(&self) -> &Arc<Candidate> {
        &self.current
    }

    /// The original, as a candidate.
    pub fn original(&self) -> Arc<Candidate> {
        Arc::new(Candidate {
            model: self.context.reference.clone(),
            changes: Vec::new(),
            shapes: self.context.reference_shapes.clone(),
            answers: Answers::of_candidate(),
        })
    }

    /// The plugins.
    pub fn plugins(&self) -> &[Box<dyn Plugin>] {
        &self.plugins
    }

    /// Every cost of the model that the run started from. Its size is that of the original's file: weights in Constant
    /// nodes take more bytes there than as initializers.
    pub fn original_costs(&mut self) -> Result<Costs, SubjectError<SubjectFailure>> {
        let original = self.original();
        let mut costs = self.costs(&original)?;
        costs.insert(SIZE.to_owned(), self.context.original_bytes as f64);
        Ok(costs)
    }

    /// Every cost of a candidate: the host's own and those of plugins.
    pub fn costs(&mut self, candidate: &Candidate) -> Result<Costs, SubjectError<SubjectFailure>> {
        let counted = cost::Costs::with_shapes(&candidate.model, &candidate.shapes)
            .map_err(|error| SubjectError::Refused(error.to_string()))?;
        let mut costs = Costs::new();
        for (name, _) in COST_METERS {
            // A model whose shapes cannot all be inferred still has a size; a budget on a meter that is
            // missing is refused by the loop.
            match counted.cost(name) {
                Ok(cost) => drop(costs.insert(name.to_owned(), cost as f64)),
                Err(error) => log::debug!("{name} is not known: {error}"),
            }
        }
        if self.context.short_names {
            let refused = |error: kmr_model::ModelError| SubjectError::Refused(error.to_string());
            let written = self.context.written(&candidate.model).map_err(refused)?;
            costs.insert(SIZE.to_owned(), written.encoded_len() as f64);
        }
        for id in self.foreign_costs.clone() {
            let data = self.context.splits.search.clone();
            let reading = self.read(&id, candidate, &data, None)?;
            costs.insert(id, reading.value);
        }
        Ok(costs)
    }

    /// The reading of meter `id` in the engine of the search, in the meter's own direction and unit.
    pub fn read(
        &mut self,
        id: &str,
        candidate: &Candidate,
        data: &Arc<Dataset>,
        limit: Option<usize>,
    ) -> Result<kmr_sdk::Reading, SubjectError<SubjectFailure>> {
        self.read_in(&self.context.search.clone(), id, candidate, data, limit)
    }

    /// The reading of meter `id` in an engine, in the meter's own direction and unit.
    pub fn read_in(
        &mut self,
        executor: &Arc<Executor>,
        id: &str,
        candidate: &Candidate,
        data: &Arc<Dataset>,
        limit: Option<usize>,
    ) -> Result<kmr_sdk::Reading, SubjectError<SubjectFailure>> {
        let services = Services::new(
            self.context.clone(),
            Caller::Meter {
                executor: executor.clone(),
                data: data.clone(),
                limit,
                answers: candidate.answers.on(executor, data),
            },
            Transaction::new(candidate.model.clone()),
        );
        let meter = self
            .meters
            .get_mut(id)
            .ok_or_else(|| SubjectFailure(Failure::new(exit::INTERNAL, format!("meter `{id}` was not made"))))?;
        let request = MeasureRequest {
            split: Split::Evaluation,
            limit,
        };
        let reading = meter.instance.measure(services.lend(), &request);
        reading.map_err(|error| subject_error(&error))
    }

    /// A reading as a quality, of which more is better, whatever the meter's own direction.
    pub fn quality_of(&self, id: &str, reading: &kmr_sdk::Reading, samples: usize) -> Quality {
        let sign = self.sign(id);
        Quality {
            value: sign * reading.value,
            samples: if reading.scores.is_empty() {
                samples
            } else {
                reading.scores.len()
            },
            scores: reading.scores.iter().map(|score| sign * score).collect(),
        }
    }

    /// -1 for meters of which less is better, else 1.
    pub fn sign(&self, id: &str) -> f64 {
        self.meters.get(id).map_or(1.0, |meter| meter.sign)
    }

    /// A candidate of the stage that was closed last.
    pub fn again(&mut self, assignment: &Assignment) -> Result<Arc<Candidate>, SubjectError<SubjectFailure>> {
        self.swap_closed();
        let made = self.make(assignment);
        self.swap_closed();
        made
    }

    fn swap_closed(&mut self) {
        std::mem::swap(&mut self.base, &mut self.closed.0);
        std::mem::swap(&mut self.rules, &mut self.closed.1);
        self.made.clear();
    }

    /// The candidate at `assignment`.
    fn make(&mut self, assignment: &Assignment) -> Result<Arc<Candidate>, SubjectError<SubjectFailure>> {
        if assignment.as_slice().iter().all(|&value| value == 0) {
            return Ok(self.base.clone());
        }
        if let Some(made) = self.made.get(assignment) {
            return Ok(made.clone());
        }
        let (candidate, _) = self.build(assignment, Purpose::Use)?;
        if let Some(counted) = self.counted.get(assignment).cloned()
            && !agree(&counted, &self.costs(&candidate)?)
        {
            return Err(SubjectError::Failed(self.false_costs(assignment)?.into()));
        }
        Ok(self.keep(assignment, candidate))
    }

    /// Applies the stage's rules. The second of what is given is whether the values of tensors are right.
    fn build(
        &mut self,
        assignment: &Assignment,
        purpose: Purpose,
    ) -> Result<(Candidate, bool), SubjectError<SubjectFailure>> {
        let mut complete = true;
        let mut model = self.base.model.clone();
        let mut changes = self.base.changes.clone();
        let mut shapes = self.base.shapes.clone();
        for rule in &mut self.rules {
            let levels = &assignment.as_slice()[rule.first_knob..][..rule.targets.len()];
            if levels.iter().all(|&level| level == 0) {
                continue;
            }
            let assignments = rule
                .targets
                .iter()
                .zip(levels)
                .map(|(target, &level)| wire::Assignment {
                    knob: target.knob.clone(),
                    target: target.target.clone(),
                    value: target.values[level].clone(),
                });
            let action = wire::Action {
                assignments: assignments.collect(),
                costs_only: purpose == Purpose::Costs,
            };
            let transaction = Transaction::new(model);
            let further = self.context.models.iter();
            let further: Vec<_> = further.map(|(name, further)| (name, &further.file.sha256)).collect();
            let asked = serde_json::to_string(&(&rule.id, &rule.configuration, &action, further)).unwrap_or_default();
            let caller = Caller::Apply(asked.into());
            let services = Services::new(self.context.clone(), caller, transaction.clone());
            let applied = rule
                .instance
                .apply(services.lend(), &action)
                .map_err(|error| subject_error(&error))?;
            if action.costs_only && applied.complete && !complete {
                // What this rule stored may follow values that an earlier one had left open.
                return self.build(assignment, Purpose::Use);
            }
            complete &= applied.complete || !action.costs_only;
            model = transaction.model();
            let checked = self
                .context
                .check(&model)
                .map_err(|problem| SubjectError::Refused(format!("rule `{}` broke the model: {problem}", rule.id)))?;
            shapes = Arc::new(checked);
            for note in applied.notes {
                log::info!("{}: {note}", rule.id);
            }
            changes.extend(applied.changes.into_iter().map(|change| (rule.id.clone(), change)));
        }
        let candidate = Candidate {
            model,
            changes,
            shapes,
            answers: Answers::of_candidate(),
        };
        Ok((candidate, complete))
    }

    /// Keeps a candidate at hand.
    fn keep(&mut self, assignment: &Assignment, candidate: Candidate) -> Arc<Candidate> {
        let candidate = Arc::new(candidate);
        let initializers = candidate.model.graph.initializers.values();
        let bytes: usize = initializers.map(|initializer| initializer.tensor.byte_len()).sum();
        if self.made.len() >= (KEPT_BYTES / bytes.max(1)).clamp(2, KEPT) {
            self.made.clear();
        }
        self.made.insert(assignment.clone(), candidate.clone());
        candidate
    }

    /// The failure of the first rule that gives other costs when it is asked for these alone.
    fn false_costs(&mut self, assignment: &Assignment) -> Result<Failure, SubjectError<SubjectFailure>> {
        let rules: Vec<(String, usize)> = self
            .rules
            .iter()
            .map(|rule| (rule.id.clone(), rule.first_knob + rule.targets.len()))
            .collect();
        for (rule, knobs) in rules {
            let values = assignment.as_slice().iter().enumerate();
            let prefix = values.map(|(knob, &value)| if knob < knobs { value } else { 0 });
            let prefix = Assignment::from(prefix.collect::<Vec<_>>());
            let (promised, _) = self.build(&prefix, Purpose::Costs)?;
            let (made, _) = self.build(&prefix, Purpose::Use)?;
            let (promised, made) = (self.costs(&promised)?, self.costs(&made)?);
            let differing = made
                .iter()
                .find(|&(meter, cost)| meter != VALUES_COST && promised.get(meter) != Some(cost));
            if let Some((meter, cost)) = differing {
                let promise = promised
                    .get(meter)
                    .map_or_else(|| "none".to_owned(), |promise| number(*promise));
                let message = format!(
                    "rule `{rule}` gives other costs when only costs are asked for: {meter} {promise} instead of {}",
                    number(*cost)
                );
                return Ok(Failure::new(exit::PLUGIN_FAILED, message)
                    .at(self.places.get(&rule).cloned().unwrap_or_default())
                    .help(format!(
                        "leave the rule out with `--disable {rule}`; its plugin is at fault"
                    )));
            }
        }
        let message = "the rules of this stage give other costs when the same is asked again";
        Ok(Failure::new(exit::PLUGIN_FAILED, message).help("leave out the rule that is not deterministic"))
    }
}

/// Whether the costs that were `counted` without the values of tensors are those of the candidate that was made.
fn agree(counted: &Costs, made: &Costs) -> bool {
    let of_shapes = |costs: &Costs| {
        let mut costs = costs.clone();
        costs.remove(VALUES_COST);
        costs
    };
    of_shapes(counted) == of_shapes(made)
}

impl Context {
    /// The shapes of a candidate, if it still is a model with the reference's interface.
    fn check(&self, model: &Model) -> Result<Shapes, String> {
        model.graph.check().map_err(|error| error.to_string())?;
        let after = shapes::infer(model, &self.feed_shapes).map_err(|error| error.to_string())?;
        let before = &self.reference_shapes;
        for output in &self.reference.graph.outputs {
            let name = output.name();
            if before.shape(name) != after.shape(name) {
                return Err(format!(
                    "output `{name}` has shape {:?} instead of {:?}",
                    after.shape(name).unwrap_or_default(),
                    before.shape(name).unwrap_or_default()
                ));
            }
        }
        Ok(after)
    }
}

/// What a plugin's failure means for the search.
fn subject_error(error: &LoaderError) -> SubjectError<SubjectFailure> {
    match error.failure() {
        Some(failure) if failure.code == ErrorCode::CANCELLED => SubjectError::Interrupted,
        Some(failure) if !matches!(failure.code, ErrorCode::PANIC | ErrorCode::POISONED) => {
            let place = if failure.location.is_empty() {
                String::new()
            } else {
                format!(" (at {})", failure.location)
            };
            SubjectError::Refused(format!("plugin `{}`: {}{place}", failure.plugin, failure.message))
        }
        _ => SubjectError::Failed(SubjectFailure(loader_failure(error))),
    }
}

fn configuration<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Result<T, Failure> {
    serde_json::from_value(value.clone())
        .map_err(|error| Failure::new(exit::INTERNAL, format!("a configuration does not cross: {error}")))
}

impl kmr_core::Subject for Subject {
    type Error = SubjectFailure;

    fn knobs(&mut self) -> Result<Vec<Knob>, Self::Error> {
        Ok(self.knobs.clone())
    }

    fn cost(&mut self, assignment: &Assignment) -> Result<Costs, SubjectError<Self::Error>> {
        let at_hand = self.made.contains_key(assignment) || assignment.as_slice().iter().all(|&value| value == 0);
        if self.values_cost || at_hand {
            let candidate = self.make(assignment)?;
            return self.costs(&candidate);
        }
        if let Some(counted) = self.counted.get(assignment) {
            return Ok(counted.clone());
        }
        let (candidate, complete) = self.build(assignment, Purpose::Costs)?;
        let mut costs = self.costs(&candidate)?;
        if complete {
            self.keep(assignment, candidate);
        } else {
            costs.remove(VALUES_COST);
        }
        self.counted.insert(assignment.clone(), costs.clone());
        Ok(costs)
    }

    fn quality(&mut self, assignment: &Assignment, fidelity: Fidelity) -> Result<Quality, SubjectError<Self::Error>> {
        let candidate = self.make(assignment)?;
        let meter = if fidelity.proxy {
            self.proxy_meter.clone()
        } else {
            self.quality_meter.clone()
        };
        let data = self.context.splits.search.clone();
        let samples = fidelity.samples.unwrap_or(usize::MAX).min(data.len());
        let reading = self.read(&meter, &candidate, &data, fidelity.samples)?;
        Ok(self.quality_of(&meter, &reading, samples))
    }

    fn adopt(&mut self, assignment: &Assignment) -> Result<(), Self::Error> {
        // What was accepted is made whole, whoever asks to stop meanwhile.
        let interrupted = self.context.interrupted.swap(false, Ordering::Relaxed);
        let made = self.make(assignment);
        self.context.interrupted.fetch_or(interrupted, Ordering::Relaxed);
        self.current = made.map_err(|error| match error {
            SubjectError::Failed(failure) => failure,
            other => SubjectFailure(Failure::new(
                exit::PLUGIN_FAILED,
                format!("an accepted candidate could not be made again: {other}"),
            )),
        })?;
        Ok(())
    }

    fn interrupted(&self) -> bool {
        self.context.is_interrupted()
    }
}

impl StagedSubject for Subject {
    fn enter(&mut self, stage: &Stage) -> Result<(), Self::Error> {
        let resolved = self.resolved.stages.iter().find(|resolved| resolved.name == stage.name);
        let resolved = resolved
            .ok_or_else(|| Failure::new(exit::INTERNAL, format!("stage `{}` is unknown", stage.name)))?
            .clone();
        self.rules.clear();
        self.knobs.clear();
        self.made.clear();
        self.counted.clear();
        let roles: Vec<Role> = stage.rules.iter().map(|rule| rule.role).collect();
        if roles.contains(&Role::Reduce) && roles.contains(&Role::Recover) {
            let message = format!("stage `{}` mixes rules that reduce with rules that recover", stage.name);
            let failure = Failure::new(exit::MANIFEST, message);
            return Err(failure.help("give recovery a stage of its own").into());
        }
        for (rule, role) in resolved.rules.iter().zip(roles) {
            let mut configuration: RuleConfiguration = configuration(&rule.configuration)?;
            configuration.platform = self.platform.clone();
            let mut instance = plan::plugin(&self.plugins, &rule.offer.plugin)?
                .rule(&rule.offer.id, &configuration)
                .map_err(|error| rule_failure(&rule.id, self.places.get(&rule.id), &error))?;
            let transaction = Transaction::new(self.base.model.clone());
            let services = Services::new(self.context.clone(), Caller::Targets, transaction);
            let targets = instance
                .targets(services.lend())
                .map_err(|error| rule_failure(&rule.id, self.places.get(&rule.id), &error))?;
            if targets.is_empty() {
                log::warn!("rule `{}` finds nothing to change in this model", rule.id);
            }
            let first_knob = self.knobs.len();
            for target in &targets {
                self.knobs.push(knob(&rule.id, role, target)?);
            }
            self.rules.push(StageRule {
                id: rule.id.clone(),
                configuration: rule.configuration.clone(),
                instance,
                targets,
                first_knob,
            });
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), Self::Error> {
        let base = std::mem::replace(&mut self.base, self.current.clone());
        self.closed = (base, std::mem::take(&mut self.rules));
        self.knobs.clear();
        self.made.clear();
        self.counted.clear();
        Ok(())
    }
}

/// A plugin's rule that cannot be made or finds no targets: the run cannot begin.
fn rule_failure(rule: &str, place: Option<&String>, error: &LoaderError) -> Failure {
    let Some(failure) = error.failure() else {
        return loader_failure(error);
    };
    let location = match failure.location.as_str() {
        "" => String::new(),
        location => format!(" (at {location})"),
    };
    let what = format!("{}{location}", failure.message);
    if failure.code == ErrorCode::INVALID_CONFIGURATION {
        let failure = Failure::new(
            exit::MANIFEST,
            format!("the settings of rule `{rule}` are invalid: {what}"),
        );
        return failure
            .at(place.cloned().unwrap_or_default())
            .help("change the rule's `config` or `knobs`");
    }
    let help = match failure.code {
        ErrorCode::PANIC => format!("leave the rule out with `--disable {rule}`; its plugin is at fault"),
        _ => format!("change the rule's settings or the data it asks for, or leave it out with `--disable {rule}`"),
    };
    Failure::new(exit::PLUGIN_FAILED, format!("rule `{rule}` failed: {what}"))
        .at(error.place().display().to_string())
        .help(help)
}

fn knob(rule: &str, role: Role, target: &wire::Target) -> Result<Knob, Failure> {
    let values = target.values.iter().map(|value| serde_json::from_value(value.clone()));
    let values = values.collect::<Result<Vec<kmr_core::Value>, _>>().map_err(|_| {
        let message = format!(
            "rule `{rule}` offers a value of knob `{}` on {} that is neither number, text nor flag",
            target.knob, target.target
        );
        Failure::new(exit::PLUGIN_FAILED, message)
    })?;
    let mut knob = Knob::new(rule, &target.knob, &target.target, role, values).touching(target.layers.clone());
    if !target.label.is_empty() {
        knob.label.clone_from(&target.label);
    }
    Ok(knob)
}
