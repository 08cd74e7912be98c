//! A host for tests: holds a model, takes edits, runs models of a few operators, and answers observations and sessions
//! with what the test gives.

pub mod arithmetic;

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use arithmetic::Value;
use kmr_abi::{
    AbiResult, Batch, BatchIteratorBox, BorrowedTensor, CANDIDATE, ErrorCode, Session, Session_TO, SessionBox,
    SharedTensorBox,
    abi_stable::{
        erased_types::TD_Opaque,
        std_types::{RNone, ROk, ROption, RSlice, RSome, RStr, RString, RVec},
    },
};
use kmr_sdk::{
    model::{DType, Dimension, Graph, Model, Node, Tensor, ValueInfo},
    wire::{ObserveRequest, RunRequest, SessionRequest},
};
pub use kmr_testkit::noise;
use kmr_testkit::{Answers, Subject, batches, fail, held, lend};

/// A graph with float inputs and outputs of these names and nothing else.
pub fn graph(inputs: &[&str], outputs: &[&str]) -> Graph {
    let mut graph = Graph::new("test");
    let declare = |name: &&str| ValueInfo::tensor(name, DType::FLOAT, &[Dimension::Unknown, Dimension::Unknown]);
    graph.inputs = inputs.iter().map(declare).collect();
    graph.outputs = outputs.iter().map(declare).collect();
    graph
}

/// A classifier of images `[N, 1, 8, 8]`: stem, one residual block, a wider convolution, pooling, a linear layer.
/// Every convolution has a batch normalization.
pub fn residual_network() -> Model {
    let mut graph = Graph::new("residual");
    let sizes = [
        Dimension::Named("N".into()),
        Dimension::Fixed(1),
        Dimension::Fixed(8),
        Dimension::Fixed(8),
    ];
    graph.inputs = vec![ValueInfo::tensor("image", DType::FLOAT, &sizes)];
    let sizes = [Dimension::Named("N".into()), Dimension::Fixed(4)];
    graph.outputs = vec![ValueInfo::tensor("logits", DType::FLOAT, &sizes)];
    let mut node = |node: Node| graph.nodes.push(Arc::new(node));
    let mut layer = |name: &str, input: &str| {
        let conv = format!("{name}.conv");
        let weight = format!("{name}.weight");
        node(
            Node::new("Conv", &conv, &[input, &weight], &[&conv])
                .with_ints("kernel_shape", &[3, 3])
                .with_ints("pads", &[1, 1, 1, 1]),
        );
        let names = ["gamma", "beta", "mean", "variance"].map(|part| format!("{name}.{part}"));
        let norm = format!("{name}.norm");
        let inputs: Vec<&str> = [conv.as_str()]
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .collect();
        node(Node::new("BatchNormalization", &norm, &inputs, &[&norm]));
        norm
    };
    layer("stem", "image");
    layer("block.first", "stem.relu");
    layer("block.second", "block.first.relu");
    layer("wide", "block.relu");
    for (after, name) in [("stem.norm", "stem.relu"), ("block.first.norm", "block.first.relu")] {
        node(Node::new("Relu", name, &[after], &[name]));
    }
    node(Node::new(
        "Add",
        "block.add",
        &["block.second.norm", "stem.relu"],
        &["block.add"],
    ));
    node(Node::new("Relu", "block.relu", &["block.add"], &["block.relu"]));
    node(Node::new("Relu", "wide.relu", &["wide.norm"], &["wide.relu"]));
    node(Node::new("GlobalAveragePool", "pool", &["wide.relu"], &["pool"]));
    node(Node::new("Flatten", "flatten", &["pool"], &["flatten"]));
    let linear = Node::new(
        "Gemm",
        "linear",
        &["flatten", "linear.weight", "linear.bias"],
        &["logits"],
    );
    node(linear.with_int("transB", 1));
    let order = [
        "stem.conv",
        "stem.norm",
        "stem.relu",
        "block.first.conv",
        "block.first.norm",
        "block.first.relu",
        "block.second.conv",
        "block.second.norm",
        "block.add",
        "block.relu",
        "wide.conv",
        "wide.norm",
        "wide.relu",
    ];
    graph
        .nodes
        .sort_by_key(|node| order.iter().position(|&id| id == node.id()).unwrap_or(order.len()));
    let mut seed = 0;
    let mut tensor = |name: &str, shape: &[usize], positive: bool| {
        seed += 1;
        let values = noise(shape.iter().product(), seed);
        let values = if positive {
            values.iter().map(|v| v.abs() + 0.1).collect()
        } else {
            values
        };
        graph
            .initializers
            .insert(name.into(), Tensor::from_vec(shape.to_vec(), values).into());
    };
    for (name, outputs, inputs) in [
        ("stem", 10, 1),
        ("block.first", 12, 10),
        ("block.second", 10, 12),
        ("wide", 16, 10),
    ] {
        tensor(&format!("{name}.weight"), &[outputs, inputs, 3, 3], false);
        for (part, positive) in [("gamma", true), ("beta", false), ("mean", false), ("variance", true)] {
            tensor(&format!("{name}.{part}"), &[outputs], positive);
        }
    }
    tensor("linear.weight", &[4, 16], false);
    tensor("linear.bias", &[4], false);
    let model = Model::new(graph, 8, 17);
    model.graph.check().unwrap();
    model
}

/// Makes the tensors that an observation gives.
pub type Observe = dyn Fn(&Model, &ObserveRequest) -> Vec<(String, Tensor)> + Send + Sync;

/// A host around one model.
pub struct ModelHost {
    subject: Subject,
    observe: Box<Observe>,
    /// What the model's first input is fed with, batch by batch, where the model is really run.
    pub feeds: Vec<Value>,
    /// The outputs that were asked for, run by run.
    pub asked: Mutex<Vec<Vec<String>>>,
    /// Inputs and labels of the calibration data, batch by batch.
    pub batches: Vec<(Tensor, Option<Tensor>)>,
    /// What a session computes: logits of a batch, and gradients by the cotangent of the logits.
    pub logits: Tensor,
    pub sessions: AtomicUsize,
}

impl ModelHost {
    pub fn new(model: Model) -> Self {
        Self {
            subject: Subject::new(model),
            observe: Box::new(|_, _| Vec::new()),
            feeds: Vec::new(),
            asked: Mutex::new(Vec::new()),
            batches: Vec::new(),
            logits: Tensor::from_vec(vec![0, 2], Vec::<f32>::new()),
            sessions: AtomicUsize::new(0),
        }
    }

    pub fn observing(
        mut self,
        observe: impl Fn(&Model, &ObserveRequest) -> Vec<(String, Tensor)> + Send + Sync + 'static,
    ) -> Self {
        self.observe = Box::new(observe);
        self
    }

    pub fn candidate(&self) -> Model {
        self.subject.candidate()
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
        if self.feeds.is_empty() {
            return fail(ErrorCode::NOT_FOUND, "there is no calibration data");
        }
        self.asked.lock().unwrap().push(request.outputs.clone());
        let graph = self.candidate().graph;
        let ran = self.feeds.iter().map(move |feed| ran(&graph, feed, &request.outputs));
        ROk(batches(ran))
    }

    fn observe(&self, request: &ObserveRequest) -> AbiResult<RVec<SharedTensorBox>> {
        let tensors = (self.observe)(&self.candidate(), request);
        ROk(tensors.iter().map(|(name, tensor)| held(name, tensor)).collect())
    }

    fn open_session(&self, request: SessionRequest, graph: Graph) -> AbiResult<SessionBox<'_>> {
        self.sessions.fetch_add(1, Ordering::SeqCst);
        let session = CannedSession {
            host: self,
            graph,
            trainable: request.trainable,
            at: 0,
            pulled: 0.0,
        };
        ROk(Session_TO::from_value(session, TD_Opaque))
    }
}

/// The values `outputs` of a graph on one batch.
fn ran(graph: &Graph, feed: &Value, outputs: &[String]) -> Batch {
    let input = graph.inputs[0].name();
    let values = arithmetic::values(graph, &[(input, feed.clone())]);
    let integers = graph.inputs[0].dtype() == Some(DType::INT64);
    let fed = match integers {
        true => Tensor::from_vec(feed.shape.clone(), feed.numbers.iter().map(|&id| id as i64).collect()),
        false => feed.tensor(),
    };
    let outputs = outputs.iter().map(|name| held(name, &values[name].tensor()));
    Batch {
        size: feed.shape[0] as u64,
        inputs: RVec::from(vec![held(input, &fed)]),
        labels: RNone,
        outputs: outputs.collect(),
    }
}

/// A session whose gradients are the first cotangent element, everywhere.
struct CannedSession<'h> {
    host: &'h ModelHost,
    graph: Graph,
    trainable: Vec<String>,
    at: usize,
    pulled: f32,
}

impl Session for CannedSession<'_> {
    fn next_batch(&mut self) -> AbiResult<ROption<Batch>> {
        if let Some(feed) = self.host.feeds.get(self.at) {
            self.at += 1;
            return ROk(RSome(Batch {
                size: feed.shape[0] as u64,
                inputs: RVec::from(vec![held(self.graph.inputs[0].name(), &feed.tensor())]),
                labels: RNone,
                outputs: RVec::new(),
            }));
        }
        let Some((input, labels)) = self.host.batches.get(self.at) else {
            return ROk(RNone);
        };
        self.at += 1;
        let labels = labels.as_ref().map(|labels| held("labels", labels));
        ROk(RSome(Batch {
            size: input.shape()[0] as u64,
            inputs: RVec::from(vec![held("image", input)]),
            labels: labels.into(),
            outputs: RVec::new(),
        }))
    }

    fn forward(&mut self, outputs: RSlice<'_, RString>) -> AbiResult<RVec<SharedTensorBox>> {
        if let Some(feed) = self.at.checked_sub(1).and_then(|at| self.host.feeds.get(at)) {
            let values = arithmetic::values(&self.graph, &[(self.graph.inputs[0].name(), feed.clone())]);
            let asked = outputs.iter().map(|name| held(name, &values[name.as_str()].tensor()));
            return ROk(asked.collect());
        }
        assert!(outputs.is_empty());
        ROk(RVec::from(vec![held("logits", &self.host.logits)]))
    }

    fn backward(&mut self, cotangents: RVec<BorrowedTensor<'_>>) -> AbiResult<()> {
        let first = &cotangents[0].bytes.as_slice()[..4];
        self.pulled = f32::from_le_bytes(first.try_into().unwrap());
        ROk(())
    }

    fn clear(&mut self) -> AbiResult<()> {
        self.pulled = 0.0;
        ROk(())
    }

    fn gradient(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        assert!(self.trainable.iter().any(|trainable| trainable == name.as_str()));
        let model = self.host.candidate();
        let tensor = model.graph.tensor(name.as_str()).unwrap();
        let gradient = Tensor::from_vec(tensor.shape().to_vec(), vec![self.pulled; tensor.len()]);
        ROk(held(name.as_str(), &gradient))
    }

    fn parameter(&self, name: RStr<'_>) -> AbiResult<SharedTensorBox> {
        let tensor = self.host.subject.tensor(CANDIDATE, name.as_str()).unwrap();
        ROk(held(name.as_str(), &tensor))
    }
}
