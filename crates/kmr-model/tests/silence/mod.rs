//! What a cut is compared with: the whole model, in which nothing that is cut is read.
//!
//! This knows nothing of how groups are found: it has a table of operators that sum over an axis, and multiplies what
//! they read by zero where a unit has been removed.
#![allow(dead_code, reason = "every user takes a part of it")]

use std::collections::{BTreeMap, HashMap};

use kmr_model::{
    DType, Dimension, Edit, Initializer, Model, Node, Patch, Tensor, ValueInfo,
    channels::{ChannelAnalysis, ChannelGroup},
    codec::tensor_to_message,
    proto,
    shapes::Shapes,
};

/// By value and axis: which elements are removed.
type Lost<'a> = HashMap<(&'a str, usize), Vec<bool>>;

/// The cuts that every group is tried with: without one unit, with one unit alone, and with any of them.
pub fn cuts(group: &ChannelGroup, seed: u64) -> Vec<Vec<usize>> {
    let mut random = Random(seed ^ group.channels as u64);
    let one = random.below(group.channels);
    let without_one = (0..group.channels).filter(|&unit| unit != one).collect();
    let mut any: Vec<usize> = (0..group.channels).filter(|_| random.below(2) == 0).collect();
    if any.is_empty() {
        any.push(random.below(group.channels));
    }
    let mut cuts = vec![without_one, vec![random.below(group.channels)], any];
    cuts.retain(|keep| !keep.is_empty() && keep.len() < group.channels);
    cuts.dedup();
    cuts
}

/// Numbers without a pattern.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// Between -1 and 1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// `model` with every ConstantOfShape of a stored shape and every Constant of floats stored as a tensor; what was the
/// same number everywhere becomes noise, so that it matters which elements are cut.
pub fn with_noise(model: &Model) -> Model {
    let mut random = Random(7);
    let mut graph = model.graph.clone();
    let mut stored = Vec::new();
    for node in &graph.nodes {
        let shape = node.input(0).and_then(|shape| graph.tensor(shape)?.to_i64().ok());
        if let (true, Some(shape)) = (node.is("ConstantOfShape"), shape) {
            let shape: Vec<usize> = shape.into_iter().map(|size| size as usize).collect();
            let count: usize = shape.iter().product();
            let fan_in = (count / shape.first().copied().unwrap_or(1).max(1)).max(1) as f32;
            // Positive and near one where it may be a variance or a scale.
            let noise = (0..count).map(|_| match shape.len() {
                0 | 1 => 1.0 + random.float() / 2.0,
                _ => random.float() * (3.0 / fan_in).sqrt(),
            });
            let tensor = Tensor::from_vec(shape.clone(), noise.collect());
            stored.push((node.id().to_owned(), tensor));
        }
    }
    let names: Vec<String> = stored.iter().map(|(name, _)| name.clone()).collect();
    for (name, tensor) in stored {
        // Before version 4 of the format every initializer is an input, too.
        if model.ir_version() < 4 {
            let shape: Vec<Dimension> = tensor.shape().iter().map(|&size| Dimension::Fixed(size)).collect();
            graph.inputs.push(ValueInfo::tensor(&name, tensor.dtype(), &shape));
        }
        graph.initializers.insert(name, Initializer::from(tensor));
    }
    graph.nodes.retain(|node| !names.contains(&node.id().to_owned()));
    model.with_graph(graph)
}

/// `model` in which nothing reads what a cut to `keep` removes.
pub fn silenced(
    model: &Model,
    shapes: &Shapes,
    analysis: &ChannelAnalysis,
    keep: &BTreeMap<String, Vec<usize>>,
) -> Model {
    let mut lost: Lost = HashMap::new();
    for (id, keep) in keep {
        let group = analysis.group(id).unwrap();
        for slice in group.slices.iter().chain(&group.values) {
            let lost = lost
                .entry((slice.tensor.as_str(), slice.axis))
                .or_insert_with(|| vec![false; slice.size]);
            for unit in (0..group.channels).filter(|unit| keep.binary_search(unit).is_err()) {
                slice.indices[unit].iter().for_each(|&index| lost[index] = true);
            }
        }
    }
    let mut patch = Patch::new();
    for node in &model.graph.nodes {
        for (slot, axis) in summed(node, shapes) {
            mask(shapes, node, slot, axis, &lost, &mut patch);
        }
        zero_integers(model, shapes, node, &lost, &mut patch);
    }
    let graph = patch.apply(&model.graph).unwrap();
    model.with_graph(graph)
}

/// The inputs of floats that `node` sums over, and the axis of each.
fn summed(node: &Node, shapes: &Shapes) -> Vec<(usize, usize)> {
    if !node.domain().is_empty() {
        return Vec::new();
    }
    let rank = shapes
        .shape(&node.inputs().first().cloned().unwrap_or_default())
        .map_or(0, <[usize]>::len);
    match node.op_type() {
        "Conv" | "ConvTranspose" => vec![(0, 1)],
        "Gemm" => vec![(0, usize::from(node.int("transA").unwrap_or(0) == 0))],
        "MatMul" => vec![(0, rank - 1)],
        "LSTM" | "GRU" | "RNN" => vec![(0, 2), (2, 2)],
        _ => Vec::new(),
    }
}

/// Multiplies what input `slot` reads by zero where `axis` has lost elements.
fn mask(shapes: &Shapes, node: &Node, slot: usize, axis: usize, lost: &Lost, patch: &mut Patch) {
    let Some(value) = node.input(slot) else {
        return;
    };
    let Some(lost) = lost.get(&(value, axis)) else {
        return;
    };
    let rank = shapes.shape(value).unwrap().len();
    let mut shape = vec![1; rank - axis];
    shape[0] = lost.len();
    let kept = lost.iter().map(|&lost| if lost { 0.0 } else { 1.0 });
    let tensor = match shapes.dtype(value).unwrap() {
        DType::FLOAT => Tensor::from_vec(shape, kept.map(|v| v as f32).collect()),
        DType::DOUBLE => Tensor::from_vec(shape, kept.collect::<Vec<f64>>()),
        DType::FLOAT16 => Tensor::from_vec(shape, kept.map(half::f16::from_f64).collect()),
        other => panic!("a sum over {other}"),
    };
    let [name, output] = ["mask", "masked"].map(|what| format!("{}/{what}{slot}", node.id()));
    patch.push(Edit::AddNode {
        node: Box::new(constant(&name, &tensor)),
        before: Some(node.id().to_owned()),
    });
    patch.push(Edit::AddNode {
        node: Box::new(Node::new("Mul", "", &[value, &name], &[&output])),
        before: Some(node.id().to_owned()),
    });
    patch.push(Edit::Rewire {
        node: node.id().to_owned(),
        input: slot,
        value: output,
    });
}

/// Sets integer weights to their zero point where `node` would read what is lost.
fn zero_integers(model: &Model, shapes: &Shapes, node: &Node, lost: &Lost, patch: &mut Patch) {
    let (weight, zero) = match node.op_type() {
        "ConvInteger" | "MatMulInteger" => (1, 3),
        "QLinearConv" | "QLinearMatMul" => (3, 5),
        _ => return,
    };
    let Some(name) = node.input(weight) else {
        return;
    };
    let rank = shapes.shape(name).unwrap().len();
    let (axis, outputs) = match node.op_type() {
        "ConvInteger" | "QLinearConv" => (1, 0),
        // A vector has no axis of outputs, and one zero point.
        _ if rank == 1 => (0, 0),
        _ => (rank - 2, rank - 1),
    };
    let Some(lost) = lost.get(&(name, axis)) else {
        return;
    };
    let Some(tensor) = model.graph.tensor(name) else {
        return choose_zeros(shapes, node, (weight, axis), (zero, outputs), lost, patch);
    };
    let zeros = node.input(zero).and_then(|zero| model.graph.tensor(zero));
    let shape = tensor.shape().to_vec();
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let mut bytes = tensor.bytes().to_vec();
    for (element, byte) in bytes.iter_mut().enumerate() {
        if lost[element / stride(axis) % shape[axis]] {
            let output = element / stride(outputs) % shape[outputs];
            *byte = zeros.map_or(0, |zeros| zeros.bytes()[if zeros.len() > 1 { output } else { 0 }]);
        }
    }
    patch.push(Edit::StoreTensor {
        name: name.to_owned(),
        tensor: Tensor::new(tensor.dtype(), shape, bytes.into()).unwrap(),
    });
}

/// Chooses the zero point, along `outputs` where there are several, instead of computed integer weights that are lost.
fn choose_zeros(
    shapes: &Shapes,
    node: &Node,
    (slot, axis): (usize, usize),
    (zero, outputs): (usize, usize),
    lost: &[bool],
    patch: &mut Patch,
) {
    let weight = node.input(slot).unwrap();
    let rank = shapes.shape(weight).unwrap().len();
    let [mask, zeros, spread, chosen] =
        ["mask", "zeros", "spread", "chosen"].map(|what| format!("{}/{what}{slot}", node.id()));
    let mut shape = vec![1; rank];
    shape[axis] = lost.len();
    let kept: Vec<u8> = lost.iter().map(|&lost| u8::from(!lost)).collect();
    let kept = Tensor::new(DType::BOOL, shape, kept.into()).unwrap();
    let mut nodes = vec![constant(&mask, &kept)];
    let otherwise = match node.input(zero) {
        None => {
            let none = Tensor::new(shapes.dtype(weight).unwrap(), Vec::new(), vec![0_u8].into()).unwrap();
            nodes.push(constant(&zeros, &none));
            zeros
        }
        Some(zero) => {
            let mut shape = vec![1_i64; rank];
            shape[outputs] = -1;
            nodes.push(constant(&zeros, &Tensor::from_vec(vec![rank], shape)));
            nodes.push(Node::new("Reshape", "", &[zero, &zeros], &[&spread]));
            spread
        }
    };
    nodes.push(Node::new("Where", "", &[&mask, weight, &otherwise], &[&chosen]));
    for new in nodes {
        patch.push(Edit::AddNode {
            node: Box::new(new),
            before: Some(node.id().to_owned()),
        });
    }
    patch.push(Edit::Rewire {
        node: node.id().to_owned(),
        input: slot,
        value: chosen,
    });
}

/// A Constant node.
pub fn constant(name: &str, tensor: &Tensor) -> Node {
    let mut node = Node::new("Constant", "", &[], &[name]);
    node.set_attribute(proto::AttributeProto {
        name: Some("value".into()),
        r#type: Some(4),
        t: Some(tensor_to_message("", tensor)).into(),
        ..Default::default()
    });
    node
}
