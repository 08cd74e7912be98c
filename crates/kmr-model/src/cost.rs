//! What a model costs: exact counts on what is really there.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use crate::{
    DType, ErrorKind, Graph, Model, ModelError, Node, Tensor, codec,
    shapes::{self, Shapes},
};

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
        let shapes = shapes::infer(model, feeds)?;
        let parameters = parameters(&model.graph)?;
        let nonzero = parameters.iter().map(|p| p.nonzero(&model.graph, &shapes));
        Ok(Self {
            params: parameters.iter().map(|p| p.tensor.len() as u64).sum(),
            nonzero_params: nonzero.sum(),
            size_bytes: model.encoded_len(),
            macs: macs(model, &shapes),
            peak_activation_bytes: peak_activation_bytes(&model.graph, &shapes),
            layers: layers(&model.graph, &parameters, &shapes),
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
    /// weight of an integer Conv or MatMul. Not counted are other integer and bool tensors (shapes,
    /// axes, indices) and what only ever sets an operation up: scales and zero points of quantization,
    /// scales and regions of Resize, bounds of Clip, the fill value of Pad. Subgraphs are not entered.
    pub fn params(&self) -> u64 {
        self.params
    }

    /// Those of [`Costs::params`] that do not stand for zero: a quantized weight does if it equals its
    /// zero point.
    pub fn nonzero_params(&self) -> u64 {
        self.nonzero_params
    }

    /// Length of the model's ONNX file.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Multiply-accumulate operations of one forward pass: those of Conv, ConvTranspose, Gemm, MatMul
    /// (of two activations too), their integer forms and Einsum. A bias adds nothing, and neither does
    /// any other operator.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if a shape cannot be inferred, or an operator has products of its own
    /// that are not counted here (recurrent cells, fused attention).
    pub fn macs(&self) -> Result<u64, ModelError> {
        self.macs.clone()
    }

    /// The most bytes of values alive at one time while the nodes run in their order: graph inputs from
    /// the start, each output of a node from that node on, both until their last use, graph outputs
    /// until the end. Initializers and Constant nodes do not count. No buffer is reused in place.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the shape of a value cannot be inferred.
    pub fn peak_activation_bytes(&self) -> Result<u64, ModelError> {
        self.peak_activation_bytes.clone()
    }
}

/// A tensor that counts as parameters.
struct Parameter {
    name: String,
    tensor: Arc<Tensor>,
}

/// What a tensor is to the node that reads it at one input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It sets the operation up.
    Setting,
    /// It is a weight, also where it is made of integers.
    QuantizedWeight,
    /// It is a weight if it is made of floating-point numbers.
    Operand,
}

fn role(node: &Node, slot: usize) -> Role {
    if !node.domain().is_empty() {
        return Role::Operand;
    }
    match (node.op_type(), slot) {
        ("DequantizeLinear", 0) | ("QLinearConv" | "QLinearMatMul", 3) | ("ConvInteger" | "MatMulInteger", 1) => {
            Role::QuantizedWeight
        }
        ("QuantizeLinear" | "DequantizeLinear" | "Resize" | "Upsample" | "Clip", 1..)
        | ("ConvInteger" | "MatMulInteger", 2..)
        | ("Pad", 1..)
        | ("QLinearConv" | "QLinearMatMul", 1 | 2 | 4..=7) => Role::Setting,
        _ => Role::Operand,
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

fn parameters(graph: &Graph) -> Result<Vec<Parameter>, ModelError> {
    let index = graph.index();
    let mut found = Vec::new();
    let mut consider = |name: &str, tensor: Cow<'_, Arc<Tensor>>| {
        let roles: Vec<Role> = index
            .consumers(name)
            .iter()
            .map(|&(position, slot)| role(&graph.nodes[position], slot))
            .collect();
        let setting = !roles.is_empty() && roles.iter().all(|&role| role == Role::Setting);
        let float = is_float(tensor.dtype());
        let quantized = roles.contains(&Role::QuantizedWeight);
        if (float && !setting) || quantized {
            found.push(Parameter {
                name: name.to_owned(),
                tensor: tensor.into_owned(),
            });
        }
    };
    for (name, initializer) in &graph.initializers {
        consider(name, Cow::Borrowed(&initializer.tensor));
    }
    for node in &graph.nodes {
        if let Some(tensor) = constant_tensor(node)? {
            consider(node.id(), Cow::Owned(Arc::new(tensor)));
        }
    }
    Ok(found)
}

fn is_float(dtype: DType) -> bool {
    dtype.is_float()
        || matches!(
            dtype,
            DType::FLOAT8E4M3FN | DType::FLOAT8E4M3FNUZ | DType::FLOAT8E5M2 | DType::FLOAT8E5M2FNUZ | DType::FLOAT4E2M1
        )
}

impl Parameter {
    fn nonzero(&self, graph: &Graph, shapes: &Shapes) -> u64 {
        let tensor = &*self.tensor;
        let Some(bits) = tensor.dtype().bits() else {
            return tensor.len() as u64;
        };
        // The sign of a floating-point zero does not make it another number.
        let sign = if is_float(tensor.dtype()) && tensor.dtype() != DType::FLOAT8E4M3FNUZ {
            1_u128 << (bits - 1)
        } else {
            0
        };
        let zero_points = self.zero_points(graph, shapes);
        let count = (0..tensor.len()).filter(|&element| {
            let zero = zero_points.as_ref().map_or(0, |points| points.at(element));
            pattern(tensor, bits, element) & !sign != zero
        });
        count.count() as u64
    }

    /// The zero points that this quantized weight is dequantized with.
    fn zero_points(&self, graph: &Graph, shapes: &Shapes) -> Option<ZeroPoints> {
        let reader = graph
            .nodes
            .iter()
            .find(|node| node.is("DequantizeLinear") && node.input(0) == Some(&self.name))?;
        let name = reader.input(2)?;
        let tensor = match graph.tensor(name) {
            Some(tensor) => Arc::clone(tensor),
            None => {
                let made = graph.nodes.iter().find(|node| node.id() == name)?;
                Arc::new(constant_tensor(made).ok()??)
            }
        };
        let shape = shapes.shape(&self.name)?.to_vec();
        let axis = reader.int("axis").unwrap_or(1);
        let axis = if axis < 0 { axis + shape.len() as i64 } else { axis };
        let axis = usize::try_from(axis).ok()?;
        let block = usize::try_from(reader.int("block_size").unwrap_or(0)).ok()?;
        (tensor.dtype() == self.tensor.dtype()).then_some(ZeroPoints {
            tensor,
            shape,
            axis,
            block,
        })
    }
}

/// The zero points of a quantized tensor: one, one per index of an axis, or one per block on it.
struct ZeroPoints {
    tensor: Arc<Tensor>,
    shape: Vec<usize>,
    axis: usize,
    block: usize,
}

impl ZeroPoints {
    /// The bit pattern of the zero point of the element at this row-major position.
    fn at(&self, element: usize) -> u128 {
        let inner: usize = self.shape.iter().skip(self.axis + 1).product();
        let length = self.shape.get(self.axis).copied().unwrap_or(1).max(1);
        let coordinate = element / inner.max(1) % length;
        let position = if self.tensor.len() == 1 {
            0
        } else if self.block == 0 {
            coordinate
        } else {
            let blocks = length.div_ceil(self.block);
            let outer = element / inner.max(1) / length;
            (outer * blocks + coordinate / self.block) * inner + element % inner.max(1)
        };
        match self.tensor.dtype().bits() {
            Some(bits) if position < self.tensor.len() => pattern(&self.tensor, bits, position),
            _ => 0,
        }
    }
}

/// The bits of one element.
fn pattern(tensor: &Tensor, bits: usize, element: usize) -> u128 {
    let bytes = tensor.bytes();
    if bits < 8 {
        let per_byte = 8 / bits;
        let byte = bytes.get(element / per_byte).copied().unwrap_or(0);
        let shifted = u128::from(byte) >> (element % per_byte * bits);
        return shifted & ((1 << bits) - 1);
    }
    let width = bits / 8;
    let element = bytes.get(element * width..(element + 1) * width);
    let mut buffer = [0; 16];
    if let Some(element) = element {
        buffer[..width].copy_from_slice(element);
    }
    u128::from_le_bytes(buffer)
}

fn uncountable(node: &Node, message: String) -> ModelError {
    let place = format!("node `{}` ({})", node.label(), node.op_type());
    ModelError::new(ErrorKind::Unsupported, place, message)
}

fn macs(model: &Model, shapes: &Shapes) -> Result<u64, ModelError> {
    let mut total = 0_u64;
    for node in &model.graph.nodes {
        let macs = node_macs(node, shapes)?;
        total = total
            .checked_add(macs)
            .ok_or_else(|| uncountable(node, "has too many multiplications to count".into()))?;
    }
    Ok(total)
}

fn node_macs(node: &Node, shapes: &Shapes) -> Result<u64, ModelError> {
    if !node.domain().is_empty() {
        return Err(uncountable(
            node,
            format!("cannot be counted: its domain `{}` is not known", node.domain()),
        ));
    }
    let shape = |name: Option<&str>| {
        let name = name.unwrap_or_default();
        shapes.shape(name).ok_or_else(|| {
            uncountable(node, format!("cannot be counted: the shape of `{name}` is not known")).with_help(format!(
                "declare the type of `{name}` in the model's value_info, or give the shapes of the inputs"
            ))
        })
    };
    let count = match node.op_type() {
        "Conv" | "ConvInteger" => per_output(shape(Some(node.id()))?, shape(node.input(1))?),
        "QLinearConv" => per_output(shape(Some(node.id()))?, shape(node.input(3))?),
        // Each input element meets the weights of its channel.
        "ConvTranspose" => per_output(shape(node.input(0))?, shape(node.input(1))?),
        "Gemm" => {
            let transposed = node.int("transA").unwrap_or(0) != 0;
            let left = shape(node.input(0))?;
            let inner = left.get(usize::from(!transposed));
            product(shape(Some(node.id()))?.iter().chain(inner))
        }
        "MatMul" | "MatMulInteger" | "QLinearMatMul" => {
            let inner = shape(node.input(0))?.last();
            product(shape(Some(node.id()))?.iter().chain(inner))
        }
        "Einsum" => {
            let terms = node.string("equation").unwrap_or_default();
            let terms = terms.split_once("->").map_or(terms, |(terms, _)| terms);
            let mut sizes = BTreeMap::new();
            for (term, input) in terms.split(',').zip(node.inputs()) {
                let names = term.chars().filter(|c| !c.is_whitespace());
                sizes.extend(names.zip(shape(Some(input))?));
            }
            if terms.contains('.') {
                None
            } else {
                product(sizes.into_values())
            }
        }
        "LSTM" | "GRU" | "RNN" | "Attention" | "DeformConv" | "If" | "Loop" | "Scan" => {
            let message = "multiplies inside, in a way that is not counted";
            return Err(uncountable(node, message.into()));
        }
        _ => Some(0),
    };
    count.ok_or_else(|| uncountable(node, "has multiplications that cannot be counted".into()))
}

/// Elements of `values`, times the weights that each meets: all but the first axis of `weight`.
fn per_output(values: &[usize], weight: &[usize]) -> Option<u64> {
    product(values.iter().chain(weight.iter().skip(1)))
}

fn product<'a>(sizes: impl Iterator<Item = &'a usize>) -> Option<u64> {
    let mut sizes = sizes.map(|&size| size as u64);
    sizes.try_fold(1_u64, |product, size| product.checked_mul(size))
}

fn peak_activation_bytes(graph: &Graph, shapes: &Shapes) -> Result<u64, ModelError> {
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (position, node) in graph.nodes.iter().enumerate() {
        let mut read: HashSet<&str> = node.inputs().iter().map(String::as_str).collect();
        read.extend(node.captures().unwrap_or_default());
        last_use.extend(read.into_iter().map(|name| (name, position)));
    }
    for output in &graph.outputs {
        last_use.insert(output.name(), usize::MAX);
    }
    let bytes = |name: &str, place: String| {
        let known = shapes.get(name).and_then(|known| known.byte_len());
        known.map(|bytes| bytes as u64).ok_or_else(|| {
            let message = format!("the size of `{name}` is not known");
            ModelError::new(ErrorKind::Unsupported, place, message).with_help(format!(
                "declare the type of `{name}` in the model's value_info, or give the shapes of the inputs"
            ))
        })
    };
    let mut live = 0_u64;
    let mut ending: HashMap<usize, u64> = HashMap::new();
    for feed in graph.feeds() {
        let bytes = bytes(feed.name(), format!("input `{}`", feed.name()))?;
        live = live.saturating_add(bytes);
        let end = last_use.get(feed.name()).copied().unwrap_or(0);
        *ending.entry(end).or_default() += bytes;
    }
    let mut peak = live;
    for (position, node) in graph.nodes.iter().enumerate() {
        if !node.is("Constant") {
            for output in node.outputs().iter().filter(|output| !output.is_empty()) {
                let place = format!("node `{}` ({})", node.label(), node.op_type());
                let bytes = bytes(output, place)?;
                live = live.saturating_add(bytes);
                let end = last_use.get(output.as_str()).copied().unwrap_or(position);
                *ending.entry(end).or_default() += bytes;
            }
        }
        peak = peak.max(live);
        live = live.saturating_sub(ending.remove(&position).unwrap_or(0));
    }
    Ok(peak)
}

fn layers(graph: &Graph, parameters: &[Parameter], shapes: &Shapes) -> Vec<LayerCost> {
    // Parameters that a value still carries to the first node that mixes it with an activation.
    let mut carried: HashMap<&str, u64> = parameters
        .iter()
        .map(|p| (p.name.as_str(), p.tensor.len() as u64))
        .collect();
    let mut constants: HashSet<&str> = graph.initializers.keys().map(String::as_str).collect();
    let mut layers = Vec::new();
    for node in &graph.nodes {
        let inputs = || node.inputs().iter().filter(|input| !input.is_empty());
        if node.is("Constant") {
            constants.insert(node.id());
            continue;
        }
        let params = inputs().filter_map(|input| carried.remove(input.as_str())).sum();
        if inputs().count() > 0 && inputs().all(|input| constants.contains(input.as_str())) {
            let outputs = node.outputs().iter().filter(|output| !output.is_empty());
            constants.extend(outputs.map(String::as_str));
            carried.insert(node.id(), params);
            continue;
        }
        let macs = node_macs(node, shapes).ok();
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
