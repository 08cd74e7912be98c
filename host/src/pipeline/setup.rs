//! What a search needs before it begins: the plan, the model, the data, the engines and the plugins.

use std::{
    io::Write,
    num::NonZeroUsize,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kmr_compute::{Engine, Interpreter};
use kmr_core::{Budget, Floor, KmrError, Limit, Pipeline, Role, Stage, StageRule};
use kmr_formats::Augmentation;
use kmr_manifest as manifest;
use kmr_model::{Model, shapes};
use kmr_run::{FileReport, RunFolder};

use super::{
    context::{Context, Executor},
    data::{Splits, check_lengths},
    forward::Answers,
    further,
    plan::Plan,
    policy::{Chosen, choose},
    store::TensorStore,
    subject::{Subject, SubjectFailure},
};
use crate::{
    arguments::Common,
    engine::{self, EngineChoice},
    exit,
    failure::Failure,
    files,
    terminal::Progress,
};

/// Bytes of a model up to which memory that was used once is kept: a search is faster, and takes somewhat more of it.
const SMALL: u64 = 1 << 30;

/// Everything that is ready when a search begins.
pub struct Setup {
    /// What was asked for.
    pub plan: Plan,
    /// What every part shares.
    pub context: Arc<Context>,
    /// The policy that was asked for.
    pub chosen: Chosen,
    /// The model under reduction.
    pub subject: Subject,
    /// Every cost of the original.
    pub before: kmr_core::Costs,
    /// The model's file.
    pub model: FileReport,
}

impl Setup {
    /// Reads everything that the manifest at `path` names, without the rules in `disabled`, and loads its plugins.
    /// Training leaves its checkpoints in the run's `folder`.
    pub fn new(
        path: &Path,
        disabled: &[String],
        engine: EngineChoice,
        folder: &Path,
        common: &Common,
    ) -> Result<Self, Failure> {
        let interrupted = watch_interrupts()?;
        let plan = Plan::read(path, disabled, &common.plugin_paths)?;
        let model_path = plan.manifest.model.path.value.clone();
        let (original, model_report) = files::read_reported(&model_path)?;
        if model_report.bytes <= SMALL {
            kmr_platform::keep_freed_memory();
        }
        let original = placed(original, plan.manifest.output.external_data, &model_path)?;
        let model = prepared(&original, &model_path, plan.opset())?;
        check_weights(&model, &model_path)?;
        let splits = Splits::read(&plan.manifest, &model)?;
        check_labels(&plan, &splits)?;
        check_operators(&model, &model_path)?;
        let builtin = Executor::new(Interpreter, &model).map_err(|error| compute_failure(&model_path, &error))?;
        // A folder's positions are checked when its texts are read; decoders take texts of any length.
        if !files::is_transformer(&model_path) {
            check_lengths(&plan.manifest, &splits, &*builtin.reference)?;
        }
        let runtime = runtime(engine, &model, &model_path)?;
        let everywhere = runtime.clone().filter(|_| engine == EngineChoice::Onnxruntime);
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
        let reference_shapes =
            shapes::infer(&model, &feed_shapes).map_err(|error| Failure::model(&model_path, &error))?;
        let models = further::read(&plan, &model, &splits)?;
        let context = Arc::new(Context {
            models,
            search: everywhere.unwrap_or_else(|| builtin.clone()),
            builtin,
            runtime,
            short_names: plan.manifest.output.names == manifest::OutputNames::Short,
            original_bytes: original.encoded_len(),
            reference: model,
            reference_shapes: Arc::new(reference_shapes),
            feed_shapes,
            splits,
            augmentation: plan
                .manifest
                .data
                .augment
                .map_or_else(Augmentation::default, |augment| Augmentation {
                    shift: usize::try_from(augment.shift).unwrap_or(usize::MAX),
                    flip: augment.flip,
                }),
            checkpoints: folder.join(RunFolder::CHECKPOINTS),
            store: TensorStore::new(folder.to_owned()),
            seed: plan.resolved.policy.seed,
            threads,
            interrupted,
            progress: Progress::new(common.quiet),
            reference_answers: Answers::of_reference(),
        });
        let mut subject = Subject::new(context.clone(), &plan, plugins, chosen.proxy_meter.as_deref())?;
        Ok(Self {
            before: measure_original(&mut subject)?,
            model: model_report,
            plan,
            context,
            chosen,
            subject,
        })
    }
}

/// Refuses a model that the built-in engine cannot run, by what stands in the way first.
pub fn check_operators(model: &Model, path: &Path) -> Result<(), Failure> {
    match Interpreter.supports(model).into_iter().next() {
        Some(refusal) => Err(compute_failure(path, &refusal.into())),
        None => Ok(()),
    }
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

/// ONNX Runtime, if it is asked for or there, and runs the model.
fn runtime(choice: EngineChoice, model: &Model, path: &Path) -> Result<Option<Arc<Executor>>, Failure> {
    let Some(found) = engine::find(choice)? else {
        return Ok(None);
    };
    let engine = found.engine(engine::options());
    match engine
        .supports(model)
        .into_iter()
        .next()
        .map(kmr_compute::ComputeError::from)
    {
        Some(refusal) if choice == EngineChoice::Onnxruntime => Err(compute_failure(path, &refusal)),
        Some(refusal) => {
            log::warn!("the holdout is judged in the built-in engine: {refusal}");
            Ok(None)
        }
        None => {
            let executor = Executor::new(engine, model);
            executor.map(Some).map_err(|error| compute_failure(path, &error))
        }
    }
}

/// The model, its weights to be written where the run's artifact has them.
fn placed(model: Model, apart: bool, path: &Path) -> Result<Model, Failure> {
    let files = model.files().map_err(|error| Failure::model(path, &error))?;
    let apart = apart || files.data().is_some();
    Ok(model.with_external_data(apart.then_some(RunFolder::DATA)))
}

/// The model as rules see it: weights that the file keeps in functions, Constant nodes and subgraphs are initializers
/// of the main graph, in the operator set that rules need. Answers and the names of nodes stay.
pub fn prepared(original: &Model, path: &Path, opset: i64) -> Result<Model, Failure> {
    let (model, inlined) = original.inline_functions().unwrap_or_else(|error| {
        log::warn!("the model's functions stay as they are: {error}");
        (original.clone(), Vec::new())
    });
    let (model, lifted) = model.lift_constants().map_err(|error| Failure::model(path, &error))?;
    for change in inlined.iter().chain(&lifted) {
        log::info!("{change}");
    }
    if model.opset() >= opset {
        return Ok(model);
    }
    let (model, changes) = kmr_model::upgrade::upgrade(&model, opset).map_err(|error| Failure::model(path, &error))?;
    for change in changes {
        log::info!("{change}");
    }
    Ok(model)
}

fn check_weights(model: &Model, path: &Path) -> Result<(), Failure> {
    for (name, initializer) in &model.graph.initializers {
        let tensor = &initializer.tensor;
        if !tensor.dtype().is_float() {
            continue;
        }
        let not_a_number = |start: usize, values: &[f32]| {
            let position = values.iter().position(|value| value.is_nan())?;
            Some((start + position, values[position]))
        };
        let found = tensor.visit_f32(not_a_number);
        if let Some((position, value)) = found.map_err(|error| Failure::model(path, &error))? {
            let message = format!("tensor `{name}` holds {value} at element {position}");
            return Err(Failure::new(exit::INPUT, message)
                .at(path.display().to_string())
                .help("a model with such weights cannot be compared; train or export it again"));
        }
    }
    Ok(())
}

/// Refuses meters that need labels where the data has none, before anything is searched.
fn check_labels(plan: &Plan, splits: &Splits) -> Result<(), Failure> {
    for meter in plan.resolved.meters.iter().filter(|meter| meter.offer.needs_labels) {
        let judged = [Some(&splits.search), splits.holdout.as_ref()];
        if let Some(data) = judged
            .into_iter()
            .flatten()
            .find(|data| data.labels().is_none() && data.targets().is_none())
        {
            let message = format!(
                "meter `{}` needs labels, and {} has none",
                meter.offer.id,
                data.path().display()
            );
            return Err(Failure::new(exit::INPUT, message)
                .at(plan.path.display().to_string())
                .help("add an array of labels (texts: name their column with `label`), or use `agreement`, `kl`, `cosine` or `sqnr`"));
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
pub fn limits(plan: &Plan, before: &kmr_core::Costs) -> Result<Vec<(String, f64)>, Failure> {
    let limits = plan.resolved.limits.iter();
    limits
        .map(|limit| absolute(&limit.meter, &limit.at_most, before))
        .collect()
}

/// A limit in the meter's unit.
pub fn absolute(meter: &str, at_most: &manifest::Amount, before: &kmr_core::Costs) -> Result<(String, f64), Failure> {
    let original = before.get(meter).copied().ok_or_else(|| {
        Failure::new(exit::INPUT, format!("`{meter}` of this model is not known"))
            .help("declare the shapes of open inputs under `[model] inputs`; `kmr measure` tells what is missing")
    })?;
    let limit = at_most.limit(original);
    // The host's own meters count whole things: a share of them is met by whole numbers alone.
    let counts = kmr_model::cost::NAMES.contains(&meter);
    Ok((meter.to_owned(), if counts { limit.floor() } else { limit }))
}

/// Why a search could not go on.
pub fn search_failure(error: KmrError<SubjectFailure>) -> Failure {
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

/// The stages of a search within `limits`, its floor for a meter of this `sign`.
pub fn stages(plan: &Plan, limits: &[(String, f64)], before: &kmr_core::Costs, sign: f64) -> Result<Pipeline, Failure> {
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
