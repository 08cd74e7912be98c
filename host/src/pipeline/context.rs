//! What every part of a run shares and none changes.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kmr_compute::{ComputeError, Engine, Program};
use kmr_formats::Augmentation;
use kmr_model::{Model, ModelError, codec::ModelFiles, compact, shapes::Shapes};

use super::{data::Splits, forward::Answers};
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

/// What every part of a run shares and none changes.
pub struct Context {
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
