//! Forward and backward passes over calibration data, for rules.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use bytes::Bytes;
use kmr_abi::{
    AbiResult, Batch, BorrowedTensor, ErrorCode, PluginError, Session, Session_TO, SessionBox, SharedTensorBox,
    abi_stable::{
        erased_types::TD_Opaque,
        std_types::{RNone, ROption, RSlice, RSome, RStr, RString, RVec},
    },
    guard,
};
use kmr_compute::{Feeds, Mode, Program, Pullback};
use kmr_formats::{Dataset, permutation};
use kmr_model::{DType, Model, Tensor};
use kmr_sdk::{tensors::read_description, wire::SessionRequest};

use super::services::{batch, batch_size, compute_error, share};

/// Samples to a batch where nobody asks otherwise: gradients hold every activation.
const BATCH: usize = 64;

/// A session on one split.
pub struct DataSession {
    model: Model,
    program: Arc<dyn Program>,
    data: Arc<Dataset>,
    trainable: Vec<String>,
    seed: u64,
    batch: usize,
    epoch: u64,
    next: usize,
    feeds: Option<Feeds>,
    pullback: Option<(Vec<String>, Box<dyn Pullback>)>,
    gradients: BTreeMap<String, Tensor>,
}

impl DataSession {
    /// Opens a session on the first `samples` samples of `data`.
    pub fn open<'a>(
        request: SessionRequest,
        model: Model,
        program: Arc<dyn Program>,
        data: Arc<Dataset>,
        samples: usize,
    ) -> Result<SessionBox<'a>, PluginError> {
        for name in &request.trainable {
            let tensor = model.graph.tensor(name);
            let dtype = tensor.map(|tensor| tensor.dtype()).ok_or_else(|| {
                PluginError::new(ErrorCode::NOT_FOUND, "the model has no such tensor").at(name.as_str())
            })?;
            if dtype != DType::FLOAT {
                let message = format!("a gradient needs a float32 tensor; this one is {dtype}");
                return Err(PluginError::new(ErrorCode::UNSUPPORTED, message).at(name.as_str()));
            }
        }
        let data = if samples < data.len() {
            Arc::new((*data).clone().slice(0..samples))
        } else {
            data
        };
        let session = Self {
            model,
            program,
            trainable: request.trainable,
            seed: request.seed,
            batch: batch_size(&data, request.batch.unwrap_or(BATCH)),
            data,
            epoch: 0,
            next: 0,
            feeds: None,
            pullback: None,
            gradients: BTreeMap::new(),
        };
        session.epoch_data().map(|shuffled| {
            let session = Self {
                data: shuffled,
                ..session
            };
            Session_TO::from_value(session, TD_Opaque)
        })
    }

    /// The data in the order of the present epoch.
    fn epoch_data(&self) -> Result<Arc<Dataset>, PluginError> {
        let order = permutation(self.data.len(), self.seed.wrapping_add(self.epoch));
        Ok(Arc::new((*self.data).clone().gather(&order)))
    }

    fn range(&self) -> Range<usize> {
        self.next..(self.next + self.batch).min(self.data.len())
    }
}

fn out_of_order(message: &str) -> PluginError {
    PluginError::new(ErrorCode::INVALID_REQUEST, message)
}

impl Session for DataSession {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        guard(|| {
            self.pullback = None;
            if self.next >= self.data.len() {
                self.epoch += 1;
                self.next = 0;
                self.feeds = None;
                self.data = self.epoch_data()?;
                return Ok(RNone);
            }
            let range = self.range();
            self.next = range.end;
            let inputs = self.data.calls(range.clone()).into_iter().next();
            self.feeds = inputs.map(Feeds::from_iter);
            Ok(RSome(batch(&self.data, range, RVec::new())))
        })
    }

    fn forward(&mut self, outputs: RSlice<'_, RString>) -> AbiResult<RVec<SharedTensorBox>> {
        guard(|| {
            let feeds = self
                .feeds
                .as_ref()
                .ok_or_else(|| out_of_order("take a batch before a forward pass"))?;
            let mut names: Vec<String> = outputs.iter().map(|name| name.as_str().to_owned()).collect();
            if names.is_empty() {
                names = self
                    .model
                    .graph
                    .outputs
                    .iter()
                    .map(|output| output.name().to_owned())
                    .collect();
            }
            let asked: Vec<&str> = names.iter().map(String::as_str).collect();
            let trainable: Vec<&str> = self.trainable.iter().map(String::as_str).collect();
            let pullback = self
                .program
                .pullback(feeds, &asked, &trainable, Mode::default())
                .map_err(compute_error)?;
            let values = names.iter().zip(pullback.outputs());
            let values = values.map(|(name, tensor)| share(name, tensor.clone())).collect();
            self.gradients.clear();
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
            let mut given: BTreeMap<String, Tensor> = BTreeMap::new();
            for cotangent in &cotangents {
                let name = cotangent.description.name.as_str().to_owned();
                let (dtype, shape) = read_description(&cotangent.description).map_err(PluginError::from)?;
                let bytes = Bytes::copy_from_slice(cotangent.bytes.as_slice());
                let tensor = Tensor::new(dtype, shape, bytes)
                    .map_err(|error| PluginError::new(ErrorCode::SHAPE, error.to_string()).at(name.as_str()))?;
                given.insert(name, tensor);
            }
            let cotangents = names.iter().zip(pullback.outputs()).map(|(name, output)| {
                given
                    .remove(name)
                    .unwrap_or_else(|| Tensor::from_vec(output.shape().to_vec(), vec![0.0_f32; output.len()]))
            });
            let cotangents = cotangents.collect();
            if let Some(unknown) = given.keys().next() {
                return Err(
                    PluginError::new(ErrorCode::NOT_FOUND, "the forward pass gave no such value").at(unknown.as_str()),
                );
            }
            self.gradients = pullback.pull(cotangents).map_err(compute_error)?;
            Ok(())
        })
    }

    fn gradient(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| {
            let name = name.as_str();
            if !self.trainable.iter().any(|trainable| trainable == name) {
                return Err(PluginError::new(ErrorCode::NOT_FOUND, "the tensor is not trainable").at(name));
            }
            let gradient = self.gradients.get(name);
            let gradient = gradient.ok_or_else(|| out_of_order("run a backward pass before asking for gradients"))?;
            Ok(share(name, gradient.clone()))
        })
    }

    fn parameter(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        guard(|| {
            let name = name.as_str();
            let tensor = self.model.graph.tensor(name);
            let tensor = tensor
                .ok_or_else(|| PluginError::new(ErrorCode::NOT_FOUND, "the model has no such tensor").at(name))?;
            Ok(share(name, (**tensor).clone()))
        })
    }
}
