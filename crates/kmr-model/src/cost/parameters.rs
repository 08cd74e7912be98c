//! What counts as parameters, and which of them stand for zero.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::level::Level;
use crate::{DType, Node, Tensor, shapes::Shapes};

/// A tensor that counts as parameters.
pub(super) struct Parameter<'l> {
    /// The value's name in its graph.
    pub name: &'l str,
    /// The position of the main graph's node whose subgraph holds it, if one does.
    pub inside: Option<usize>,
    /// Its elements.
    pub count: u64,
    /// Those that do not stand for zero.
    pub nonzero: u64,
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

/// What the nodes of a graph do with its values and those around it, subgraphs included.
fn roles<'l>(level: &'l Level, found: &mut HashMap<&'l str, Vec<(Role, &'l Node)>>) {
    for (position, node) in level.nodes.iter().enumerate() {
        for (slot, input) in node.inputs().iter().enumerate().filter(|(_, input)| !input.is_empty()) {
            found.entry(input).or_default().push((role(node, slot), node));
        }
        for (_, inner) in level.inner(position) {
            let mut inside = HashMap::new();
            roles(inner, &mut inside);
            let own: HashSet<&str> = inner.defined().collect();
            for (name, roles) in inside.into_iter().filter(|(name, _)| !own.contains(name)) {
                found.entry(name).or_default().extend(roles);
            }
        }
    }
}

/// The parameters of a model.
pub(super) fn of<'l>(level: &'l Level, shapes: &Shapes) -> Vec<Parameter<'l>> {
    let mut found = Vec::new();
    collect(level, None, shapes, &mut found);
    found
}

fn collect<'l>(level: &'l Level, inside: Option<usize>, shapes: &Shapes, found: &mut Vec<Parameter<'l>>) {
    let mut used = HashMap::new();
    roles(level, &mut used);
    let tensors: HashMap<&str, &Arc<Tensor>> = level
        .tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    for (name, tensor) in &level.tensors {
        let uses = used.get(name.as_str()).map_or(&[][..], Vec::as_slice);
        let setting = !uses.is_empty() && uses.iter().all(|(role, _)| *role == Role::Setting);
        let quantized = uses.iter().any(|(role, _)| *role == Role::QuantizedWeight);
        if (is_float(tensor.dtype()) && !setting) || quantized {
            let reader = uses
                .iter()
                .find(|(_, node)| node.is("DequantizeLinear") && node.input(0) == Some(name));
            let points = reader.and_then(|(_, node)| ZeroPoints::of(node, tensor, &tensors));
            found.push(Parameter {
                name,
                inside,
                count: tensor.len() as u64,
                nonzero: nonzero(tensor, points.as_ref()),
            });
        }
    }
    for (position, node) in level.nodes.iter().enumerate() {
        for (attribute, inner) in level.inner(position) {
            if let Some(body) = shapes.body(node.id(), attribute) {
                collect(inner, inside.or(Some(position)), &body.shapes, found);
            } else {
                collect(inner, inside.or(Some(position)), &Shapes::default(), found);
            }
        }
    }
}

fn is_float(dtype: DType) -> bool {
    dtype.is_float()
        || matches!(
            dtype,
            DType::FLOAT8E4M3FN | DType::FLOAT8E4M3FNUZ | DType::FLOAT8E5M2 | DType::FLOAT8E5M2FNUZ | DType::FLOAT4E2M1
        )
}

fn nonzero(tensor: &Tensor, zero_points: Option<&ZeroPoints>) -> u64 {
    let Some(bits) = tensor.dtype().bits() else {
        return tensor.len() as u64;
    };
    // The sign of a floating-point zero does not make it another number.
    let sign = if is_float(tensor.dtype()) && tensor.dtype() != DType::FLOAT8E4M3FNUZ {
        1_u128 << (bits - 1)
    } else {
        0
    };
    let count = (0..tensor.len()).filter(|&element| {
        let zero = zero_points.map_or(0, |points| points.at(element));
        pattern(tensor, bits, element) & !sign != zero
    });
    count.count() as u64
}

/// The zero points of a quantized tensor: one, one per index of an axis, or one per block on it.
struct ZeroPoints {
    tensor: Arc<Tensor>,
    shape: Vec<usize>,
    axis: usize,
    block: usize,
}

impl ZeroPoints {
    /// The zero points that `reader` dequantizes `weight` with.
    fn of(reader: &Node, weight: &Tensor, tensors: &HashMap<&str, &Arc<Tensor>>) -> Option<Self> {
        let tensor = Arc::clone(tensors.get(reader.input(2)?)?);
        let shape = weight.shape().to_vec();
        let axis = reader.int("axis").unwrap_or(1);
        let axis = if axis < 0 {
            axis.checked_add(shape.len() as i64)?
        } else {
            axis
        };
        let axis = usize::try_from(axis).ok()?;
        let block = usize::try_from(reader.int("block_size").unwrap_or(0)).ok()?;
        (tensor.dtype() == weight.dtype()).then_some(Self {
            tensor,
            shape,
            axis,
            block,
        })
    }

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
