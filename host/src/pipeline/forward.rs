//! Runs of a model over a split, and the answers kept from them.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use kmr_compute::{BatchNorm, ComputeError, Feeds, Mode, Program};
use kmr_formats::Dataset;
use kmr_model::Tensor;

/// Samples to a batch where nobody asks otherwise.
pub const BATCH: usize = 100;

/// One model's answers on one data set, kept for meters that ask for the same: several meters, one run.
#[derive(Default)]
pub struct ForwardCache {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    answers: HashMap<(Vec<String>, Range<usize>), Vec<Tensor>>,
    bytes: usize,
}

/// Large answers (segmentation, generation) are cheaper to compute again than to hold.
const CACHE_LIMIT: usize = 16 << 20;

impl ForwardCache {
    fn get(&self, key: &(Vec<String>, Range<usize>)) -> Option<Vec<Tensor>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.answers.get(key).cloned()
    }

    fn put(&self, key: (Vec<String>, Range<usize>), answers: &[Tensor]) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: usize = answers.iter().map(Tensor::byte_len).sum();
        if entries.bytes + bytes <= CACHE_LIMIT {
            entries.bytes += bytes;
            entries.answers.insert(key, answers.to_vec());
        }
    }
}

/// One model's answers, split by split.
#[derive(Default)]
pub struct Answers {
    splits: Mutex<Vec<(Arc<Dataset>, Arc<ForwardCache>)>>,
}

impl Answers {
    /// The answers on `data`.
    pub fn on(&self, data: &Arc<Dataset>) -> Arc<ForwardCache> {
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, answers)) = splits.iter().find(|(known, _)| Arc::ptr_eq(known, data)) {
            return answers.clone();
        }
        let answers = Arc::new(ForwardCache::default());
        splits.push((data.clone(), answers.clone()));
        answers
    }
}

/// A program on a split.
#[derive(Clone)]
pub struct Forward {
    /// The model.
    pub program: Arc<dyn Program>,
    /// The data.
    pub data: Arc<Dataset>,
    /// Answers to keep.
    pub cache: Option<Arc<ForwardCache>>,
}

impl Forward {
    /// The values `outputs` on the samples in `range`; none named means the model's outputs.
    pub fn outputs(&self, outputs: &[String], range: Range<usize>) -> Result<Vec<Tensor>, ComputeError> {
        let key = (outputs.to_vec(), range.clone());
        if let Some(known) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Ok(known);
        }
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let mode = Mode {
            batch_norm: BatchNorm::Running,
        };
        let answers = self.program.forward(&self.feeds(range), &names, mode)?;
        if let Some(cache) = &self.cache {
            cache.put(key, &answers);
        }
        Ok(answers)
    }

    /// The inputs of the samples in `range`.
    pub fn feeds(&self, range: Range<usize>) -> Feeds {
        self.data.batch(range).into_iter().collect()
    }
}
