//! Multiply-accumulate operations.

use std::collections::HashMap;

use super::{level::Level, uncountable};
use crate::{
    ModelError, Node,
    shapes::{Equation, Shapes},
};

/// Standard operators that contract nothing: they work on each element, move elements, reduce, normalize,
/// pool or sample without weights, compare, or make constants.
const FREE: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Add",
    "And",
    "ArgMax",
    "ArgMin",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "AveragePool",
    "BatchNormalization",
    "Bernoulli",
    "BitCast",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "BlackmanWindow",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "CenterCropPad",
    "Clip",
    "Col2Im",
    "Compress",
    "Concat",
    "ConcatFromSequence",
    "Constant",
    "ConstantOfShape",
    "Cos",
    "Cosh",
    "CumProd",
    "CumSum",
    "DepthToSpace",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "DynamicQuantizeLinear",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Expand",
    "EyeLike",
    "Flatten",
    "Floor",
    "Gather",
    "GatherElements",
    "GatherND",
    "Gelu",
    "GlobalAveragePool",
    "GlobalLpPool",
    "GlobalMaxPool",
    "Greater",
    "GreaterOrEqual",
    "GridSample",
    "GroupNormalization",
    "HammingWindow",
    "HannWindow",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "ImageDecoder",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LRN",
    "LayerNormalization",
    "LeakyRelu",
    "Less",
    "LessOrEqual",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "LpPool",
    "Max",
    "MaxPool",
    "MaxRoiPool",
    "MaxUnpool",
    "Mean",
    "MeanVarianceNormalization",
    "MelWeightMatrix",
    "Min",
    "Mish",
    "Mod",
    "Mul",
    "Multinomial",
    "Neg",
    "NegativeLogLikelihoodLoss",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "OneHot",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "Or",
    "PRelu",
    "Pad",
    "Pow",
    "QuantizeLinear",
    "RMSNormalization",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Range",
    "Reciprocal",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "RegexFullMatch",
    "Relu",
    "Reshape",
    "Resize",
    "ReverseSequence",
    "RoiAlign",
    "RotaryEmbedding",
    "Round",
    "Scatter",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "Shape",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Size",
    "Slice",
    "Softmax",
    "SoftmaxCrossEntropyLoss",
    "Softplus",
    "Softsign",
    "SpaceToDepth",
    "Split",
    "SplitToSequence",
    "Sqrt",
    "Squeeze",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "Sub",
    "Sum",
    "SwiGLU",
    "Swish",
    "Tan",
    "Tanh",
    "TensorScatter",
    "TfIdfVectorizer",
    "ThresholdedRelu",
    "Tile",
    "TopK",
    "Transpose",
    "Trilu",
    "Unique",
    "Unsqueeze",
    "Upsample",
    "Where",
    "Xor",
];

/// The shapes of a graph's values, and of those around it that it reads.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    shapes: &'a Shapes,
    /// What is counted already, by node.
    counted: Option<&'a HashMap<String, u64>>,
    outer: Option<&'a Sight<'a>>,
}

impl<'a> Sight<'a> {
    /// The main graph's, with the nodes of it that are counted already.
    pub fn main(shapes: &'a Shapes, counted: &'a HashMap<String, u64>) -> Self {
        Self {
            shapes,
            counted: Some(counted),
            outer: None,
        }
    }

    fn inside(shapes: &'a Shapes, outer: &'a Sight<'a>) -> Self {
        Self {
            shapes,
            counted: None,
            outer: Some(outer),
        }
    }

    fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.shapes.shape(name).or_else(|| self.outer?.shape(name))
    }
}

/// Those of a graph.
pub(super) fn of(level: &Level, shapes: &Sight) -> Result<u64, ModelError> {
    let mut total = 0_u64;
    for position in 0..level.nodes.len() {
        total = total
            .checked_add(of_node(level, position, shapes)?)
            .ok_or_else(|| too_many(&level.nodes[position]))?;
    }
    Ok(total)
}

fn too_many(node: &Node) -> ModelError {
    uncountable(node, "has too many multiplications to count".into())
}

/// Those of one node of a graph.
pub(super) fn of_node(level: &Level, position: usize, shapes: &Sight) -> Result<u64, ModelError> {
    let node = &*level.nodes[position];
    if let Some(&counted) = shapes.counted.and_then(|counted| counted.get(node.id())) {
        return Ok(counted);
    }
    if !node.domain().is_empty() {
        return Err(uncountable(
            node,
            format!("cannot be counted: its domain `{}` is not known", node.domain()),
        ));
    }
    match node.op_type() {
        "If" => branches(level, position, shapes),
        "Loop" | "Scan" | "SequenceMap" => rounds(level, position, shapes),
        _ => contraction(node, shapes),
    }
}

/// The branch that is taken, or the costlier one.
fn branches(level: &Level, position: usize, shapes: &Sight) -> Result<u64, ModelError> {
    let node = &level.nodes[position];
    let mut most = 0;
    for (attribute, inner) in level.inner(position) {
        // A branch without facts contradicts itself, and is never taken.
        if let Some(body) = shapes.shapes.body(node.id(), attribute)
            && body.repeats != Some(0)
        {
            most = most.max(of(inner, &Sight::inside(&body.shapes, shapes))?);
        }
    }
    Ok(most)
}

/// The body, as often as it runs.
fn rounds(level: &Level, position: usize, shapes: &Sight) -> Result<u64, ModelError> {
    let node = &level.nodes[position];
    let mut total = 0_u64;
    for (attribute, inner) in level.inner(position) {
        let Some(body) = shapes.shapes.body(node.id(), attribute) else {
            return Err(uncountable(node, "cannot be counted: its body is not known".into()));
        };
        let once = of(inner, &Sight::inside(&body.shapes, shapes))?;
        let times = match body.repeats {
            Some(times) => times,
            None if once == 0 => 0,
            None => {
                return Err(uncountable(
                    node,
                    "cannot be counted: how often it runs is not known".into(),
                ));
            }
        };
        let macs = once.checked_mul(times).and_then(|macs| total.checked_add(macs));
        total = macs.ok_or_else(|| too_many(node))?;
    }
    Ok(total)
}

fn contraction(node: &Node, shapes: &Sight) -> Result<u64, ModelError> {
    let shape = |name: Option<&str>| {
        let name = name.unwrap_or_default();
        shapes.shape(name).ok_or_else(|| {
            uncountable(node, format!("cannot be counted: the shape of `{name}` is not known")).with_help(format!(
                "declare the type of `{name}` in the model's value_info, or give the shapes of the inputs"
            ))
        })
    };
    let input = |position: usize| shape(node.input(position));
    let output = || shape(Some(node.id()));
    let count = match node.op_type() {
        "Conv" | "ConvInteger" | "DeformConv" | "CausalConvWithState" => per_output(output()?, input(1)?),
        "QLinearConv" => per_output(output()?, input(3)?),
        // Each input element meets the weights of its channel.
        "ConvTranspose" => per_output(input(0)?, input(1)?),
        "Gemm" => {
            let transposed = node.int("transA").unwrap_or(0) != 0;
            let inner = input(0)?.get(usize::from(!transposed));
            product(output()?.iter().chain(inner))
        }
        "MatMul" | "MatMulInteger" | "QLinearMatMul" => product(output()?.iter().chain(input(0)?.last())),
        // Every step multiplies the input and the last state by their weights.
        "RNN" | "GRU" | "LSTM" => {
            let steps = input(0)?.get(..2).and_then(product);
            let weights = product(input(1)?).zip(product(input(2)?));
            let weights = weights.and_then(|(input, state)| input.checked_add(state));
            steps
                .zip(weights)
                .and_then(|(steps, weights)| steps.checked_mul(weights))
        }
        // Each query meets each key, and then each value.
        "Attention" => {
            let keys = input(1)?;
            let length = keys
                .get(keys.len().saturating_sub(2))
                .filter(|_| keys.len() == 4)
                .or(keys.get(1));
            let past = match node.input(4) {
                Some(_) => input(4)?.get(2).copied(),
                None => Some(0),
            };
            let total = length.zip(past).and_then(|(length, past)| length.checked_add(past));
            let each = product(input(0)?).zip(product(shape(node.outputs().first().map(String::as_str))?));
            let each = each.and_then(|(queries, values)| queries.checked_add(values));
            each.zip(total).and_then(|(each, total)| each.checked_mul(total as u64))
        }
        "Einsum" => {
            let inputs = node.inputs().iter().map(|name| shape(Some(name)));
            let inputs: Vec<&[usize]> = inputs.collect::<Result<_, _>>()?;
            match inputs.len() {
                1 => Some(0),
                2 => {
                    let equation = Equation::parse(node.string("equation").unwrap_or_default());
                    equation.and_then(|equation| equation.space(&inputs))
                }
                // How these are contracted is up to the engine.
                _ => None,
            }
        }
        free if FREE.contains(&free) => Some(0),
        _ => {
            let message = "multiplies in a way that is not counted, or is not known";
            return Err(uncountable(node, message.into()));
        }
    };
    count.ok_or_else(|| uncountable(node, "has multiplications that cannot be counted".into()))
}

/// Elements of `values`, times the weights that each meets: all but the first axis of `weight`.
fn per_output(values: &[usize], weight: &[usize]) -> Option<u64> {
    product(values.iter().chain(weight.iter().skip(1)))
}

fn product<'a>(sizes: impl IntoIterator<Item = &'a usize>) -> Option<u64> {
    let mut sizes = sizes.into_iter().map(|&size| size as u64);
    sizes.try_fold(1_u64, |product, size| product.checked_mul(size))
}
