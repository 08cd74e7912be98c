//! The host, as plugins see it during one call.

use std::{
    cell::LazyCell,
    ops::Range,
    panic::resume_unwind,
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use kmr_abi::{
    AbiResult, Batch, BatchIterator, BatchIterator_TO, BatchIteratorBox, CANDIDATE, ErrorCode, Host, Host_TO, HostRef,
    OutputBuffer_TO, OutputBufferBox, PluginError, REFERENCE, Session_TO, SessionBox, SharedTensor, SharedTensor_TO,
    SharedTensorBox, TensorDescription,
    abi_stable::{
        erased_types::TD_Opaque,
        sabi_types::RRef,
        std_types::{RNone, ROption, RSlice, RSome, RStr, RVec},
    },
    guard,
};
use kmr_compute::{ComputeError, Program};
use kmr_formats::{Dataset, Sample};
use kmr_model::{Model, Tensor};
use kmr_sdk::{
    Error,
    tensors::{describe, read_description},
    wire::{EditRequest, ObserveRequest, RunRequest, SessionRequest, Split},
};
use serde::de::DeserializeOwned;

use super::{
    checkpoint::{Checkpoints, Key},
    context::{Context, Executor},
    forward::{BATCH, Forward, ForwardCache},
    held::{HeldValues, Holding},
    session::{DataSession, Opening},
    transaction::Transaction,
};

/// Who is calling, and so what they may do.
#[derive(Clone)]
pub enum Caller {
    /// A rule that looks for targets: it may read calibration data.
    Targets,
    /// A rule at work, with its settings and what it was asked to apply: it may edit, too.
    Apply(Arc<str>),
    /// A meter: it may read the data that the candidate is judged by, and edit nothing.
    Meter {
        /// The engine that it judges in.
        executor: Arc<Executor>,
        /// The data.
        data: Arc<Dataset>,
        /// The most samples of it.
        limit: Option<usize>,
        /// What the candidate answered to other meters.
        answers: Arc<ForwardCache>,
    },
}

/// The host's services for one call.
pub struct Services {
    context: Arc<Context>,
    caller: Caller,
    transaction: Transaction,
    /// What runs of this call keep for the next ones.
    held: HeldValues,
    /// When this call first told of its progress, and how far it was then: one that goes on from a checkpoint does not
    /// begin at nothing.
    told: OnceLock<(Instant, f64)>,
}

impl Services {
    /// Services on `transaction`.
    pub fn new(context: Arc<Context>, caller: Caller, transaction: Transaction) -> Self {
        Self {
            context,
            caller,
            transaction,
            held: HeldValues::default(),
            told: OnceLock::new(),
        }
    }

    /// These services, lent to a plugin.
    pub fn lend(&self) -> HostRef<'_> {
        Host_TO::from_ptr(RRef::new(self), TD_Opaque)
    }

    fn model(&self, name: &str) -> Result<Model, PluginError> {
        match name {
            CANDIDATE => Ok(self.transaction.model()),
            REFERENCE => Ok(self.context.reference.clone()),
            other => match self.context.models.get(other) {
                Some(further) => Ok(further.model.clone()),
                None => Err(self.unknown_model(other)),
            },
        }
    }

    fn program(&self, name: &str) -> Result<Arc<dyn Program>, PluginError> {
        let executor = match &self.caller {
            Caller::Meter { executor, .. } => executor,
            Caller::Targets | Caller::Apply(_) => &self.context.builtin,
        };
        match name {
            CANDIDATE => self.transaction.program(&*executor.engine).map_err(compute_error),
            REFERENCE => Ok(executor.reference.clone()),
            other => match self.context.models.get(other) {
                Some(further) => further.program(&*self.context.builtin.engine).map_err(compute_error),
                None => Err(self.unknown_model(other)),
            },
        }
    }

    fn unknown_model(&self, name: &str) -> PluginError {
        let further = self.context.models.keys().map(|name| format!(", `{name}`"));
        let message = format!(
            "there is no model `{name}`; there are `{CANDIDATE}`, `{REFERENCE}`{}, and those that the manifest names \
             under `[models]`",
            further.collect::<String>()
        );
        PluginError::new(ErrorCode::NOT_FOUND, message)
    }

    /// The data of a split and the number of samples that the caller may see of it.
    fn data(&self, split: Split) -> Result<(Arc<Dataset>, usize), PluginError> {
        match (split, &self.caller) {
            (Split::Calibration, _) => {
                let data = self.context.splits.calibration.clone().ok_or_else(|| {
                    PluginError::new(
                        ErrorCode::NOT_FOUND,
                        "there is no calibration data; give the manifest `data.calibration`",
                    )
                })?;
                let samples = data.len();
                Ok((data, samples))
            }
            (Split::Training, _) => {
                let splits = &self.context.splits;
                let data = splits.training.clone().or_else(|| splits.calibration.clone());
                let data = data.ok_or_else(|| {
                    PluginError::new(
                        ErrorCode::NOT_FOUND,
                        "there is no training data; give the manifest `data.training` or `data.calibration`",
                    )
                })?;
                let samples = data.len();
                Ok((data, samples))
            }
            (Split::Evaluation, Caller::Meter { data, limit, .. }) => {
                Ok((data.clone(), limit.unwrap_or(usize::MAX).min(data.len())))
            }
            (Split::Evaluation, _) => Err(PluginError::new(
                ErrorCode::DENIED,
                "a rule may read calibration and training data alone, not what it is judged by",
            )),
        }
    }

    fn cache(&self, request: &RunRequest) -> Option<Arc<ForwardCache>> {
        match (&self.caller, request.split) {
            (
                Caller::Meter {
                    executor,
                    data,
                    answers,
                    ..
                },
                Split::Evaluation,
            ) => Some(match request.model.as_str() {
                REFERENCE => self.context.reference_answers.on(executor, data),
                CANDIDATE => answers.clone(),
                _ => return None,
            }),
            _ => None,
        }
    }
}

impl Host for Services {
    fn graph(&self, model: RStr<'_>) -> AbiResult<RVec<u8>> {
        guard(|| Ok(self.model(model.as_str())?.encode_without_tensors().into()))
    }

    fn tensor(&self, model: RStr<'_>, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| {
            let model = self.model(model.as_str())?;
            let tensor = model.graph.tensor(name.as_str()).ok_or_else(|| {
                PluginError::new(ErrorCode::NOT_FOUND, "the model has no such tensor").at(name.as_str())
            })?;
            Ok(share(name.as_str(), (**tensor).clone()))
        })
    }

    fn output<'a>(&'a self, description: TensorDescription) -> AbiResult<OutputBufferBox<'a>> {
        guard(|| {
            let (dtype, shape) = read_description(&description).map_err(PluginError::from)?;
            let buffer = self.transaction.buffer(&self.context.store, dtype, shape)?;
            Ok(OutputBuffer_TO::from_value(buffer, TD_Opaque))
        })
    }

    fn edit(&self, operations: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<()> {
        guard(|| {
            if !matches!(self.caller, Caller::Apply(_)) {
                return Err(PluginError::new(
                    ErrorCode::DENIED,
                    "only a rule's apply may edit the model",
                ));
            }
            let request: EditRequest = parse(operations)?;
            let attachments: Vec<&[u8]> = attachments.iter().map(RVec::as_slice).collect();
            let patch = request.to_patch(&attachments, |number| self.transaction.take(number))?;
            Ok(self.transaction.apply(&patch)?)
        })
    }

    fn run<'a>(&'a self, request: RStr<'_>) -> AbiResult<BatchIteratorBox<'a>> {
        guard(|| {
            let request: RunRequest = parse(request)?;
            let (data, samples) = self.data(request.split)?;
            let end = request.limit.unwrap_or(usize::MAX).min(samples);
            let size = batch_size(&data, request.batch.unwrap_or(BATCH));
            let names = self.output_names(&request)?;
            let source = BatchSource {
                forward: Forward {
                    program: self.program(&request.model)?,
                    data: data.clone(),
                    cache: self.cache(&request),
                },
                holding: self.holding(&request, &names, &data),
                names,
                outputs: request.outputs,
            };
            let batches = DataBatches {
                source: Arc::new(source),
                size,
                next: 0,
                end,
                ahead: None,
                context: self.context.clone(),
            };
            Ok(BatchIterator_TO::from_value(batches, TD_Opaque))
        })
    }

    fn observe(&self, request: RStr<'_>) -> AbiResult<RVec<SharedTensorBox>> {
        guard(|| {
            let request: ObserveRequest = parse(request)?;
            let (data, samples) = self.data(Split::Calibration)?;
            let samples = request.samples.unwrap_or(usize::MAX).min(samples);
            let program = self.program(CANDIDATE)?;
            let observed = super::observation::observe(&*program, &data, samples, &request).map_err(compute_error)?;
            Ok(observed
                .into_iter()
                .map(|(name, tensor)| share(&name, tensor))
                .collect())
        })
    }

    fn open_session<'a>(&'a self, request: RStr<'_>, attachments: RSlice<'_, RVec<u8>>) -> AbiResult<SessionBox<'a>> {
        guard(|| {
            let text = request.as_str().to_owned();
            let mut request: SessionRequest = parse(request)?;
            let (data, samples) = self.data(request.split)?;
            request.samples = Some(request.samples.unwrap_or(usize::MAX).min(samples));
            let mut model = self.model(&request.model)?;
            let program = match request.edits.take() {
                None => self.program(&request.model)?,
                Some(edits) => {
                    let attachments: Vec<&[u8]> = attachments.iter().map(RVec::as_slice).collect();
                    let patch = edits.to_patch(&attachments, |number| self.transaction.take(number))?;
                    model = model.with_graph(patch.apply(&model.graph).map_err(Error::from)?);
                    let engine = &self.context.builtin.engine;
                    Arc::from(engine.load(&model).map_err(compute_error)?)
                }
            };
            let augmentation = self.context.augmentation;
            let (candidate, checkpoints) = match &self.caller {
                Caller::Apply(settings) => {
                    let folder = self.context.checkpoints.clone();
                    let (settings, model, data) = (settings.clone(), model.clone(), data.clone());
                    let place = move || {
                        let key = Key {
                            settings: &settings,
                            request: &text,
                            model: &model,
                            data: &data,
                            augmentation,
                        };
                        Checkpoints::new(&folder, &key.digest())
                    };
                    let place: LazyCell<_, Box<dyn FnOnce() -> Checkpoints + Send>> = LazyCell::new(Box::new(place));
                    (Some(self.transaction.clone()), Some(place))
                }
                _ => (None, None),
            };
            let opening = Opening {
                model,
                program,
                data,
                augmentation,
                candidate,
                checkpoints,
            };
            Ok(Session_TO::from_value(DataSession::new(request, opening)?, TD_Opaque))
        })
    }

    fn progress(&self, fraction: f64, text: RStr<'_>) -> AbiResult<()> {
        guard(|| {
            let done = fraction.clamp(0.0, 1.0);
            let (started, before) = *self.told.get_or_init(|| (Instant::now(), done));
            let left = match done > before {
                true => {
                    let left = started.elapsed().mul_f64((1.0 - done) / (done - before));
                    format!(", {} left", spoken(left))
                }
                false => String::new(),
            };
            self.context
                .progress
                .now(format!("{text} ({:.0} %{left})", done * 100.0));
            Ok(())
        })
    }

    fn cancelled(&self) -> AbiResult<bool> {
        guard(|| Ok(self.context.is_interrupted()))
    }

    fn seed(&self) -> AbiResult<u64> {
        guard(|| Ok(self.context.seed))
    }

    fn threads(&self) -> AbiResult<u64> {
        guard(|| Ok(self.context.threads as u64))
    }
}

impl Services {
    /// Whether a run keeps what it computes, and goes on from what others have kept: those of a rule on the candidate.
    fn holding(&self, request: &RunRequest, names: &[String], data: &Dataset) -> Option<Holding> {
        let of_rule = !matches!(self.caller, Caller::Meter { .. });
        let asked = request.hold && request.split == Split::Calibration && request.model == CANDIDATE;
        let rows = matches!(data.sample(), Sample::Row);
        (of_rule && asked && rows).then(|| self.held.begin(&self.transaction.model().graph, names))
    }

    fn output_names(&self, request: &RunRequest) -> Result<Vec<String>, PluginError> {
        if !request.outputs.is_empty() {
            return Ok(request.outputs.clone());
        }
        let model = self.model(&request.model)?;
        Ok(model
            .graph
            .outputs
            .iter()
            .map(|output| output.name().to_owned())
            .collect())
    }
}

/// Batches, of which the next is computed while a plugin works with the one that it has.
struct DataBatches {
    source: Arc<BatchSource>,
    size: usize,
    next: usize,
    end: usize,
    ahead: Option<JoinHandle<Result<Vec<Tensor>, ComputeError>>>,
    context: Arc<Context>,
}

/// What computes batches.
struct BatchSource {
    forward: Forward,
    outputs: Vec<String>,
    /// The names of what comes out: `outputs`, or the model's where these are none.
    names: Vec<String>,
    holding: Option<Holding>,
}

impl BatchSource {
    fn compute(&self, range: Range<usize>) -> Result<Vec<Tensor>, ComputeError> {
        let outputs = match &self.holding {
            Some(holding) => self.forward.outputs_from(&self.names, range, holding)?,
            None => self.forward.outputs(&self.outputs, range)?,
        };
        Ok(match self.forward.data.sample() {
            Sample::Row => outputs,
            Sample::Call => outputs.into_iter().map(of_one_call).collect(),
        })
    }
}

impl DataBatches {
    /// The next samples; none after the last.
    fn range(&self) -> Range<usize> {
        self.next..self.next.saturating_add(self.size).min(self.end)
    }

    /// Begins with the next batch, unless everything is to be done by one thread.
    fn look_ahead(&mut self) {
        let range = self.range();
        if range.is_empty() || self.context.threads < 2 {
            return;
        }
        let source = self.source.clone();
        // Where no thread is to be had, the batch is computed when it is asked for.
        self.ahead = thread::Builder::new().spawn(move || source.compute(range)).ok();
    }
}

impl Drop for DataBatches {
    fn drop(&mut self) {
        // What nobody asks for any more must not compute beside what comes next.
        if let Some(ahead) = self.ahead.take() {
            drop(ahead.join());
        }
    }
}

impl BatchIterator for DataBatches {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        guard(|| {
            let range = self.range();
            if range.is_empty() {
                return Ok(RNone);
            }
            if self.context.is_interrupted() {
                return Err(PluginError::new(ErrorCode::CANCELLED, "cancelled"));
            }
            let outputs = match self.ahead.take() {
                Some(ahead) => ahead.join().unwrap_or_else(|panic| resume_unwind(panic)),
                None => self.source.compute(range.clone()),
            };
            let outputs = outputs.map_err(compute_error)?;
            self.next = range.end;
            self.look_ahead();
            let named = self.source.names.iter().zip(outputs);
            Ok(RSome(batch(
                &self.source.forward.data,
                range,
                named.map(|(name, tensor)| share(name, tensor)).collect(),
            )))
        })
    }
}

/// Samples to a batch of those that a plugin sees: where each is a call, one.
pub fn batch_size(data: &Dataset, asked: usize) -> usize {
    match data.sample() {
        Sample::Row => asked.max(1),
        Sample::Call => 1,
    }
}

/// An output of one call, whose own first axis of size 1 counts samples as well as the one before it.
fn of_one_call(output: Tensor) -> Tensor {
    match *output.shape() {
        [1, 1, ..] => output.reshaped(output.shape()[1..].to_vec()).unwrap_or(output),
        _ => output,
    }
}

/// The samples in `range`, of [`batch_size`], with `outputs` computed on them; the inputs are as the model takes them.
pub fn batch(data: &Dataset, range: Range<usize>, outputs: RVec<SharedTensorBox>) -> Batch {
    let inputs = data.calls(range.clone()).into_iter().flatten();
    batch_of(range.len(), inputs, data.batch_targets(range), outputs)
}

/// Samples with their inputs as the model takes them.
pub fn batch_of(
    size: usize,
    inputs: impl IntoIterator<Item = (String, Tensor)>,
    targets: Option<Tensor>,
    outputs: RVec<SharedTensorBox>,
) -> Batch {
    Batch {
        size: size as u64,
        inputs: inputs.into_iter().map(|(name, tensor)| share(&name, tensor)).collect(),
        labels: targets.map(|targets| share("labels", targets)).into(),
        outputs,
    }
}

/// A duration for people.
fn spoken(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

struct Held {
    description: TensorDescription,
    bytes: Bytes,
}

impl SharedTensor for Held {
    fn description(&self) -> AbiResult<TensorDescription> {
        guard(|| Ok(self.description.clone()))
    }

    fn bytes<'a>(&'a self) -> AbiResult<RSlice<'a, u8>> {
        guard(|| Ok(RSlice::from_slice(&self.bytes)))
    }
}

/// A handle to a tensor.
pub fn share(name: &str, tensor: Tensor) -> SharedTensorBox {
    let held = Held {
        description: describe(name, tensor.dtype(), tensor.shape()),
        bytes: tensor.bytes().clone(),
    };
    SharedTensor_TO::from_value(held, TD_Opaque)
}

pub fn parse<T: DeserializeOwned>(json: RStr<'_>) -> Result<T, PluginError> {
    serde_json::from_str(json.as_str()).map_err(|error| PluginError::new(ErrorCode::INVALID_REQUEST, error.to_string()))
}

/// An execution's error, for a plugin.
pub fn compute_error(error: ComputeError) -> PluginError {
    let code = match error.kind() {
        kmr_compute::ErrorKind::Unsupported => ErrorCode::UNSUPPORTED,
        kmr_compute::ErrorKind::Name => ErrorCode::NOT_FOUND,
        kmr_compute::ErrorKind::Shape => ErrorCode::SHAPE,
        _ => ErrorCode::OTHER,
    };
    PluginError::from(Error::new(code, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let spoken = |seconds| spoken(Duration::from_secs(seconds));
        assert_eq!(spoken(59), "59 s");
        assert_eq!(spoken(130), "2 min 10 s");
        assert_eq!(spoken(3700), "1 h 1 min");
    }
}
