//! `kmr run`: brings a model within a budget, as a manifest says.

use std::{
    fs,
    io::Write,
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use kmr_compute::{Engine, Interpreter};
use kmr_core::{
    Budget, EarlyRejection, Floor, KmrError, Limit, OnNoProgress, Options, Pipeline, Policy, PolicyError, Role, Stage,
    StageRule, run_stages,
};
use kmr_manifest as manifest;
use kmr_model::{Model, shapes};
use kmr_run::{FileReport, Report, RunFolder, sha256};

use crate::{
    arguments::{Common, Run},
    exit,
    failure::Failure,
    files,
    pipeline::{Answers, Chosen, Context, Finish, Plan, Recorder, Splits, Subject, SubjectFailure, choose, finish},
    table::{Table, change, number},
    terminal::Progress,
};

pub fn execute(arguments: &Run, common: &Common) -> Result<u8, Failure> {
    let started = Instant::now();
    let interrupted = watch_interrupts()?;
    let plan = Plan::read(&arguments.manifest, &arguments.disable, &common.plugin_paths)?;
    let model_path = plan.manifest.model.path.value.clone();
    let model_bytes = files::read(&model_path)?;
    let original = files::decode(&model_path, model_bytes.clone())?;
    let original = placed(original, plan.manifest.output.external_data, &model_path)?;
    let model = prepared(&original, &model_path)?;
    check_weights(&model, &model_path)?;
    let splits = Splits::read(&plan.manifest, &model)?;
    check_labels(&plan, &splits)?;
    let engine = Interpreter;
    if let Some(refusal) = engine.supports(&model).into_iter().next() {
        let error = kmr_compute::ComputeError::from(refusal);
        return Err(compute_failure(&model_path, &error));
    }
    let program = engine
        .load(&model)
        .map_err(|error| compute_failure(&model_path, &error))?;
    let mut feed_shapes = shapes::default_feeds(&model);
    // Open dimensions have the sizes that the data have.
    let call = splits.search.calls(0..1).into_iter().next().unwrap_or_default();
    feed_shapes.extend(call.into_iter().map(|(name, input)| (name, input.shape().to_vec())));
    for (name, shape) in &plan.manifest.model.inputs {
        feed_shapes.insert(name.clone(), shape.value.clone());
    }
    let threads = rayon::current_num_threads().max(1);
    let plugins = plan.load(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN))?;
    let chosen = choose(&plan.resolved)?;
    let reference_shapes = shapes::infer(&model, &feed_shapes).map_err(|error| Failure::model(&model_path, &error))?;
    let context = Arc::new(Context {
        engine: Box::new(engine),
        original_bytes: original.encoded_len(),
        reference: model,
        reference_program: Arc::from(program),
        reference_shapes: Arc::new(reference_shapes),
        feed_shapes,
        splits,
        seed: plan.resolved.policy.seed,
        threads,
        interrupted,
        progress: Progress::new(common.quiet),
        reference_answers: Answers::default(),
    });
    let mut subject = Subject::new(context.clone(), &plan, plugins, chosen.proxy_meter.as_deref())?;
    let before = measure_original(&mut subject)?;
    let limits = limits(&plan, &before)?;
    announce(&context, &plan, &model_path, &limits, &before);
    let pipeline = stages(&plan, &limits, &before, subject.sign(&plan.resolved.quality.meter))?;
    let folder = RunFolder::create(&arguments.out)?;
    let quality_meter = &plan.resolved.quality.meter;
    let mut recorder = Recorder::new(
        context.clone(),
        folder.journal()?,
        &limits[0].0,
        quality_meter,
        subject.sign(quality_meter),
    );
    let options = Options {
        on_no_progress: match plan.resolved.policy.on_no_progress {
            manifest::OnNoProgress::Stop => OnNoProgress::Stop,
            manifest::OnNoProgress::Skip => OnNoProgress::Skip,
        },
        max_steps: plan
            .resolved
            .policy
            .max_steps
            .map(|steps| usize::try_from(steps).unwrap_or(usize::MAX)),
        early_rejection: pipeline.floor().map(|_| EarlyRejection::default()),
        ..Options::default()
    };
    let policies = prepare(&chosen, &subject, pipeline.stages().len())?;
    let mut policies = policies.into_iter();
    let next_policy = |_: &Stage| -> Box<dyn Policy> { policies.next().unwrap_or_else(|| Box::new(NoPolicy)) };
    let conclusion = run_stages(&mut subject, &pipeline, next_policy, &options, &mut recorder);
    let conclusion = conclusion.map_err(search_failure)?;
    let report = finish(Finish {
        plan: &plan,
        context: context.clone(),
        subject: &mut subject,
        recorder,
        conclusion,
        limits,
        folder: &folder,
        model: file_report(&model_path, &model_bytes),
        manifest: file_report(&plan.path, &fs::read(&plan.path).unwrap_or_default()),
        started,
    })?;
    context.progress.clear();
    conclude(&report, &folder, common);
    Ok(report.exit_code)
}

/// The model, its weights to be written where the run's artifact has them.
fn placed(model: Model, apart: bool, path: &Path) -> Result<Model, Failure> {
    let files = model.files().map_err(|error| Failure::model(path, &error))?;
    let apart = apart || files.data().is_some();
    Ok(model.with_external_data(apart.then_some(RunFolder::DATA)))
}

/// The model as rules see it: weights that the file keeps in functions, Constant nodes and subgraphs are initializers
/// of the main graph. Answers and the names of nodes stay.
fn prepared(original: &Model, path: &Path) -> Result<Model, Failure> {
    let (model, inlined) = original.inline_functions().unwrap_or_else(|error| {
        log::warn!("the model's functions stay as they are: {error}");
        (original.clone(), Vec::new())
    });
    let (model, lifted) = model.lift_constants().map_err(|error| Failure::model(path, &error))?;
    for change in inlined.iter().chain(&lifted) {
        log::info!("{change}");
    }
    Ok(model)
}

/// Refuses meters that need labels where the data has none, before anything is searched.
fn check_labels(plan: &Plan, splits: &Splits) -> Result<(), Failure> {
    for meter in plan.resolved.meters.iter().filter(|meter| meter.offer.needs_labels) {
        let judged = [Some(&splits.search), splits.holdout.as_ref()];
        if let Some(data) = judged.into_iter().flatten().find(|data| data.labels().is_none()) {
            let message = format!(
                "meter `{}` needs labels, and {} has none",
                meter.offer.id,
                data.path().display()
            );
            return Err(Failure::new(exit::INPUT, message)
                .at(plan.path.display().to_string())
                .help("add an array of labels, or use `agreement`, `kl`, `cosine` or `sqnr`"));
        }
    }
    Ok(())
}

/// Ctrl-C asks the run to stop at the next safe moment; a second one ends it at once.
fn watch_interrupts() -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(exit::INTERRUPTED.into());
        }
        // The terminal may be gone with whoever started this: that is no reason to panic.
        let _ = writeln!(std::io::stderr(), "stopping; once more to stop at once");
    })
    .map_err(|error| Failure::new(exit::INTERNAL, format!("cannot watch for interrupts: {error}")))?;
    Ok(interrupted)
}

fn check_weights(model: &Model, path: &Path) -> Result<(), Failure> {
    for (name, initializer) in &model.graph.initializers {
        let tensor = &initializer.tensor;
        if !tensor.dtype().is_float() {
            continue;
        }
        let values = tensor.to_f32().map_err(|error| Failure::model(path, &error))?;
        if let Some(position) = values.iter().position(|value| value.is_nan()) {
            let message = format!("tensor `{name}` holds {} at element {position}", values[position]);
            return Err(Failure::new(exit::INPUT, message)
                .at(path.display().to_string())
                .help("a model with such weights cannot be compared; train or export it again"));
        }
    }
    Ok(())
}

fn compute_failure(path: &Path, error: &kmr_compute::ComputeError) -> Failure {
    let failure = Failure::new(exit::INPUT, error.to_string()).at(path.display().to_string());
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn measure_original(subject: &mut Subject) -> Result<kmr_core::Costs, Failure> {
    subject.original_costs().map_err(|error| match error {
        kmr_core::SubjectError::Failed(SubjectFailure(failure)) => failure,
        other => Failure::new(exit::INPUT, format!("the model cannot be measured: {other}")),
    })
}

/// The budget's limits in the meters' units.
fn limits(plan: &Plan, before: &kmr_core::Costs) -> Result<Vec<(String, f64)>, Failure> {
    let limits = plan.resolved.limits.iter();
    limits
        .map(|limit| absolute(&limit.meter, &limit.at_most, before))
        .collect()
}

fn absolute(meter: &str, at_most: &manifest::Amount, before: &kmr_core::Costs) -> Result<(String, f64), Failure> {
    let original = before.get(meter).copied().ok_or_else(|| {
        Failure::new(exit::INPUT, format!("`{meter}` of this model is not known"))
            .help("declare the shapes of open inputs under `[model] inputs`; `kmr measure` tells what is missing")
    })?;
    let limit = at_most.limit(original);
    // The host's own meters count whole things: a share of them is met by whole numbers alone.
    let counts = kmr_model::cost::NAMES.contains(&meter);
    Ok((meter.to_owned(), if counts { limit.floor() } else { limit }))
}

fn announce(context: &Context, plan: &Plan, model: &Path, limits: &[(String, f64)], before: &kmr_core::Costs) {
    for (meter, limit) in limits {
        let original = before.get(meter).copied().unwrap_or(f64::NAN);
        context.progress.line(&format!(
            "{}: {meter} {} -> at most {}",
            model.display(),
            number(original),
            number(*limit)
        ));
    }
    context.progress.line(&format!(
        "judged by {} on {} samples; policy {}, seed {}",
        plan.resolved.quality.meter,
        context.splits.search.len(),
        plan.resolved.policy.offer.id,
        context.seed
    ));
}

fn stages(plan: &Plan, limits: &[(String, f64)], before: &kmr_core::Costs, sign: f64) -> Result<Pipeline, Failure> {
    let invalid = |error: &dyn std::fmt::Display| {
        Failure::new(exit::MANIFEST, error.to_string()).at(plan.path.display().to_string())
    };
    let budget = |limits: &[(String, f64)]| {
        let limits = limits.iter().map(|(meter, at_most)| Limit {
            meter: meter.clone(),
            at_most: *at_most,
        });
        Budget::new(limits.collect()).map_err(|error| invalid(&error))
    };
    let stages = plan.resolved.stages.iter().map(|stage| {
        let until = match &stage.until {
            Some(until) => Some(budget(&[absolute(&until.meter, &until.at_most, before)?])?),
            None => None,
        };
        Ok(Stage {
            name: stage.name.clone(),
            rules: stage
                .rules
                .iter()
                .map(|rule| StageRule {
                    id: rule.id.clone(),
                    role: match rule.offer.role {
                        manifest::Role::Reduce => Role::Reduce,
                        manifest::Role::Recover => Role::Recover,
                    },
                })
                .collect(),
            until,
            floor: None,
        })
    });
    let stages = stages.collect::<Result<Vec<_>, Failure>>()?;
    let floor = match plan.resolved.quality.floor {
        manifest::Floor::DropAtMost(drop) if drop.is_infinite() => None,
        manifest::Floor::DropAtMost(drop) => Some(Floor::DropAtMost(drop)),
        manifest::Floor::AtLeast(least) => Some(Floor::AtLeast(sign * least)),
    };
    Pipeline::new(stages, budget(limits)?, floor).map_err(|error| invalid(&error))
}

/// A policy for every stage, made before the search so that one that cannot be made costs nothing.
fn prepare(chosen: &Chosen, subject: &Subject, stages: usize) -> Result<Vec<Box<dyn Policy>>, Failure> {
    (0..stages).map(|_| chosen.policy(subject.plugins())).collect()
}

/// Stands where there are more stages than policies, which cannot be.
struct NoPolicy;

impl Policy for NoPolicy {
    fn next(&mut self, _: &kmr_core::History) -> Result<kmr_core::Ask, PolicyError> {
        Err(PolicyError::new("there is no policy for this stage"))
    }
}

fn search_failure(error: KmrError<SubjectFailure>) -> Failure {
    match error {
        KmrError::Subject(SubjectFailure(failure)) => failure,
        KmrError::InterruptedAtStart => Failure::new(exit::INTERRUPTED, "interrupted before anything was tried"),
        KmrError::Policy(error) => {
            Failure::new(exit::PLUGIN_FAILED, error.to_string()).help("choose another policy under `[policy]`")
        }
        KmrError::Knobs(error) => Failure::new(exit::PLUGIN_FAILED, error.to_string())
            .help("the rule's plugin offers knobs that cannot be searched; leave it out with `--disable ID`"),
        KmrError::Setting { .. } => Failure::new(exit::MANIFEST, error.to_string()),
        other => Failure::new(exit::INPUT, other.to_string()),
    }
}

fn file_report(path: &Path, bytes: &[u8]) -> FileReport {
    FileReport {
        path: path.display().to_string(),
        bytes: bytes.len() as u64,
        sha256: sha256(bytes),
    }
}

/// The result for people, or for programs.
fn conclude(report: &Report, folder: &RunFolder, common: &Common) {
    if common.json {
        match serde_json::to_string_pretty(report) {
            Ok(text) => crate::terminal::line!("{text}"),
            Err(error) => log::error!("the report cannot be printed: {error}"),
        }
        return;
    }
    crate::terminal::text!("{}", tables(report));
    let path = folder.path().join(&report.artifact.path);
    if report.exit_code == exit::SUCCESS {
        crate::terminal::line!(
            "budget met: {} ({} bytes)",
            path.display(),
            number(report.artifact.bytes as f64)
        );
        return;
    }
    let color = crate::terminal::color();
    let failure = Failure::new(report.exit_code, &report.message).help(format!(
        "the best model found is {}; its report is {}",
        path.display(),
        folder.path().join(RunFolder::REPORT).display()
    ));
    eprint!("{}", failure.render(color));
}

/// Meters and layers, before and after.
fn tables(report: &Report) -> String {
    let mut layers = Table::new(&["layer", "changed", "params", "MACs"]);
    for layer in report
        .layers
        .iter()
        .filter(|layer| layer.params.before != layer.params.after)
    {
        let changed = layer.changes.iter();
        let changed: Vec<String> = changed
            .map(|change| format!("{} {} -> {}", change.what, change.before, change.after))
            .collect();
        layers.row([
            layer.layer.clone(),
            changed.join(", "),
            format!("{} -> {}", number(layer.params.before), number(layer.params.after)),
            change(layer.macs.before, layer.macs.after),
        ]);
    }
    let mut meters = Table::new(&["meter", "before", "after", "change"]);
    let mut row = |name: String, before: f64, after: f64| {
        meters.row([name, number(before), number(after), change(before, after)]);
    };
    for (name, reading) in &report.meters {
        let name = if *name == report.quality.meter {
            format!("{name} (search)")
        } else {
            name.clone()
        };
        row(name, reading.before, reading.after);
    }
    if let Some(holdout) = &report.quality.holdout {
        row(
            format!("{} (holdout)", report.quality.meter),
            holdout.before,
            holdout.after,
        );
    }
    let contenders = if report.contenders.is_empty() {
        String::new()
    } else {
        format!("{}\n", contenders(report).render())
    };
    format!("\n{}\n{}\n{contenders}", layers.render(), meters.render())
}

/// What the policy chose from.
fn contenders(report: &Report) -> Table {
    let meter = &report.quality.meter;
    let (search, holdout) = (format!("{meter} (search)"), format!("{meter} (holdout)"));
    let mut table = Table::new(&["contender", &report.budget.meter, &search, &holdout]);
    for contender in &report.contenders {
        let cost = contender.costs.get(&report.budget.meter);
        let partial = contender
            .samples
            .filter(|samples| *samples < report.quality.search.samples);
        let partial = partial.map_or(String::new(), |samples| format!(" of {samples}"));
        let reading = |value: Option<f64>| value.map_or("-".to_owned(), number);
        table.row([
            contender.label.clone(),
            reading(cost.copied()),
            reading(contender.quality) + &partial,
            reading(contender.holdout),
        ]);
    }
    table
}
