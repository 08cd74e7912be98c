//! Weights as integers in a graph of standard operators.
//!
//! A weight's initializer goes, and nodes make a value of the same name from what is stored instead: nobody who reads
//! it changes, subgraphs included. What these nodes are decides what a runtime makes of them. Ending in a Mul they are
//! constant, and are computed once, when the model is loaded: it then runs as fast as the original. Ending in a
//! DequantizeLinear they are kept, for kernels that work on integers.

use std::collections::BTreeMap;

use kmr_methods::{Granularity, Quantized, pack};
use kmr_sdk::{
    Error, Result,
    model::{DType, Edit, Node, Tensor},
};

use crate::{bits::Bits, build::Build, layers::Layer};

/// What the nodes end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decode {
    /// A Mul: computed once by a runtime.
    Constant,
    /// A DequantizeLinear, for kernels that work on integers.
    Kernel,
}

/// A weight's codes, ready to be stored.
pub struct Stored<'q> {
    pub layer: &'q Layer,
    pub quantized: &'q Quantized,
    pub decode: Decode,
    /// Whether the kernel wants a zero point that is 0, too.
    pub spelled_zero: bool,
}

/// The bytes of `count` codes of `bits`, and whether they are packed into words.
///
/// ONNX has integers of 8 and 4 bits. Codes of other sizes lie in 64-bit words where that is shorter than in the next
/// larger type; unpacking takes nodes, shared by all weights of that size.
pub fn stored_bytes(count: usize, bits: u8) -> (usize, bool) {
    let plain = if bits <= 4 { count.div_ceil(2) } else { count };
    let packed = 8 * pack::words(count, bits);
    if matches!(bits, 4 | 8) || packed + PACKED_OVERHEAD >= plain {
        (plain, false)
    } else {
        (packed, true)
    }
}

/// About what a weight in a chain of packed ones costs beside its words.
const PACKED_OVERHEAD: usize = 48;

/// Stores float32 `values` in 16 bits.
///
/// # Errors
/// If a value is beyond what the type can hold.
pub fn store_half(build: &mut Build, layer: &Layer, values: &[f32], bits: Bits) -> Result<()> {
    let bytes: Vec<u8>;
    let dtype = if bits == Bits::BFloat16 {
        bytes = values
            .iter()
            .flat_map(|&value| kmr_sdk::half::bf16::from_f32(value).to_le_bytes())
            .collect();
        DType::BFLOAT16
    } else {
        let halves = values.iter().map(|&value| kmr_sdk::half::f16::from_f32(value));
        let halves: Vec<_> = halves.collect();
        if halves.iter().any(|half| half.is_infinite()) {
            let message = "holds values beyond 65504, the largest of float16; use \"bf16\" instead of 16";
            return Err(Error::unsupported(message).at(format!("tensor `{}`", layer.tensor)));
        }
        bytes = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
        DType::FLOAT16
    };
    let tensor = Tensor::new(dtype, layer.shape.clone(), bytes.into())?;
    replace(build, layer);
    let stored = build.tensor(&format!("{}_stored", layer.tensor), tensor);
    build.node_into("Cast", &[&stored], &[&layer.tensor], to(DType::FLOAT));
    Ok(())
}

/// Stores integer weights.
///
/// # Errors
/// If a tensor cannot be made.
pub fn store_integers(build: &mut Build, weights: &[Stored<'_>], first_node: Option<&str>) -> Result<()> {
    let (packed, plain): (Vec<_>, Vec<_>) = weights.iter().partition(|weight| weight.is_packed());
    let mut chains: BTreeMap<(Decode, u8), Vec<&Stored<'_>>> = BTreeMap::new();
    for weight in packed {
        chains.entry((weight.decode, weight.bits())).or_default().push(weight);
    }
    for ((decode, bits), weights) in chains {
        build.place(first_node);
        let unpacked = unpack(build, &weights, bits, decode)?;
        for (weight, codes) in weights.iter().zip(unpacked) {
            weight.place(build);
            weight.decode(build, Codes::Flat(codes))?;
        }
    }
    for weight in plain {
        weight.place(build);
        let tensor = narrow(
            &weight.codes(),
            weight.quantized.grid.is_symmetric(),
            weight.bits(),
            weight.shape(),
        )?;
        let stored = build.tensor(&format!("{}_codes", weight.layer.tensor), tensor);
        weight.decode(build, Codes::Typed(stored))?;
    }
    Ok(())
}

/// The codes of a weight while they are decoded.
enum Codes {
    /// Integers in the weight's shape.
    Typed(String),
    /// Flat, counted from a symmetric grid's zero: float32 for a constant, a byte for a kernel.
    Flat(String),
}

impl Stored<'_> {
    fn bits(&self) -> u8 {
        self.quantized.grid.bits()
    }

    /// The size of a group, where there are groups.
    fn group(&self) -> Option<usize> {
        match self.quantized.granularity {
            Granularity::Group(size) => Some(size.min(self.quantized.columns.max(1))),
            _ => None,
        }
    }

    /// Whether groups are filled up to equal size and lie as a stack of blocks.
    fn blocked(&self) -> Option<usize> {
        self.group().filter(|_| self.decode == Decode::Constant)
    }

    /// The shape that the codes are stored in.
    fn shape(&self) -> Vec<usize> {
        match self.blocked() {
            Some(size) => vec![self.quantized.rows, self.quantized.columns.div_ceil(size), size],
            None => self.layer.shape.clone(),
        }
    }

    /// Whether the codes lie in words.
    fn is_packed(&self) -> bool {
        stored_bytes(self.shape().iter().product(), self.bits()).1
    }

    /// The codes in the order of [`shape`](Self::shape).
    fn codes(&self) -> Vec<i16> {
        let Quantized { columns, codes, .. } = self.quantized;
        match self.blocked() {
            Some(size) => {
                let width = columns.div_ceil(size) * size;
                let padded = codes.chunks(*columns).flat_map(|row| {
                    let padding = std::iter::repeat_n(0, width - columns);
                    row.iter().copied().chain(padding)
                });
                padded.collect()
            }
            None => self.layer.in_tensor_order(codes).into_owned(),
        }
    }

    fn place(&self, build: &mut Build) {
        build.place(self.layer.nodes.first().map(String::as_str));
    }

    /// Adds what makes the weight from its codes.
    fn decode(&self, build: &mut Build, codes: Codes) -> Result<()> {
        replace(build, self.layer);
        match self.decode {
            Decode::Constant => self.decode_constant(build, codes),
            Decode::Kernel => self.decode_for_kernel(build, codes),
        }
    }

    fn decode_constant(&self, build: &mut Build, codes: Codes) -> Result<()> {
        let layer = self.layer;
        let name = &layer.tensor;
        let real = match codes {
            Codes::Typed(codes) => build.node("Cast", &[&codes], &format!("{name}_real"), to(DType::FLOAT)),
            Codes::Flat(codes) => {
                let shape = shape_tensor(build, &self.shape());
                build.node("Reshape", &[&codes, &shape], &format!("{name}_real"), |node| node)
            }
        };
        let shape = self.parameter_shape();
        let zeros = &self.quantized.zero_points;
        let real = if zeros.iter().all(|&zero| zero == 0) && self.quantized.grid.is_symmetric() {
            real
        } else {
            let zeros = Tensor::from_vec(
                shape.clone(),
                zeros.iter().map(|&zero| zero as f32).collect::<Vec<f32>>(),
            );
            let zeros = build.tensor(&format!("{name}_zero"), zeros);
            build.node("Sub", &[&real, &zeros], &format!("{name}_level"), |node| node)
        };
        let scales = Tensor::from_vec(shape, self.quantized.scales.clone());
        let scales = build.tensor(&format!("{name}_scale"), scales);
        let Some(size) = self.blocked() else {
            build.node_into("Mul", &[&real, &scales], &[name], |node| node);
            return Ok(());
        };
        let (rows, columns) = (self.quantized.rows, self.quantized.columns);
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
        self.unroll(build, &last)
    }

    /// Gives a matrix of rows and columns, or blocks of it, the weight's own shape.
    fn unroll(&self, build: &mut Build, matrix: &str) -> Result<()> {
        let layer = self.layer;
        if layer.axis == 0 {
            let shape = shape_tensor(build, &layer.shape);
            build.node_into("Reshape", &[matrix, &shape], &[&layer.tensor], |node| node);
            return Ok(());
        }
        // The matrix has the axis of outputs first.
        let rank = layer.shape.len();
        let mut turned = vec![layer.rows()];
        turned.extend(
            (0..rank)
                .filter(|&axis| axis != layer.axis)
                .map(|axis| layer.shape[axis]),
        );
        let mut permutation: Vec<i64> = (1..rank as i64).collect();
        permutation.insert(layer.axis, 0);
        let shape = shape_tensor(build, &turned);
        let whole = build.node(
            "Reshape",
            &[matrix, &shape],
            &format!("{}_turned", layer.tensor),
            |node| node,
        );
        build.node_into("Transpose", &[&whole], &[&layer.tensor], |node| {
            node.with_ints("perm", &permutation)
        });
        Ok(())
    }

    fn decode_for_kernel(&self, build: &mut Build, codes: Codes) -> Result<()> {
        let layer = self.layer;
        let name = &layer.tensor;
        // Kernels know bytes alone, but for four-bit products, which have blocks.
        let nibbles = self.bits() <= 4 && self.group().is_some() && matches!(codes, Codes::Typed(_));
        let codes = match codes {
            Codes::Typed(codes) if self.bits() <= 4 && !nibbles => {
                let byte = to(byte(self.quantized.grid.is_symmetric()));
                build.node("Cast", &[&codes], &format!("{name}_byte"), byte)
            }
            Codes::Typed(codes) => codes,
            Codes::Flat(codes) => {
                let shape = shape_tensor(build, &layer.shape);
                build.node("Reshape", &[&codes, &shape], &format!("{name}_byte"), |node| node)
            }
        };
        let (scales, zeros) = (&self.quantized.scales, &self.quantized.zero_points);
        let per_row = scales.len() / self.quantized.rows.max(1);
        let (shape, order): (Vec<usize>, Vec<usize>) = match (self.quantized.granularity, layer.axis) {
            (Granularity::Tensor, _) => (vec![], vec![0]),
            (Granularity::Channel, _) => (vec![layer.rows()], (0..layer.rows()).collect()),
            (Granularity::Group(_), 0) => (vec![layer.rows(), per_row], (0..scales.len()).collect()),
            (Granularity::Group(_), _) => {
                let turned = (0..scales.len()).map(|at| at % layer.rows() * per_row + at / layer.rows());
                (vec![per_row, layer.rows()], turned.collect())
            }
        };
        let scale_values: Vec<f32> = order.iter().map(|&at| scales[at]).collect();
        let scale = build.tensor(&format!("{name}_scale"), Tensor::from_vec(shape.clone(), scale_values));
        let mut inputs = vec![codes, scale];
        let symmetric = self.quantized.grid.is_symmetric();
        if !symmetric || self.spelled_zero {
            let zeros: Vec<i16> = order.iter().map(|&at| zeros[at] as i16).collect();
            let zeros = narrow(&zeros, symmetric, if nibbles { 4 } else { 8 }, shape)?;
            inputs.push(match symmetric {
                true => build.constant("no_zero", zeros),
                false => build.tensor(&format!("{name}_zero"), zeros),
            });
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let (granularity, axis) = (self.quantized.granularity, layer.axis as i64);
        build.node_into("DequantizeLinear", &inputs, &[name], |node| match granularity {
            Granularity::Tensor => node,
            Granularity::Channel => node.with_int("axis", axis),
            Granularity::Group(size) => {
                let block = size.min(layer.columns());
                node.with_int("axis", 1 - axis).with_int("block_size", block as i64)
            }
        });
        Ok(())
    }

    /// The shape in which scales go with the stored codes.
    fn parameter_shape(&self) -> Vec<usize> {
        match self.quantized.granularity {
            Granularity::Tensor => vec![],
            Granularity::Group(_) => {
                let groups = self.quantized.scales.len() / self.quantized.rows.max(1);
                vec![self.quantized.rows, groups, 1]
            }
            Granularity::Channel => {
                let mut shape = vec![1; self.layer.shape.len() - self.layer.axis];
                shape[0] = self.layer.rows();
                shape
            }
        }
    }
}

/// Takes the float32 weight away: a node will make a value of its name.
fn replace(build: &mut Build, layer: &Layer) {
    build.edit(Edit::RemoveTensor {
        name: layer.tensor.clone(),
    });
}

/// One chain of nodes that unpacks the codes of all `weights`; their names, flat.
fn unpack(build: &mut Build, weights: &[&Stored<'_>], bits: u8, decode: Decode) -> Result<Vec<String>> {
    let per_word = usize::from(64 / bits);
    let mut codes: Vec<u8> = Vec::new();
    let mut sizes: Vec<i64> = Vec::new();
    // All weights of a rule have one kind of grid.
    let low = weights.first().map_or(0, |weight| weight.quantized.grid.low());
    for weight in weights {
        let own = weight.codes();
        sizes.push(own.len() as i64);
        codes.extend(own.iter().map(|code| (code - low) as u8));
    }
    let words = pack::pack(&codes, bits).map_err(|error| Error::unsupported(error.to_string()))?;
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
fn narrow(codes: &[i16], symmetric: bool, bits: u8, shape: Vec<usize>) -> Result<Tensor> {
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
    Ok(Tensor::new(dtype, shape, bytes.into())?)
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

#[cfg(test)]
mod tests {
    use kmr_compute::{Engine, Interpreter, Mode};
    use kmr_methods::{Clipping, Grid, Matrix, Scheme, quantize};
    use kmr_sdk::model::{Graph, Model, ValueInfo};
    use proptest::prelude::*;

    use super::*;
    use crate::layers::Use;

    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn layer(name: &str, shape: &[usize], axis: usize) -> Layer {
        Layer {
            tensor: name.into(),
            label: name.into(),
            nodes: vec![format!("{name}_read")],
            shape: shape.to_vec(),
            axis,
            reads: Use::Unobserved,
        }
    }

    /// A model that puts out its weights.
    fn model(layers: &[(Layer, Vec<f32>)]) -> Model {
        let mut graph = Graph::new("weights");
        for (layer, values) in layers {
            let output = format!("{}_read", layer.tensor);
            graph.initializers.insert(
                layer.tensor.clone(),
                Tensor::from_vec(layer.shape.clone(), values.clone()).into(),
            );
            graph
                .nodes
                .push(Node::new("Identity", &output, &[&layer.tensor], &[&output]).into());
            graph.outputs.push(ValueInfo::untyped(&output));
        }
        Model::new(graph, 10, 21)
    }

    fn decoded(model: &Model) -> Vec<Tensor> {
        let program = Interpreter.load(model).unwrap();
        program.forward(&BTreeMap::new(), &[], Mode::default()).unwrap()
    }

    fn scheme(bits: u8, symmetric: bool, granularity: Granularity) -> Scheme {
        Scheme {
            grid: if symmetric {
                Grid::symmetric(bits)
            } else {
                Grid::asymmetric(bits)
            }
            .unwrap(),
            granularity,
            clipping: Clipping::MinMax,
        }
    }

    /// Stores `layers` by `scheme` and checks that the graph makes what the codes are worth, to the last bit.
    fn check(layers: Vec<(Layer, Vec<f32>)>, scheme: Scheme, decode: Decode) -> usize {
        let original = model(&layers);
        let quantized: Vec<Quantized> = layers
            .iter()
            .map(|(layer, values)| {
                let matrix = layer.in_matrix_order(values);
                quantize(
                    Matrix::new(layer.rows(), layer.columns(), &matrix).unwrap(),
                    &scheme,
                    None,
                )
                .unwrap()
            })
            .collect();
        let stored: Vec<Stored<'_>> = layers
            .iter()
            .zip(&quantized)
            .map(|((layer, _), quantized)| Stored {
                layer,
                quantized,
                decode,
                spelled_zero: false,
            })
            .collect();
        let mut build = Build::on(&original.graph);
        let first = original.graph.nodes[0].id().to_owned();
        store_integers(&mut build, &stored, Some(&first)).unwrap();
        let graph = build.finish().apply(&original.graph).unwrap();
        let model = original.with_graph(graph);
        for (((layer, _), quantized), tensor) in layers.iter().zip(&quantized).zip(decoded(&model)) {
            assert_eq!(tensor.shape(), layer.shape);
            let expected = quantized.dequantize();
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&tensor.values::<f32>().unwrap()),
                bits(&layer.in_tensor_order(&expected)),
                "{}",
                layer.tensor
            );
        }
        model.encoded_len() as usize
    }

    fn some(shapes: &[(&[usize], usize)]) -> Vec<(Layer, Vec<f32>)> {
        let layers = shapes.iter().enumerate().map(|(at, (shape, axis))| {
            let layer = layer(&format!("w{at}"), shape, *axis);
            let values = noise(layer.len(), at as u64 + 5);
            (layer, values)
        });
        layers.collect()
    }

    #[test]
    fn every_size_of_code_decodes_to_the_last_bit() {
        for bits in 2..=8 {
            for symmetric in [true, false] {
                for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group(16)] {
                    for decode in [Decode::Constant, Decode::Kernel] {
                        let shapes: &[(&[usize], usize)] = match (granularity, decode) {
                            // Blocks for kernels are those of matrices.
                            (Granularity::Group(_), Decode::Kernel) => &[(&[40, 33], 1), (&[24, 50], 0)],
                            _ => &[(&[16, 9, 3, 3], 0), (&[31, 40], 1), (&[6, 20, 3], 1), (&[2, 8, 24], 2)],
                        };
                        check(some(shapes), scheme(bits, symmetric, granularity), decode);
                    }
                }
            }
        }
    }

    #[test]
    fn fewer_bits_take_fewer_bytes() {
        let bytes = |bits| {
            check(
                some(&[(&[64, 64, 3, 3], 0), (&[32, 64, 3, 3], 0)]),
                scheme(bits, true, Granularity::Channel),
                Decode::Constant,
            )
        };
        let count = 64 * 64 * 9 + 32 * 64 * 9;
        for (bits, most) in [
            (8, count),
            (6, count * 8 / 10),
            (4, count / 2),
            (3, count * 8 / 21),
            (2, count / 4),
        ] {
            let bytes = bytes(bits);
            assert!(
                (most..most + 1800).contains(&bytes),
                "{bits} bits: {bytes} bytes, {most} for the codes"
            );
        }
    }

    #[test]
    fn odd_weights_decode_too() {
        for decode in [Decode::Constant, Decode::Kernel] {
            for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group(5)] {
                let single = (layer("one", &[1, 1], 0), vec![0.7]);
                let zero = (layer("zero", &[3, 7], 1), vec![0.0; 21]);
                let constant = (layer("same", &[4, 6], 0), vec![-0.25; 24]);
                let tiny = (
                    layer("tiny", &[2, 3], 0),
                    vec![1e-42, 0.0, -1e-45, 1.0, f32::MAX, -f32::MAX],
                );
                for bits in [2, 3, 4, 8] {
                    check(
                        vec![single.clone(), zero.clone(), constant.clone(), tiny.clone()],
                        scheme(bits, true, granularity),
                        decode,
                    );
                }
            }
        }
    }

    #[test]
    fn half_precision_rounds_to_nearest_and_refuses_what_is_beyond() {
        let layer = layer("w", &[2, 2], 0);
        let values = vec![1.0, -0.333_333_34, 65_504.0, 1e-7];
        let original = model(&[(layer.clone(), values.clone())]);
        for bits in [Bits::Float16, Bits::BFloat16] {
            let mut build = Build::on(&original.graph);
            build.place(Some("w_read"));
            store_half(&mut build, &layer, &values, bits).unwrap();
            let model = original.with_graph(build.finish().apply(&original.graph).unwrap());
            let expected: Vec<f32> = values
                .iter()
                .map(|&value| match bits {
                    Bits::BFloat16 => kmr_sdk::half::bf16::from_f32(value).to_f32(),
                    _ => kmr_sdk::half::f16::from_f32(value).to_f32(),
                })
                .collect();
            assert_eq!(*decoded(&model)[0].values::<f32>().unwrap(), expected);
        }
        let mut build = Build::on(&original.graph);
        let error = store_half(&mut build, &layer, &[7e4, 0.0, 0.0, 0.0], Bits::Float16).unwrap_err();
        assert!(error.to_string().contains("use \"bf16\""), "{error}");
    }

    proptest! {
        #[test]
        fn any_group_decodes(
            rows in 1_usize..6, columns in 1_usize..40, group in 1_usize..50, bits in 2_u8..=8, symmetric: bool, turned: bool,
        ) {
            let shape = if turned { [columns, rows] } else { [rows, columns] };
            let layer = layer("w", &shape, usize::from(turned));
            let values = noise(rows * columns, group as u64);
            for decode in [Decode::Constant, Decode::Kernel] {
                check(vec![(layer.clone(), values.clone())], scheme(bits, symmetric, Granularity::Group(group)), decode);
            }
        }
    }
}
