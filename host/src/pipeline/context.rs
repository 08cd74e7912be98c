//! What every part of a run shares and none changes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kmr_compute::{Engine, Program};
use kmr_model::{Model, ModelError, compact, shapes::Shapes};

use super::{data::Splits, forward::Answers};
use crate::terminal::Progress;

/// What every part of a run shares and none changes.
pub struct Context {
    /// Runs models.
    pub engine: Box<dyn Engine>,
    /// Whether inner values get short names in what is written.
    pub short_names: bool,
    /// The length of the model that the run started from, written as the run writes models.
    pub original_bytes: u64,
    /// That model, its weights being initializers.
    pub reference: Model,
    /// The same, ready to run.
    pub reference_program: Arc<dyn Program>,
    /// The shapes of the reference's values.
    pub reference_shapes: Arc<Shapes>,
    /// The shapes that costs are counted at: one sample.
    pub feed_shapes: BTreeMap<String, Vec<usize>>,
    /// The data.
    pub splits: Splits,
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
            true => compact::short_names(&compact::shared_initializers(candidate)?),
            false => Ok(candidate.clone()),
        }
    }

    /// Whether somebody asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }
}
