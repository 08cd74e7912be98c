//! What each operator says about the elements of its inputs and outputs.
//!
//! An operator relates elements, and fixes those that it cannot lose. A new operator is one arm of
//! [`Relations::relate`]; without one, everything that a node touches is fixed.

use std::collections::HashMap;

use super::{
    Adjustment, Producer,
    elements::{Elements, Reason},
    layout, products,
};
use crate::{DType, Graph, Model, ModelError, Node, cost::constant_tensor, shapes::Shapes};

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
    pub reshapes: Vec<&'m Node>,
    makers: HashMap<&'m str, &'m Node>,
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
        let mut relations = Self {
            model,
            shapes,
            elements: Elements::new(values, shapes)?,
            making: Vec::new(),
            adjustments: Vec::new(),
            reshapes: Vec::new(),
            makers: outputs().collect(),
        };
        relations.fix_edges(graph);
        for (position, node) in graph.nodes.iter().enumerate() {
            relations.relate(position, node);
        }
        for node in std::mem::take(&mut relations.reshapes) {
            layout::reshape(&mut relations, node);
        }
        Ok(relations)
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
            let mut captured = std::collections::HashSet::new();
            captured.extend(node.captures().unwrap_or_default());
            for name in captured {
                let text = format!("reads `{name}` from inside a subgraph");
                edge(name, format!("node `{}`", node.label()), &text);
            }
        }
    }

    /// The node that makes `value`.
    pub fn maker(&self, value: &str) -> Option<&'m Node> {
        self.makers.get(value).copied()
    }

    pub fn size(&self, value: &str, axis: usize) -> usize {
        self.elements.size((value, axis))
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

    pub fn reason(&mut self, node: &Node, text: impl Into<String>) -> u32 {
        self.elements.reason(Reason {
            place: format!("node `{}`", node.label()),
            text: text.into(),
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
        if self.model.graph.initializers.contains_key(value) {
            return Some((value.to_owned(), axis));
        }
        let maker = self.maker(value)?;
        match maker.op_type() {
            "Constant" => Some((value.to_owned(), axis)),
            "Identity" | "Cast" | "DequantizeLinear" => self.stored(maker.input(0)?, axis),
            "Transpose" => {
                let input = maker.input(0)?;
                let axis = layout::permutation(maker, self.rank(input)).get(axis).copied()?;
                self.stored(input, axis)
            }
            _ => None,
        }
    }

    fn relate(&mut self, position: usize, node: &'m Node) {
        let known = |name: &String| name.is_empty() || self.shapes.get(name).is_some();
        let op = node.op_type();
        // Values computed from shapes are small integers; the trial cut checks what they lead to.
        let follows = |name: &str| self.shapes.get(name).is_some_and(|k| k.follows_shape);
        if node.outputs().iter().all(|o| o.is_empty() || follows(o)) {
            return;
        }
        if !node.domain().is_empty() || node.has_subgraph() {
            return self.refuse(node, format!("the operator {op} is not understood"));
        }
        let mut values = node.inputs().iter().chain(node.outputs());
        if let Some(unknown) = values.find(|name| !known(name)) {
            return self.refuse(node, format!("the shape of `{unknown}` is not known"));
        }
        match op {
            "Relu" | "LeakyRelu" | "ThresholdedRelu" | "Elu" | "Selu" | "Celu" | "Sigmoid" | "HardSigmoid"
            | "HardSwish" | "Swish" | "Tanh" | "Softplus" | "Softsign" | "Mish" | "Gelu" | "Erf" | "Exp" | "Log"
            | "Sqrt" | "Reciprocal" | "Abs" | "Neg" | "Floor" | "Ceil" | "Round" | "Sign" | "Sin" | "Cos" | "Tan"
            | "Asin" | "Acos" | "Atan" | "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" | "Shrink" | "Not" | "IsNaN"
            | "IsInf" | "BitwiseNot" | "Identity" | "Cast" | "CastLike" | "Clip" | "Dropout" => {
                self.same_shape(node, 0);
            }
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Max" | "Min" | "Sum" | "Mean" | "PRelu" | "And" | "Or"
            | "Xor" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "BitShift" | "Equal" | "Greater"
            | "GreaterOrEqual" | "Less" | "LessOrEqual" | "Where" => self.broadcast(node),
            "Conv" => products::convolution(self, position, node),
            "ConvTranspose" => products::transposed_convolution(self, position, node),
            "Gemm" => products::gemm(self, position, node),
            "MatMul" => products::matmul(self, position, node),
            "BatchNormalization" => self.batch_normalization(node),
            "InstanceNormalization" => self.instance_normalization(node),
            "GroupNormalization" => self.normalize(node, |axis| axis > 0),
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
                let first = self.axis(node, -1);
                self.normalize(node, move |axis| axis >= first);
            }
            "Softmax" | "LogSoftmax" | "Hardmax" => {
                // Older operator sets normalize over this axis and all after it.
                let coerced = self.model.opset() < 13;
                let at = self.axis(node, if coerced { 1 } else { -1 });
                self.normalize(node, move |axis| axis == at || (coerced && axis > at));
            }
            "QuantizeLinear" | "DequantizeLinear" => self.quantization(node),
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => {
                self.pool(node)
            }
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
            "Tile" => layout::tile(self, node),
            "Gather" => layout::gather(self, node),
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
    fn same_shape(&mut self, node: &Node, input: usize) {
        let input = node.input(input).unwrap_or_default();
        for output in node.outputs() {
            for axis in 0..self.rank(input) {
                self.elements.link((input, axis), (output, axis));
            }
        }
    }

    pub fn broadcast(&mut self, node: &Node) {
        let output = node.id();
        for input in node.inputs() {
            self.align(input, output, self.rank(output));
        }
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

    fn batch_normalization(&mut self, node: &Node) {
        if node.outputs().iter().filter(|o| !o.is_empty()).count() > 1 {
            return self.refuse(node, "it is in training mode");
        }
        self.same_shape(node, 0);
        for input in node.inputs().iter().skip(1) {
            self.elements.link((input, 0), (node.id(), 1));
        }
    }

    fn instance_normalization(&mut self, node: &Node) {
        self.same_shape(node, 0);
        for input in node.inputs().iter().skip(1) {
            self.elements.link((input, 0), (node.id(), 1));
        }
        let reason = self.reason(node, "it normalizes over this axis");
        for axis in 2..self.rank(node.id()) {
            self.elements.fix((node.id(), axis), reason);
        }
    }

    /// The elements of an axis for which `mixed` holds depend on one another.
    fn normalize(&mut self, node: &Node, mixed: impl Fn(usize) -> bool) {
        self.same_shape(node, 0);
        let reason = self.reason(node, "it normalizes over this axis");
        for axis in (0..self.rank(node.id())).filter(|&axis| mixed(axis)) {
            self.elements.fix((node.id(), axis), reason);
        }
        for value in node.inputs().iter().skip(1).chain(node.outputs().iter().skip(1)) {
            self.elements.fix_all(value, reason);
        }
    }

    fn quantization(&mut self, node: &Node) {
        if node.int("block_size").unwrap_or(0) != 0 {
            return self.refuse(node, "it quantizes in blocks");
        }
        self.same_shape(node, 0);
        let axis = self.axis(node, 1);
        for parameter in node.inputs().iter().skip(1) {
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
