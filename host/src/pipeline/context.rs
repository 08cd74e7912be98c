//! What every part of a run shares and none changes.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use kmr_compute::{Engine, Program};
use kmr_formats::Dataset;
use kmr_model::Model;

use super::{data::Splits, forward::ForwardCache};
use crate::terminal::Progress;

/// What every part of a run shares and none changes.
pub struct Context {
    /// Runs models.
    pub engine: Box<dyn Engine>,
    /// The model that the run started from.
    pub reference: Model,
    /// The same, ready to run.
    pub reference_program: Arc<dyn Program>,
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
    search_answers: Arc<ForwardCache>,
    holdout_answers: Arc<ForwardCache>,
}

impl Context {
    /// A context.
    #[expect(clippy::too_many_arguments, reason = "each is one independent part of a run")]
    pub fn new(
        engine: Box<dyn Engine>,
        reference: Model,
        reference_program: Arc<dyn Program>,
        feed_shapes: BTreeMap<String, Vec<usize>>,
        splits: Splits,
        seed: u64,
        threads: usize,
        interrupted: Arc<AtomicBool>,
        progress: Progress,
    ) -> Self {
        Self {
            engine,
            reference,
            reference_program,
            feed_shapes,
            splits,
            seed,
            threads,
            interrupted,
            progress,
            search_answers: Arc::default(),
            holdout_answers: Arc::default(),
        }
    }

    /// Whether somebody asked to stop.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// The reference's answers on `data`, which is one of the splits.
    pub fn reference_answers(&self, data: &Arc<Dataset>) -> Arc<ForwardCache> {
        if Arc::ptr_eq(data, &self.splits.search) {
            self.search_answers.clone()
        } else {
            self.holdout_answers.clone()
        }
    }
}
