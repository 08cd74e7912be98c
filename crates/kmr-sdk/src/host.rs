//! The host as a plugin sees it.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use kmr_abi::{
    BatchIteratorBox, BorrowedTensor, CANDIDATE, HostRef, OutputBufferBox, SessionBox, SharedTensorBox,
    abi_stable::std_types::{ROption, RSlice, RString, RVec},
};
use kmr_model::{
    Dimension, Element, ErrorKind, Model, ModelError, Patch, Tensor,
    codec::{DecodeOptions, ExternalData},
};
use serde::Serialize;

use crate::{
    Error, ErrorCode, Result,
    tensors::{describe, from_handle, received},
    wire::{EditRequest, ObserveRequest, Operation, RunRequest, SessionRequest, Statistic, Update, Updated},
};

/// The host, lent for one call. It may be used from several threads.
///
/// In a rule's `apply`, edits are visible to the rule itself at once, in everything that this type offers,
/// and count only if `apply` succeeds. Elsewhere edits are denied.
pub struct Host<'a> {
    raw: HostRef<'a>,
}

impl<'a> Host<'a> {
    /// The host behind a reference of the contract.
    pub fn new(raw: HostRef<'a>) -> Self {
        Self { raw }
    }

    /// The candidate's graph with its tensors; the tensors share the host's memory.
    ///
    /// # Errors
    /// If the host cannot give it.
    pub fn graph(&self) -> Result<Model> {
        self.graph_of(CANDIDATE)
    }

    /// The graph of `model`: `"candidate"`, `"reference"` (the model before anything changed it), or a model
    /// of the manifest.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] for an unknown model.
    pub fn graph_of(&self, model: &str) -> Result<Model> {
        let bytes = Bytes::from(received(self.raw.graph(model.into()))?.into_vec());
        let tensors = HostTensors { host: self, model };
        Ok(DecodeOptions::with_external_data(&tensors).decode(bytes)?)
    }

    /// The candidate's initializer `name`, sharing the host's memory.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if there is none.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        self.tensor_of(CANDIDATE, name)
    }

    /// The initializer `name` of `model`.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] for an unknown model or initializer.
    pub fn tensor_of(&self, model: &str, name: &str) -> Result<Tensor> {
        let handle = received(self.raw.tensor(model.into(), name.into()))?;
        Ok(from_handle(handle)?.1)
    }

    /// Edits the candidate: everything in `patch`, in order, or nothing.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if an edit names what does not exist, [`ErrorCode::DENIED`] outside of a
    /// rule's `apply`.
    pub fn edit(&self, patch: &Patch) -> Result<()> {
        let (request, attachments) = self.cross(patch)?;
        self.send(&request, attachments)
    }

    /// A patch as it crosses, its tensors committed.
    fn cross(&self, patch: &Patch) -> Result<(EditRequest, Vec<Vec<u8>>)> {
        EditRequest::from_patch(patch, |name, tensor| {
            let mut output = self.buffer(name, tensor.dtype(), tensor.shape())?;
            received(output.bytes())?.copy_from_slice(tensor.bytes());
            received(output.commit())
        })
    }

    /// Stores `tensor` as the candidate's initializer `name`, replacing or adding it. This copies the tensor
    /// once; [`output`](Host::output) does not.
    ///
    /// # Errors
    /// As [`edit`](Host::edit).
    pub fn replace(&self, name: &str, tensor: &Tensor) -> Result<()> {
        let mut patch = Patch::new();
        patch.push(kmr_model::Edit::StoreTensor {
            name: name.into(),
            tensor: tensor.clone(),
        });
        self.edit(&patch)
    }

    /// The host's memory for a new initializer `name`, zeroed, to be filled and stored.
    ///
    /// # Errors
    /// [`ErrorCode::SHAPE`] or [`ErrorCode::OUT_OF_MEMORY`] if there is no such memory.
    pub fn output<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Output<'_, T>> {
        Ok(Output {
            host: self,
            name: name.into(),
            buffer: self.buffer(name, T::DTYPE, shape)?,
            element: std::marker::PhantomData,
        })
    }

    /// Runs a model over data, batch by batch.
    ///
    /// # Errors
    /// [`ErrorCode::DENIED`] if a rule asks for another split than calibration, [`ErrorCode::NOT_FOUND`] for
    /// unknown values, [`ErrorCode::UNSUPPORTED`] if the model cannot be run.
    pub fn run(&self, request: &RunRequest) -> Result<Batches<'_>> {
        let raw = received(self.raw.run(json(request)?.as_str().into()))?;
        Ok(Batches { raw, ended: false })
    }

    /// The shapes of `model`'s inputs where they are not as declared: those of a calibration sample, where only data
    /// can tell.
    pub fn feeds(&self, model: &Model) -> BTreeMap<String, Vec<usize>> {
        let told = model.graph.feeds().all(|feed| {
            let shape = feed.shape();
            shape.is_some_and(|shape| shape.iter().skip(1).all(|size| matches!(size, Dimension::Fixed(_))))
        });
        if told {
            return BTreeMap::new();
        }
        let request = RunRequest {
            batch: Some(1),
            limit: Some(1),
            ..Default::default()
        };
        let sample = self.run(&request).and_then(|mut batches| batches.next().transpose());
        match sample {
            Ok(Some(sample)) => {
                let inputs = sample.inputs.into_iter();
                return inputs.map(|(name, tensor)| (name, tensor.shape().to_vec())).collect();
            }
            Ok(None) => {
                log::warn!("there is no calibration sample; dimensions that the model leaves open are taken as 1");
            }
            Err(error) => log::warn!("dimensions that the model leaves open are taken as 1: {error}"),
        }
        BTreeMap::new()
    }

    /// Observes statistics of inner values of the candidate over the calibration data.
    ///
    /// # Errors
    /// As [`run`](Host::run).
    pub fn observe(&self, request: &ObserveRequest) -> Result<Observation> {
        let tensors = received(self.raw.observe(json(request)?.as_str().into()))?;
        Ok(Observation(named(tensors)?.into_iter().collect()))
    }

    /// Opens a session that differentiates a model.
    ///
    /// # Errors
    /// As [`run`](Host::run).
    pub fn open_session(&self, request: &SessionRequest) -> Result<Session<'_>> {
        let raw = self
            .raw
            .open_session(json(request)?.as_str().into(), RSlice::from_slice(&[]));
        Ok(Session { raw: received(raw)? })
    }

    /// Opens a session on a model with the edits of `patch`, which this session alone sees: projections, adapters
    /// and what else lives only while it trains.
    ///
    /// # Errors
    /// As [`open_session`](Host::open_session) and [`edit`](Host::edit).
    pub fn open_session_with(&self, request: &SessionRequest, patch: &Patch) -> Result<Session<'_>> {
        let (edits, attachments) = self.cross(patch)?;
        let request = SessionRequest {
            edits: Some(edits),
            ..request.clone()
        };
        let attachments: Vec<RVec<u8>> = attachments.into_iter().map(RVec::from).collect();
        let raw = self
            .raw
            .open_session(json(&request)?.as_str().into(), RSlice::from_slice(&attachments));
        Ok(Session { raw: received(raw)? })
    }

    /// Says how much of this call is done, from 0 to 1, and what is being done. Fails with
    /// [`ErrorCode::CANCELLED`] when the call should end, so that `?` ends it.
    ///
    /// # Errors
    /// [`ErrorCode::CANCELLED`].
    pub fn progress(&self, fraction: f64, text: &str) -> Result<()> {
        received(self.raw.progress(fraction, text.into()))?;
        if self.cancelled()? {
            Err(Error::cancelled())
        } else {
            Ok(())
        }
    }

    /// Whether this call should end early.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn cancelled(&self) -> Result<bool> {
        received(self.raw.cancelled())
    }

    /// The seed of everything random in this call.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn seed(&self) -> Result<u64> {
        received(self.raw.seed())
    }

    /// How many threads this call may keep busy, at least 1. The result must not depend on it.
    ///
    /// With the feature `rayon` of this crate, rayon's global pool already has this size.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn threads(&self) -> Result<usize> {
        Ok(usize::try_from(received(self.raw.threads())?)
            .unwrap_or(usize::MAX)
            .max(1))
    }

    fn buffer(&self, name: &str, dtype: kmr_model::DType, shape: &[usize]) -> Result<OutputBufferBox<'_>> {
        received(self.raw.output(describe(name, dtype, shape)))
    }
}

/// Takes edits. `Host` is invariant in its lifetime, so what borrows it borrows it as this.
trait Edits {
    fn send(&self, request: &EditRequest, attachments: Vec<Vec<u8>>) -> Result<()>;
}

impl Edits for Host<'_> {
    fn send(&self, request: &EditRequest, attachments: Vec<Vec<u8>>) -> Result<()> {
        let attachments: Vec<RVec<u8>> = attachments.into_iter().map(RVec::from).collect();
        received(
            self.raw
                .edit(json(request)?.as_str().into(), RSlice::from_slice(&attachments)),
        )
    }
}

fn json(document: &impl Serialize) -> Result<String> {
    Ok(serde_json::to_string(document)?)
}

fn named(tensors: RVec<SharedTensorBox>) -> Result<Vec<(String, Tensor)>> {
    tensors.into_iter().map(from_handle).collect()
}

/// Reads the initializers that a graph of the host marks.
struct HostTensors<'h, 'a> {
    host: &'h Host<'a>,
    model: &'h str,
}

impl ExternalData for HostTensors<'_, '_> {
    fn read(&self, name: &str, entries: &[(String, String)]) -> Result<Bytes, ModelError> {
        let key = entries
            .iter()
            .find(|(key, _)| key == "tensor")
            .map_or(name, |(_, value)| value);
        let tensor = self.host.tensor_of(self.model, key);
        let tensor =
            tensor.map_err(|error| ModelError::new(ErrorKind::Io, format!("tensor `{name}`"), error.message))?;
        Ok(tensor.bytes().clone())
    }
}

/// The host's memory for a tensor that the plugin makes. Dropping it discards it.
pub struct Output<'h, T> {
    host: &'h dyn Edits,
    name: String,
    buffer: OutputBufferBox<'h>,
    element: std::marker::PhantomData<T>,
}

impl<T: Element> Output<'_, T> {
    /// The values, zero at first, row-major.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn values(&mut self) -> Result<&mut [T]> {
        let bytes = received(self.buffer.bytes())?.into_mut_slice();
        bytemuck_slice(bytes)
    }

    /// Stores the tensor as the candidate's initializer, replacing or adding it.
    ///
    /// # Errors
    /// As [`Host::edit`].
    pub fn store(mut self) -> Result<()> {
        let operation = Operation::StoreTensor {
            buffer: received(self.buffer.commit())?,
            name: self.name,
        };
        let request = EditRequest {
            version: crate::wire::EDIT_VERSION,
            operations: vec![operation],
        };
        self.host.send(&request, Vec::new())
    }
}

fn bytemuck_slice<T: Element>(bytes: &mut [u8]) -> Result<&mut [T]> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|error| {
        Error::new(
            ErrorCode::OTHER,
            format!("the host's buffer does not hold such values: {error}"),
        )
    })
}

/// Samples with what was asked for about them. Dimension 0 of every tensor is the sample.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Number of samples.
    pub size: usize,
    /// The model's inputs by name, as the model takes them.
    pub inputs: Vec<(String, Tensor)>,
    /// What samples are judged by, where the data says it and the plugin may see it: an int64 label per sample, an int64
    /// class per sample and position (below 0 where it is not judged), or a float64 score per sample.
    pub labels: Option<Tensor>,
    /// The values asked for by name, in the order asked for.
    pub outputs: Vec<(String, Tensor)>,
}

impl Batch {
    fn read(raw: kmr_abi::Batch) -> Result<Self> {
        let labels = match raw.labels {
            ROption::RSome(labels) => Some(from_handle(labels)?.1),
            ROption::RNone => None,
        };
        Ok(Self {
            size: usize::try_from(raw.size).map_err(|_| Error::new(ErrorCode::SHAPE, "a batch greater than memory"))?,
            inputs: named(raw.inputs)?,
            labels,
            outputs: named(raw.outputs)?,
        })
    }

    /// Output `position` of those asked for.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if there are fewer.
    pub fn output(&self, position: usize) -> Result<&Tensor> {
        let output = self.outputs.get(position).map(|(_, tensor)| tensor);
        output.ok_or_else(|| Error::not_found(format!("the batch has no output {position}")))
    }

    /// The labels, `size` of them.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if the data has none, or the plugin may not see them.
    pub fn labels(&self) -> Result<Cow<'_, [i64]>> {
        let labels = self
            .labels
            .as_ref()
            .ok_or_else(|| Error::not_found("the data has no labels"))?;
        Ok(labels.values()?)
    }

    /// What samples are judged by as numbers, `size` of them: scores, or labels.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if the data has none, or the plugin may not see them; [`ErrorCode::SHAPE`] if there is not
    /// one number for each sample.
    pub fn scores(&self) -> Result<Vec<f64>> {
        let labels = self
            .labels
            .as_ref()
            .ok_or_else(|| Error::not_found("the data has neither scores nor labels"))?;
        if labels.shape() != [self.size] {
            let message = format!("scores have the shape {:?} for {} samples", labels.shape(), self.size);
            return Err(Error::new(ErrorCode::SHAPE, message));
        }
        match labels.values::<f64>() {
            Ok(scores) => Ok(scores.into_owned()),
            Err(_) => Ok(self.labels()?.iter().map(|label| *label as f64).collect()),
        }
    }
}

/// Batches, made one by one as they are asked for. After an error there are no more.
pub struct Batches<'h> {
    raw: BatchIteratorBox<'h>,
    ended: bool,
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let batch = match received(self.raw.next_batch()) {
            Ok(ROption::RSome(batch)) => Some(Batch::read(batch)),
            Ok(ROption::RNone) => None,
            Err(error) => Some(Err(error)),
        };
        self.ended = !matches!(batch, Some(Ok(_)));
        batch
    }
}

/// Statistics of values, per channel.
#[derive(Clone, Debug)]
pub struct Observation(BTreeMap<String, Tensor>);

impl Observation {
    /// The float32 tensor of a statistic of a value: one element per channel, or channels × channels for
    /// [`Statistic::Gram`].
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if it was not asked for.
    pub fn get(&self, value: &str, statistic: Statistic) -> Result<&Tensor> {
        let name = format!("{value}/{}", statistic.name());
        let tensor = self.0.get(&name);
        tensor.ok_or_else(|| Error::not_found(format!("`{name}` was not observed")))
    }
}

/// A model being differentiated. The plugin owns the loss; the host owns forward and backward.
pub struct Session<'h> {
    raw: SessionBox<'h>,
}

impl Session<'_> {
    /// Draws the next batch of inputs and labels. None at the end of a pass over the data; the call after
    /// that begins the next pass.
    ///
    /// # Errors
    /// If the data cannot be read.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        match received(self.raw.next_batch())? {
            ROption::RSome(batch) => Batch::read(batch).map(Some),
            ROption::RNone => Ok(None),
        }
    }

    /// Runs the model on the batch drawn last and gives the named values, in order (none named: the model's
    /// outputs).
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`] if no batch was drawn, [`ErrorCode::NOT_FOUND`] for an unknown value.
    pub fn forward(&mut self, outputs: &[&str]) -> Result<Vec<(String, Tensor)>> {
        let names: Vec<RString> = outputs.iter().map(|&name| name.into()).collect();
        named(received(self.raw.forward(RSlice::from_slice(&names)))?)
    }

    /// Pulls derivatives of the loss by values of the last forward, float32 and shaped as the values, back
    /// to the trainable tensors. Gradients add up over calls until [`step`](Session::step) or
    /// [`clear`](Session::clear).
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`] without a forward, [`ErrorCode::SHAPE`] if one does not fit its value.
    pub fn backward(&mut self, cotangents: &[(&str, &Tensor)]) -> Result<()> {
        let cotangents = cotangents.iter().map(|&(name, tensor)| borrowed(name, tensor));
        received(self.raw.backward(cotangents.collect()))
    }

    /// The derivative of the loss by a trainable tensor, after [`backward`](Session::backward).
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if the tensor is not trainable.
    pub fn gradient(&self, name: &str) -> Result<Tensor> {
        Ok(from_handle(received(self.raw.gradient(name.into()))?)?.1)
    }

    /// A tensor of the model as the session has it now.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if the model has no such tensor.
    pub fn parameter(&self, name: &str) -> Result<Tensor> {
        Ok(from_handle(received(self.raw.parameter(name.into()))?)?.1)
    }

    /// Gives a tensor of the session's model other values, of the same type and shape.
    ///
    /// # Errors
    /// [`ErrorCode::NOT_FOUND`] if the model has no such tensor, [`ErrorCode::SHAPE`] if type or shape differ.
    pub fn assign(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        received(self.raw.assign(borrowed(name, tensor)))
    }

    /// Forgets the gradients that have added up.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn clear(&mut self) -> Result<()> {
        received(self.raw.clear())
    }

    /// Whether the model is being trained: batch normalization then uses each batch's own statistics and moves its
    /// running ones, and dropout drops. Off at first.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn train(&mut self, on: bool) -> Result<()> {
        received(self.raw.train(on))
    }

    /// Moves the trainable tensors along the gradients that have added up, by the request's optimizer, and forgets
    /// these. Gives the norm of the whole gradient before it was clipped.
    ///
    /// # Errors
    /// [`ErrorCode::INVALID_REQUEST`] without a backward pass, or if a gradient is not finite: then nothing moves.
    pub fn step(&mut self, learning_rate: f64) -> Result<f64> {
        let update = json(&Update { learning_rate })?;
        let updated = received(self.raw.step(update.as_str().into()))?;
        let updated: Updated = serde_json::from_str(updated.as_str())?;
        Ok(updated.gradient_norm)
    }

    /// Remembers the tensors and the optimizer's state, in place of what was remembered before.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn save(&mut self) -> Result<()> {
        received(self.raw.save())
    }

    /// Goes back to what was saved last; at first, to the beginning.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn restore(&mut self) -> Result<()> {
        received(self.raw.restore())
    }

    /// Writes tensors, optimizer state and the place in the data where a run that is started again finds them, with a
    /// note of the plugin's own. Meant for the end of a pass over the data.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn checkpoint(&mut self, note: &str) -> Result<()> {
        received(self.raw.checkpoint(note.into()))
    }

    /// Goes on from the checkpoint that the same session of an interrupted run wrote last, if there is one, and gives
    /// its note. Sessions are the same if model, data, request and the rule's settings are.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub fn resume(&mut self) -> Result<Option<String>> {
        Ok(received(self.raw.resume())?.into_option().map(RString::into_string))
    }

    /// Stores tensors of the session in the candidate, as an edit does; none named means every one that the candidate
    /// has and training may have changed, running statistics included.
    ///
    /// # Errors
    /// As [`Host::edit`].
    pub fn store(&mut self, names: &[&str]) -> Result<()> {
        let names: Vec<RString> = names.iter().map(|&name| name.into()).collect();
        received(self.raw.store(RSlice::from_slice(&names)))
    }
}

fn borrowed<'t>(name: &str, tensor: &'t Tensor) -> BorrowedTensor<'t> {
    BorrowedTensor {
        description: describe(name, tensor.dtype(), tensor.shape()),
        bytes: RSlice::from_slice(tensor.bytes()),
    }
}
