//! What a model costs: exact counts on what is really there.

mod level;
mod macs;
mod parameters;
mod peak;
mod routed;

use std::collections::{BTreeMap, HashMap};

use crate::{
    ErrorKind, Model, ModelError, Node, Tensor, codec,
    shapes::{self, Shapes},
};
use level::Level;
use macs::Sight;
use parameters::Parameter;

/// The names of the costs that [`Costs::cost`] knows.
pub const NAMES: [&str; 5] = [
    "size_bytes",
    "params",
    "nonzero_params",
    "macs",
    "peak_activation_bytes",
];

/// Every cost of a model, and the part of each layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Costs {
    params: u64,
    nonzero_params: u64,
    size_bytes: u64,
    macs: Result<u64, ModelError>,
    peak_activation_bytes: Result<u64, ModelError>,
    /// The nodes that have parameters or multiply, in execution order.
    pub layers: Vec<LayerCost>,
}

/// The part of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerCost {
    /// The node's [id](Node::id).
    pub node: String,
    /// What people call it.
    pub label: String,
    /// Its operator.
    pub op_type: String,
    /// Parameters that it reads, and that no node before it reads.
    pub params: u64,
    /// Its multiply-accumulate operations; `None` where they cannot be counted.
    pub macs: Option<u64>,
    /// The shape of its first output, where it can be inferred.
    pub output_shape: Option<Vec<usize>>,
}

impl Costs {
    /// Counts the costs of `model` for feeds of the given shapes; those left out are as
    /// [`shapes::default_feeds`] has them, with a batch of 1.
    ///
    /// # Errors
    /// Those of [`shapes::infer`]. A cost that cannot be counted on this model is an error of
    /// [`Costs::cost`] alone.
    pub fn of(model: &Model, feeds: &BTreeMap<String, Vec<usize>>) -> Result<Self, ModelError> {
        Self::with_shapes(model, &shapes::infer(model, feeds)?)
    }

    /// [`Costs::of`] where the shapes of `model` are known already: those that [`shapes::infer`] finds.
    ///
    /// # Errors
    /// If a tensor inside a subgraph or a Constant node cannot be read, or subgraphs are nested too deep.
    pub fn with_shapes(model: &Model, shapes: &Shapes) -> Result<Self, ModelError> {
        let level = Level::main(&model.graph)?;
        let parameters = parameters::of(&level, shapes);
        let routed = routed::of(&model.graph, shapes);
        let sight = Sight::main(shapes, &routed);
        Ok(Self {
            params: parameters.iter().map(|parameter| parameter.count).sum(),
            nonzero_params: parameters.iter().map(|parameter| parameter.nonzero).sum(),
            size_bytes: model.encoded_len(),
            macs: macs::of(&level, &sight),
            peak_activation_bytes: peak::of(&level, shapes),
            layers: layers(&level, &parameters, shapes, &sight),
        })
    }

    /// The cost of this name, one of [`NAMES`].
    ///
    /// # Errors
    /// [`ErrorKind::Name`] for another name; [`ErrorKind::Unsupported`] where the model does not let
    /// this cost be counted, naming the node and what to declare.
    pub fn cost(&self, name: &str) -> Result<u64, ModelError> {
        match name {
            "size_bytes" => Ok(self.size_bytes),
            "params" => Ok(self.params),
            "nonzero_params" => Ok(self.nonzero_params),
            "macs" => self.macs.clone(),
            "peak_activation_bytes" => self.peak_activation_bytes.clone(),
            _ => Err(
                ModelError::new(ErrorKind::Name, format!("cost `{name}`"), "does not exist")
                    .with_help(format!("costs are {}", NAMES.join(", "))),
            ),
        }
    }

    /// Elements of all weights: tensors of floating-point numbers and quantized tensors, in
    /// initializers and in Constant nodes, whatever number of bits each takes.
    ///
    /// A tensor counts as a quantized weight if it is the quantized input of a DequantizeLinear or the
    /// weight of an integer Conv or MatMul. Where nodes decode a weight from other integers, before
    /// anything is fed, what they make counts in place of what they make it from. Not counted are other integer and bool tensors (shapes,
    /// axes, indices) and what only ever sets an operation up: scales and zero points of quantization,
    /// scales and regions of Resize, bounds of Clip, the fill value of Pad. Tensors inside subgraphs count,
    /// those of every branch of an If; those inside functions of the model do not.
    pub fn params(&self) -> u64 {
        self.params
    }

    /// Those of [`Costs::params`] that do not stand for zero: a quantized weight does if it equals its
    /// zero point. Weights that lie in packed words all count.
    pub fn nonzero_params(&self) -> u64 {
        self.nonzero_params
    }

    /// Length of the model's ONNX file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Multiply-accumulate operations of one forward pass: those of convolutions, matrix products (of two
    /// activations too), their integer forms, recurrent layers, attention and Einsum of two inputs. A bias
    /// adds nothing, and neither does any operator that works on each element, moves elements, or gathers
    /// them without weights: a table names these.
    ///
    /// Of an If, the branch that is taken counts, or the costlier one where that depends on data. The body
    /// of a Loop or Scan counts as often as it runs. Of [routed experts](crate::experts), the k that a token is given
    /// to count: whatever is chosen, that is the same sum as long as all experts of a layer are of one size.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if a shape cannot be inferred, a loop's number of rounds is not known, or
    /// an operator is not known or multiplies in ways that are not counted here.
    pub fn macs(&self) -> Result<u64, ModelError> {
        self.macs.clone()
    }

    /// The most bytes of values alive at one time while the nodes run in their order: graph inputs from
    /// the start, each output of a node from that node on, both until their last use, graph outputs
    /// until the end. Initializers, Constant nodes and what is computed from these alone do not count. No buffer is reused in place. While a
    /// node runs that has subgraphs, the most that its costliest subgraph needs counts in place of its
    /// outputs, if it is more.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the shape of a value cannot be inferred.
    pub fn peak_activation_bytes(&self) -> Result<u64, ModelError> {
        self.peak_activation_bytes.clone()
    }
}

/// The tensor of a Constant node that holds one.
pub(crate) fn constant_tensor(node: &Node) -> Result<Option<Tensor>, ModelError> {
    if !node.is("Constant") {
        return Ok(None);
    }
    let value = node.attribute("value").and_then(|a| a.t.as_option());
    value.map(codec::tensor_from_message).transpose()
}

fn uncountable(node: &Node, message: String) -> ModelError {
    let place = format!("node `{}` ({})", node.label(), node.op_type());
    ModelError::new(ErrorKind::Unsupported, place, message)
}

fn layers(level: &Level, parameters: &[Parameter], shapes: &Shapes, sight: &Sight) -> Vec<LayerCost> {
    // Parameters that a value still carries to the first node that mixes it with an activation.
    let mut carried: HashMap<&str, u64> = HashMap::new();
    let mut inner: HashMap<usize, u64> = HashMap::new();
    for parameter in parameters {
        match parameter.inside {
            Some(position) => *inner.entry(position).or_default() += parameter.count,
            None => {
                carried.insert(parameter.name, parameter.count);
            }
        }
    }
    let constants = level.constants();
    let mut layers = Vec::new();
    for (position, node) in level.nodes.iter().enumerate() {
        if node.is("Constant") {
            continue;
        }
        let inputs: Vec<&str> = level.reads(position);
        let params: u64 = inputs.iter().filter_map(|input| carried.remove(input)).sum();
        let params = params + inner.remove(&position).unwrap_or(0);
        if constants.contains(node.id()) {
            *carried.entry(node.id()).or_default() += params;
            continue;
        }
        let macs = macs::of_node(level, position, sight).ok();
        if params > 0 || macs != Some(0) {
            layers.push(LayerCost {
                node: node.id().to_owned(),
                label: node.label().to_owned(),
                op_type: node.op_type().to_owned(),
                params,
                macs,
                output_shape: shapes.shape(node.id()).map(<[usize]>::to_vec),
            });
        }
    }
    layers
}
