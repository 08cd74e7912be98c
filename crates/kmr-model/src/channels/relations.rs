//! What each operator says about the elements of its inputs and outputs.
//!
//! An operator relates elements, and fixes those that it cannot lose. A new operator is one arm of
//! [`Relations::relate`]; without one, everything that a node touches is fixed.

use std::collections::HashMap;

use super::{
    Adjustment, Producer,
    elements::{Elements, Reason},
    layout, normalization,
    products::{self, Operands},
    recurrent, reshape,
};
use crate::{
    DType, ErrorKind, Graph, GraphIndex, Model, ModelError, Node, cost::constant_tensor, error::shown, shapes::Shapes,
};

/// Nodes that may lie between a stored tensor and the product that it is a weight of.
const FORMS: usize = 16;

/// A producer, and the operand whose axis its elements are read from.
pub(super) struct Making<'m> {
    pub position: usize,
    pub producer: Producer,
    pub operand: &'m str,
    pub operand_axis: usize,
}

pub(super) struct Relations<'m> {
    pub model: &'m Model,
    pub shapes: &'m Shapes,
    pub elements: Elements<'m>,
    pub making: Vec<Making<'m>>,
    pub adjustments: Vec<Adjustment>,
    /// Reshapes, which are related when it is known which axes are fixed by others.
    reshapes: Vec<&'m Node>,
    makers: HashMap<&'m str, &'m Node>,
    index: GraphIndex<'m>,
    opset: i64,
}

impl<'m> Relations<'m> {
    pub fn collect(model: &'m Model, shapes: &'m Shapes) -> Result<Self, ModelError> {
        let graph = &model.graph;
        let outputs = || {
            let nodes = graph.nodes.iter();
            nodes.flat_map(|node| {
                let outputs = node.outputs().iter().filter(|output| !output.is_empty());
                outputs.map(move |output| (output.as_str(), &**node))
            })
        };
        let values = graph.initializers.keys().map(String::as_str);
        let values = values
            .chain(graph.feeds().map(|feed| feed.name()))
            .chain(outputs().map(|(output, _)| output));
        let values: Vec<&str> = values.collect();
        let mut relations = Self {
            model,
            shapes,
            elements: Elements::new(&values, shapes, size(graph))?,
            making: Vec::new(),
            adjustments: Vec::new(),
            reshapes: Vec::new(),
            makers: outputs().collect(),
            index: graph.index(),
            opset: model.opset(),
        };
        relations.fix_edges(graph);
        for (position, node) in graph.nodes.iter().enumerate() {
            relations.relate(position, node);
            if relations.elements.is_exhausted() {
                break;
            }
        }
        let reshapes = std::mem::take(&mut relations.reshapes);
        reshape::relate(&mut relations, &reshapes);
        match relations.elements.is_exhausted() {
            true => Err(ModelError::new(
                ErrorKind::Unsupported,
                "",
                "too many nodes read long axes for channels to be followed",
            )),
            false => Ok(relations),
        }
    }

    /// What the graph shows to the outside, and what cannot be cut as it is stored.
    fn fix_edges(&mut self, graph: &'m Graph) {
        let mut edge = |value: &str, place: String, text: &str| {
            let reason = Reason {
                place,
                text: text.into(),
                at_edge: true,
            };
            let reason = self.elements.reason(reason);
            self.elements.fix_all(value, reason);
        };
        for feed in graph.feeds() {
            let name = feed.name();
            edge(name, format!("input `{name}`"), "is fed from outside");
        }
        for output in &graph.outputs {
            let name = output.name();
            edge(name, format!("output `{name}`"), "is an output of the model");
        }
        for (name, initializer) in &graph.initializers {
            if initializer.tensor.dtype().bits().is_none_or(|bits| bits < 8) {
                let text = format!("is stored as packed {}", initializer.tensor.dtype());
                edge(name, format!("tensor `{name}`"), &text);
            }
        }
        for node in &graph.nodes {
            let label = shown(format!("node `{}`", node.label()));
            for name in node.captures().unwrap_or_default() {
                let text = shown(format!("reads `{name}` from inside a subgraph"));
                edge(name, label.clone(), &text);
            }
        }
    }

    /// The node that makes `value`.
    pub fn maker(&self, value: &str) -> Option<&'m Node> {
        self.makers.get(value).copied()
    }

    /// The nodes that read `value`.
    pub fn consumers(&self, value: &str) -> impl Iterator<Item = &'m Node> {
        let graph: &'m Graph = &self.model.graph;
        let consumers = self.index.consumers(value).iter();
        consumers.map(move |&(position, _)| &*graph.nodes[position])
    }

    /// The size of an axis; 0 where it does not exist, or is too long to be followed.
    pub fn size(&self, value: &str, axis: usize) -> usize {
        self.elements.size((value, axis))
    }

    /// The version of the standard operator set.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    pub fn rank(&self, value: &str) -> usize {
        self.elements.rank(value)
    }

    /// The values of an integer input, or of the attribute that older operator sets have for it.
    pub fn integers(&self, node: &'m Node, slot: usize, attribute: &str) -> Option<&'m [i64]> {
        match node.input(slot) {
            Some(name) => self.shapes.get(name)?.integers(),
            None => node.ints(attribute),
        }
    }

    /// The values of integer input `slot` where they are the same in every run and for every number of channels.
    pub fn constant(&self, node: &Node, slot: usize) -> Option<&'m [i64]> {
        let known = self.shapes.get(node.input(slot)?)?;
        known.integers().filter(|_| !known.follows_shape)
    }

    /// Notes that input `slot` of `node` spells the sizes of `output`, the first one that of axis `first`.
    pub fn spells(&mut self, node: &'m Node, slot: usize, output: &str, first: usize) {
        let Some(name) = node.input(slot) else {
            return;
        };
        let mut note = |node: &Node, slot: usize, axis: usize, sizes: &[i64]| {
            self.adjustments.push(Adjustment::Sizes {
                node: node.id().to_owned(),
                slot,
                output: output.to_owned(),
                axis,
                sizes: sizes.to_vec(),
            });
        };
        let known = |name: &str| self.shapes.get(name).filter(|known| known.integers().is_some());
        match known(name) {
            Some(sizes) if !sizes.follows_shape => {
                note(node, slot, first, sizes.integers().unwrap_or_default());
                return;
            }
            None => return,
            _ => {}
        }
        // Exporters put shapes together from computed and from literal parts.
        let mut maker = self.makers.get(name).copied();
        while let Some(node) = maker.filter(|node| node.is("Cast") || node.is("Identity")) {
            maker = node.input(0).and_then(|name| self.makers.get(name).copied());
        }
        let Some(joined) = maker.filter(|node| node.is("Concat")) else {
            return;
        };
        let mut axis = first;
        for (slot, part) in joined.inputs().iter().enumerate() {
            let Some(part) = known(part) else {
                return;
            };
            let sizes = part.integers().unwrap_or_default();
            if !part.follows_shape {
                note(joined, slot, axis, sizes);
            }
            axis += sizes.len();
        }
    }

    /// Notes that an integer attribute of `node` grows with the size of `axis` of `value`.
    pub fn counts(&mut self, node: &Node, attribute: &str, value: &str, axis: usize) {
        self.adjustments.push(Adjustment::Count {
            node: node.id().to_owned(),
            attribute: attribute.to_owned(),
            value: value.to_owned(),
            axis,
        });
    }

    pub fn reason(&mut self, node: &Node, text: impl Into<String>) -> u32 {
        self.elements.reason(Reason {
            place: shown(format!("node `{}`", node.label())),
            text: shown(text.into()),
            at_edge: false,
        })
    }

    /// Fixes everything that `node` touches.
    pub fn refuse(&mut self, node: &Node, text: impl Into<String>) {
        let reason = self.reason(node, text);
        for value in node.inputs().iter().chain(node.outputs()) {
            self.elements.fix_all(value, reason);
        }
    }

    /// Notes that `operand` makes the channels of `node`'s output, if it is a stored weight.
    pub fn note_producer(&mut self, position: usize, node: &Node, operand: &'m str, axis: usize) {
        if let Some((weight, weight_axis)) = self.stored(operand, axis) {
            self.making.push(Making {
                position,
                producer: Producer {
                    node: node.id().to_owned(),
                    weight,
                    axis: weight_axis,
                },
                operand,
                operand_axis: axis,
            });
        }
    }

    /// The stored tensor that `value` is, or is a mere other form of, and the axis there.
    fn stored(&self, value: &str, axis: usize) -> Option<(String, usize)> {
        let (mut value, mut axis) = (value, axis);
        for _ in 0..FORMS {
            if self.model.graph.initializers.contains_key(value) {
                return Some((value.to_owned(), axis));
            }
            let maker = self.maker(value)?;
            match maker.op_type() {
                "Constant" => return Some((value.to_owned(), axis)),
                "Identity" | "Cast" | "QuantizeLinear" | "DequantizeLinear" => {}
                "Transpose" => {
                    let rank = self.rank(maker.input(0)?);
                    axis = layout::permutation(maker, rank).get(axis).copied()?;
                }
                _ => return None,
            }
            value = maker.input(0)?;
        }
        None
    }

    fn relate(&mut self, position: usize, node: &'m Node) {
        let known = |name: &String| name.is_empty() || self.shapes.get(name).is_some();
        let op = node.op_type();
        // Values computed from shapes are small integers; the trial cut checks what they lead to.
        let follows = |name: &str| self.shapes.get(name).is_some_and(|k| k.follows_shape);
        // What ConstantOfShape makes has the same number everywhere: it is an operand like any other.
        if op != "ConstantOfShape" && node.outputs().iter().all(|o| o.is_empty() || follows(o)) {
            return;
        }
        if !node.domain().is_empty() || node.has_subgraph() {
            return self.refuse(node, format!("the operator {op} is not understood"));
        }
        let mut values = node.inputs().iter().chain(node.outputs());
        if let Some(unknown) = values.find(|name| !known(name)) {
            if let Some((weight, axis)) = products::plain_weight(node) {
                self.note_producer(position, node, weight, axis);
            }
            return self.refuse(node, format!("the shape of `{unknown}` is not known"));
        }
        match op {
            "Relu" | "LeakyRelu" | "ThresholdedRelu" | "Elu" | "Selu" | "Celu" | "Sigmoid" | "HardSigmoid"
            | "HardSwish" | "Swish" | "Tanh" | "Softplus" | "Softsign" | "Mish" | "Gelu" | "Erf" | "Exp" | "Log"
            | "Sqrt" | "Reciprocal" | "Abs" | "Neg" | "Floor" | "Ceil" | "Round" | "Sign" | "Sin" | "Cos" | "Tan"
            | "Asin" | "Acos" | "Atan" | "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" | "Shrink" | "Not" | "IsNaN"
            | "IsInf" | "BitwiseNot" | "Identity" | "Cast" | "CastLike" | "Clip" => self.same_shape(node, 0),
            "Dropout" => self.dropout(node),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "Sum" | "Mean" | "PRelu" | "And" | "Or"
            | "Xor" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "BitShift" | "Equal" | "Greater"
            | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Where" => self.broadcast(node),
            "Conv" => products::convolution(self, position, node, &Operands::CONVOLUTION),
            "ConvInteger" => products::convolution(self, position, node, &Operands::INTEGER_CONVOLUTION),
            "QLinearConv" => products::convolution(self, position, node, &Operands::QUANTIZED_CONVOLUTION),
            "ConvTranspose" => products::transposed_convolution(self, position, node),
            "Gemm" => products::gemm(self, position, node),
            "MatMul" => products::matmul(self, position, node, &Operands::PRODUCT),
            "MatMulInteger" => products::matmul(self, position, node, &Operands::INTEGER_PRODUCT),
            "QLinearMatMul" => products::matmul(self, position, node, &Operands::QUANTIZED_PRODUCT),
            "LSTM" => recurrent::layer(self, position, node, 4),
            "GRU" => recurrent::layer(self, position, node, 3),
            "RNN" => recurrent::layer(self, position, node, 1),
            "BatchNormalization" => normalization::batch(self, node),
            "InstanceNormalization" => normalization::instance(self, node),
            "GroupNormalization" => normalization::group(self, node),
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
                let first = self.axis(node, -1);
                normalization::over(self, node, move |axis| axis >= first);
            }
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                // Older operator sets normalize over this axis and all after it.
                let coerced = self.opset < 13;
                let at = self.axis(node, if coerced { 1 } else { -1 });
                normalization::over(self, node, move |axis| axis == at || (coerced && axis > at));
            }
            "LpNormalization" => {
                let at = self.axis(node, -1);
                normalization::over(self, node, move |axis| axis == at);
            }
            "MeanVarianceNormalization" => {
                let rank = self.rank(node.id());
                let axes = node.ints("axes").unwrap_or(&[0, 2, 3]);
                let axes: Vec<usize> = axes.iter().map(|&axis| self::position(axis, rank)).collect();
                normalization::over(self, node, move |axis| axes.contains(&axis));
            }
            "LRN" => self.mixing(node, "it normalizes each channel by its neighbours", |axis| axis == 1),
            "CumSum" => match self.integers(node, 1, "") {
                Some(&[along]) => {
                    let along = self::position(along, self.rank(node.id()));
                    self.mixing(node, "it adds up along this axis", move |axis| axis == along);
                }
                _ => self.refuse(node, "the axis it adds up along is not known"),
            },
            "Trilu" => {
                let first = self.rank(node.id()).saturating_sub(2);
                self.mixing(node, "it takes a triangle of this axis", move |axis| axis >= first);
            }
            "ReverseSequence" => self.mixing(node, "it reverses along this axis", |axis| axis < 2),
            "DynamicQuantizeLinear" => self.refuse(node, "its scale depends on all channels at once"),
            "QuantizeLinear" | "DequantizeLinear" => self.quantization(node),
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                self.pool(node)
            }
            "RoiAlign" | "GridSample" => layout::sample(self, node),
            "Reshape" | "Flatten" => self.reshapes.push(node),
            "Transpose" => layout::transpose(self, node),
            "Squeeze" => layout::squeeze(self, node),
            "Unsqueeze" => layout::unsqueeze(self, node),
            "Concat" => layout::concat(self, node),
            "Split" => layout::split(self, node),
            "Slice" => layout::slice(self, node),
            "Pad" => layout::pad(self, node),
            "Resize" | "Upsample" => layout::resize(self, node),
            "Expand" => layout::expand(self, node),
            "ConstantOfShape" => self.spells(node, 0, node.id(), 0),
            "Tile" => layout::tile(self, node),
            "Gather" => layout::gather(self, position, node),
            "DepthToSpace" | "SpaceToDepth" => layout::blocks(self, node),
            "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1" | "ReduceL2"
            | "ReduceLogSum" | "ReduceLogSumExp" | "ReduceSumSquare" | "ArgMax" | "ArgMin" | "TopK" => {
                layout::reduce(self, node)
            }
            "Constant" if matches!(constant_tensor(node), Ok(Some(tensor)) if cuttable(tensor.dtype())) => {}
            _ => self.refuse(node, format!("the operator {op} is not understood")),
        }
    }

    /// The attribute `axis` as a position of input 0; past the end where it is out of range.
    pub fn axis(&self, node: &Node, default: i64) -> usize {
        let rank = self.rank(node.input(0).unwrap_or_default());
        position(node.int("axis").unwrap_or(default), rank)
    }

    /// Each output element comes from the input element of the same coordinates.
    pub fn same_shape(&mut self, node: &Node, input: usize) {
        let input = node.input(input).unwrap_or_default();
        for output in node.outputs() {
            for axis in 0..self.rank(input) {
                self.elements.link((input, axis), (output, axis));
            }
        }
    }

    fn broadcast(&mut self, node: &Node) {
        let output = node.id();
        let old = self.opset < 7 && (node.is("PRelu") || node.attribute("broadcast").is_some());
        let rank = self.rank(output);
        if old && node.inputs().iter().any(|input| self.rank(input) != rank) {
            return self.refuse(node, "it broadcasts as operator sets before 7 did");
        }
        for input in node.inputs() {
            self.align(input, output, rank);
        }
    }

    fn dropout(&mut self, node: &'m Node) {
        if node.input(2).is_some() && self.integers(node, 2, "") != Some(&[0]) {
            return self.refuse(node, "it may be in training mode");
        }
        self.same_shape(node, 0);
    }

    /// Links the axes of `input` that are as long as those of `output`'s first `rank` axes under them,
    /// last to last; the others are repeated, and lose nothing when `output` does.
    pub fn align(&mut self, input: &str, output: &str, rank: usize) {
        let Some(lead) = rank.checked_sub(self.rank(input)) else {
            return;
        };
        for axis in 0..self.rank(input) {
            self.elements.link((input, axis), (output, lead + axis));
        }
    }

    /// Each output element depends on all elements of the axes for which `mixed` holds.
    pub fn mixing(&mut self, node: &Node, text: &str, mixed: impl Fn(usize) -> bool) {
        self.same_shape(node, 0);
        let reason = self.reason(node, text);
        for axis in (0..self.rank(node.id())).filter(|&axis| mixed(axis)) {
            self.elements.fix((node.id(), axis), reason);
        }
    }

    fn quantization(&mut self, node: &Node) {
        let parameters = node.inputs().iter().skip(1);
        let blocks = parameters.clone().any(|parameter| self.rank(parameter) > 1);
        if blocks || node.int("block_size").unwrap_or(0) != 0 {
            return self.refuse(node, "it quantizes in blocks");
        }
        self.same_shape(node, 0);
        let axis = self.axis(node, 1);
        for parameter in parameters {
            if self.rank(parameter) == 1 && self.size(parameter, 0) > 1 {
                self.elements.link((parameter, 0), (node.id(), axis));
            }
        }
    }

    fn pool(&mut self, node: &Node) {
        if node.outputs().iter().filter(|o| !o.is_empty()).count() > 1 {
            return self.refuse(node, "its indices count through all channels");
        }
        let input = node.input(0).unwrap_or_default();
        self.elements.link((input, 0), (node.id(), 0));
        self.elements.link((input, 1), (node.id(), 1));
        let reason = self.reason(node, "it pools over this axis");
        for axis in 2..self.rank(input) {
            self.elements.fix((input, axis), reason);
            self.elements.fix((node.id(), axis), reason);
        }
    }
}

/// About the bytes of a graph's file: those of its tensors, and some for each node.
fn size(graph: &Graph) -> u64 {
    const NODE: u64 = 32;
    let tensors = graph.initializers.values();
    let tensors: u64 = tensors.map(|initializer| initializer.tensor.bytes().len() as u64).sum();
    tensors.saturating_add(NODE * graph.nodes.len() as u64)
}

fn cuttable(dtype: DType) -> bool {
    dtype.bits().is_some_and(|bits| bits >= 8)
}

/// `axis`, which may count from the end; past the end where it is out of range.
pub(super) fn position(axis: i64, rank: usize) -> usize {
    let axis = if axis < 0 {
        axis.saturating_add_unsigned(rank as u64)
    } else {
        axis
    };
    usize::try_from(axis).map_or(rank, |axis| axis.min(rank))
}
