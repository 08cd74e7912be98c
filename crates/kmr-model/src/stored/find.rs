//! Finding stored weights in a graph.

use super::Decode;
use crate::{DType, Graph, GraphIndex, Node, Tensor};

/// The stored weights of a graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoredWeights {
    /// Those of integers, in the order in which they are decoded.
    pub integers: Vec<Integers>,
    /// Those of 16 bits.
    pub halves: Vec<Half>,
}

/// A weight of float16 or bfloat16 numbers that a Cast makes float32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// The value that the network reads.
    pub value: String,
    /// The initializer.
    pub tensor: String,
}

/// A weight of integers of up to 8 bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Integers {
    /// The value that the network reads: the weight's name before it was stored.
    pub value: String,
    /// Where the codes are.
    pub codes: Codes,
    /// The shape that they lie in; that of the weight, or a stack of blocks.
    pub shape: Vec<usize>,
    /// The initializer of scales, float32 or float16.
    pub scale: String,
    /// The initializer of zero points, where there is one.
    pub zero: Option<String>,
    /// Which of them goes with which code.
    pub spread: Spread,
    /// What the codes are decoded by.
    pub decode: Decode,
    /// Of a constant, the id of the node whose first input holds the codes as real numbers; else of the
    /// DequantizeLinear.
    pub node: String,
}

/// Where codes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Codes {
    /// An initializer of integers.
    Typed {
        /// Its name.
        tensor: String,
    },
    /// A part of an initializer of 64-bit words, as [`stored`](super) says.
    Packed {
        /// Its name.
        words: String,
        /// Bits of a code.
        bits: u8,
        /// The position of the first code of this weight.
        first: usize,
        /// The lowest code, stored as 0.
        low: i16,
    },
}

/// How scales and zero points go with codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Broadcast.
    Broadcast,
    /// One for each position on an axis.
    Axis(usize),
    /// One for so many neighbors on an axis.
    Blocks {
        /// The axis.
        axis: usize,
        /// How many.
        size: usize,
    },
}

impl Integers {
    /// Number of codes.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scale of each code.
    pub fn scales(&self, graph: &Graph) -> Option<Vec<f32>> {
        let tensor = graph.tensor(&self.scale)?;
        self.spread(&tensor.to_f32().ok()?, tensor.shape())
    }

    /// The zero point of each code.
    pub fn zero_points(&self, graph: &Graph) -> Option<Vec<f32>> {
        let Some(zero) = &self.zero else {
            return Some(vec![0.0; self.len()]);
        };
        let tensor = graph.tensor(zero)?;
        let values: Vec<f32> = match tensor.dtype() {
            DType::FLOAT => tensor.values::<f32>().ok()?.into_owned(),
            _ => codes(tensor)?.into_iter().map(f32::from).collect(),
        };
        self.spread(&values, tensor.shape())
    }

    /// One of `values`, which have `shape`, for each code.
    fn spread(&self, values: &[f32], shape: &[usize]) -> Option<Vec<f32>> {
        let own = &self.shape;
        let place = |at: usize| -> Option<usize> {
            match self.spread {
                Spread::Axis(axis) => Some(at / own[axis + 1..].iter().product::<usize>() % own[axis]),
                Spread::Broadcast | Spread::Blocks { .. } => {
                    let (mut rest, mut place, mut stride) = (at, 0, 1);
                    for axis in (0..own.len()).rev() {
                        let position = rest % own[axis];
                        rest /= own[axis];
                        let Some(aligned) = (axis + shape.len()).checked_sub(own.len()) else {
                            continue;
                        };
                        let position = match self.spread {
                            Spread::Blocks { axis: blocked, size } if blocked == axis => position / size,
                            _ if shape[aligned] == 1 => 0,
                            _ => position,
                        };
                        place += position * stride;
                        stride *= shape[aligned];
                    }
                    Some(place)
                }
            }
        };
        (0..self.len()).map(|at| values.get(place(at)?).copied()).collect()
    }

    /// The codes of an initializer of integers, in their order; none if they lie in words.
    pub fn typed_codes(&self, graph: &Graph) -> Option<Vec<i16>> {
        match &self.codes {
            Codes::Typed { tensor } => codes(graph.tensor(tensor)?),
            Codes::Packed { .. } => None,
        }
    }
}

/// Integers of 4 or 8 bits.
fn codes(tensor: &Tensor) -> Option<Vec<i16>> {
    let nibble = |at: usize| i16::from(tensor.bytes()[at / 2] >> (at % 2 * 4) & 0xf);
    Some(match tensor.dtype() {
        DType::INT8 => tensor.bytes().iter().map(|&byte| i16::from(byte as i8)).collect(),
        DType::UINT8 => tensor.bytes().iter().map(|&byte| i16::from(byte)).collect(),
        DType::UINT4 => (0..tensor.len()).map(nibble).collect(),
        DType::INT4 => (0..tensor.len())
            .map(nibble)
            .map(|code| if code > 7 { code - 16 } else { code })
            .collect(),
        _ => return None,
    })
}

/// The weights of `graph` that are stored as [`stored`](super) says, or as a DequantizeLinear of an initializer has
/// them. Whatever differs from it is not found.
pub fn stored_weights(graph: &Graph) -> StoredWeights {
    let finder = Finder {
        graph,
        index: graph.index(),
    };
    let mut found = StoredWeights::default();
    for node in &graph.nodes {
        match node.op_type() {
            "Mul" if node.domain().is_empty() => found.integers.extend(finder.constant(node)),
            "DequantizeLinear" if node.domain().is_empty() => found.integers.extend(finder.kernel(node)),
            "Cast" if node.domain().is_empty() => found.halves.extend(finder.half(node)),
            _ => {}
        }
    }
    found
}

/// The initializer that `value` is, or the one of 16 bits that a Cast makes it of as float32; with its name.
pub fn initializer_of<'g>(graph: &'g Graph, index: &GraphIndex<'_>, value: &str) -> Option<(&'g str, &'g Tensor)> {
    let held = |name: &str| {
        let (name, initializer) = graph.initializers.get_key_value(name)?;
        Some((name.as_str(), &*initializer.tensor))
    };
    held(value).or_else(|| {
        let node = &graph.nodes[index.producer(value)?];
        held(node.input(0)?).filter(|(_, tensor)| is_half(tensor) && casts_to(node, DType::FLOAT))
    })
}

/// The same, if nothing else reads the initializer or `value`.
pub fn own_initializer_of<'g>(graph: &'g Graph, index: &GraphIndex<'_>, value: &str) -> Option<(&'g str, &'g Tensor)> {
    let alone = |name: &str| index.sole_consumer(name).is_some();
    initializer_of(graph, index, value).filter(|(name, _)| alone(name) && alone(value))
}

/// Whether initializer `name` has 16 bits and is only ever cast to float32: what it is stored as is nobody's business then.
pub fn is_only_cast(graph: &Graph, index: &GraphIndex<'_>, name: &str) -> bool {
    let cast = |&(reader, _): &(usize, usize)| casts_to(&graph.nodes[reader], DType::FLOAT);
    graph.tensor(name).is_some_and(|tensor| is_half(tensor))
        && index.is_inner(name)
        && index.consumers(name).iter().all(cast)
}

struct Finder<'g> {
    graph: &'g Graph,
    index: GraphIndex<'g>,
}

impl<'g> Finder<'g> {
    fn maker(&self, value: &str) -> Option<&'g Node> {
        self.index.producer(value).map(|at| &*self.graph.nodes[at])
    }

    /// The node that makes `value`, if it is this operator.
    fn made_by(&self, value: &str, op_type: &str) -> Option<&'g Node> {
        self.maker(value).filter(|node| node.is(op_type))
    }

    fn tensor(&self, node: &Node, slot: usize) -> Option<&'g Tensor> {
        self.graph.tensor(node.input(slot)?).map(|tensor| &**tensor)
    }

    fn half(&self, node: &Node) -> Option<Half> {
        let tensor = self.tensor(node, 0)?;
        (is_half(tensor) && casts_to(node, DType::FLOAT)).then(|| Half {
            value: node.id().to_owned(),
            tensor: node.inputs()[0].clone(),
        })
    }

    /// The initializer that is the second operand of `node`, itself or cast to float32.
    fn parameter(&self, node: &'g Node, cast_from: fn(DType) -> bool) -> Option<&'g str> {
        let name = node.input(1)?;
        if let Some(tensor) = self.graph.tensor(name) {
            return (tensor.dtype() == DType::FLOAT).then_some(name);
        }
        let cast = self.maker(name).filter(|cast| casts_to(cast, DType::FLOAT))?;
        let stored = cast.input(0)?;
        cast_from(self.graph.tensor(stored)?.dtype()).then_some(stored)
    }

    /// A weight that ends in this Mul.
    fn constant(&self, mul: &'g Node) -> Option<Integers> {
        let scale = self.parameter(mul, |dtype| dtype == DType::FLOAT16)?;
        let mut node = mul;
        let mut real = mul.input(0)?;
        let mut zero = None;
        if let Some(sub) = self.made_by(real, "Sub") {
            zero = Some(self.parameter(sub, is_code)?.to_owned());
            node = sub;
            real = sub.input(0)?;
        }
        let maker = self.maker(real)?;
        let (codes, shape) = if casts_to(maker, DType::FLOAT) {
            self.typed(maker.input(0)?)?
        } else {
            self.packed(maker)?
        };
        let known = [Some(scale), zero.as_deref()].into_iter().flatten();
        let broadcast = known
            .filter_map(|name| self.graph.tensor(name))
            .all(|tensor| reaches(tensor.shape(), &shape));
        if !broadcast {
            return None;
        }
        Some(Integers {
            value: self.read_as(mul.id()),
            codes,
            shape,
            scale: scale.to_owned(),
            zero,
            spread: Spread::Broadcast,
            decode: Decode::Constant,
            node: node.id().to_owned(),
        })
    }

    /// A weight that this DequantizeLinear makes.
    fn kernel(&self, node: &'g Node) -> Option<Integers> {
        let scale = self.tensor(node, 1).filter(|scale| scale.dtype() == DType::FLOAT)?;
        let input = node.input(0)?;
        let (codes, shape) = match (self.typed(input), self.maker(input)) {
            (Some(typed), _) => typed,
            (None, Some(cast)) if cast.is("Cast") => self.typed(cast.input(0)?)?,
            (None, Some(reshape)) => self.packed(reshape)?,
            (None, None) => return None,
        };
        let rank = shape.len() as i64;
        let axis = node.int("axis").unwrap_or(1);
        let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok();
        let size = usize::try_from(node.int("block_size").unwrap_or(0)).ok()?;
        let spread = match (scale.len(), size) {
            (1, 0) if scale.shape().len() <= 1 => Spread::Broadcast,
            (_, 0) => Spread::Axis(axis.filter(|&axis| axis < shape.len())?),
            _ => Spread::Blocks {
                axis: axis.filter(|&axis| axis < shape.len())?,
                size,
            },
        };
        Some(Integers {
            value: self.read_as(node.id()),
            codes,
            shape,
            scale: node.inputs()[1].clone(),
            zero: node.input(2).map(str::to_owned),
            spread,
            decode: Decode::Kernel,
            node: node.id().to_owned(),
        })
    }

    fn typed(&self, name: &str) -> Option<(Codes, Vec<usize>)> {
        let tensor = self.graph.tensor(name)?;
        is_code(tensor.dtype()).then(|| {
            (
                Codes::Typed {
                    tensor: name.to_owned(),
                },
                tensor.shape().to_vec(),
            )
        })
    }

    /// The part of packed words that `reshape` gives its shape.
    fn packed(&self, reshape: &Node) -> Option<(Codes, Vec<usize>)> {
        let shape = self
            .tensor(reshape, 1)
            .filter(|_| reshape.is("Reshape"))?
            .to_i64()
            .ok()?;
        let shape: Option<Vec<usize>> = shape.into_iter().map(|size| usize::try_from(size).ok()).collect();
        let mut value = reshape.input(0)?;
        let mut first = 0;
        if let Some(split) = self.made_by(value, "Split") {
            let sizes = self.tensor(split, 1)?.to_i64().ok()?;
            let part = split.outputs().iter().position(|output| output == value)?;
            let before = sizes
                .iter()
                .take(part)
                .try_fold(0_i64, |sum, &size| sum.checked_add(size))?;
            first = usize::try_from(before).ok()?;
            value = split.input(0)?;
        }
        let mut low = 0;
        let masked = loop {
            let node = self.maker(value)?;
            value = node.input(0)?;
            match node.op_type() {
                "Cast" | "Reshape" => {}
                "Sub" => {
                    let offset = self.tensor(node, 1)?;
                    let offset = match offset.dtype() {
                        DType::FLOAT => *offset.values::<f32>().ok()?.first()?,
                        _ => *offset.to_i64().ok()?.first()? as f32,
                    };
                    low = -offset as i16;
                }
                "BitwiseAnd" => break node,
                _ => return None,
            }
        };
        let mask = *self.tensor(masked, 1)?.values::<u64>().ok()?.first()?;
        let shift = self.made_by(masked.input(0)?, "BitShift")?;
        let held = self
            .tensor(shift, 0)
            .filter(|words| words.dtype() == DType::UINT64)?
            .len();
        let bits = mask.trailing_ones() as u8;
        if !(1..=8).contains(&bits) || mask != (1 << bits) - 1 || !(-256..=0).contains(&low) {
            return None;
        }
        let shape = shape?;
        let count = shape.iter().try_fold(1_usize, |count, &size| count.checked_mul(size))?;
        // Shapes are only words; what is said to be there has to be there.
        if count.checked_add(first)? > held.saturating_mul(usize::from(64 / bits)) {
            return None;
        }
        let words = shift.inputs()[0].clone();
        Some((
            Codes::Packed {
                words,
                bits,
                first,
                low,
            },
            shape,
        ))
    }

    /// The value that the network reads `value` as, once its blocks are put together.
    fn read_as(&self, value: &str) -> String {
        let mut value = value.to_owned();
        while let Some((reader, 0)) = self.index.sole_consumer(&value) {
            let node = &self.graph.nodes[reader];
            let moves = matches!(node.op_type(), "Reshape" | "Slice" | "Transpose") && node.domain().is_empty();
            if !moves
                || node
                    .inputs()
                    .iter()
                    .skip(1)
                    .any(|input| self.graph.tensor(input).is_none())
            {
                break;
            }
            value = node.id().to_owned();
        }
        value
    }
}

/// Whether a tensor of the shape `from` is broadcast to `shape` and no further.
fn reaches(from: &[usize], shape: &[usize]) -> bool {
    let mut ends = from.iter().rev().zip(shape.iter().rev());
    from.len() <= shape.len() && ends.all(|(&own, &size)| own == 1 || own == size)
}

/// Whether codes and zero points are stored in this type.
fn is_code(dtype: DType) -> bool {
    matches!(dtype, DType::INT8 | DType::UINT8 | DType::INT4 | DType::UINT4)
}

fn is_half(tensor: &Tensor) -> bool {
    matches!(tensor.dtype(), DType::FLOAT16 | DType::BFLOAT16)
}

fn casts_to(node: &Node, dtype: DType) -> bool {
    node.is("Cast") && node.int("to") == Some(dtype.number().into())
}
