//! Runs of a model over a split, and the answers kept from them.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use kmr_compute::{ComputeError, ErrorKind, Mode, Program};
use kmr_formats::{Dataset, Sample};
use kmr_model::Tensor;

use super::{context::Executor, held::Holding};

/// Samples to a batch where nobody asks otherwise.
pub const BATCH: usize = 100;

/// What was asked for: values, and a range of samples.
type Asked = (Vec<String>, Range<usize>);

/// One model's answers on one data set, kept for meters that ask for the same: several meters, one run.
pub struct ForwardCache {
    entries: Mutex<HashMap<Asked, Vec<Tensor>>>,
    /// Bytes that may still be kept, here and elsewhere.
    room: Arc<AtomicUsize>,
}

/// Bytes of one candidate's answers that are kept: large ones (segmentation, generation) are cheaper to compute again.
const CANDIDATE_ROOM: usize = 16 << 20;
/// Bytes of the reference's answers that are kept, which every comparison needs again.
const REFERENCE_ROOM: usize = 1 << 30;

impl ForwardCache {
    fn get(&self, key: &Asked) -> Option<Vec<Tensor>> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(key).cloned()
    }

    fn put(&self, key: Asked, answers: &[Tensor]) {
        let bytes: usize = answers.iter().map(Tensor::byte_len).sum();
        let taken = self
            .room
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(bytes));
        if taken.is_ok() {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            entries.insert(key, answers.to_vec());
        }
    }
}

/// What an engine answered on a split.
type Kept = (Arc<Executor>, Arc<Dataset>, Arc<ForwardCache>);

/// One model's answers, engine by engine and split by split.
pub struct Answers {
    splits: Mutex<Vec<Kept>>,
    room: Arc<AtomicUsize>,
}

impl Answers {
    /// Those of a candidate.
    pub fn of_candidate() -> Self {
        Self::within(CANDIDATE_ROOM)
    }

    /// Those of the reference.
    pub fn of_reference() -> Self {
        Self::within(REFERENCE_ROOM)
    }

    fn within(bytes: usize) -> Self {
        Self {
            splits: Mutex::default(),
            room: Arc::new(AtomicUsize::new(bytes)),
        }
    }

    /// The answers on `data` in an engine.
    pub fn on(&self, executor: &Arc<Executor>, data: &Arc<Dataset>) -> Arc<ForwardCache> {
        let mut splits = self.splits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = splits.iter();
        let known = known.find(|(engine, split, _)| Arc::ptr_eq(engine, executor) && Arc::ptr_eq(split, data));
        if let Some((_, _, answers)) = known {
            return answers.clone();
        }
        let answers = Arc::new(ForwardCache {
            entries: Mutex::default(),
            room: self.room.clone(),
        });
        splits.push((executor.clone(), data.clone(), answers.clone()));
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
    /// [`outputs`](Self::outputs) of rows, from values that are held, and holding those that others will need.
    pub fn outputs_from(
        &self,
        outputs: &[String],
        range: Range<usize>,
        holding: &Holding,
    ) -> Result<Vec<Tensor>, ComputeError> {
        let known = holding.known(&range);
        // What is asked for may be held itself.
        let asked: Vec<String> = outputs
            .iter()
            .filter(|name| known.iter().all(|(held, _)| held != *name))
            .cloned()
            .collect();
        let mut names = asked.clone();
        names.extend(holding.missing(&known).into_iter().filter(|name| !asked.contains(name)));
        let mut computed = Vec::new();
        if !names.is_empty() {
            let inputs = self.data.calls(range.clone()).into_iter().flatten();
            let feeds = inputs.chain(known.iter().cloned()).collect();
            let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
            let values = self.program.forward(&feeds, &wanted, Mode::default())?;
            computed = names.into_iter().zip(values).collect();
        }
        let answers = outputs.iter().filter_map(|name| {
            let all = known.iter().chain(&computed);
            all.into_iter()
                .find(|(held, _)| held == name)
                .map(|(_, value)| value.clone())
        });
        let answers = answers.collect();
        holding.keep(range, known, computed);
        Ok(answers)
    }

    /// The values `outputs` on the samples in `range`; none named means the model's outputs.
    pub fn outputs(&self, outputs: &[String], range: Range<usize>) -> Result<Vec<Tensor>, ComputeError> {
        let key = (outputs.to_vec(), range.clone());
        if let Some(known) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Ok(known);
        }
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let mode = Mode::default();
        let calls = self.data.calls(range).into_iter();
        let mut answered: Vec<Vec<Tensor>> = calls
            .map(|inputs| self.program.forward(&inputs.into_iter().collect(), &names, mode))
            .collect::<Result<_, _>>()?;
        let answers = match self.data.sample() {
            Sample::Row => answered.pop().unwrap_or_default(),
            Sample::Call => joined(&answered)?,
        };
        if let Some(cache) = &self.cache {
            cache.put(key, &answers);
        }
        Ok(answers)
    }
}

/// The answers of calls, with a new first axis that counts them.
fn joined(answered: &[Vec<Tensor>]) -> Result<Vec<Tensor>, ComputeError> {
    let Some(first) = answered.first() else {
        return Ok(Vec::new());
    };
    let outputs = first.iter().enumerate();
    outputs
        .map(|(position, example)| {
            let shape = example.shape();
            let mut bytes = Vec::with_capacity(example.byte_len() * answered.len());
            for call in answered {
                let answer = &call[position];
                if answer.shape() != shape || answer.dtype() != example.dtype() {
                    let message = format!("differs in shape between samples: {shape:?} and {:?}", answer.shape());
                    return Err(shapeless(position, message));
                }
                bytes.extend_from_slice(answer.bytes());
            }
            let joined = [&[answered.len()], shape].concat();
            Tensor::new(example.dtype(), joined, bytes.into()).map_err(|error| shapeless(position, error.to_string()))
        })
        .collect()
}

fn shapeless(position: usize, message: String) -> ComputeError {
    ComputeError::new(ErrorKind::Shape, format!("output {position}"), message)
}
