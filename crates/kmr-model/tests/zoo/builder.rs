//! Writing networks down.

use std::{cell::RefCell, sync::Arc};

use kmr_model::{DType, Dimension, Graph, Initializer, Model, Node, Tensor, ValueInfo};

use super::super::silence::{Random, constant};

/// An input and its shape.
pub type Feed = (String, Vec<usize>);

/// How a node is varied.
pub type With = fn(Node) -> Node;

pub const PLAIN: With = |node| node;

/// A network in the making. Values are their names.
pub struct Net {
    graph: RefCell<Graph>,
    count: RefCell<usize>,
    random: RefCell<Random>,
    feeds: RefCell<Vec<Feed>>,
    /// Whether tensors are stored in Constant nodes.
    pub constants: bool,
}

impl Net {
    pub fn new() -> Self {
        Self {
            graph: RefCell::new(Graph::new("network")),
            count: RefCell::new(0),
            random: RefCell::new(Random(11)),
            feeds: RefCell::default(),
            constants: false,
        }
    }

    pub fn input(&self, name: &str, shape: &[usize]) -> String {
        self.typed(name, DType::FLOAT, shape)
    }

    /// An input of integers.
    pub fn ids(&self, name: &str, shape: &[usize]) -> String {
        self.typed(name, DType::INT64, shape)
    }

    fn typed(&self, name: &str, dtype: DType, shape: &[usize]) -> String {
        let sizes: Vec<Dimension> = shape.iter().map(|&size| Dimension::Fixed(size)).collect();
        let value = ValueInfo::tensor(name, dtype, &sizes);
        self.graph.borrow_mut().inputs.push(value);
        self.feeds.borrow_mut().push((name.to_owned(), shape.to_vec()));
        name.to_owned()
    }

    fn name(&self, prefix: &str) -> String {
        *self.count.borrow_mut() += 1;
        format!("{prefix}{}", self.count.borrow())
    }

    pub fn store(&self, tensor: Tensor) -> String {
        let name = self.name("t");
        let graph = &mut *self.graph.borrow_mut();
        if self.constants {
            graph.nodes.push(Arc::new(constant(&name, &tensor)));
        } else {
            graph.initializers.insert(name.clone(), Initializer::from(tensor));
        }
        name
    }

    pub fn noise(&self, shape: &[usize]) -> Tensor {
        let mut random = self.random.borrow_mut();
        let count = shape.iter().product();
        Tensor::from_vec(shape.to_vec(), (0..count).map(|_| random.float()).collect())
    }

    /// Noise that keeps values as large as they are.
    pub fn weight(&self, shape: &[usize]) -> String {
        let inner: usize = shape.iter().skip(1).product();
        let scale = (3.0 / inner.max(1) as f32).sqrt();
        let noise = self.noise(shape);
        let values = noise.values::<f32>().unwrap().iter().map(|v| v * scale).collect();
        self.store(Tensor::from_vec(shape.to_vec(), values))
    }

    /// Noise between a half and three halves.
    pub fn positive(&self, shape: &[usize]) -> String {
        let noise = self.noise(shape);
        let values = noise.values::<f32>().unwrap().iter().map(|v| 1.0 + v / 2.0).collect();
        self.store(Tensor::from_vec(shape.to_vec(), values))
    }

    pub fn integers(&self, values: &[i64]) -> String {
        self.store(Tensor::from_vec(vec![values.len()], values.to_vec()))
    }

    pub fn scalar(&self, value: i64) -> String {
        self.store(Tensor::from_vec(Vec::new(), vec![value]))
    }

    pub fn floats(&self, shape: &[usize], values: &[f32]) -> String {
        self.store(Tensor::from_vec(shape.to_vec(), values.to_vec()))
    }

    /// Adds a node with one output, whose name it returns.
    pub fn with(&self, op: &str, inputs: &[&str], with: impl Fn(Node) -> Node) -> String {
        self.many(op, inputs, 1, with).remove(0)
    }

    pub fn op(&self, op: &str, inputs: &[&str]) -> String {
        self.with(op, inputs, PLAIN)
    }

    /// Adds a node with `count` outputs.
    pub fn many(&self, op: &str, inputs: &[&str], count: usize, with: impl Fn(Node) -> Node) -> Vec<String> {
        let outputs: Vec<String> = (0..count).map(|_| self.name("v")).collect();
        let names: Vec<&str> = outputs.iter().map(String::as_str).collect();
        let node = with(Node::new(op, "", inputs, &names));
        self.graph.borrow_mut().nodes.push(Arc::new(node));
        outputs
    }

    /// A convolution of any number of dimensions that keeps their sizes.
    pub fn conv(&self, x: &str, weight: &[usize], group: usize) -> String {
        let (w, b) = (self.weight(weight), self.weight(&weight[..1]));
        let pads: Vec<i64> = [&weight[2..], &weight[2..]]
            .concat()
            .iter()
            .map(|k| *k as i64 / 2)
            .collect();
        self.with("Conv", &[x, &w, &b], |node| {
            node.with_int("group", group as i64).with_ints("pads", &pads)
        })
    }

    pub fn batch_norm(&self, x: &str, channels: usize) -> String {
        let [scale, variance] = [(); 2].map(|()| self.positive(&[channels]));
        let [bias, mean] = [(); 2].map(|()| self.weight(&[channels]));
        self.op("BatchNormalization", &[x, &scale, &bias, &mean, &variance])
    }

    pub fn reshape(&self, x: &str, shape: &[i64]) -> String {
        let shape = self.integers(shape);
        self.op("Reshape", &[x, &shape])
    }

    pub fn transpose(&self, x: &str, order: &[i64]) -> String {
        self.with("Transpose", &[x], |node| node.with_ints("perm", order))
    }

    pub fn concat(&self, parts: &[&str], axis: i64) -> String {
        self.with("Concat", parts, |node| node.with_int("axis", axis))
    }

    /// A product with a stored matrix and a bias.
    pub fn linear(&self, x: &str, from: usize, to: usize) -> String {
        let (w, b) = (self.weight(&[from, to]), self.weight(&[to]));
        let y = self.op("MatMul", &[x, &w]);
        self.op("Add", &[&y, &b])
    }

    /// A product with a stored matrix of a row for each output, as frameworks store them, maybe with a bias.
    pub fn linear_rows(&self, x: &str, from: usize, to: usize, bias: bool) -> String {
        let w = self.weight(&[to, from]);
        let y = self.op("MatMul", &[x, &self.transpose(&w, &[1, 0])]);
        match bias {
            true => self.op("Add", &[&y, &self.weight(&[to])]),
            false => y,
        }
    }

    pub fn classify(&self, x: &str, channels: usize) -> String {
        let y = self.op("GlobalAveragePool", &[x]);
        let y = self.op("Flatten", &[&y]);
        let (w, b) = (self.weight(&[3, channels]), self.weight(&[3]));
        self.with("Gemm", &[&y, &w, &b], |node| node.with_int("transB", 1))
    }

    /// The network with these outputs, which it must have `groups` groups of channels for.
    pub fn network(self, name: &'static str, opset: i64, outputs: &[&str], groups: usize) -> super::Network {
        let mut graph = self.graph.into_inner();
        let declare = |name: &&str| ValueInfo::tensor(name, DType::FLOAT, &[]);
        graph.outputs = outputs.iter().map(declare).collect();
        // Shapes are left open: what is declared must be true after a cut, too.
        let model = Model::new(graph, 10, opset);
        let feeds = self.feeds.into_inner();
        let sizes = feeds.iter().cloned().collect();
        let shapes = kmr_model::shapes::infer(&model, &sizes).unwrap();
        let mut graph = model.graph.clone();
        for output in &mut graph.outputs {
            let shape = shapes.shape(output.name()).map(|shape| {
                let sizes = shape.iter().map(|&size| Dimension::Fixed(size));
                sizes.collect::<Vec<_>>()
            });
            if let Some(shape) = shape {
                *output = ValueInfo::tensor(output.name(), shapes.dtype(output.name()).unwrap(), &shape);
            }
        }
        super::Network {
            name,
            model: model.with_graph(graph),
            feeds,
            groups,
        }
    }
}
