//! Models for tests, a small interpreter in float64, and a host that runs and differentiates by it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use kmr_abi::{
    AbiResult, Batch, BatchIteratorBox, BorrowedTensor, ErrorCode, Session, Session_TO, SessionBox, SharedTensorBox,
    abi_stable::{
        erased_types::TD_Opaque,
        std_types::{RNone, ROk, ROption, RSlice, RSome, RStr, RString, RVec},
    },
};
use kmr_sdk::{
    model::{DType, Dimension, Edit, Graph, Model, Node, Patch, Tensor, ValueInfo},
    tensors::read_description,
    wire::{RunRequest, SessionRequest, Update, Updated},
};
pub use kmr_testkit::noise;
use kmr_testkit::{Answers, Subject, batches, fail, held, lend};

fn store(graph: &mut Graph, name: &str, shape: &[usize], seed: u64) {
    let tensor = Tensor::from_vec(shape.to_vec(), noise(shape.iter().product(), seed));
    graph.initializers.insert(name.into(), tensor.into());
}

fn declared(name: &str, sizes: &[usize]) -> ValueInfo {
    let mut shape = vec![Dimension::Named("N".into())];
    shape.extend(sizes.iter().map(|&size| Dimension::Fixed(size)));
    ValueInfo::tensor(name, DType::FLOAT, &shape)
}

/// `x [N, 5]` → Gemm (transposed weight, named) → Relu → MatMul (with a path) → Gemm → `logits [N, 3]`.
pub fn perceptron() -> Model {
    let mut graph = Graph::new("perceptron");
    graph.inputs = vec![declared("x", &[5])];
    graph.outputs = vec![declared("logits", &[3])];
    store(&mut graph, "first.weight", &[6, 5], 1);
    store(&mut graph, "first.bias", &[6], 2);
    store(&mut graph, "matrix", &[6, 4], 3);
    store(&mut graph, "third.weight", &[4, 3], 4);
    let nodes = [
        Node::new("Gemm", "/first/Gemm", &["x", "first.weight", "first.bias"], &["h"]).with_int("transB", 1),
        Node::new("Relu", "", &["h"], &["r"]),
        Node::new("MatMul", "/block/second/MatMul", &["r", "matrix"], &["m"]),
        Node::new("Gemm", "", &["m", "third.weight"], &["logits"]),
    ];
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    let model = Model::new(graph, 10, 21);
    model.graph.check().unwrap();
    model
}

/// `image [N, 2, 5, 5]` → Conv 3×3, stride 2 → BatchNormalization → Relu → pool → Gemm → `logits [N, 3]`.
pub fn convolutions() -> Model {
    let mut graph = Graph::new("convolutions");
    graph.inputs = vec![declared("image", &[2, 5, 5])];
    graph.outputs = vec![declared("logits", &[3])];
    store(&mut graph, "stem.weight", &[4, 2, 3, 3], 1);
    for (name, seed) in [("gamma", 2), ("beta", 3), ("mean", 4), ("variance", 5)] {
        let values = noise(4, seed)
            .into_iter()
            .map(|value| if seed % 3 == 2 { value.abs() + 0.5 } else { value });
        graph
            .initializers
            .insert(name.into(), Tensor::from_vec(vec![4], values.collect()).into());
    }
    store(&mut graph, "head.weight", &[3, 4], 6);
    let nodes = [
        Node::new("Conv", "", &["image", "stem.weight"], &["c"])
            .with_ints("strides", &[2, 2])
            .with_ints("pads", &[1, 1, 1, 1]),
        Node::new(
            "BatchNormalization",
            "",
            &["c", "gamma", "beta", "mean", "variance"],
            &["n"],
        ),
        Node::new("Relu", "", &["n"], &["r"]),
        Node::new("GlobalAveragePool", "", &["r"], &["p"]),
        Node::new("Flatten", "", &["p"], &["f"]),
        Node::new("Gemm", "", &["f", "head.weight"], &["logits"]).with_int("transB", 1),
    ];
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    let model = Model::new(graph, 10, 21);
    model.graph.check().unwrap();
    model
}

/// The same model with these weights as integers per output channel and a DequantizeLinear; four bits in blocks of two
/// with a zero point for a matrix that lies inputs × outputs.
pub fn quantized(model: &Model, weights: &[&str], bits: u8) -> Model {
    let mut patch = Patch::new();
    for &name in weights {
        let tensor = model.graph.tensor(name).unwrap();
        let values = tensor.to_f32().unwrap();
        let shape = tensor.shape().to_vec();
        let turned = model
            .graph
            .nodes
            .iter()
            .any(|node| node.is("MatMul") && node.input(1) == Some(name));
        let (dtype, high) = if bits == 4 {
            (DType::INT4, 7.0)
        } else {
            (DType::INT8, 127.0)
        };
        let blocked = turned && bits == 4;
        let (axis, scale_shape) = match (turned, blocked) {
            (_, true) => (0, vec![shape[0] / 2, shape[1]]),
            (true, _) => (1, vec![shape[1]]),
            _ => (0, vec![shape[0]]),
        };
        let columns: usize = shape[1..].iter().product();
        let place = |at: usize| match (turned, blocked) {
            (_, true) => at / columns / 2 * columns + at % columns,
            (true, _) => at % columns,
            _ => at / columns,
        };
        let count: usize = scale_shape.iter().product();
        let mut scales = vec![1e-6_f32; count];
        for (at, value) in values.iter().enumerate() {
            scales[place(at)] = scales[place(at)].max(value.abs() / high);
        }
        let zero = i32::from(blocked);
        let codes: Vec<u8> = values
            .iter()
            .enumerate()
            .map(|(at, value)| {
                ((value / scales[place(at)]).round() as i32 + zero).clamp(-(high as i32) - 1, high as i32) as u8
            })
            .collect();
        let nibbles = |codes: &[u8]| {
            codes
                .chunks(2)
                .map(|pair| pair[0] & 15 | pair.get(1).map_or(0, |c| c << 4))
                .collect()
        };
        let bytes: Vec<u8> = if bits == 4 { nibbles(&codes) } else { codes };
        let mut initializer = |suffix: &str, tensor: Tensor| {
            let name = format!("{name}{suffix}");
            patch.push(Edit::StoreTensor {
                name: name.clone(),
                tensor,
            });
            name
        };
        let codes = initializer("_codes", Tensor::new(dtype, shape, bytes.into()).unwrap());
        let mut inputs = vec![
            codes,
            initializer("_scale", Tensor::from_vec(scale_shape.clone(), scales)),
        ];
        if blocked {
            let zeros = nibbles(&vec![1; count]);
            inputs.push(initializer(
                "_zero",
                Tensor::new(dtype, scale_shape, zeros.into()).unwrap(),
            ));
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let mut node = Node::new("DequantizeLinear", "", &inputs, &[name]).with_int("axis", axis);
        if blocked {
            node = node.with_int("block_size", 2);
        }
        patch.push(Edit::RemoveTensor { name: name.into() });
        patch.push(Edit::AddNode {
            node: Box::new(node),
            before: Some(model.graph.nodes[0].id().to_owned()),
        });
    }
    model.with_graph(patch.apply(&model.graph).unwrap())
}

/// The same model with a weight in sevenths, made by Cast and Mul.
pub fn packed(model: &Model, name: &str) -> Model {
    let tensor = model.graph.tensor(name).unwrap();
    let codes = tensor
        .to_f32()
        .unwrap()
        .iter()
        .map(|value| (value * 7.0).round() as i8)
        .collect();
    let mut patch = Patch::new();
    let mut initializer = |suffix: &str, tensor: Tensor| {
        let name = format!("{name}{suffix}");
        patch.push(Edit::StoreTensor {
            name: name.clone(),
            tensor,
        });
        name
    };
    let codes = initializer("_codes", Tensor::from_vec(tensor.shape().to_vec(), codes));
    let scale = initializer("_scale", Tensor::scalar(1.0_f32 / 7.0));
    patch.push(Edit::RemoveTensor { name: name.into() });
    let real = format!("{name}_real");
    let cast = Node::new("Cast", "", &[&codes], &[&real]).with_int("to", 1);
    for node in [cast, Node::new("Mul", "", &[&real, &scale], &[name])] {
        patch.push(Edit::AddNode {
            node: Box::new(node),
            before: Some(model.graph.nodes[0].id().to_owned()),
        });
    }
    model.with_graph(patch.apply(&model.graph).unwrap())
}

/// A value of the interpreter.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

impl Value {
    pub fn of(tensor: &Tensor) -> Self {
        let bytes = tensor.bytes();
        let nibbles = || bytes.iter().flat_map(|byte| [byte & 15, byte >> 4]).take(tensor.len());
        let values = match tensor.dtype() {
            DType::INT8 => bytes.iter().map(|&byte| (byte as i8).into()).collect(),
            DType::INT4 => nibbles().map(|nibble| ((nibble << 4) as i8 >> 4).into()).collect(),
            _ => tensor.to_f32().unwrap().iter().map(|&value| value.into()).collect(),
        };
        Self {
            shape: tensor.shape().to_vec(),
            values,
        }
    }

    pub fn tensor(&self) -> Tensor {
        Tensor::from_vec(
            self.shape.clone(),
            self.values.iter().map(|&value| value as f32).collect(),
        )
    }

    /// Element by element, one of them spread over the other's last axes.
    fn with(&self, other: &Self, with: &dyn Fn(f64, f64) -> f64) -> Self {
        if self.values.len() < other.values.len() {
            return other.with(self, &|a, b| with(b, a));
        }
        let count = other.values.len();
        let values = self
            .values
            .iter()
            .enumerate()
            .map(|(at, &value)| with(value, other.values[at % count]));
        Self {
            shape: self.shape.clone(),
            values: values.collect(),
        }
    }

    fn transposed(&self) -> Self {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let values = (0..rows * columns).map(|at| self.values[at % rows * columns + at / rows]);
        Self {
            shape: vec![columns, rows],
            values: values.collect(),
        }
    }

    fn times(&self, other: &Self) -> Self {
        let (inner, columns) = (other.shape[0], other.shape[1]);
        let row = |row: &[f64]| -> Vec<f64> {
            (0..columns)
                .map(|c| {
                    row.iter()
                        .enumerate()
                        .map(|(k, v)| v * other.values[k * columns + c])
                        .sum()
                })
                .collect()
        };
        let mut shape = self.shape.clone();
        *shape.last_mut().unwrap() = columns;
        Self {
            shape,
            values: self.values.chunks(inner).flat_map(row).collect(),
        }
    }

    fn convolved(&self, kernel: &Self, node: &Node) -> Self {
        let pair = |name: &str, missing: usize| node.ints(name).map_or(missing, |ints| ints[0] as usize);
        let (stride, pad) = (pair("strides", 1), pair("pads", 0));
        let [batch, channels, size, _] = self.shape[..] else {
            panic!("{:?}", self.shape)
        };
        let [outputs, _, reach, _] = kernel.shape[..] else {
            panic!("{:?}", kernel.shape)
        };
        let places = (size + 2 * pad - reach) / stride + 1;
        let mut values = Vec::new();
        for at in 0..batch * outputs * places * places {
            let (x, y) = (at % places, at / places % places);
            let (output, image) = (at / (places * places) % outputs, at / (places * places * outputs));
            let mut sum = 0.0;
            for k in 0..channels * reach * reach {
                let (dx, dy, channel) = (k % reach, k / reach % reach, k / (reach * reach));
                let (x, y) = ((x * stride + dx).wrapping_sub(pad), (y * stride + dy).wrapping_sub(pad));
                if x < size && y < size {
                    sum += kernel.values[output * channels * reach * reach + k]
                        * self.values[((image * channels + channel) * size + y) * size + x];
                }
            }
            values.push(sum);
        }
        Self {
            shape: vec![batch, outputs, places, places],
            values,
        }
    }
}

fn run_node(node: &Node, inputs: &[&Value]) -> Value {
    let x = inputs[0];
    match node.op_type() {
        "Gemm" => {
            let b = if node.int("transB") == Some(1) {
                inputs[1].transposed()
            } else {
                inputs[1].clone()
            };
            let product = x.times(&b);
            inputs
                .get(2)
                .map_or(product.clone(), |c| product.with(c, &|a, b| a + b))
        }
        "MatMul" => x.times(inputs[1]),
        "Conv" => {
            let mut made = x.convolved(inputs[1], node);
            let plane: usize = made.shape[2..].iter().product();
            if let Some(bias) = inputs.get(2) {
                let values = made.values.iter_mut().enumerate();
                values.for_each(|(at, value)| *value += bias.values[at / plane % bias.values.len()]);
            }
            made
        }
        "Relu" => Value {
            shape: x.shape.clone(),
            values: x.values.iter().map(|v| v.max(0.0)).collect(),
        },
        "Add" => x.with(inputs[1], &|a, b| a + b),
        "Mul" => x.with(inputs[1], &|a, b| a * b),
        "Transpose" => x.transposed(),
        "Cast" | "Dropout" => x.clone(),
        "Flatten" => {
            let rest = x.shape[1..].iter().product();
            Value {
                shape: vec![x.shape[0], rest],
                values: x.values.clone(),
            }
        }
        "GlobalAveragePool" => {
            let plane: usize = x.shape[2..].iter().product();
            let values = x
                .values
                .chunks(plane)
                .map(|plane| plane.iter().sum::<f64>() / plane.len() as f64);
            Value {
                shape: vec![x.shape[0], x.shape[1], 1, 1],
                values: values.collect(),
            }
        }
        "BatchNormalization" => {
            let plane: usize = x.shape[2..].iter().product();
            let values = x.values.iter().enumerate().map(|(at, value)| {
                let of = |slot: usize| inputs[slot].values[at / plane % x.shape[1]];
                (value - of(3)) / (of(4) + 1e-5).sqrt() * of(1) + of(2)
            });
            Value {
                shape: x.shape.clone(),
                values: values.collect(),
            }
        }
        "DequantizeLinear" => {
            let axis = node.int("axis").unwrap() as usize;
            let block = node.int("block_size").unwrap_or(1) as usize;
            let inner: usize = x.shape[axis + 1..].iter().product();
            let along = if node.int("block_size").is_some() { inner } else { 1 };
            let value = |(at, code): (usize, &f64)| {
                let position = at / inner % x.shape[axis] / block;
                let place = position * along + at % along.max(1) * usize::from(along > 1);
                (code - inputs.get(2).map_or(0.0, |zeros| zeros.values[place])) * inputs[1].values[place]
            };
            Value {
                shape: x.shape.clone(),
                values: x.values.iter().enumerate().map(value).collect(),
            }
        }
        other => panic!("the interpreter of tests has no {other}"),
    }
}

/// The values `outputs`, of as much of the graph as can be run with these feeds.
pub fn evaluate(graph: &Graph, feeds: &[(String, Value)], outputs: &[&str]) -> Vec<Value> {
    let mut known: HashMap<&str, Value> = HashMap::new();
    for (name, initializer) in &graph.initializers {
        known.insert(name, Value::of(&initializer.tensor));
    }
    known.extend(feeds.iter().map(|(name, value)| (name.as_str(), value.clone())));
    for node in &graph.nodes {
        let inputs: Option<Vec<&Value>> = node.inputs().iter().map(|name| known.get(name.as_str())).collect();
        if let Some(inputs) = inputs {
            let made = run_node(node, &inputs);
            known.insert(node.id(), made);
        }
    }
    outputs.iter().map(|&name| known[name].clone()).collect()
}

/// A batch of inputs of `model`.
pub fn feeds(model: &Model, batch: usize, seed: u64) -> Vec<(String, Value)> {
    let feed = |input: &ValueInfo| {
        let sizes = input.shape().unwrap().into_iter().map(|size| match size {
            Dimension::Fixed(size) => size,
            _ => batch,
        });
        let shape: Vec<usize> = sizes.collect();
        let values = noise(shape.iter().product(), seed).into_iter().map(f64::from).collect();
        (input.name().to_owned(), Value { shape, values })
    };
    model.graph.feeds().map(feed).collect()
}

/// A host around a candidate and a reference.
pub struct ModelHost {
    subject: Subject,
    /// The data, batch by batch; none where there are no batches.
    pub batches: Vec<Vec<(String, Value)>>,
    /// Labels of each batch.
    pub labels: Vec<Option<Vec<i64>>>,
    /// The requests of sessions.
    pub sessions: Mutex<Vec<SessionRequest>>,
    /// Optimizer steps that were made.
    pub steps: AtomicUsize,
    /// What the next session resumes from.
    pub checkpoint: Mutex<Option<(String, BTreeMap<String, Tensor>)>>,
    /// Whether the session was put in training mode.
    pub trained: AtomicUsize,
}

impl ModelHost {
    pub fn new(candidate: Model, reference: Model) -> Self {
        let batches = (0..3).map(|seed| feeds(&candidate, 8, 40 + seed)).collect();
        Self {
            subject: Subject::new(candidate).beside(reference),
            batches,
            labels: vec![None; 3],
            sessions: Mutex::default(),
            steps: AtomicUsize::new(0),
            checkpoint: Mutex::default(),
            trained: AtomicUsize::new(0),
        }
    }

    pub fn without_data(mut self) -> Self {
        self.batches.clear();
        self
    }

    pub fn candidate(&self) -> Model {
        self.subject.candidate()
    }

    pub fn reference(&self) -> &Model {
        self.subject.reference().unwrap()
    }

    /// How far the candidate's outputs are from the reference's, by their squares.
    pub fn distance(&self) -> f64 {
        let outputs = |model: &Model| -> Vec<f64> {
            let names: Vec<&str> = model.graph.outputs.iter().map(|output| output.name()).collect();
            let feeds = (0..4).map(|seed| feeds(model, 16, seed));
            feeds
                .flat_map(|feeds| evaluate(&model.graph, &feeds, &names))
                .flat_map(|value| value.values)
                .collect()
        };
        let (candidate, reference) = (outputs(&self.candidate()), outputs(self.reference()));
        candidate.iter().zip(&reference).map(|(a, b)| (a - b).powi(2)).sum()
    }

    /// Lends the host for a call.
    pub fn with<R>(&self, body: impl FnOnce(&kmr_sdk::Host<'_>) -> R) -> R {
        lend(self, body)
    }
}

impl Answers for ModelHost {
    fn subject(&self) -> Option<&Subject> {
        Some(&self.subject)
    }

    fn run(&self, request: RunRequest) -> AbiResult<BatchIteratorBox<'_>> {
        if self.batches.is_empty() {
            return fail(ErrorCode::NOT_FOUND, "the manifest has no calibration data");
        }
        let model = self.subject.model(&request.model).unwrap();
        let played = (0..self.batches.len()).map(move |at| {
            let names: Vec<&str> = request.outputs.iter().map(String::as_str).collect();
            let made = evaluate(&model.graph, &self.batches[at], &names);
            let outputs = names.iter().zip(&made).map(|(name, value)| held(name, &value.tensor()));
            batch(self, at, outputs.collect())
        });
        ROk(batches(played))
    }

    fn open_session(&self, request: SessionRequest, graph: Graph) -> AbiResult<SessionBox<'_>> {
        if self.batches.is_empty() {
            return fail(ErrorCode::NOT_FOUND, "the manifest has no calibration data");
        }
        for name in &request.trainable {
            match graph.tensor(name) {
                Some(tensor) if tensor.dtype() == DType::FLOAT => {}
                Some(_) => return fail(ErrorCode::UNSUPPORTED, format!("`{name}` is not float32")),
                None => return fail(ErrorCode::NOT_FOUND, format!("no tensor `{name}`")),
            }
        }
        self.sessions.lock().unwrap().push(request.clone());
        let session = Differentiated {
            host: self,
            saved: graph.clone(),
            graph,
            trainable: request.trainable,
            next: 0,
            drawn: None,
            gradients: BTreeMap::new(),
        };
        ROk(Session_TO::from_value(session, TD_Opaque))
    }
}

fn batch(host: &ModelHost, at: usize, outputs: RVec<SharedTensorBox>) -> Batch {
    let feeds = &host.batches[at];
    let labels = host.labels[at].as_ref();
    let labels = labels.map(|labels| held("labels", &Tensor::from_vec(vec![labels.len()], labels.clone())));
    Batch {
        size: feeds[0].1.shape[0] as u64,
        inputs: feeds.iter().map(|(name, value)| held(name, &value.tensor())).collect(),
        labels: labels.into(),
        outputs,
    }
}

/// A session whose gradients are central differences, and whose optimizer follows them.
struct Differentiated<'h> {
    host: &'h ModelHost,
    graph: Graph,
    saved: Graph,
    trainable: Vec<String>,
    next: usize,
    drawn: Option<usize>,
    gradients: BTreeMap<String, Vec<f64>>,
}

impl Differentiated<'_> {
    fn set(&mut self, name: &str, tensor: Tensor) {
        self.graph.initializers.insert(name.into(), tensor.into());
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.graph.tensor(name).unwrap().to_f32().unwrap().into_owned()
    }
}

impl Session for Differentiated<'_> {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        if self.next >= self.host.batches.len() {
            self.next = 0;
            self.drawn = None;
            return ROk(RNone);
        }
        self.drawn = Some(self.next);
        self.next += 1;
        ROk(RSome(batch(self.host, self.next - 1, RVec::new())))
    }

    fn forward(&mut self, outputs: RSlice<'_, RString>) -> AbiResult<RVec<SharedTensorBox>> {
        let mut names: Vec<&str> = outputs.iter().map(RString::as_str).collect();
        if names.is_empty() {
            names = self.graph.outputs.iter().map(|output| output.name()).collect();
        }
        let made = evaluate(&self.graph, &self.host.batches[self.drawn.unwrap()], &names);
        ROk(names
            .iter()
            .zip(&made)
            .map(|(name, value)| held(name, &value.tensor()))
            .collect())
    }

    fn backward(&mut self, cotangents: RVec<BorrowedTensor<'_>>) -> AbiResult<()> {
        const STEP: f32 = 1.0 / 256.0;
        let given: Vec<(String, Vec<f32>)> = cotangents
            .iter()
            .map(|cotangent| {
                let values = cotangent.bytes.as_slice().chunks(4);
                let values = values
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                    .collect();
                (cotangent.description.name.to_string(), values)
            })
            .collect();
        let names: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
        for name in self.trainable.clone() {
            let own = self.values(&name);
            let shape = self.graph.tensor(&name).unwrap().shape().to_vec();
            let mut loss = |at: usize, by: f32| -> f64 {
                let mut values = own.clone();
                values[at] += by;
                self.set(&name, Tensor::from_vec(shape.clone(), values));
                let made = evaluate(&self.graph, &self.host.batches[self.drawn.unwrap()], &names);
                let parts = made.iter().zip(&given);
                parts
                    .flat_map(|(made, (_, given))| made.values.iter().zip(given))
                    .map(|(made, given)| made * f64::from(*given))
                    .sum()
            };
            let slopes = (0..own.len()).map(|at| (loss(at, STEP) - loss(at, -STEP)) / f64::from(2.0 * STEP));
            let slopes: Vec<f64> = slopes.collect();
            self.set(&name, Tensor::from_vec(shape, own));
            let sums = self.gradients.entry(name).or_insert_with(|| vec![0.0; slopes.len()]);
            sums.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
        ROk(())
    }

    fn gradient(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        let shape = self.graph.tensor(name.as_str()).unwrap().shape().to_vec();
        let values = self.gradients[name.as_str()]
            .iter()
            .map(|&value| value as f32)
            .collect();
        ROk(held(name.as_str(), &Tensor::from_vec(shape, values)))
    }

    fn parameter(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        ROk(held(name.as_str(), self.graph.tensor(name.as_str()).unwrap()))
    }

    fn assign(&mut self, tensor: BorrowedTensor<'_>) -> AbiResult<()> {
        let (dtype, shape) = read_description(&tensor.description).unwrap();
        let bytes = Bytes::copy_from_slice(tensor.bytes.as_slice());
        let name = tensor.description.name.to_string();
        self.set(&name, Tensor::new(dtype, shape, bytes).unwrap());
        ROk(())
    }

    fn clear(&mut self) -> AbiResult<()> {
        self.gradients.clear();
        ROk(())
    }

    fn train(&mut self, on: bool) -> AbiResult<()> {
        self.host.trained.fetch_add(usize::from(on), Ordering::SeqCst);
        ROk(())
    }

    fn step(&mut self, update: RStr<'_>) -> AbiResult<RString> {
        let update: Update = serde_json::from_str(update.as_str()).unwrap();
        let gradients = std::mem::take(&mut self.gradients);
        let norm = gradients
            .values()
            .flatten()
            .map(|value| value * value)
            .sum::<f64>()
            .sqrt();
        if !norm.is_finite() {
            return fail(ErrorCode::INVALID_REQUEST, "a gradient is not finite");
        }
        for (name, gradient) in gradients {
            let values = self.values(&name).into_iter().zip(gradient);
            let values = values
                .map(|(value, slope)| value - (update.learning_rate * slope) as f32)
                .collect();
            let shape = self.graph.tensor(&name).unwrap().shape().to_vec();
            self.set(&name, Tensor::from_vec(shape, values));
        }
        self.host.steps.fetch_add(1, Ordering::SeqCst);
        let updated = Updated { gradient_norm: norm };
        ROk(serde_json::to_string(&updated).unwrap().into())
    }

    fn save(&mut self) -> AbiResult<()> {
        self.saved = self.graph.clone();
        ROk(())
    }

    fn restore(&mut self) -> AbiResult<()> {
        self.graph = self.saved.clone();
        ROk(())
    }

    fn checkpoint(&mut self, note: RStr<'_>) -> AbiResult<()> {
        let tensors = self.trainable.iter();
        let tensors = tensors
            .map(|name| (name.clone(), (**self.graph.tensor(name).unwrap()).clone()))
            .collect();
        *self.host.checkpoint.lock().unwrap() = Some((note.to_string(), tensors));
        ROk(())
    }

    fn resume(&mut self) -> AbiResult<ROption<RString>> {
        let Some((note, tensors)) = self.host.checkpoint.lock().unwrap().clone() else {
            return ROk(RNone);
        };
        for (name, tensor) in tensors {
            self.set(&name, tensor);
        }
        ROk(RSome(note.into()))
    }
}
