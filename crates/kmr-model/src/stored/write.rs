//! Writing weights as integers.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use half::f16;

use super::{Decode, Sharing};
use crate::{Build, DType, Edit, ModelError, Node, Tensor};

/// A weight's codes, ready to be stored. As a matrix it has a row for each output channel, and in a row the elements of
/// all other axes in their order.
#[derive(Clone, Debug)]
pub struct IntegerWeight<'w> {
    /// The initializer that goes, and the value that comes in its place.
    pub tensor: &'w str,
    /// Its shape.
    pub shape: &'w [usize],
    /// The axis of its output channels.
    pub axis: usize,
    /// The first node that reads it.
    pub reader: Option<&'w str>,
    /// Bits of a code, 2 to 8.
    pub bits: u8,
    /// The lowest code: below 0 for signed codes, else 0.
    pub low: i16,
    /// Who shares a scale.
    pub sharing: Sharing,
    /// The codes of the matrix, row by row.
    pub codes: &'w [i16],
    /// One, or one for each row, or one for each group of each row, row by row.
    pub scales: &'w [f32],
    /// As many; all 0 for signed codes.
    pub zero_points: &'w [i32],
    /// Whether scales, which then are float16 numbers, are stored as such; those for kernels are not.
    pub half_scales: bool,
    /// What the nodes end in.
    pub decode: Decode,
    /// Whether the kernel wants a zero point that is 0, too.
    pub spelled_zero: bool,
}

/// Packs codes of some bits, counted from the lowest, into words.
pub type Pack<'p> = &'p dyn Fn(&[u8], u8) -> Result<Vec<u64>, ModelError>;

/// The bytes of `count` codes of `bits`, and whether they are packed into words: where that is shorter than in the next
/// larger type, with the nodes that unpacking takes.
pub fn stored_bytes(count: usize, bits: u8) -> (usize, bool) {
    let plain = if bits <= 4 { count.div_ceil(2) } else { count };
    let packed = 8 * count.div_ceil(usize::from(64 / bits.max(1)));
    if matches!(bits, 4 | 8) || packed + PACKED_OVERHEAD >= plain {
        (plain, false)
    } else {
        (packed, true)
    }
}

/// About what a Cast costs.
const CAST_OVERHEAD: usize = 48;

/// About what a weight in a chain of packed ones costs beside its words.
const PACKED_OVERHEAD: usize = 48;

/// Stores a weight in 16 bits: `half` has its shape, and becomes float32 again under the weight's name, before the node
/// that `build` places new nodes at.
pub fn store_half(build: &mut Build, tensor: &str, half: Tensor) {
    replace(build, tensor);
    let stored = build.tensor(&format!("{tensor}_stored"), half);
    build.node_into("Cast", &[&stored], &[tensor], to(DType::FLOAT));
}

/// Adds a weight stored in 16 bits, which becomes float32 before the node that `build` places new nodes at; gives the name
/// of the float32 value.
pub fn add_half(build: &mut Build, wanted: &str, half: Tensor) -> String {
    let stored = build.tensor(&format!("{wanted}_stored"), half);
    build.node("Cast", &[&stored], wanted, to(DType::FLOAT))
}

/// Stores integer weights; what unpacks them goes before `first_node`.
///
/// # Errors
/// If a tensor cannot be made.
pub fn store_integers(
    build: &mut Build,
    weights: &[IntegerWeight<'_>],
    first_node: Option<&str>,
    pack: Pack<'_>,
) -> Result<(), ModelError> {
    let (packed, plain): (Vec<_>, Vec<_>) = weights.iter().partition(|weight| weight.is_packed());
    let mut chains: BTreeMap<(Decode, u8), Vec<&IntegerWeight<'_>>> = BTreeMap::new();
    for weight in packed {
        chains.entry((weight.decode, weight.bits)).or_default().push(weight);
    }
    for ((decode, bits), weights) in chains {
        build.place(first_node);
        let unpacked = unpack(build, &weights, bits, decode, pack)?;
        for (weight, codes) in weights.iter().zip(unpacked) {
            build.place(weight.reader);
            weight.decode(build, Form::Flat(codes))?;
        }
    }
    for weight in plain {
        build.place(weight.reader);
        let tensor = narrow(
            &weight.stored_codes(),
            weight.is_symmetric(),
            weight.bits,
            weight.stored_shape(),
        )?;
        let stored = build.tensor(&format!("{}_codes", weight.tensor), tensor);
        weight.decode(build, Form::Typed(stored))?;
    }
    Ok(())
}

/// The codes of a weight while they are decoded.
enum Form {
    /// Integers in the weight's shape.
    Typed(String),
    /// Flat, counted from a symmetric grid's zero: float32 for a constant, a byte for a kernel.
    Flat(String),
}

impl IntegerWeight<'_> {
    fn rows(&self) -> usize {
        self.shape[self.axis]
    }

    fn columns(&self) -> usize {
        self.codes.len() / self.rows().max(1)
    }

    fn is_symmetric(&self) -> bool {
        self.low < 0
    }

    /// The size of a group, where there are groups.
    fn group(&self) -> Option<usize> {
        match self.sharing {
            Sharing::Group(size) => Some(size.min(self.columns().max(1))),
            _ => None,
        }
    }

    /// Whether groups are filled up to equal size and lie as a stack of blocks.
    fn blocked(&self) -> Option<usize> {
        self.group().filter(|_| self.decode == Decode::Constant)
    }

    /// The shape that the codes are stored in.
    fn stored_shape(&self) -> Vec<usize> {
        match self.blocked() {
            Some(size) => vec![self.rows(), self.columns().div_ceil(size), size],
            None => self.shape.to_vec(),
        }
    }

    /// Whether the codes lie in words.
    fn is_packed(&self) -> bool {
        stored_bytes(self.stored_shape().iter().product(), self.bits).1
    }

    /// The codes in the order that they are stored in.
    fn stored_codes(&self) -> Cow<'_, [i16]> {
        let columns = self.columns();
        match self.blocked() {
            Some(size) if columns.is_multiple_of(size) => Cow::Borrowed(self.codes),
            Some(size) => {
                let width = columns.div_ceil(size) * size;
                let padded = self.codes.chunks(columns).flat_map(|row| {
                    let padding = std::iter::repeat_n(0, width - columns);
                    row.iter().copied().chain(padding)
                });
                padded.collect()
            }
            None => self.in_tensor_order(),
        }
    }

    /// The codes in the order of the tensor.
    fn in_tensor_order(&self) -> Cow<'_, [i16]> {
        let before: usize = self.shape[..self.axis].iter().product();
        if before <= 1 {
            return Cow::Borrowed(self.codes);
        }
        let after: usize = self.shape[self.axis + 1..].iter().product();
        let rows = self.rows();
        let element = |at: usize| {
            let (outer, row, inner) = (at / (rows * after), at / after % rows, at % after);
            self.codes[row * before * after + outer * after + inner]
        };
        Cow::Owned((0..self.codes.len()).map(element).collect())
    }

    /// Adds what makes the weight from its codes.
    fn decode(&self, build: &mut Build, codes: Form) -> Result<(), ModelError> {
        replace(build, self.tensor);
        match self.decode {
            Decode::Constant => self.decode_constant(build, codes),
            Decode::Kernel => self.decode_for_kernel(build, codes),
        }
    }

    fn decode_constant(&self, build: &mut Build, codes: Form) -> Result<(), ModelError> {
        let name = self.tensor;
        let real = match codes {
            Form::Typed(codes) => build.node("Cast", &[&codes], &format!("{name}_real"), to(DType::FLOAT)),
            Form::Flat(codes) => {
                let shape = shape_tensor(build, &self.stored_shape());
                build.node("Reshape", &[&codes, &shape], &format!("{name}_real"), |node| node)
            }
        };
        let shape = self.parameter_shape();
        let real = if self.zero_points.iter().all(|&zero| zero == 0) && self.is_symmetric() {
            real
        } else {
            let zeros = self.zeros(build, &shape)?;
            build.node("Sub", &[&real, &zeros], &format!("{name}_level"), |node| node)
        };
        let scales = self.real_scales(build, shape);
        let Some(size) = self.blocked() else {
            build.node_into("Mul", &[&real, &scales], &[name], |node| node);
            return Ok(());
        };
        let (rows, columns) = (self.rows(), self.columns());
        let width = columns.div_ceil(size) * size;
        let mut last = build.node("Mul", &[&real, &scales], &format!("{name}_blocks"), |node| node);
        if width > columns {
            let flat = shape_tensor(build, &[rows, width]);
            last = build.node("Reshape", &[&last, &flat], &format!("{name}_rows"), |node| node);
            let starts = build.constant("slice_start", Tensor::from_vec(vec![1], vec![0_i64]));
            let ends = build.constant("slice_end", Tensor::from_vec(vec![1], vec![columns as i64]));
            let axes = build.constant("slice_axis", Tensor::from_vec(vec![1], vec![1_i64]));
            let inputs = [last.as_str(), &starts, &ends, &axes];
            last = build.node("Slice", &inputs, &format!("{name}_cut"), |node| node);
        }
        self.unroll(build, &last);
        Ok(())
    }

    /// Zero points as real numbers; where there are many, cast from integers.
    fn zeros(&self, build: &mut Build, shape: &[usize]) -> Result<String, ModelError> {
        let name = format!("{}_zero", self.tensor);
        if self.zero_points.len() * 3 <= CAST_OVERHEAD {
            let zeros: Vec<f32> = self.zero_points.iter().map(|&zero| zero as f32).collect();
            return Ok(build.tensor(&name, Tensor::from_vec(shape.to_vec(), zeros)));
        }
        let zeros: Vec<i16> = self.zero_points.iter().map(|&zero| zero as i16).collect();
        let zeros = narrow(&zeros, self.is_symmetric(), self.bits, shape.to_vec())?;
        let zeros = build.tensor(&name, zeros);
        Ok(build.node("Cast", &[&zeros], &format!("{name}_real"), to(DType::FLOAT)))
    }

    /// Scales as float32; cast from float16 where they are stored in that.
    fn real_scales(&self, build: &mut Build, shape: Vec<usize>) -> String {
        let name = format!("{}_scale", self.tensor);
        if !self.half_scales {
            return build.tensor(&name, Tensor::from_vec(shape, self.scales.to_vec()));
        }
        let halves: Vec<f16> = self.scales.iter().copied().map(f16::from_f32).collect();
        let halves = build.tensor(&name, Tensor::from_vec(shape, halves));
        build.node("Cast", &[&halves], &format!("{name}_real"), to(DType::FLOAT))
    }

    /// Gives a matrix of rows and columns, or blocks of it, the weight's own shape.
    fn unroll(&self, build: &mut Build, matrix: &str) {
        if self.axis == 0 {
            let shape = shape_tensor(build, self.shape);
            build.node_into("Reshape", &[matrix, &shape], &[self.tensor], |node| node);
            return;
        }
        // The matrix has the axis of outputs first.
        let rank = self.shape.len();
        let mut turned = vec![self.rows()];
        turned.extend((0..rank).filter(|&axis| axis != self.axis).map(|axis| self.shape[axis]));
        let mut permutation: Vec<i64> = (1..rank as i64).collect();
        permutation.insert(self.axis, 0);
        let shape = shape_tensor(build, &turned);
        let whole = build.node(
            "Reshape",
            &[matrix, &shape],
            &format!("{}_turned", self.tensor),
            |node| node,
        );
        build.node_into("Transpose", &[&whole], &[self.tensor], |node| {
            node.with_ints("perm", &permutation)
        });
    }

    fn decode_for_kernel(&self, build: &mut Build, codes: Form) -> Result<(), ModelError> {
        let name = self.tensor;
        // Kernels know bytes alone, but for four-bit products, which have blocks.
        let nibbles = self.bits <= 4 && self.group().is_some() && matches!(codes, Form::Typed(_));
        let codes = match codes {
            Form::Typed(codes) if self.bits <= 4 && !nibbles => {
                let byte = to(byte(self.is_symmetric()));
                build.node("Cast", &[&codes], &format!("{name}_byte"), byte)
            }
            Form::Typed(codes) => codes,
            Form::Flat(codes) => {
                let shape = shape_tensor(build, self.shape);
                build.node("Reshape", &[&codes, &shape], &format!("{name}_byte"), |node| node)
            }
        };
        let (scales, zeros) = (self.scales, self.zero_points);
        let rows = self.rows();
        let per_row = scales.len() / rows.max(1);
        let (shape, order): (Vec<usize>, Vec<usize>) = match (self.sharing, self.axis) {
            (Sharing::Tensor, _) => (vec![], vec![0]),
            (Sharing::Channel, _) => (vec![rows], (0..rows).collect()),
            (Sharing::Group(_), 0) => (vec![rows, per_row], (0..scales.len()).collect()),
            (Sharing::Group(_), _) => {
                let turned = (0..scales.len()).map(|at| at % rows * per_row + at / rows);
                (vec![per_row, rows], turned.collect())
            }
        };
        let scale_values: Vec<f32> = order.iter().map(|&at| scales[at]).collect();
        let scale = build.tensor(&format!("{name}_scale"), Tensor::from_vec(shape.clone(), scale_values));
        let mut inputs = vec![codes, scale];
        let symmetric = self.is_symmetric();
        if !symmetric || self.spelled_zero {
            let zeros: Vec<i16> = order.iter().map(|&at| zeros[at] as i16).collect();
            let zeros = narrow(&zeros, symmetric, if nibbles { 4 } else { 8 }, shape)?;
            inputs.push(match symmetric {
                true => build.constant("no_zero", zeros),
                false => build.tensor(&format!("{name}_zero"), zeros),
            });
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let (sharing, axis, columns) = (self.sharing, self.axis as i64, self.columns());
        build.node_into("DequantizeLinear", &inputs, &[name], |node| match sharing {
            Sharing::Tensor => node,
            Sharing::Channel => node.with_int("axis", axis),
            Sharing::Group(size) => {
                let block = size.min(columns);
                node.with_int("axis", 1 - axis).with_int("block_size", block as i64)
            }
        });
        Ok(())
    }

    /// The shape in which scales go with the stored codes.
    fn parameter_shape(&self) -> Vec<usize> {
        match self.sharing {
            Sharing::Tensor => vec![],
            Sharing::Group(_) => {
                let groups = self.scales.len() / self.rows().max(1);
                vec![self.rows(), groups, 1]
            }
            Sharing::Channel => {
                let mut shape = vec![1; self.shape.len() - self.axis];
                shape[0] = self.rows();
                shape
            }
        }
    }
}

/// Takes the float32 weight away: a node will make a value of its name.
fn replace(build: &mut Build, tensor: &str) {
    build.edit(Edit::RemoveTensor {
        name: tensor.to_owned(),
    });
}

/// One chain of nodes that unpacks the codes of all `weights`; their names, flat.
fn unpack(
    build: &mut Build,
    weights: &[&IntegerWeight<'_>],
    bits: u8,
    decode: Decode,
    pack: Pack<'_>,
) -> Result<Vec<String>, ModelError> {
    let per_word = usize::from(64 / bits);
    let mut codes: Vec<u8> = Vec::new();
    let mut sizes: Vec<i64> = Vec::new();
    // All weights of a rule have one kind of grid.
    let low = weights.first().map_or(0, |weight| weight.low);
    for weight in weights {
        let own = weight.stored_codes();
        sizes.push(own.len() as i64);
        codes.extend(own.iter().map(|code| (code - low) as u8));
    }
    let words = pack(&codes, bits)?;
    let rest = words.len() * per_word - codes.len();
    if rest > 0 {
        sizes.push(rest as i64);
    }
    let shifts: Vec<u64> = (0..per_word as u64).map(|at| at * u64::from(bits)).collect();
    let name = |part: &str| format!("packed_{bits}_{part}");
    let words = build.tensor(&name("words"), Tensor::from_vec(vec![words.len(), 1], words));
    let shifts = build.constant(&name("shifts"), Tensor::from_vec(vec![per_word], shifts));
    let mask = build.constant(&name("mask"), Tensor::scalar((1_u64 << bits) - 1));
    let right = |node: Node| node.with_string("direction", "RIGHT");
    let shifted = build.node("BitShift", &[&words, &shifts], &name("shifted"), right);
    let masked = build.node("BitwiseAnd", &[&shifted, &mask], &name("masked"), |node| node);
    let flat = shape_tensor(build, &[codes.len() + rest]);
    let flat = build.node("Reshape", &[&masked, &flat], &name("flat"), |node| node);
    let last = match decode {
        Decode::Constant => {
            let real = build.node("Cast", &[&flat], &name("real"), to(DType::FLOAT));
            subtract(build, &real, Tensor::scalar(f32::from(-low)), &name("level"), low)
        }
        Decode::Kernel => {
            let wide = build.node("Cast", &[&flat], &name("int32"), to(DType::INT32));
            let level = subtract(build, &wide, Tensor::scalar(i32::from(-low)), &name("level"), low);
            build.node("Cast", &[&level], &name("byte"), to(byte(low < 0)))
        }
    };
    if sizes.len() == 1 {
        return Ok(vec![last]);
    }
    let count = sizes.len();
    let sizes = build.tensor(&name("sizes"), Tensor::from_vec(vec![count], sizes));
    let parts: Vec<String> = (0..count).map(|_| build.name(&name("part"))).collect();
    let outputs: Vec<&str> = parts.iter().map(String::as_str).collect();
    build.node_into("Split", &[&last, &sizes], &outputs, |node| node.with_int("axis", 0));
    Ok(parts.into_iter().take(weights.len()).collect())
}

/// `codes` counted from zero instead of from the lowest.
fn subtract(build: &mut Build, codes: &str, offset: Tensor, wanted: &str, low: i16) -> String {
    if low == 0 {
        return codes.to_owned();
    }
    let offset = build.constant("packed_offset", offset);
    build.node("Sub", &[codes, &offset], wanted, |node| node)
}

/// Codes in the narrowest type of ONNX that holds them: int8 or int4, unsigned for an asymmetric grid.
///
/// # Errors
/// If there are not as many as the shape says.
pub fn narrow(codes: &[i16], symmetric: bool, bits: u8, shape: Vec<usize>) -> Result<Tensor, ModelError> {
    let (dtype, bytes): (DType, Vec<u8>) = if bits <= 4 {
        let nibble = |code: &i16| (*code as u8) & 0xf;
        let pairs = codes
            .chunks(2)
            .map(|pair| nibble(&pair[0]) | pair.get(1).map_or(0, nibble) << 4);
        (if symmetric { DType::INT4 } else { DType::UINT4 }, pairs.collect())
    } else {
        let bytes = codes.iter().map(|&code| code as u8);
        (byte(symmetric), bytes.collect())
    };
    Tensor::new(dtype, shape, Bytes::from(bytes))
}

/// The type of a byte with or without a sign.
fn byte(signed: bool) -> DType {
    if signed { DType::INT8 } else { DType::UINT8 }
}

fn shape_tensor(build: &mut Build, shape: &[usize]) -> String {
    let sizes: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    build.constant("shape", Tensor::from_vec(vec![sizes.len()], sizes))
}

fn to(dtype: DType) -> impl FnOnce(Node) -> Node {
    move |node| node.with_int("to", dtype.number().into())
}
