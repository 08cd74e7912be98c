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
    let decoded = decoded(level);
    let tensors: HashMap<&str, &Arc<Tensor>> = level
        .tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    for (name, tensor) in &level.tensors {
        if decoded.sources.contains(name.as_str()) {
            continue;
        }
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
    for (name, codes) in decoded.weights {
        let Some(count) = shapes.shape(name).map(|shape| shape.iter().product::<usize>()) else {
            continue;
        };
        let plain = codes.filter(|codes| codes.len() == count);
        found.push(Parameter {
            name,
            inside,
            count: count as u64,
            nonzero: plain.map_or(count as u64, |codes| nonzero(codes, None)),
        });
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

/// Weights that nodes make from integers before anything is fed.
#[derive(Default)]
struct Decoded<'l> {
    /// Their names, with the tensor of codes where each code is one weight and 0 stands for zero.
    weights: Vec<(&'l str, Option<&'l Arc<Tensor>>)>,
    /// The tensors that they are made from.
    sources: HashSet<&'l str>,
}

/// What a constant is made from.
#[derive(Clone, Default)]
struct Origin<'l> {
    /// Tensors, and constants among nodes' outputs, that it depends on.
    from: HashSet<&'l str>,
    /// The integers that became real numbers on the way.
    codes: HashSet<&'l str>,
    /// Whether codes are counted from another number than 0, or lie in words.
    shifted: bool,
}

/// Finds weights that a Cast, or a DequantizeLinear of computed codes, makes from integers. A DequantizeLinear of a
/// tensor is not among them: that tensor is the weight.
fn decoded(level: &Level) -> Decoded<'_> {
    let tensors: HashMap<&str, &Arc<Tensor>> = level
        .tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let constants = level.constants();
    let mut origins: HashMap<&str, Origin<'_>> = HashMap::new();
    let mut found = Decoded::default();
    for node in &level.nodes {
        if node.is("Constant") {
            continue;
        }
        let inputs = || {
            node.inputs()
                .iter()
                .map(String::as_str)
                .filter(|input| !input.is_empty())
        };
        if !constants.contains(node.id()) {
            for input in inputs() {
                if let Some(origin) = origins.get(input).filter(|origin| !origin.codes.is_empty()) {
                    let single = origin
                        .codes
                        .iter()
                        .next()
                        .filter(|_| origin.codes.len() == 1 && !origin.shifted);
                    if found.weights.iter().all(|(known, _)| *known != input) {
                        found
                            .weights
                            .push((input, single.and_then(|name| tensors.get(name)).copied()));
                    }
                    found.sources.extend(&origin.from);
                }
            }
            continue;
        }
        let mut origin = Origin::default();
        for input in inputs() {
            match origins.get(input) {
                Some(before) => {
                    origin.from.extend(&before.from);
                    origin.codes.extend(&before.codes);
                    origin.shifted |= before.shifted;
                }
                None => drop(origin.from.insert(input)),
            }
        }
        let integer = |name: &str| tensors.get(name).is_some_and(|tensor| !is_float(tensor.dtype()));
        let computed = node.input(0).is_some_and(|input| !tensors.contains_key(input));
        let to_real = node.is("Cast") && node.int("to").is_some_and(|to| is_float(DType::from_number(to as i32)));
        if to_real || (node.is("DequantizeLinear") && computed) {
            let from = node
                .input(0)
                .map_or_else(HashSet::new, |input| match origins.get(input) {
                    Some(before) => before.from.clone(),
                    None => HashSet::from([input]),
                });
            let words = |name: &&str| {
                tensors
                    .get(name)
                    .is_some_and(|tensor| tensor.dtype().bits().is_some_and(|bits| bits <= 8))
            };
            origin
                .codes
                .extend(from.iter().copied().filter(|name| integer(name)).filter(words));
            if from.iter().any(|name| integer(name)) && origin.codes.is_empty() {
                origin.codes.extend(from.iter().copied().filter(|name| integer(name)));
                origin.shifted = true;
            }
        }
        origin.shifted |= matches!(node.op_type(), "Sub" | "Add" | "BitShift" | "BitwiseAnd");
        for output in node.outputs() {
            origins.insert(output, origin.clone());
        }
    }
    found
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
    if zero_points.is_none()
        && let Some(count) = nonzero_patterns(tensor, bits, sign)
    {
        return count;
    }
    let count = (0..tensor.len()).filter(|&element| {
        let zero = zero_points.map_or(0, |points| points.at(element));
        pattern(tensor, bits, element) & !sign != zero
    });
    count.count() as u64
}

/// The elements with other bits than `sign`, where elements have a width that machines count in.
fn nonzero_patterns(tensor: &Tensor, bits: usize, sign: u128) -> Option<u64> {
    let bytes = &tensor.bytes()[..];
    let count = match bits {
        4 => {
            let mask = (0xf & !sign) as u8;
            let nibbles = |byte: &u8| usize::from(byte & mask != 0) + usize::from(byte >> 4 & mask != 0);
            // The last byte may hold one element alone.
            let (pairs, rest) = bytes.split_at_checked(tensor.len() / 2)?;
            let rest = rest.first().filter(|_| tensor.len() % 2 == 1);
            pairs.iter().map(nibbles).sum::<usize>() + rest.map_or(0, |byte| nibbles(&(byte & 0xf)))
        }
        8 => bytes.iter().filter(|&&byte| byte & !(sign as u8) != 0).count(),
        16 => {
            let numbers = bytes.as_chunks::<2>().0.iter().map(|&chunk| u16::from_le_bytes(chunk));
            numbers.filter(|number| number & !(sign as u16) != 0).count()
        }
        32 => {
            let numbers = bytes.as_chunks::<4>().0.iter().map(|&chunk| u32::from_le_bytes(chunk));
            numbers.filter(|number| number & !(sign as u32) != 0).count()
        }
        _ => return None,
    };
    Some(count as u64)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_by_machine_words_counts_what_elements_hold() {
        for (dtype, bits) in [
            (DType::INT4, 4),
            (DType::FLOAT4E2M1, 4),
            (DType::INT8, 8),
            (DType::FLOAT8E4M3FN, 8),
            (DType::FLOAT8E4M3FNUZ, 8),
            (DType::BFLOAT16, 16),
            (DType::FLOAT, 32),
        ] {
            for count in [0_usize, 1, 2, 7, 64] {
                let length = (count * bits).div_ceil(8);
                let words = [0, 0x80, 0, 0x08, 0, 0, 0, 0x80, 0x10, 0, 0x03, 0xff, 0x88, 0, 0, 0];
                let bytes: Vec<u8> = (0..length).map(|at| words[at % words.len()]).collect();
                let tensor = Tensor::new(dtype, vec![count], bytes.into()).unwrap();
                let sign = match is_float(dtype) && dtype != DType::FLOAT8E4M3FNUZ {
                    true => 1 << (bits - 1),
                    false => 0,
                };
                let one_by_one = (0..count).filter(|&at| pattern(&tensor, bits, at) & !sign != 0);
                assert_eq!(nonzero(&tensor, None), one_by_one.count() as u64, "{count} of {dtype}");
            }
        }
    }
}
