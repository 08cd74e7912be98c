//! Rows of elements, and which of them belong together.

use std::{collections::HashMap, ops::Range};

use crate::{ErrorKind, ModelError, shapes::Shapes};

/// Elements that are followed, beside one for each byte of the model. Each takes 8 bytes, and one that can be
/// removed up to 100.
const ELEMENTS: u64 = 1 << 21;

/// How often each element that may be followed may be looked at, on average.
const LOOKS: u64 = 64;

/// Longer axes (time, the rows of a large vocabulary) are taken as fixed without being followed.
const LONGEST_AXIS: usize = 1 << 20;

/// Why an element cannot be removed.
#[derive(Clone, Debug)]
pub(super) struct Reason {
    /// The node, input or output that forbids it.
    pub place: String,
    pub text: String,
    /// Edges of the graph are named only where no node forbids the removal.
    pub at_edge: bool,
}

/// One axis of one value.
pub(super) type Axis<'a> = (&'a str, usize);

/// The size up to which axes are followed: a power of two, the same for all, because axes that an operator keeps the
/// size of are either both followed or both not.
fn longest<'s>(sizes: impl Iterator<Item = &'s usize>, room: u64) -> Result<usize, ModelError> {
    // By power of two: the elements of axes of at most that size, and of more than half of it.
    let mut elements = [0_u64; LONGEST_AXIS.ilog2() as usize + 1];
    for &size in sizes.filter(|&&size| (1..=LONGEST_AXIS).contains(&size)) {
        elements[size.next_power_of_two().ilog2() as usize] += size as u64;
    }
    let mut total = 0_u64;
    let fitting = elements.iter().take_while(|&&elements| {
        total = total.saturating_add(elements);
        total <= room
    });
    match fitting.count().checked_sub(1) {
        Some(power) => Ok(1 << power),
        None => Err(ModelError::new(
            ErrorKind::Unsupported,
            "",
            "the model has too many axes for its size to be followed",
        )),
    }
}

/// A disjoint-set forest over the elements of all axes of all values.
pub(super) struct Elements<'m> {
    /// For each value, the first element of each axis, and the end of the last one.
    starts: HashMap<&'m str, Vec<usize>>,
    parent: Vec<u32>,
    /// For each root: 0, or 1 + the index of the reason.
    fixed: Vec<u32>,
    reasons: Vec<Reason>,
    /// How often elements may still be looked at.
    looks: u64,
}

impl<'m> Elements<'m> {
    /// The elements of `values`, of a model of this many bytes.
    pub fn new(values: &[&'m str], shapes: &Shapes, bytes: u64) -> Result<Self, ModelError> {
        let room = ELEMENTS.saturating_add(bytes).min(u64::from(u32::MAX));
        let longest = longest(values.iter().filter_map(|value| shapes.shape(value)).flatten(), room)?;
        let mut starts = HashMap::new();
        let mut count = 0_usize;
        for &value in values {
            let Some(shape) = shapes.shape(value) else {
                continue;
            };
            let mut row = vec![count];
            for &size in shape {
                count += if size > longest { 0 } else { size };
                row.push(count);
            }
            starts.insert(value, row);
        }
        Ok(Self {
            starts,
            parent: (0..count as u32).collect(),
            fixed: vec![0; count],
            reasons: Vec::new(),
            looks: room.saturating_mul(LOOKS),
        })
    }

    /// Whether elements were looked at more often than the size of the model justifies: many nodes read long axes.
    /// What has been related is not complete then.
    pub fn is_exhausted(&self) -> bool {
        self.looks == 0
    }

    fn look(&mut self, count: usize) {
        self.looks = self.looks.saturating_sub(count as u64);
    }

    /// The elements of an axis; empty where it does not exist, or is too long to be followed.
    pub fn range(&self, (value, axis): Axis) -> Range<usize> {
        match self.starts.get(value).map(|row| row.get(axis..axis + 2)) {
            Some(Some(&[start, end])) => start..end,
            _ => 0..0,
        }
    }

    pub fn size(&self, axis: Axis) -> usize {
        self.range(axis).len()
    }

    pub fn rank(&self, value: &str) -> usize {
        self.starts.get(value).map_or(0, |row| row.len() - 1)
    }

    pub fn root(&mut self, element: usize) -> usize {
        let mut element = element;
        while self.parent[element] as usize != element {
            // Halves the path for the next search.
            let grandparent = self.parent[self.parent[element] as usize];
            self.parent[element] = grandparent;
            element = grandparent as usize;
        }
        element
    }

    /// Number of elements of all axes.
    pub fn len(&self) -> usize {
        self.parent.len()
    }

    fn join(&mut self, left: usize, right: usize) {
        let (left, right) = (self.root(left), self.root(right));
        if left != right {
            // The smaller index leads, so that results do not depend on the order of relations.
            let (root, child) = (left.min(right), left.max(right));
            self.parent[child] = root as u32;
            self.fixed[root] = self.graver(self.fixed[root], self.fixed[child]);
        }
    }

    /// Of two reasons the one to tell people.
    fn graver(&self, left: u32, right: u32) -> u32 {
        let rank = |reason: u32| match reason.checked_sub(1) {
            None => (2, 0),
            Some(index) => (u8::from(self.reasons[index as usize].at_edge), index),
        };
        if rank(left) <= rank(right) { left } else { right }
    }

    /// Element `i` of one axis and element `i` of the other belong together.
    ///
    /// Axes of different sizes are left alone: callers link what their operator keeps the size of.
    pub fn link(&mut self, left: Axis, right: Axis) {
        let (left, right) = (self.range(left), self.range(right));
        if left.len() == right.len() {
            self.look(left.len());
            left.zip(right).for_each(|(l, r)| self.join(l, r));
        }
    }

    /// Element `i` of one axis and element `j` of the other belong together.
    pub fn link_at(&mut self, (left, i): (Axis, usize), (right, j): (Axis, usize)) {
        let (left, right) = (self.range(left), self.range(right));
        if i < left.len() && j < right.len() {
            self.look(1);
            self.join(left.start + i, right.start + j);
        }
    }

    pub fn reason(&mut self, reason: Reason) -> u32 {
        self.reasons.push(reason);
        self.reasons.len() as u32
    }

    pub fn fix(&mut self, axis: Axis, reason: u32) {
        self.look(self.size(axis));
        for element in self.range(axis) {
            let root = self.root(element);
            self.fixed[root] = self.graver(self.fixed[root], reason);
        }
    }

    pub fn fix_all(&mut self, value: &str, reason: u32) {
        (0..self.rank(value)).for_each(|axis| self.fix((value, axis), reason));
    }

    /// Why an element cannot be removed, if it cannot.
    pub fn refusal(&mut self, element: usize) -> Option<&Reason> {
        let root = self.root(element);
        let index = self.fixed[root].checked_sub(1)?;
        self.reasons.get(index as usize)
    }

    /// Whether an element is fixed.
    pub fn is_fixed(&mut self, element: usize) -> bool {
        let root = self.root(element);
        self.fixed[root] != 0
    }

    /// Whether every element of an axis is fixed, which an axis that is not followed always is.
    pub fn all_fixed(&mut self, axis: Axis) -> bool {
        self.look(self.size(axis));
        self.range(axis).all(|element| self.is_fixed(element))
    }
}
