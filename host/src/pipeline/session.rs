//! A model that a rule differentiates and trains.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use kmr_abi::{
    AbiResult, Batch, BorrowedTensor, CANDIDATE, ErrorCode, PluginError, Session, SharedTensorBox,
    abi_stable::std_types::{RNone, ROption, RSlice, RSome, RStr, RString, RVec},
    guard,
};
use kmr_compute::{BatchNorm, Feeds, Method, Mode, Optimizer, OptimizerState, Program, Pullback};
use kmr_formats::{Augmentation, Dataset, Sample, permutation};
use kmr_model::{DType, Edit, Model, Patch, Tensor};
use kmr_sdk::{
    tensors::read_description,
    wire::{self, SessionRequest, Update, Updated},
};

use super::{
    checkpoint::Checkpoints,
    services::{batch_of, batch_size, compute_error, parse, share},
    transaction::Transaction,
};

/// Samples to a batch where nobody asks otherwise: gradients hold every activation.
const BATCH: usize = 64;

/// What a session is opened on.
pub struct Opening {
    /// The model, with the session's own edits.
    pub model: Model,
    /// It, ready to run.
    pub program: Arc<dyn Program>,
    /// The samples.
    pub data: Arc<Dataset>,
    /// How they change from pass to pass.
    pub augmentation: Augmentation,
    /// The candidate, where the caller may edit it.
    pub candidate: Option<Transaction>,
    /// Where its checkpoints lie; found when it is asked for, since what it is named by takes time.
    pub checkpoints: Option<LazyCell<Checkpoints, Box<dyn FnOnce() -> Checkpoints + Send>>>,
}

/// What changes while a session goes on.
#[derive(Clone)]
struct State {
    /// The tensors that training moves, and what else differs from the model's.
    tensors: BTreeMap<String, Tensor>,
    optimizer: OptimizerState,
}

/// A session on one split.
pub struct DataSession {
    opening: Opening,
    request: SessionRequest,
    batch: usize,
    augmentation: Augmentation,
    /// The order of the present pass, and the place in it.
    epoch: u64,
    order: Vec<usize>,
    next: usize,
    /// Forward passes so far, for what is random in each.
    passes: u64,
    training: bool,
    feeds: Option<Feeds>,
    pullback: Option<(Vec<String>, Box<dyn Pullback>)>,
    gradients: BTreeMap<String, Vec<f32>>,
    optimizer: Optimizer,
    tensors: BTreeMap<String, Tensor>,
    saved: State,
}

impl DataSession {
    /// Opens a session.
    pub fn new(request: SessionRequest, opening: Opening) -> Result<Self, PluginError> {
        let mut tensors = BTreeMap::new();
        for name in &request.trainable {
            let tensor = opening.model.graph.tensor(name);
            let tensor = tensor.ok_or_else(|| no_tensor(name))?;
            if tensor.dtype() != DType::FLOAT {
                let message = format!("training needs a float32 tensor; this one is {}", tensor.dtype());
                return Err(PluginError::new(ErrorCode::UNSUPPORTED, message).at(name.as_str()));
            }
            tensors.insert(name.clone(), (**tensor).clone());
        }
        let samples = request.samples.unwrap_or(usize::MAX).min(opening.data.len());
        let batch = batch_size(&opening.data, request.batch.unwrap_or(BATCH));
        if request.whole_batches && samples < batch {
            let message = format!("{samples} samples fill no batch of {batch}");
            return Err(PluginError::new(ErrorCode::INVALID_REQUEST, message));
        }
        let augmentation = match request.augment {
            true => opening.augmentation,
            false => Augmentation::default(),
        };
        if augmentation != Augmentation::default() && opening.data.sample() == Sample::Call {
            let message = "samples that are whole calls cannot be augmented; leave `data.augment` out";
            return Err(PluginError::new(ErrorCode::UNSUPPORTED, message));
        }
        let method = match request.optimizer.method {
            wire::Method::Sgd { momentum, nesterov } => Method::Sgd { momentum, nesterov },
            wire::Method::AdamW { beta1, beta2, epsilon } => Method::AdamW { beta1, beta2, epsilon },
        };
        let optimizer = Optimizer::new(method, request.optimizer.weight_decay, request.optimizer.clip_norm);
        let mut session = Self {
            batch,
            augmentation,
            epoch: 0,
            order: Vec::new(),
            next: 0,
            passes: 0,
            training: false,
            feeds: None,
            pullback: None,
            gradients: BTreeMap::new(),
            saved: State {
                tensors: tensors.clone(),
                optimizer: OptimizerState::default(),
            },
            optimizer,
            tensors,
            opening,
            request,
        };
        session.begin_pass();
        Ok(session)
    }

    /// Draws the order of the present pass.
    fn begin_pass(&mut self) {
        let samples = self.request.samples.unwrap_or(usize::MAX).min(self.opening.data.len());
        self.order = permutation(samples, self.request.seed.wrapping_add(self.epoch));
        if self.request.whole_batches {
            self.order.truncate(samples / self.batch * self.batch);
        }
        self.next = 0;
    }

    /// The inputs and labels at a range of the present order.
    fn draw(&self, range: Range<usize>) -> Result<(Feeds, Batch), PluginError> {
        let places = &self.order[range];
        let drawn = self.opening.data.gather(places);
        let inputs = drawn.calls(0..drawn.len()).into_iter().next().unwrap_or_default();
        let seed = self.request.seed ^ self.epoch.wrapping_mul(0xd134_2543_de82_ef95);
        let change = |(name, tensor): (String, Tensor)| {
            if self.augmentation == Augmentation::default() {
                return Ok((name, tensor));
            }
            let changed = self.augmentation.apply(&tensor, seed, places).map_err(|message| {
                PluginError::new(ErrorCode::UNSUPPORTED, format!("cannot be augmented: {message}")).at(name.as_str())
            })?;
            Ok((name, changed))
        };
        let feeds = inputs.into_iter().map(change).collect::<Result<Feeds, PluginError>>()?;
        let targets = drawn.batch_targets(0..drawn.len());
        let batch = batch_of(places.len(), feeds.clone(), targets, RVec::new());
        Ok((feeds, batch))
    }

    fn state(&self) -> State {
        State {
            tensors: self.tensors.clone(),
            optimizer: self.optimizer.state().clone(),
        }
    }

    /// Goes back to a state; gradients and what was run before it mean nothing there.
    fn set_state(&mut self, state: State) {
        self.tensors = state.tensors;
        self.optimizer.set_state(state.optimizer);
        self.gradients.clear();
        self.pullback = None;
    }

    fn mode(&self) -> Mode {
        Mode {
            batch_norm: match self.training {
                true => BatchNorm::Batch,
                false => BatchNorm::Running,
            },
            straight_through: self.request.straight_through,
            dropout: self.training.then_some(self.request.seed ^ self.passes),
        }
    }

    /// The tensor `name` as it is now.
    fn tensor(&self, name: &str) -> Result<Tensor, PluginError> {
        let own = self.tensors.get(name).cloned();
        let model = &self.opening.model.graph;
        own.or_else(|| model.tensor(name).map(|tensor| (**tensor).clone()))
            .ok_or_else(|| no_tensor(name))
    }
}

fn no_tensor(name: &str) -> PluginError {
    PluginError::new(ErrorCode::NOT_FOUND, "the model has no such tensor").at(name)
}

fn out_of_order(message: &str) -> PluginError {
    PluginError::new(ErrorCode::INVALID_REQUEST, message)
}

/// A tensor that a plugin lends, copied.
fn received(tensor: &BorrowedTensor<'_>) -> Result<(String, Tensor), PluginError> {
    let name = tensor.description.name.as_str().to_owned();
    let (dtype, shape) = read_description(&tensor.description).map_err(PluginError::from)?;
    let bytes = Bytes::copy_from_slice(tensor.bytes.as_slice());
    let tensor = Tensor::new(dtype, shape, bytes)
        .map_err(|error| PluginError::new(ErrorCode::SHAPE, error.to_string()).at(name.as_str()))?;
    Ok((name, tensor))
}

impl Session for DataSession {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        guard(|| {
            self.pullback = None;
            if self.next >= self.order.len() {
                self.epoch += 1;
                self.feeds = None;
                self.begin_pass();
                return Ok(RNone);
            }
            let range = self.next..(self.next + self.batch).min(self.order.len());
            let (feeds, batch) = self.draw(range.clone())?;
            self.next = range.end;
            self.feeds = Some(feeds);
            Ok(RSome(batch))
        })
    }

    fn forward(&mut self, outputs: RSlice<'_, RString>) -> AbiResult<RVec<SharedTensorBox>> {
        guard(|| {
            let feeds = self.feeds.as_ref();
            let mut feeds = feeds
                .cloned()
                .ok_or_else(|| out_of_order("take a batch before a forward pass"))?;
            let mut names: Vec<String> = outputs.iter().map(|name| name.as_str().to_owned()).collect();
            if names.is_empty() {
                let outputs = self.opening.model.graph.outputs.iter();
                names = outputs.map(|output| output.name().to_owned()).collect();
            }
            let tensors = self.tensors.iter();
            feeds.extend(tensors.map(|(name, tensor)| (name.clone(), tensor.clone())));
            let asked: Vec<&str> = names.iter().map(String::as_str).collect();
            let trainable: Vec<&str> = self.request.trainable.iter().map(String::as_str).collect();
            let mode = self.mode();
            let program = &self.opening.program;
            self.pullback = None;
            if trainable.is_empty() && !self.training {
                let values = program.forward(&feeds, &asked, mode).map_err(compute_error)?;
                return Ok(names
                    .iter()
                    .zip(values)
                    .map(|(name, value)| share(name, value))
                    .collect());
            }
            let pullback = program
                .pullback(&feeds, &asked, &trainable, mode)
                .map_err(compute_error)?;
            self.passes += 1;
            for (name, moved) in pullback.moved() {
                self.tensors.insert(name.clone(), moved.clone());
            }
            let values = names.iter().zip(pullback.outputs());
            let values = values.map(|(name, tensor)| share(name, tensor.clone())).collect();
            self.pullback = Some((names, pullback));
            Ok(values)
        })
    }

    fn backward(&mut self, cotangents: RVec<BorrowedTensor<'_>>) -> AbiResult<()> {
        guard(|| {
            let (names, pullback) = self
                .pullback
                .take()
                .ok_or_else(|| out_of_order("run a forward pass before each backward pass"))?;
            let mut given = cotangents.iter().map(received).collect::<Result<BTreeMap<_, _>, _>>()?;
            let mut ordered = Vec::with_capacity(names.len());
            for (name, output) in names.iter().zip(pullback.outputs()) {
                let cotangent = given
                    .remove(name)
                    .unwrap_or_else(|| Tensor::from_vec(output.shape().to_vec(), vec![0.0_f32; output.len()]));
                if cotangent.dtype() != DType::FLOAT || cotangent.shape() != output.shape() {
                    let message = format!(
                        "the cotangent is {} of shape {:?}; the value has shape {:?}, and its cotangent is float32 of it",
                        cotangent.dtype(),
                        cotangent.shape(),
                        output.shape()
                    );
                    return Err(PluginError::new(ErrorCode::SHAPE, message).at(name.as_str()));
                }
                ordered.push(cotangent);
            }
            if let Some(unknown) = given.keys().next() {
                let message = "the forward pass gave no such value";
                return Err(PluginError::new(ErrorCode::NOT_FOUND, message).at(unknown.as_str()));
            }
            for (name, gradient) in pullback.pull(ordered).map_err(compute_error)? {
                let gradient = gradient
                    .values::<f32>()
                    .map_err(|error| PluginError::new(ErrorCode::OTHER, error.to_string()).at(name.as_str()))?;
                match self.gradients.get_mut(&name) {
                    Some(sum) => sum
                        .iter_mut()
                        .zip(gradient.iter())
                        .for_each(|(sum, slope)| *sum += slope),
                    None => drop(self.gradients.insert(name, gradient.into_owned())),
                }
            }
            Ok(())
        })
    }

    fn gradient(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| {
            let name = name.as_str();
            if !self.request.trainable.iter().any(|trainable| trainable == name) {
                return Err(PluginError::new(ErrorCode::NOT_FOUND, "the tensor is not trainable").at(name));
            }
            let gradient = self.gradients.get(name);
            let gradient = gradient.ok_or_else(|| out_of_order("run a backward pass before asking for gradients"))?;
            let shape = self.tensor(name)?.shape().to_vec();
            Ok(share(name, Tensor::from_vec(shape, gradient.clone())))
        })
    }

    fn parameter(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| Ok(share(name.as_str(), self.tensor(name.as_str())?)))
    }

    fn assign(&mut self, tensor: BorrowedTensor<'_>) -> AbiResult<()> {
        guard(|| {
            let (name, tensor) = received(&tensor)?;
            let present = self.tensor(&name)?;
            if (present.dtype(), present.shape()) != (tensor.dtype(), tensor.shape()) {
                let message = format!(
                    "the tensor is {} of shape {:?}; got {} of shape {:?}",
                    present.dtype(),
                    present.shape(),
                    tensor.dtype(),
                    tensor.shape()
                );
                return Err(PluginError::new(ErrorCode::SHAPE, message).at(name.as_str()));
            }
            self.tensors.insert(name, tensor);
            self.pullback = None;
            Ok(())
        })
    }

    fn clear(&mut self) -> AbiResult<()> {
        guard(|| {
            self.gradients.clear();
            Ok(())
        })
    }

    fn train(&mut self, on: bool) -> AbiResult<()> {
        guard(|| {
            self.training = on;
            Ok(())
        })
    }

    fn step(&mut self, update: RStr<'_>) -> AbiResult<RString> {
        guard(|| {
            let Update { learning_rate } = parse(update)?;
            if !learning_rate.is_finite() {
                return Err(out_of_order(&format!(
                    "a learning rate of {learning_rate} leads nowhere"
                )));
            }
            if self.gradients.is_empty() {
                return Err(out_of_order("run a backward pass before a step"));
            }
            let moved = self.optimizer.step(&mut self.tensors, &self.gradients, learning_rate);
            let gradient_norm = moved.map_err(|error| {
                PluginError::new(ErrorCode::INVALID_REQUEST, "the gradient is not finite").at(error.0.as_str())
            })?;
            self.gradients.clear();
            self.pullback = None;
            let updated = serde_json::to_string(&Updated { gradient_norm })
                .map_err(|error| PluginError::new(ErrorCode::OTHER, error.to_string()))?;
            Ok(updated.into())
        })
    }

    fn save(&mut self) -> AbiResult<()> {
        guard(|| {
            self.saved = self.state();
            Ok(())
        })
    }

    fn restore(&mut self) -> AbiResult<()> {
        guard(|| {
            self.set_state(self.saved.clone());
            Ok(())
        })
    }

    fn checkpoint(&mut self, note: RStr<'_>) -> AbiResult<()> {
        guard(|| {
            let Some(checkpoints) = &self.opening.checkpoints else {
                return Ok(());
            };
            let place = super::checkpoint::Place {
                epoch: self.epoch,
                next: self.next as u64,
                passes: self.passes,
                note: note.as_str().to_owned(),
            };
            checkpoints.write(&place, &self.tensors, self.optimizer.state())
        })
    }

    fn resume(&mut self) -> AbiResult<ROption<RString>> {
        guard(|| {
            let Some(checkpoints) = &self.opening.checkpoints else {
                return Ok(RNone);
            };
            let Some((place, tensors, optimizer)) = checkpoints.read()? else {
                return Ok(RNone);
            };
            self.set_state(State { tensors, optimizer });
            self.saved = self.state();
            self.epoch = place.epoch;
            self.begin_pass();
            self.next = usize::try_from(place.next).unwrap_or(usize::MAX).min(self.order.len());
            self.passes = place.passes;
            self.feeds = None;
            Ok(RSome(place.note.into()))
        })
    }

    fn store(&mut self, names: RSlice<'_, RString>) -> AbiResult<()> {
        guard(|| {
            let candidate = self
                .opening
                .candidate
                .as_ref()
                .filter(|_| self.request.model == CANDIDATE);
            let candidate = candidate.ok_or_else(|| {
                PluginError::new(
                    ErrorCode::DENIED,
                    "only a session on the candidate, in a rule's apply, stores in it",
                )
            })?;
            let present = candidate.model();
            let asked: BTreeSet<String> = match names.is_empty() {
                true => {
                    let own = self.tensors.keys();
                    own.filter(|name| present.graph.tensor(name).is_some())
                        .cloned()
                        .collect()
                }
                false => names.iter().map(|name| name.as_str().to_owned()).collect(),
            };
            let mut patch = Patch::new();
            for name in asked {
                if present.graph.tensor(&name).is_none() {
                    let message = "the candidate has no such tensor: it is the session's alone";
                    return Err(PluginError::new(ErrorCode::NOT_FOUND, message).at(name.as_str()));
                }
                let tensor = self.tensor(&name)?;
                patch.push(Edit::StoreTensor { name, tensor });
            }
            Ok(candidate.apply(&patch)?)
        })
    }
}
