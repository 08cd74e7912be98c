//! A session of the host for tests.

use std::collections::{BTreeMap, HashMap};

use kmr_abi::{
    AbiResult, Batch, BorrowedTensor, CANDIDATE, ErrorCode, Session, SharedTensorBox,
    abi_stable::std_types::{RNone, ROk, ROption, RSlice, RSome, RStr, RString, RVec},
};
use kmr_sdk::{
    Method,
    model::{Edit, Graph, Patch, Tensor},
    tensors::read_description,
    wire::{SessionRequest, Update, Updated},
};
use kmr_testkit::{fail, held};

use super::{
    host::ToyHost,
    tape::{Value, backward, forward},
};

/// What is saved and written down.
#[derive(Clone, Default)]
pub struct State {
    tensors: BTreeMap<String, Tensor>,
    moments: BTreeMap<String, [Vec<f64>; 2]>,
    steps: i32,
    pass: usize,
    at: usize,
}

pub struct ToySession<'h> {
    host: &'h ToyHost,
    request: SessionRequest,
    graph: Graph,
    state: State,
    saved: State,
    order: Vec<usize>,
    batch: Option<Vec<usize>>,
    values: HashMap<String, Value>,
    slopes: BTreeMap<String, Value>,
    train: bool,
}

impl<'h> ToySession<'h> {
    pub fn new(host: &'h ToyHost, request: SessionRequest, graph: Graph) -> Self {
        let tensors = graph
            .initializers
            .iter()
            .map(|(name, stored)| (name.clone(), (*stored.tensor).clone()))
            .collect();
        let state = State {
            tensors,
            ..State::default()
        };
        Self {
            host,
            request,
            graph,
            saved: state.clone(),
            state,
            order: Vec::new(),
            batch: None,
            values: HashMap::new(),
            slopes: BTreeMap::new(),
            train: false,
        }
    }

    fn shuffle(&mut self) {
        let count = self.host.samples.len().min(self.request.samples.unwrap_or(usize::MAX));
        let seed = self.request.seed.wrapping_add(self.state.pass as u64);
        let mut order: Vec<usize> = (0..count).collect();
        let keys = super::noise(count, seed + 1);
        order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
        self.order = order;
    }

    fn x(&self, samples: &[usize]) -> Tensor {
        let rows: Vec<f32> = samples
            .iter()
            .flat_map(|&sample| self.host.samples[sample].0.clone())
            .collect();
        let shift = match self.request.augment {
            true => super::noise(rows.len(), self.state.at as u64 * 31 + self.state.pass as u64 + 1),
            false => vec![0.0; rows.len()],
        };
        let rows: Vec<f32> = rows
            .iter()
            .zip(shift)
            .map(|(value, shift)| value + 0.05 * shift)
            .collect();
        Tensor::from_vec(vec![samples.len(), rows.len() / samples.len().max(1)], rows)
    }

    fn key(&self) -> String {
        kmr_sdk::serde_json::to_string(&self.request).unwrap()
    }
}

impl Session for ToySession<'_> {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        if self.state.at == 0 {
            self.shuffle();
        }
        let size = self.request.batch.unwrap_or(1);
        let left = &self.order[self.state.at.min(self.order.len())..];
        let samples: Vec<usize> = left.iter().take(size).copied().collect();
        if samples.is_empty() || (self.request.whole_batches && samples.len() < size) {
            self.state.pass += 1;
            self.state.at = 0;
            return ROk(RNone);
        }
        self.state.at += samples.len();
        self.host.count_batch(&self.request.model);
        let x = self.x(&samples);
        let labels: Option<Vec<i64>> = samples.iter().map(|&sample| self.host.samples[sample].1).collect();
        let labels = labels.map(|labels| held("labels", &Tensor::from_vec(vec![labels.len()], labels)));
        let batch = Batch {
            size: samples.len() as u64,
            inputs: RVec::from(vec![held("x", &x)]),
            labels: labels.into(),
            outputs: RVec::new(),
        };
        self.batch = Some(samples);
        self.values.clear();
        ROk(RSome(batch))
    }

    fn forward(&mut self, outputs: RSlice<'_, RString>) -> AbiResult<RVec<SharedTensorBox>> {
        let Some(samples) = &self.batch else {
            return fail(ErrorCode::INVALID_REQUEST, "no batch was drawn");
        };
        let mut values: HashMap<String, Value> = self
            .state
            .tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), Value::of(tensor)))
            .collect();
        values.insert("x".into(), Value::of(&self.x(samples)));
        let mut moved = BTreeMap::new();
        self.values = forward(&self.graph, values, self.train, &mut moved);
        for (name, value) in moved {
            self.state.tensors.insert(name, value.tensor());
        }
        let mut found = RVec::new();
        for name in outputs.iter().map(RString::as_str) {
            let Some(value) = self.values.get(name) else {
                return fail(ErrorCode::NOT_FOUND, format!("no value `{name}`"));
            };
            found.push(held(name, &value.tensor()));
        }
        ROk(found)
    }

    fn backward(&mut self, cotangents: RVec<BorrowedTensor<'_>>) -> AbiResult<()> {
        let mut given = HashMap::new();
        for cotangent in &cotangents {
            let (dtype, shape) = read_description(&cotangent.description).unwrap();
            let bytes = bytes::Bytes::copy_from_slice(cotangent.bytes.as_slice());
            let tensor = Tensor::new(dtype, shape, bytes).unwrap();
            let name = cotangent.description.name.as_str().to_owned();
            assert_eq!(tensor.shape(), self.values[&name].shape);
            given.insert(name, Value::of(&tensor));
        }
        let slopes = backward(&self.graph, &self.values, given);
        for name in &self.request.trainable {
            let Some(slope) = slopes.get(name) else { continue };
            match self.slopes.get_mut(name) {
                Some(sum) => sum
                    .data
                    .iter_mut()
                    .zip(&slope.data)
                    .for_each(|(sum, value)| *sum += value),
                None => {
                    self.slopes.insert(name.clone(), slope.clone());
                }
            }
        }
        ROk(())
    }

    fn gradient(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        match self.slopes.get(name.as_str()) {
            Some(slope) => ROk(held(name.as_str(), &slope.tensor())),
            None => fail(ErrorCode::NOT_FOUND, "no gradient"),
        }
    }

    fn parameter(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        match self.state.tensors.get(name.as_str()) {
            Some(tensor) => ROk(held(name.as_str(), tensor)),
            None => fail(ErrorCode::NOT_FOUND, format!("no tensor `{name}`")),
        }
    }

    fn assign(&mut self, tensor: BorrowedTensor<'_>) -> AbiResult<()> {
        let (dtype, shape) = read_description(&tensor.description).unwrap();
        let bytes = bytes::Bytes::copy_from_slice(tensor.bytes.as_slice());
        let name = tensor.description.name.as_str();
        assert!(self.state.tensors.contains_key(name));
        self.state
            .tensors
            .insert(name.into(), Tensor::new(dtype, shape, bytes).unwrap());
        ROk(())
    }

    fn clear(&mut self) -> AbiResult<()> {
        self.slopes.clear();
        ROk(())
    }

    fn train(&mut self, on: bool) -> AbiResult<()> {
        self.train = on;
        ROk(())
    }

    fn step(&mut self, update: RStr<'_>) -> AbiResult<RString> {
        let update: Update = kmr_sdk::serde_json::from_str(update.as_str()).unwrap();
        if self.slopes.is_empty() {
            return fail(ErrorCode::INVALID_REQUEST, "no backward pass");
        }
        let slopes = std::mem::take(&mut self.slopes);
        let norm = slopes
            .values()
            .flat_map(|slope| &slope.data)
            .map(|value| value * value)
            .sum::<f64>()
            .sqrt();
        if !norm.is_finite() {
            return fail(ErrorCode::INVALID_REQUEST, "a gradient is not finite");
        }
        self.state.steps += 1;
        self.host.count_step(update.learning_rate);
        let optimizer = &self.request.optimizer;
        let scale = optimizer
            .clip_norm
            .map_or(1.0, |most| (most / norm.max(1e-300)).min(1.0));
        for (name, slope) in slopes {
            let tensor = self.state.tensors[&name].clone();
            let decay = if tensor.shape().len() > 1 {
                optimizer.weight_decay
            } else {
                0.0
            };
            let count = tensor.len();
            let moments = self
                .state
                .moments
                .entry(name.clone())
                .or_insert_with(|| [vec![0.0; count], vec![0.0; count]]);
            let weights = tensor.values::<f32>().unwrap();
            let values = weights.iter().enumerate().map(|(at, &weight)| {
                let (weight, slope) = (f64::from(weight), slope.data[at] * scale);
                let moved = match optimizer.method {
                    Method::Sgd { momentum, nesterov } => {
                        let slope = slope + decay * weight;
                        let velocity = momentum * moments[0][at] + slope;
                        moments[0][at] = velocity;
                        weight
                            - update.learning_rate
                                * if nesterov {
                                    slope + momentum * velocity
                                } else {
                                    velocity
                                }
                    }
                    Method::AdamW { beta1, beta2, epsilon } => {
                        moments[0][at] = beta1 * moments[0][at] + (1.0 - beta1) * slope;
                        moments[1][at] = beta2 * moments[1][at] + (1.0 - beta2) * slope * slope;
                        let mean = moments[0][at] / (1.0 - beta1.powi(self.state.steps));
                        let square = moments[1][at] / (1.0 - beta2.powi(self.state.steps));
                        weight - update.learning_rate * (mean / (square.sqrt() + epsilon) + decay * weight)
                    }
                };
                moved as f32
            });
            let values: Vec<f32> = values.collect();
            self.state
                .tensors
                .insert(name, Tensor::from_vec(tensor.shape().to_vec(), values));
        }
        ROk(kmr_sdk::serde_json::to_string(&Updated { gradient_norm: norm })
            .unwrap()
            .into())
    }

    fn save(&mut self) -> AbiResult<()> {
        self.saved = self.state.clone();
        ROk(())
    }

    fn restore(&mut self) -> AbiResult<()> {
        self.state = self.saved.clone();
        self.host.count_restore();
        ROk(())
    }

    fn checkpoint(&mut self, note: RStr<'_>) -> AbiResult<()> {
        let written = (note.as_str().to_owned(), self.state.clone());
        self.host.checkpoints.lock().unwrap().insert(self.key(), written);
        ROk(())
    }

    fn resume(&mut self) -> AbiResult<ROption<RString>> {
        let checkpoints = self.host.checkpoints.lock().unwrap();
        let Some((note, state)) = checkpoints.get(&self.key()) else {
            return ROk(RNone);
        };
        self.state = state.clone();
        ROk(RSome(note.as_str().into()))
    }

    fn store(&mut self, names: RSlice<'_, RString>) -> AbiResult<()> {
        assert_eq!(self.request.model, CANDIDATE);
        let candidate = self.host.candidate();
        let mut patch = Patch::new();
        for (name, tensor) in &self.state.tensors {
            let wanted = names.is_empty() || names.iter().any(|wanted| wanted.as_str() == name);
            let before = candidate.graph.tensor(name);
            if wanted && before.is_some_and(|before| **before != *tensor) {
                patch.push(Edit::StoreTensor {
                    name: name.clone(),
                    tensor: tensor.clone(),
                });
            }
        }
        self.host.change(&patch);
        ROk(())
    }
}
