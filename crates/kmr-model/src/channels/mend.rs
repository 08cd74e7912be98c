//! What nodes say about numbers of channels, said anew.

use std::collections::{HashMap, HashSet};

use super::{Adjustment, Bound, cut::Remains};
use crate::{ErrorKind, Graph, GraphIndex, Model, ModelError, Node, shapes::equal_split};

/// A graph whose nodes are found by id.
pub(super) struct Sites<'m> {
    pub graph: &'m Graph,
    pub index: GraphIndex<'m>,
    pub opset: i64,
    positions: HashMap<&'m str, usize>,
}

/// A change of one node.
pub(super) struct Mend {
    /// The node's position.
    pub position: usize,
    pub change: Change,
}

pub(super) enum Change {
    /// Sets an integer attribute.
    Int(String, i64),
    /// Sets a list of integers.
    Ints(&'static str, Vec<i64>),
    /// Removes an attribute.
    Remove(&'static str),
    /// Makes an input read this constant.
    Input(usize, Vec<i64>),
}

impl<'m> Sites<'m> {
    pub fn of(model: &'m Model) -> Self {
        let nodes = model.graph.nodes.iter().enumerate();
        Self {
            graph: &model.graph,
            index: model.graph.index(),
            opset: model.opset(),
            positions: nodes.map(|(position, node)| (node.id(), position)).collect(),
        }
    }

    pub fn node(&self, position: usize) -> &'m Node {
        &self.graph.nodes[position]
    }

    fn position(&self, id: &str) -> Result<usize, ModelError> {
        self.positions.get(id).copied().ok_or_else(|| {
            ModelError::new(ErrorKind::Name, format!("node `{id}`"), "does not exist")
                .with_help("analyze the model again after changing it")
        })
    }

    /// The changes that `adjustments` ask for when `remains` is what is left.
    ///
    /// # Errors
    /// If a node cannot say it.
    pub fn mends<'a>(
        &self,
        adjustments: impl Iterator<Item = &'a Adjustment>,
        remains: &Remains,
    ) -> Result<Vec<Mend>, ModelError> {
        let mut mends = Vec::new();
        let mut seen: HashSet<&Adjustment> = HashSet::new();
        for adjustment in adjustments.filter(|&adjustment| seen.insert(adjustment)) {
            match adjustment {
                Adjustment::Count {
                    node,
                    attribute,
                    value,
                    axis,
                } => {
                    let position = self.position(node)?;
                    let old = self.node(position).int(attribute);
                    if let (Some((before, after)), Some(old)) = (remains.sizes(value, *axis), old) {
                        let new = old as i128 * after as i128 / (before as i128).max(1);
                        let change = Change::Int(attribute.clone(), new as i64);
                        mends.push(Mend { position, change });
                    }
                }
                Adjustment::SplitSizes { node, input, axis } => {
                    if let Some((before, after)) = remains.sizes(input, *axis) {
                        let position = self.position(node)?;
                        let changes = self.split(self.node(position), before, after, *axis, remains)?;
                        mends.extend(changes.into_iter().map(|change| Mend { position, change }));
                    }
                }
                Adjustment::SliceBounds {
                    node,
                    input,
                    starts,
                    ends,
                    bounds,
                } => {
                    let position = self.position(node)?;
                    let changes = slice(self.node(position), [starts, ends], input, bounds, remains);
                    mends.extend(changes.into_iter().map(|change| Mend { position, change }));
                }
                Adjustment::Sizes {
                    node,
                    slot,
                    output,
                    axis,
                    sizes,
                } => {
                    let position = self.position(node)?;
                    let new = respelled(sizes, output, *axis, remains);
                    if new != *sizes {
                        let change = Change::Input(*slot, new);
                        mends.push(Mend { position, change });
                    }
                }
            }
        }
        Ok(mends)
    }

    fn split(
        &self,
        node: &Node,
        before: usize,
        total: usize,
        axis: usize,
        remains: &Remains,
    ) -> Result<Vec<Change>, ModelError> {
        let old: Option<Vec<usize>> = match (node.input(1), node.ints("split")) {
            (Some(name), _) => match self.integers(name) {
                Some(sizes) => sizes.into_iter().map(|size| usize::try_from(size).ok()).collect(),
                // A computed list of sizes follows by itself, or the trial cut refuses the group.
                None => return Ok(Vec::new()),
            },
            (None, Some(sizes)) => sizes.iter().map(|&size| usize::try_from(size).ok()).collect(),
            (None, None) => equal_split(before, node.outputs().len()),
        };
        let sizes: Option<Vec<usize>> = old.map(|old| {
            let outputs = node.outputs().iter().zip(old);
            let sizes = outputs.map(|(output, old)| remains.sizes(output, axis).map_or(old, |(_, after)| after));
            sizes.collect()
        });
        let Some(sizes) = sizes.filter(|sizes| sizes.iter().sum::<usize>() == total) else {
            return Err(ModelError::new(
                ErrorKind::Shape,
                format!("node `{}`", node.label()),
                "cannot be told how to split what remains",
            ));
        };
        let implicit = node.input(1).is_none() && node.ints("split").is_none();
        let even = sizes.iter().all(|size| *size == sizes[0]);
        let rounded =
            node.attribute("num_outputs").is_some() && equal_split(total, sizes.len()).as_ref() == Some(&sizes);
        if implicit && (even || rounded) {
            return Ok(Vec::new());
        }
        let sizes: Vec<i64> = sizes.into_iter().map(|size| size as i64).collect();
        if self.opset < 13 {
            return Ok(vec![Change::Ints("split", sizes)]);
        }
        let mut changes = vec![Change::Input(1, sizes)];
        if node.attribute("num_outputs").is_some() {
            changes.push(Change::Remove("num_outputs"));
        }
        Ok(changes)
    }

    /// The integers of a stored constant; `None` for what is computed.
    fn integers(&self, name: &str) -> Option<Vec<i64>> {
        if let Some(tensor) = self.graph.tensor(name) {
            return tensor.to_i64().ok();
        }
        let position = self.index.producer(name)?;
        let node = Some(self.node(position)).filter(|node| node.is("Constant"))?;
        match crate::cost::constant_tensor(node) {
            Ok(Some(tensor)) => tensor.to_i64().ok(),
            _ => node.ints("value_ints").map(<[i64]>::to_vec),
        }
    }
}

/// Spelled sizes, with those replaced that change; 0 and -1 follow by themselves.
fn respelled(old: &[i64], output: &str, first: usize, remains: &Remains) -> Vec<i64> {
    let sizes = old.iter().enumerate();
    sizes
        .map(|(place, &size)| match remains.sizes(output, first + place) {
            Some((before, after)) if usize::try_from(size) == Ok(before) => after as i64,
            _ => size,
        })
        .collect()
}

fn slice(node: &Node, [starts, ends]: [&Vec<i64>; 2], input: &str, bounds: &[Bound], remains: &Remains) -> Vec<Change> {
    let (mut new_starts, mut new_ends) = (starts.clone(), ends.clone());
    for bound in bounds {
        let Some(kept) = remains.kept(input, bound.axis) else {
            continue;
        };
        let before = |end: usize| kept.partition_point(|&index| index < end) as i64;
        if let (Some(start), Some(end)) = (new_starts.get_mut(bound.place), new_ends.get_mut(bound.place)) {
            (*start, *end) = (before(bound.start), before(bound.end));
        }
    }
    let lists = [(1, "starts", starts, new_starts), (2, "ends", ends, new_ends)];
    let changed = lists.into_iter().filter(|(_, _, old, new)| *old != new);
    changed
        .map(|(slot, name, _, new)| match node.input(1) {
            Some(_) => Change::Input(slot, new),
            None => Change::Ints(name, new),
        })
        .collect()
}
