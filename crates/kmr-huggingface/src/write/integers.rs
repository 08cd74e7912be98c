//! Weights that a graph makes from integers, as matrices of codes.

use std::collections::HashMap;

use kmr_model::stored::{Codes, Integers, stored_weights};
use kmr_model::{DType, Graph, GraphIndex, Node, Tensor};

/// A matrix of codes: an element is worth (code − zero point) · scale, where neighbors in a row share both.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct IntegerMatrix {
    /// Rows: output channels.
    pub rows: usize,
    /// Columns: what a row is multiplied with.
    pub columns: usize,
    /// Neighbors in a row that share a scale and a zero point; the last of a row may be fewer. All columns where there is
    /// one group.
    pub group: usize,
    /// Codes, row by row, of at most `bits`.
    pub codes: Vec<i16>,
    /// A scale for each group of each row, row by row.
    pub scales: Vec<f32>,
    /// As many zero points, all 0 for a symmetric matrix.
    pub zeros: Vec<i16>,
    /// Bits that hold every code and zero point: 4 or 8.
    pub bits: u8,
}

impl IntegerMatrix {
    /// Groups in a row.
    pub fn groups(&self) -> usize {
        self.columns.div_ceil(self.group.max(1))
    }

    /// Whether all zero points are 0, and codes are signed numbers of [`bits`](Self::bits).
    pub fn is_symmetric(&self) -> bool {
        self.zeros.iter().all(|&zero| zero == 0)
    }

    /// Whether the last group of a row has fewer columns than the others.
    pub fn is_ragged(&self) -> bool {
        !self.columns.is_multiple_of(self.group.max(1))
    }

    /// Whether all elements have one scale and one zero point.
    pub fn has_one_scale(&self) -> bool {
        let same = |scale: &f32| scale.to_bits() == self.scales[0].to_bits();
        self.scales.iter().all(same) && self.zeros.iter().all(|&zero| zero == self.zeros[0])
    }

    /// What the elements are worth: float32 [rows, columns], in the arithmetic of the graph.
    pub fn values(&self) -> Tensor {
        let groups = self.groups();
        let value = |(at, &code): (usize, &i16)| {
            let place = at / self.columns * groups + at % self.columns / self.group;
            (f32::from(code) - f32::from(self.zeros[place])) * self.scales[place]
        };
        let values = self.codes.iter().enumerate().map(value).collect();
        Tensor::from_vec(vec![self.rows, self.columns], values)
    }
}

/// A weight that nodes make.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Made {
    /// Of codes alone.
    Codes(IntegerMatrix),
    /// Of parts that are codes and parts that are not: its values, float32.
    Mixed(Tensor),
}

impl Made {
    /// Its values, float32.
    pub fn values(&self) -> Tensor {
        match self {
            Self::Codes(matrix) => matrix.values(),
            Self::Mixed(values) => values.clone(),
        }
    }
}

/// Finds matrices of codes by the names of the values that they make.
pub(super) struct Finder<'g> {
    graph: &'g Graph,
    index: GraphIndex<'g>,
    found: HashMap<String, Integers>,
}

impl<'g> Finder<'g> {
    pub fn new(graph: &'g Graph) -> Self {
        let found = stored_weights(graph).integers;
        Self {
            graph,
            index: graph.index(),
            found: found.into_iter().map(|found| (found.value.clone(), found)).collect(),
        }
    }

    /// What makes `value`; none where codes have no part in it, or take more than eight bits.
    pub fn find(&self, value: &str) -> Option<Made> {
        if let Some(elements) = self.elements(value) {
            return elements.into_matrix().map(Made::Codes);
        }
        let node = self.maker(value).filter(|node| node.is("Concat"))?;
        if node.int("axis") != Some(0) {
            return None;
        }
        let parts: Option<Vec<Elements>> = node.inputs().iter().map(|input| self.elements(input)).collect();
        match parts {
            Some(parts) => Elements::joined(parts)?.into_matrix().map(Made::Codes),
            None => self.mixed(node).map(Made::Mixed),
        }
    }

    /// The rows that a Concat puts below each other, some of them codes and some not.
    fn mixed(&self, concat: &Node) -> Option<Tensor> {
        let (mut rows, mut columns, mut values) = (0, None, Vec::new());
        for input in concat.inputs() {
            let part = match self.graph.tensor(input) {
                Some(tensor) if tensor.dtype() == DType::FLOAT => Tensor::clone(tensor),
                Some(_) => return None,
                None => self.elements(input)?.into_matrix()?.values(),
            };
            let [own_rows, own_columns] = part.shape()[..] else {
                return None;
            };
            if *columns.get_or_insert(own_columns) != own_columns {
                return None;
            }
            rows += own_rows;
            values.extend_from_slice(&part.to_f32().ok()?);
        }
        Some(Tensor::from_vec(vec![rows, columns?], values))
    }

    fn maker(&self, value: &str) -> Option<&'g Node> {
        self.index.producer(value).map(|at| &*self.graph.nodes[at])
    }

    /// Codes, scales and zero points of every element of `value`, in its shape.
    fn elements(&self, value: &str) -> Option<Elements> {
        let found = self.found.get(value)?;
        // What moves elements between the last step of decoding and the value, last move first.
        let mut moves = Vec::new();
        let mut node = self.maker(value)?;
        while matches!(node.op_type(), "Reshape" | "Slice" | "Transpose") && node.domain().is_empty() {
            moves.push(node);
            node = self.maker(node.input(0)?)?;
        }
        let mut places = Places::new(found.shape.clone())?;
        for node in moves.iter().rev() {
            places = match node.op_type() {
                "Reshape" => places.reshaped(&self.whole_numbers(node, 1)?)?,
                "Transpose" => places.transposed(node.ints("perm")?)?,
                _ => self.cut(&places, node)?,
            };
        }
        let zeros = whole(found.zero_points(self.graph)?)?;
        Some(Elements {
            codes: places.take(self.codes(found)?),
            scales: places.take(found.scales(self.graph)?),
            zeros: places.take(zeros),
            shape: places.shape,
            least_bits: self.least_bits(found),
        })
    }

    /// Codes in the order in which they lie, wherever that is.
    fn codes(&self, found: &Integers) -> Option<Vec<i16>> {
        let Codes::Packed {
            words,
            bits,
            first,
            low,
        } = &found.codes
        else {
            return found.typed_codes(self.graph);
        };
        let words = self.graph.tensor(words)?.values::<u64>().ok()?;
        let per_word = usize::from(64 / bits);
        let mask = (1_u64 << bits) - 1;
        let code = |at: usize| {
            let word = words.get(at / per_word)?;
            Some((word >> (at % per_word * usize::from(*bits)) & mask) as i16 + low)
        };
        (*first..first.checked_add(found.len())?).map(code).collect()
    }

    /// The bits of the type that codes lie in.
    fn least_bits(&self, found: &Integers) -> u8 {
        let narrow = match &found.codes {
            Codes::Packed { bits, .. } => *bits <= 4,
            Codes::Typed { tensor } => self
                .graph
                .tensor(tensor)
                .is_some_and(|tensor| matches!(tensor.dtype(), DType::INT4 | DType::UINT4)),
        };
        if narrow { 4 } else { 8 }
    }

    fn whole_numbers(&self, node: &Node, slot: usize) -> Option<Vec<i64>> {
        self.graph.tensor(node.input(slot)?)?.to_i64().ok()
    }

    fn cut(&self, places: &Places, node: &Node) -> Option<Places> {
        let starts = self.whole_numbers(node, 1)?;
        let ends = self.whole_numbers(node, 2)?;
        let axes = self.whole_numbers(node, 3)?;
        if node.input(4).is_some() || starts.len() != ends.len() || starts.len() != axes.len() {
            return None;
        }
        let mut places = places.clone();
        for ((start, end), axis) in starts.into_iter().zip(ends).zip(axes) {
            let size = *places.shape.get(usize::try_from(axis).ok()?)?;
            let (start, end) = (usize::try_from(start).ok()?, usize::try_from(end).ok()?.min(size));
            places = places.sliced(axis as usize, start, end)?;
        }
        Some(places)
    }
}

/// Numbers that are whole and small.
fn whole(numbers: Vec<f32>) -> Option<Vec<i16>> {
    let small = |number: f32| (number.fract() == 0.0 && number.abs() <= 512.0).then_some(number as i16);
    numbers.into_iter().map(small).collect()
}

/// Where the elements of a moved tensor lie in the one that was not moved.
#[derive(Clone)]
struct Places {
    shape: Vec<usize>,
    /// In the order of the shape; none while nothing has moved.
    order: Option<Vec<u32>>,
}

impl Places {
    fn new(shape: Vec<usize>) -> Option<Self> {
        u32::try_from(shape.iter().product::<usize>()).ok()?;
        Some(Self { shape, order: None })
    }

    fn at(&self, place: usize) -> u32 {
        self.order.as_ref().map_or(place as u32, |order| order[place])
    }

    fn reshaped(mut self, shape: &[i64]) -> Option<Self> {
        let sizes = shape
            .iter()
            .map(|&size| usize::try_from(size).ok().filter(|&size| size > 0));
        let shape: Vec<usize> = sizes.collect::<Option<_>>()?;
        let same = shape.iter().product::<usize>() == self.shape.iter().product::<usize>();
        self.shape = shape;
        same.then_some(self)
    }

    fn transposed(self, order: &[i64]) -> Option<Self> {
        let axes: Option<Vec<usize>> = order.iter().map(|&axis| usize::try_from(axis).ok()).collect();
        let axes = axes.filter(|axes| axes.len() == self.shape.len())?;
        let shape: Option<Vec<usize>> = axes.iter().map(|&axis| self.shape.get(axis).copied()).collect();
        let strides = strides(&self.shape);
        self.moved(shape?, |position| {
            position.iter().zip(&axes).map(|(at, &axis)| at * strides[axis]).sum()
        })
    }

    fn sliced(self, axis: usize, start: usize, end: usize) -> Option<Self> {
        let mut shape = self.shape.clone();
        *shape.get_mut(axis)? = end.checked_sub(start)?;
        let strides = strides(&self.shape);
        self.moved(shape, |position| {
            let own = position.iter().zip(&strides).map(|(at, stride)| at * stride);
            own.sum::<usize>() + start * strides[axis]
        })
    }

    /// `from` gives for a position in `shape` the place that it comes from.
    fn moved(&self, shape: Vec<usize>, from: impl Fn(&[usize]) -> usize) -> Option<Self> {
        let count: usize = shape.iter().product();
        let mut position = vec![0; shape.len()];
        let mut order = Vec::with_capacity(count);
        for _ in 0..count {
            order.push(self.at(from(&position)));
            for axis in (0..shape.len()).rev() {
                position[axis] += 1;
                if position[axis] < shape[axis] {
                    break;
                }
                position[axis] = 0;
            }
        }
        Some(Self {
            shape,
            order: Some(order),
        })
    }

    fn take<T: Copy>(&self, values: Vec<T>) -> Vec<T> {
        match &self.order {
            None => values,
            Some(order) => order.iter().map(|&place| values[place as usize]).collect(),
        }
    }
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len())
        .map(|axis| shape[axis + 1..].iter().product())
        .collect()
}

/// Every element of a tensor by itself.
struct Elements {
    shape: Vec<usize>,
    codes: Vec<i16>,
    scales: Vec<f32>,
    zeros: Vec<i16>,
    least_bits: u8,
}

impl Elements {
    /// The rows of matrices below each other.
    fn joined(parts: Vec<Self>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next().filter(|whole| whole.shape.len() == 2)?;
        for part in parts {
            if part.shape.len() != 2 || part.shape[1] != whole.shape[1] {
                return None;
            }
            whole.shape[0] += part.shape[0];
            whole.codes.extend(part.codes);
            whole.scales.extend(part.scales);
            whole.zeros.extend(part.zeros);
            whole.least_bits = whole.least_bits.max(part.least_bits);
        }
        Some(whole)
    }

    fn into_matrix(self) -> Option<IntegerMatrix> {
        let [rows, columns] = self.shape[..] else { return None };
        if self.codes.is_empty() || self.codes.len() != rows * columns {
            return None;
        }
        let group = self.group(columns);
        let starts = (0..rows).flat_map(|row| (0..columns).step_by(group).map(move |column| row * columns + column));
        let (scales, zeros): (Vec<f32>, Vec<i16>) = starts.map(|at| (self.scales[at], self.zeros[at])).unzip();
        let (bits, offset) = window(&self.codes, &zeros, self.least_bits)?;
        let shifted = |numbers: Vec<i16>| numbers.into_iter().map(|number| number - offset).collect();
        Some(IntegerMatrix {
            rows,
            columns,
            group,
            codes: shifted(self.codes),
            scales,
            zeros: shifted(zeros),
            bits,
        })
    }

    /// The neighbors that share a scale and a zero point: what divides every place in a row where these change.
    fn group(&self, columns: usize) -> usize {
        let same =
            |a: usize, b: usize| self.scales[a].to_bits() == self.scales[b].to_bits() && self.zeros[a] == self.zeros[b];
        let changes = (0..self.codes.len()).filter(|at| at % columns != 0 && !same(at - 1, *at));
        match changes.fold(0, |divisor, at| greatest_common_divisor(divisor, at % columns)) {
            0 => columns,
            group => group,
        }
    }
}

fn greatest_common_divisor(one: usize, other: usize) -> usize {
    if other == 0 {
        one
    } else {
        greatest_common_divisor(other, one % other)
    }
}

/// The bits, 4 or 8, that hold codes and zero points as signed numbers, and what has to be taken off both for that: with
/// zero points of 0 if that can be.
fn window(codes: &[i16], zeros: &[i16], least_bits: u8) -> Option<(u8, i16)> {
    let ends = |numbers: &mut dyn Iterator<Item = i16>| {
        numbers.fold((i16::MAX, i16::MIN), |(least, most), number| {
            (least.min(number), most.max(number))
        })
    };
    let own = ends(&mut codes.iter().copied());
    let one_zero = zeros.iter().all(|zero| zero == &zeros[0]);
    let all = ends(&mut codes.iter().chain(zeros).copied());
    [4, 8].into_iter().filter(|&bits| bits >= least_bits).find_map(|bits| {
        let half = 1_i16 << (bits - 1);
        let fits = |(least, most): (i16, i16), offset: i16| least - offset >= -half && most - offset < half;
        let symmetric = one_zero.then(|| zeros[0]).filter(|&offset| fits(own, offset));
        let offset = symmetric.or_else(|| [half, 0, all.0 + half].into_iter().find(|&offset| fits(all, offset)));
        offset.map(|offset| (bits, offset))
    })
}

/// The graph with a float32 initializer in the place of what makes each of these weights, by name.
pub(super) fn folded(graph: &Graph, weights: &HashMap<String, Made>) -> Graph {
    let mut folded = graph.clone();
    let made_of_codes = |node: &Node| node.outputs().iter().any(|output| weights.contains_key(output));
    folded.nodes.retain(|node| !made_of_codes(node));
    for (name, made) in weights {
        folded.initializers.insert(name.clone(), made.values().into());
    }
    folded
}
