//! Small networks, made of the blocks that real ones are made of.

use std::{cell::Cell, sync::Arc};

use kmr_model::{
    DType, Dimension, Graph, Initializer, Model, Node, Tensor, ValueInfo, codec::tensor_to_message, proto,
};

/// Height and width of every image.
pub const SIDE: usize = 4;

/// The blocks that [`Network::block`] knows.
pub const BLOCKS: u8 = 12;

/// A network in the making.
pub struct Network {
    graph: Graph,
    count: usize,
    noise: Cell<u32>,
    /// The value to build on, and its channels.
    pub value: String,
    pub channels: usize,
}

impl Network {
    pub fn new() -> Self {
        let mut graph = Graph::new("network");
        let sizes = [3, SIDE, SIDE].map(Dimension::Fixed);
        let shape = [&[Dimension::Named("batch".into())], &sizes[..]].concat();
        graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &shape)];
        Self {
            graph,
            count: 0,
            noise: Cell::new(1),
            value: "x".into(),
            channels: 3,
        }
    }

    pub fn name(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    pub fn tensor(&mut self, tensor: Tensor) -> String {
        let name = self.name("t");
        let stored = Initializer::from(tensor);
        self.graph.initializers.insert(name.clone(), stored);
        name
    }

    /// Values between -0.5 and 0.5 without a pattern.
    pub fn noise(&self, shape: &[usize]) -> Tensor {
        let next = || {
            let state = self.noise.get();
            self.noise
                .set(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
            (state >> 8) as f32 / (1_u32 << 24) as f32 - 0.5
        };
        let count = shape.iter().product();
        Tensor::from_vec(shape.to_vec(), (0..count).map(|_| next()).collect())
    }

    pub fn weight(&mut self, shape: &[usize]) -> String {
        let noise = self.noise(shape);
        self.tensor(noise)
    }

    pub fn integers(&mut self, values: &[i64]) -> String {
        self.tensor(Tensor::from_vec(vec![values.len()], values.to_vec()))
    }

    /// Adds a node with one output, whose name it returns.
    pub fn node(&mut self, op: &str, inputs: &[&str], with: impl Fn(Node) -> Node) -> String {
        let output = self.name("v");
        let node = with(Node::new(op, "", inputs, &[&output]));
        self.graph.nodes.push(Arc::new(node));
        output
    }

    pub fn plain(&mut self, op: &str, inputs: &[&str]) -> String {
        self.node(op, inputs, |node| node)
    }

    pub fn conv(&mut self, input: &str, shape: [usize; 3], group: usize) -> String {
        let [outputs, inputs, kernel] = shape;
        let weight = self.weight(&[outputs, inputs, kernel, kernel]);
        let bias = self.weight(&[outputs]);
        let pad = (kernel / 2) as i64;
        self.node("Conv", &[input, &weight, &bias], |node| {
            node.with_int("group", group as i64).with_ints("pads", &[pad; 4])
        })
    }

    pub fn batch_norm(&mut self, input: &str, channels: usize) -> String {
        let parameters: Vec<String> = (0..4).map(|_| self.weight(&[channels])).collect();
        let inputs = [&[input.to_owned()], &parameters[..]].concat();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self.plain("BatchNormalization", &inputs)
    }

    fn constant(&mut self, tensor: &Tensor) -> String {
        let message = tensor_to_message("", tensor);
        self.node("Constant", &[], |mut node| {
            node.set_attribute(proto::AttributeProto {
                name: Some("value".into()),
                r#type: Some(4),
                t: Some(message.clone()).into(),
                ..Default::default()
            });
            node
        })
    }

    fn reshape(&mut self, input: &str, target: &[i64]) -> String {
        let target = self.integers(target);
        self.plain("Reshape", &[input, &target])
    }

    /// Adds one of [`BLOCKS`], varied by `size` (1 to 4).
    pub fn block(&mut self, kind: u8, size: usize) {
        let (x, c) = (self.value.clone(), self.channels);
        (self.value, self.channels) = match kind {
            0 => {
                let y = self.conv(&x, [size + 1, c, 3], 1);
                let y = self.batch_norm(&y, size + 1);
                (self.plain("Relu", &[&y]), size + 1)
            }
            // Residual.
            1 => {
                let y = self.conv(&x, [size, c, 3], 1);
                let y = self.plain("Relu", &[&y]);
                let y = self.conv(&y, [c, size, 1], 1);
                let y = self.batch_norm(&y, c);
                (self.plain("Add", &[&y, &x]), c)
            }
            // Dense.
            2 => {
                let y = self.conv(&x, [size, c, 1], 1);
                let join = |node: Node| node.with_int("axis", 1);
                (self.node("Concat", &[&x, &y], join), c + size)
            }
            // Depthwise, with one or two outputs per channel.
            3 => {
                let outputs = c * (1 + size % 2);
                let y = self.conv(&x, [outputs, 1, 3], c);
                (self.batch_norm(&y, outputs), outputs)
            }
            // Squeeze and excite.
            4 => {
                let gate = self.plain("GlobalAveragePool", &[&x]);
                let gate = self.conv(&gate, [size, c, 1], 1);
                let gate = self.plain("Relu", &[&gate]);
                let gate = self.conv(&gate, [c, size, 1], 1);
                let gate = self.plain("Sigmoid", &[&gate]);
                (self.plain("Mul", &[&x, &gate]), c)
            }
            // Two branches of unequal size, joined the other way round.
            5 if c > 1 => {
                let first = c.div_ceil(2);
                let sizes = self.integers(&[first as i64, (c - first) as i64]);
                let (a, b) = (self.name("v"), self.name("v"));
                let split = Node::new("Split", "", &[&x, &sizes], &[&a, &b]);
                self.graph.nodes.push(Arc::new(split.with_int("axis", 1)));
                let a = self.conv(&a, [size, first, 3], 1);
                let join = |node: Node| node.with_int("axis", -3);
                (self.node("Concat", &[&b, &a], join), c - first + size)
            }
            // Equal halves, multiplied.
            6 => {
                let y = self.conv(&x, [2 * size, c, 1], 1);
                let (a, b) = (self.name("v"), self.name("v"));
                let split = Node::new("Split", "", &[&y], &[&a, &b]);
                self.graph.nodes.push(Arc::new(split.with_int("axis", 1)));
                let b = self.plain("Sigmoid", &[&b]);
                (self.plain("Mul", &[&a, &b]), size)
            }
            // A convolution in two groups.
            7 => {
                let y = self.conv(&x, [2 * size, c, 1], 1);
                (self.conv(&y, [4, size, 3], 2), 4)
            }
            // Constants per channel, stored in both ways, and a slope.
            8 => {
                let scale = self.weight(&[c, 1, 1]);
                let y = self.plain("Mul", &[&x, &scale]);
                let shift = self.noise(&[1, c, 1, 1]);
                let shift = self.constant(&shift);
                let y = self.plain("Add", &[&shift, &y]);
                let slope = self.weight(&[c, 1, 1]);
                (self.plain("PRelu", &[&y, &slope]), c)
            }
            // Shapes that spell the number of channels, one constant read twice.
            9 => {
                let flat = self.integers(&[-1, c as i64, (SIDE * SIDE) as i64]);
                let y = self.plain("Reshape", &[&x, &flat]);
                let z = self.plain("Sigmoid", &[&x]);
                let z = self.plain("Reshape", &[&z, &flat]);
                let y = self.plain("Add", &[&y, &z]);
                let side = SIDE as i64;
                (self.reshape(&y, &[0, c as i64, side, side]), c)
            }
            // Channels last, through a matrix product.
            10 => {
                let last = |node: Node| node.with_ints("perm", &[0, 2, 3, 1]);
                let y = self.node("Transpose", &[&x], last);
                let weight = self.weight(&[c, size + 1]);
                let y = self.plain("MatMul", &[&y, &weight]);
                let bias = self.weight(&[size + 1]);
                let y = self.plain("Add", &[&y, &bias]);
                let first = |node: Node| node.with_ints("perm", &[0, 3, 1, 2]);
                (self.node("Transpose", &[&y], first), size + 1)
            }
            // A shape computed at run time.
            _ => {
                let shape = self.plain("Shape", &[&x]);
                let y = self.reshape(&x, &[0, 0, -1]);
                (self.plain("Reshape", &[&y, &shape]), c)
            }
        };
    }

    /// Adds the classifier and declares its output.
    pub fn finish(mut self, head: u8) -> Model {
        let (x, c) = (self.value.clone(), self.channels);
        let pixels = SIDE * SIDE;
        let y = match head {
            0 => {
                let y = self.plain("GlobalAveragePool", &[&x]);
                let y = self.plain("Flatten", &[&y]);
                let (weight, bias) = (self.weight(&[3, c]), self.weight(&[3]));
                let transposed = |node: Node| node.with_int("transB", 1);
                self.node("Gemm", &[&y, &weight, &bias], transposed)
            }
            1 => {
                let y = self.plain("Flatten", &[&x]);
                let weight = self.weight(&[c * pixels, 3]);
                self.plain("Gemm", &[&y, &weight])
            }
            _ => {
                let last = |node: Node| node.with_ints("perm", &[0, 2, 3, 1]);
                let y = self.node("Transpose", &[&x], last);
                let y = self.reshape(&y, &[-1, (c * pixels) as i64]);
                let weight = self.weight(&[c * pixels, 3]);
                self.plain("MatMul", &[&y, &weight])
            }
        };
        self.end(&y)
    }

    /// Declares `output` as the only one.
    pub fn end(mut self, output: &str) -> Model {
        let shape = [Dimension::Unknown, Dimension::Fixed(3)];
        self.graph.outputs = vec![ValueInfo::tensor(output, DType::FLOAT, &shape)];
        self.graph.check().unwrap();
        Model::new(self.graph, 8, 17)
    }
}
