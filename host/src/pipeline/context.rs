//! What every part of a run shares and none changes.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use kmr_compute::{ComputeError, Engine, Program};
use kmr_formats::Augmentation;
use kmr_model::{Model, ModelError, codec::ModelFiles, compact, shapes::Shapes};
use kmr_run::FileReport;

use super::{data::Splits, forward::Answers, store::TensorStore};
use crate::{exit, failure::Failure, terminal::Progress};

/// An engine, and the model that the run started from, ready to run in it.
pub struct Executor {
    /// Runs models.
    pub engine: Box<dyn Engine>,
    /// The reference.
    pub reference: Arc<dyn Program>,
}

impl Executor {
    /// An engine with this reference.
    ///
    /// # Errors
    /// If the graph does not hold together.
    pub fn new(engine: impl Engine + 'static, reference: &Model) -> Result<Arc<Self>, ComputeError> {
        Ok(Arc::new(Self {
            reference: Arc::from(engine.load(reference)?),
            engine: Box::new(engine),
        }))
    }
}

/// A model of the manifest beside the one under reduction.
pub struct FurtherModel {
    /// The model, its weights being initializers.
    pub model: Model,
    /// Its file.
    pub file: FileReport,
    program: OnceLock<Arc<dyn Program>>,
}

impl FurtherModel {
    /// A model that was read from a file.
    pub fn new(model: Model, file: FileReport) -> Self {
        Self {
            model,
            file,
            program: OnceLock::new(),
        }
    }

    /// The model, ready to run in `engine`; always the same one.
    ///
    /// # Errors
    /// If the engine cannot run it.
    pub fn program(&self, engine: &dyn Engine) -> Result<Arc<dyn Program>, ComputeError> {
        if let Some(program) = self.program.get() {
            return Ok(program.clone());
        }
        let loaded = Arc::from(engine.load(&self.model)?);
        Ok(self.program.get_or_init(|| loaded).clone())
    }
}

/// What every part of a run shares and none changes.
pub struct Context {
    /// Further models that rules may look at, by name.
    pub models: BTreeMap<String, FurtherModel>,
    /// The engine that is linked in: rules observe and differentiate in it.
    pub builtin: Arc<Executor>,
    /// ONNX Runtime, if the holdout is judged in it.
    pub runtime: Option<Arc<Executor>>,
    /// The one of these that the search judges in.
    pub search: Arc<Executor>,
    /// Whether inner values get short names in what is written.
    pub short_names: bool,
    /// The length of the model that the run started from, written as the run writes models.
    pub original_bytes: u64,
    /// That model, its weights being initializers.
    pub reference: Model,
    /// The shapes of the reference's values.
    pub reference_shapes: Arc<Shapes>,
    /// The shapes that costs are counted at: one sample.
    pub feed_shapes: BTreeMap<String, Vec<usize>>,
    /// The data.
    pub splits: Splits,
    /// How images change while rules train on them.
    pub augmentation: Augmentation,
    /// Where training that is cut off goes on.
    pub checkpoints: PathBuf,
    /// Where the tensors lie that rules make.
    pub store: TensorStore,
    /// The seed of everything random.
    pub seed: u64,
    /// How many threads compute.
    pub threads: usize,
    /// Whether somebody asked to stop.
    pub interrupted: Arc<AtomicBool>,
    /// Where progress is shown.
    pub progress: Progress,
    /// The reference's answers, which every comparison needs again.
    pub reference_answers: Answers,
}

impl Context {
    /// A candidate as it is written.
    ///
    /// # Errors
    /// As [`compact::short_names`].
    pub fn written(&self, candidate: &Model) -> Result<Model, ModelError> {
        match self.short_names {
            // Not sharing equal tensors: costs are counted on values that may be any.
            true => compact::short_names(candidate),
            false => Ok(candidate.clone()),
        }
    }

    /// The engine that holdouts are judged in.
    pub fn judge(&self) -> &Arc<Executor> {
        self.runtime.as_ref().unwrap_or(&self.builtin)
    }

    /// The files of a candidate.
    pub fn files(&self, candidate: &Model) -> Result<ModelFiles, Failure> {
        let files = self.written(candidate).and_then(|written| written.files());
        files.map_err(|error| Failure::new(exit::INTERNAL, format!("the result cannot be written: {error}")))
    }

    /// Whether somebody asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
