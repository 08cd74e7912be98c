//! Graphs as they are put together: nodes by the names of their modules, parameters by the names of their tensors.

use std::collections::HashMap;
use std::sync::Arc;

use kmr_model::experts::Activation;
use kmr_model::{Build, DType, Dimension, Graph, Model, ModelError, Node, Tensor, ValueInfo};

use crate::error::shown;
use crate::{ErrorKind, HuggingFaceError, Tensors};

/// The operator set: the oldest with Gelu. ONNX Runtime has it from 1.17 on.
const OPSET: i64 = 20;
const IR_VERSION: i64 = 9;
/// What follows the name of a tensor that is stored in 16 bits; the value of the name itself is float32.
pub(crate) const STORED: &str = "_stored";

/// A graph in the making. Tokens of all samples are the rows of matrices, so that every product is a Gemm over weights
/// that lie as their file has them, a row for each output.
pub(crate) struct Network<'t> {
    tensors: &'t dyn Tensors,
    graph: Graph,
    /// Parameters that are in the graph already.
    known: HashMap<String, Vec<usize>>,
}

impl<'t> Network<'t> {
    pub fn new(name: &str, tensors: &'t dyn Tensors) -> Self {
        Self {
            tensors,
            graph: Graph::new(name),
            known: HashMap::new(),
        }
    }

    /// A fed value of int64 [batch, sequence].
    pub fn input(&mut self, name: &str) -> String {
        let shape = ["batch", "sequence"].map(|size| Dimension::Named(size.into()));
        self.graph.inputs.push(ValueInfo::tensor(name, DType::INT64, &shape));
        name.to_owned()
    }

    /// A node that makes the value of its own name.
    pub fn op(&mut self, op_type: &str, inputs: &[&str], name: &str) -> String {
        self.with(op_type, inputs, name, |node| node)
    }

    /// [`Network::op`] with attributes.
    pub fn with(&mut self, op_type: &str, inputs: &[&str], name: &str, set: impl FnOnce(Node) -> Node) -> String {
        self.many(op_type, inputs, name, &[name], set);
        name.to_owned()
    }

    /// A node with several outputs.
    pub fn many(
        &mut self,
        op_type: &str,
        inputs: &[&str],
        name: &str,
        outputs: &[&str],
        set: impl FnOnce(Node) -> Node,
    ) {
        let node = set(Node::new(op_type, name, inputs, outputs));
        self.graph.nodes.push(Arc::new(node));
    }

    /// A small tensor of this name, stored once.
    pub fn constant(&mut self, name: &str, tensor: Tensor) -> String {
        let entry = self.graph.initializers.entry(name.to_owned());
        entry.or_insert_with(|| tensor.into());
        name.to_owned()
    }

    /// Whole numbers in a list.
    pub fn integers(&mut self, name: &str, values: &[i64]) -> String {
        self.constant(name, Tensor::from_vec(vec![values.len()], values.to_vec()))
    }

    /// A single number.
    pub fn scalar(&mut self, name: &str, value: f32) -> String {
        self.constant(name, Tensor::scalar(value))
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains(name)
    }

    /// The tensor of this name as a float32 value of the same name. One that is stored in 16 bits stays so, and a Cast
    /// makes the value.
    pub fn parameter(&mut self, name: &str, shape: &[usize]) -> Result<String, HuggingFaceError> {
        let refuse = |message: String| {
            Err(HuggingFaceError::new(ErrorKind::Tensor, message)
                .help("the tensors and the configuration do not belong together: take both from one folder"))
        };
        if let Some(known) = self.known.get(name) {
            return match known == shape {
                true => Ok(name.to_owned()),
                false => refuse(format!("tensor `{}` is used in two shapes", shown(name))),
            };
        }
        let Some(tensor) = self.tensors.tensor(name)? else {
            return refuse(format!("tensor `{}` is missing", shown(name)));
        };
        if tensor.shape() != shape {
            let message = format!(
                "tensor `{}` has the shape {:?}; the configuration asks for {shape:?}",
                shown(name),
                tensor.shape()
            );
            return refuse(message);
        }
        match tensor.dtype() {
            DType::FLOAT => {
                self.constant(name, tensor);
            }
            DType::FLOAT16 | DType::BFLOAT16 => {
                let stored = self.constant(&format!("{name}{STORED}"), tensor);
                self.with("Cast", &[&stored], name, |node| {
                    node.with_int("to", DType::FLOAT.number().into())
                });
            }
            other => {
                let message = format!(
                    "tensor `{}` is {other}; weights are float32, float16 or bfloat16",
                    shown(name)
                );
                return Err(HuggingFaceError::new(ErrorKind::Tensor, message)
                    .help("take the folder of the model before it was quantized"));
            }
        }
        self.known.insert(name.to_owned(), shape.to_vec());
        Ok(name.to_owned())
    }

    /// Rows times the weight of a module, [outputs, inputs], plus its bias.
    pub fn linear(
        &mut self,
        rows: &str,
        module: &str,
        (inputs, outputs): (usize, usize),
        bias: bool,
    ) -> Result<String, HuggingFaceError> {
        let weight = self.parameter(&format!("{module}.weight"), &[outputs, inputs])?;
        let mut operands = vec![rows, &weight];
        let bias = bias
            .then(|| self.parameter(&format!("{module}.bias"), &[outputs]))
            .transpose()?;
        operands.extend(bias.as_deref());
        Ok(self.with("Gemm", &operands, module, |node| node.with_int("transB", 1)))
    }

    /// A module's normalization to mean 0 and variance 1 along the last axis of `width`. Older files call its tensors
    /// `gamma` and `beta`.
    pub fn layer_norm(
        &mut self,
        x: &str,
        module: &str,
        width: usize,
        epsilon: f64,
    ) -> Result<String, HuggingFaceError> {
        let [weight, bias] = [("weight", "gamma"), ("bias", "beta")].map(|(name, older)| {
            let older = format!("{module}.{older}");
            if self.has(&older) {
                older
            } else {
                format!("{module}.{name}")
            }
        });
        let (weight, bias) = (self.parameter(&weight, &[width])?, self.parameter(&bias, &[width])?);
        Ok(self.with("LayerNormalization", &[x, &weight, &bias], module, |node| {
            node.with_int("axis", -1).with_float("epsilon", epsilon as f32)
        }))
    }

    /// A module's division by the root of the mean of squares (arXiv 1910.07467) along the last axis of `width`, in the
    /// nodes that ONNX Runtime makes one of.
    pub fn root_norm(&mut self, x: &str, module: &str, width: usize, epsilon: f64) -> Result<String, HuggingFaceError> {
        let weight = self.parameter(&format!("{module}.weight"), &[width])?;
        let (two, last) = (self.scalar("two", 2.0), self.integers("last_axis", &[-1]));
        let epsilon = self.scalar("rms_norm_eps", epsilon as f32);
        let squares = self.op("Pow", &[x, &two], &format!("{module}.squares"));
        let mean = self.op("ReduceMean", &[&squares, &last], &format!("{module}.mean"));
        let mean = self.op("Add", &[&mean, &epsilon], &format!("{module}.variance"));
        let root = self.op("Sqrt", &[&mean], &format!("{module}.root"));
        let normal = self.op("Div", &[x, &root], &format!("{module}.normalized"));
        Ok(self.op("Mul", &[&normal, &weight], module))
    }

    /// An activation of `x`.
    pub fn activation(&mut self, x: &str, activation: Activation, name: &str) -> String {
        match activation {
            Activation::Gelu => self.op("Gelu", &[x], name),
            Activation::GeluTanh => self.with("Gelu", &[x], name, |node| node.with_string("approximate", "tanh")),
            Activation::Relu => self.op("Relu", &[x], name),
            Activation::Silu => {
                let gate = self.op("Sigmoid", &[x], &format!("{name}.sigmoid"));
                self.op("Mul", &[x, &gate], name)
            }
        }
    }

    /// Adds what `write` writes, behind everything that is there.
    pub fn append(&mut self, write: impl FnOnce(&mut Build) -> Result<(), ModelError>) -> Result<(), HuggingFaceError> {
        let mut build = Build::on(&self.graph);
        write(&mut build)?;
        self.graph = build.finish().apply(&self.graph)?;
        Ok(())
    }

    /// Declares an output of float32 whose first axes are open, and whose last has `width`.
    pub fn output(&mut self, name: &str, open: &[&str], width: usize) {
        let open = open.iter().map(|&size| Dimension::Named(size.into()));
        let shape: Vec<Dimension> = open.chain([Dimension::Fixed(width)]).collect();
        self.graph.outputs.push(ValueInfo::tensor(name, DType::FLOAT, &shape));
    }

    /// The model.
    pub fn finish(self) -> Result<Model, HuggingFaceError> {
        self.graph.check()?;
        Ok(Model::new(self.graph, IR_VERSION, OPSET))
    }
}
