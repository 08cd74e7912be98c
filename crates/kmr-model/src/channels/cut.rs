//! From units to keep to edits.

use std::collections::{BTreeMap, HashMap};

use super::{Adjustment, ChannelAnalysis, ChannelGroup};
use crate::{Edit, ErrorKind, Model, ModelError, Node, Patch, Tensor, cost::constant_tensor, shapes::equal_split};

/// What remains of each axis that loses elements.
#[derive(Default)]
pub(super) struct Remains {
    /// By stored tensor and axis: the indices that stay.
    pub tensors: BTreeMap<String, BTreeMap<usize, Vec<usize>>>,
    /// By value and axis: the size before and after.
    pub values: HashMap<(String, usize), (usize, usize)>,
}

impl Remains {
    pub fn of<'a>(cuts: impl IntoIterator<Item = (&'a ChannelGroup, &'a [usize])>) -> Result<Self, ModelError> {
        let mut stays: BTreeMap<(&str, usize), (bool, Vec<bool>)> = BTreeMap::new();
        for (group, keep) in cuts {
            check(group, keep)?;
            let slices = group.slices.iter().map(|slice| (true, slice));
            let values = group.values.iter().map(|slice| (false, slice));
            for (stored, slice) in slices.chain(values) {
                let (_, stays) = stays
                    .entry((slice.tensor.as_str(), slice.axis))
                    .or_insert_with(|| (stored, vec![true; slice.size]));
                let mut kept = keep.iter().peekable();
                for (unit, indices) in slice.indices.iter().enumerate() {
                    if kept.next_if_eq(&&unit).is_none() {
                        for &index in indices {
                            if let Some(stays) = stays.get_mut(index) {
                                *stays = false;
                            }
                        }
                    }
                }
            }
        }
        let mut remains = Self::default();
        for ((name, axis), (stored, stays)) in stays {
            let kept: Vec<usize> = (0..stays.len()).filter(|&index| stays[index]).collect();
            if kept.len() == stays.len() {
                continue;
            }
            let sizes = (stays.len(), kept.len());
            remains.values.insert((name.to_owned(), axis), sizes);
            if stored {
                let axes = remains.tensors.entry(name.to_owned()).or_default();
                axes.insert(axis, kept);
            }
        }
        Ok(remains)
    }

    pub fn size(&self, value: &str, axis: usize) -> Option<usize> {
        let sizes = self.values.get(&(value.to_owned(), axis));
        sizes.map(|&(_, after)| after)
    }
}

fn check(group: &ChannelGroup, keep: &[usize]) -> Result<(), ModelError> {
    let fail = |message: String| {
        let place = format!("channel group `{}`", group.id);
        Err(ModelError::new(ErrorKind::Shape, place, message))
    };
    match keep.last() {
        None => fail("must keep at least one channel".into()),
        Some(&last) if last >= group.channels => {
            fail(format!("has {} channels; there is no channel {last}", group.channels))
        }
        _ if !keep.is_sorted_by(|a, b| a < b) => fail("the channels to keep must be ascending".into()),
        _ => Ok(()),
    }
}

pub(super) fn patch(
    analysis: &ChannelAnalysis,
    model: &Model,
    keep: &BTreeMap<String, Vec<usize>>,
) -> Result<Patch, ModelError> {
    let mut cuts = Vec::new();
    for (id, keep) in keep {
        let group = analysis.group(id).ok_or_else(|| {
            let place = format!("channel group `{id}`");
            ModelError::new(ErrorKind::Name, place, "does not exist")
        })?;
        cuts.push((group, keep.as_slice()));
    }
    let remains = Remains::of(cuts.iter().copied())?;
    let mut patch = Patch::new();
    for (name, axes) in &remains.tensors {
        cut_tensor(model, name, axes, &mut patch)?;
    }
    adjust(
        model,
        cuts.iter().flat_map(|(group, _)| &group.adjustments),
        &remains,
        &mut patch,
    )?;
    Ok(patch)
}

fn cut_tensor(
    model: &Model,
    name: &str,
    axes: &BTreeMap<usize, Vec<usize>>,
    patch: &mut Patch,
) -> Result<(), ModelError> {
    let (mut tensor, is_node) = match model.graph.tensor(name) {
        Some(tensor) => ((**tensor).clone(), false),
        None => match model.graph.node(name).map(|node| constant_tensor(node)) {
            Some(tensor) => (tensor?.ok_or_else(|| changed(name))?, true),
            None => return Err(changed(name)),
        },
    };
    for (&axis, kept) in axes {
        tensor = take(&tensor, axis, kept).ok_or_else(|| changed(name))?;
    }
    // A constant becomes an initializer, which can be read and replaced like any other weight.
    if is_node {
        let node = name.to_owned();
        patch.push(Edit::RemoveNode { node });
    }
    let name = name.to_owned();
    patch.push(Edit::StoreTensor { name, tensor });
    Ok(())
}

fn changed(name: &str) -> ModelError {
    let place = format!("tensor `{name}`");
    ModelError::new(ErrorKind::Shape, place, "is not as it was when analyzed")
        .with_help("analyze the model again after changing it")
}

/// The elements of `tensor` at `indices` of `axis`.
fn take(tensor: &Tensor, axis: usize, indices: &[usize]) -> Option<Tensor> {
    let shape = tensor.shape();
    let &size = shape.get(axis)?;
    let width = tensor.dtype().bits().filter(|bits| bits % 8 == 0)? / 8;
    let inner: usize = shape[axis + 1..].iter().product::<usize>() * width;
    let outer: usize = shape[..axis].iter().product();
    let bytes = tensor.bytes();
    let mut taken = Vec::with_capacity(outer * indices.len() * inner);
    for block in 0..outer {
        for &index in indices {
            let start = (block * size + index) * inner;
            taken.extend_from_slice(bytes.get(start..start + inner)?);
        }
    }
    let mut shape = shape.to_vec();
    shape[axis] = indices.len();
    Tensor::new(tensor.dtype(), shape, taken.into()).ok()
}

/// Adds the edits that mend what nodes say about numbers of channels.
pub(super) fn adjust<'a>(
    model: &Model,
    adjustments: impl Iterator<Item = &'a Adjustment>,
    remains: &Remains,
    patch: &mut Patch,
) -> Result<(), ModelError> {
    let index = model.graph.index();
    let mut seen: Vec<&Adjustment> = Vec::new();
    let mut rewired: BTreeMap<&str, usize> = BTreeMap::new();
    for adjustment in adjustments {
        if seen.contains(&adjustment) {
            continue;
        }
        seen.push(adjustment);
        match adjustment {
            Adjustment::GroupCount { node, input } => {
                if let Some(groups) = remains.size(input, 1) {
                    let node = find(model, node)?;
                    set(patch, node, "group", |n| n.with_int("group", groups as i64));
                }
            }
            Adjustment::SplitSizes { node, input, axis } => {
                if let Some(total) = remains.size(input, *axis) {
                    let node = find(model, node)?;
                    split(model, node, total, *axis, remains, patch, &mut rewired)?;
                }
            }
            Adjustment::ShapeConstant { node, slot, output } => {
                let node = find(model, node)?;
                let Some(name) = node.input(*slot) else {
                    reshape_attribute(node, output, remains, patch);
                    continue;
                };
                // A computed shape follows by itself, or the trial cut has refused the group.
                let Some(old) = constant_integers(model, name) else {
                    continue;
                };
                let new = respelled(&old, output, remains);
                if new != old {
                    store(model, node, *slot, new, patch, &mut rewired);
                }
            }
        }
    }
    // A constant that nobody reads any more goes.
    for (name, count) in rewired {
        let kept = index.consumers(name).len() > count || index.is_captured(name);
        if kept || model.graph.outputs.iter().any(|o| o.name() == name) {
            continue;
        }
        let name = name.to_owned();
        if model.graph.initializers.contains_key(&name) {
            patch.push(Edit::RemoveTensor { name });
        } else {
            patch.push(Edit::RemoveNode { node: name });
        }
    }
    Ok(())
}

fn find<'m>(model: &'m Model, id: &str) -> Result<&'m Node, ModelError> {
    let node = model.graph.node(id).map(|node| &**node);
    node.ok_or_else(|| {
        ModelError::new(ErrorKind::Name, format!("node `{id}`"), "does not exist")
            .with_help("analyze the model again after changing it")
    })
}

fn set(patch: &mut Patch, node: &Node, name: &str, with: impl Fn(Node) -> Node) {
    if let Some(attribute) = with(node.clone()).attribute(name) {
        patch.push(Edit::SetAttribute {
            node: node.id().to_owned(),
            attribute: Box::new(attribute.clone()),
        });
    }
}

/// The integers of a stored constant; `None` for what is computed.
fn constant_integers(model: &Model, name: &str) -> Option<Vec<i64>> {
    if let Some(tensor) = model.graph.tensor(name) {
        return tensor.to_i64().ok();
    }
    let node = model.graph.node(name).filter(|node| node.is("Constant"))?;
    match constant_tensor(node) {
        Ok(Some(tensor)) => tensor.to_i64().ok(),
        _ => node.ints("value_ints").map(<[i64]>::to_vec),
    }
}

/// A spelled shape, with the sizes that change replaced; 0 and -1 follow by themselves.
fn respelled(old: &[i64], output: &str, remains: &Remains) -> Vec<i64> {
    old.iter()
        .enumerate()
        .map(|(axis, &size)| match remains.size(output, axis) {
            Some(after) if size > 0 => after as i64,
            _ => size,
        })
        .collect()
}

/// The first operator set had a Reshape's shape as an attribute.
fn reshape_attribute(node: &Node, output: &str, remains: &Remains, patch: &mut Patch) {
    if let Some(old) = node.ints("shape") {
        let new = respelled(old, output, remains);
        set(patch, node, "shape", |node| node.with_ints("shape", &new));
    }
}

fn split<'m>(
    model: &'m Model,
    node: &'m Node,
    total: usize,
    axis: usize,
    remains: &Remains,
    patch: &mut Patch,
    rewired: &mut BTreeMap<&'m str, usize>,
) -> Result<(), ModelError> {
    let old = match node.input(1) {
        Some(name) => constant_integers(model, name),
        None => node.ints("split").map(<[i64]>::to_vec),
    };
    let parts = node.outputs().len();
    let sizes: Option<Vec<usize>> = match old {
        Some(old) => (0..parts)
            .map(|part| {
                let before = old.get(part).and_then(|&size| usize::try_from(size).ok());
                remains.size(&node.outputs()[part], axis).or(before)
            })
            .collect(),
        None if node.input(1).is_some() => return Ok(()),
        None => {
            let before = node.outputs().iter().find_map(|output| {
                let sizes = remains.values.get(&(node.inputs()[0].clone(), axis));
                sizes.map(|&(before, _)| before).filter(|_| !output.is_empty())
            });
            let before = before.and_then(|before| equal_split(before, parts));
            before.map(|before| {
                let outputs = before.into_iter().zip(node.outputs());
                let outputs = outputs.map(|(before, o)| remains.size(o, axis).unwrap_or(before));
                outputs.collect()
            })
        }
    };
    let Some(sizes) = sizes.filter(|sizes| sizes.iter().sum::<usize>() == total) else {
        return Err(ModelError::new(
            ErrorKind::Shape,
            format!("node `{}`", node.label()),
            "cannot be told how to split what remains",
        ));
    };
    let implicit = node.input(1).is_none() && node.ints("split").is_none();
    let equal = sizes.iter().all(|&size| size == sizes[0]);
    if implicit && equal {
        return Ok(());
    }
    let sizes: Vec<i64> = sizes.into_iter().map(|size| size as i64).collect();
    if model.opset() < 13 {
        set(patch, node, "split", |node| node.with_ints("split", &sizes));
        return Ok(());
    }
    store(model, node, 1, sizes, patch, rewired);
    if node.attribute("num_outputs").is_some() {
        patch.push(Edit::RemoveAttribute {
            node: node.id().to_owned(),
            name: "num_outputs".into(),
        });
    }
    Ok(())
}

/// Makes `node` read `values` at `slot`.
fn store<'m>(
    model: &'m Model,
    node: &'m Node,
    slot: usize,
    values: Vec<i64>,
    patch: &mut Patch,
    rewired: &mut BTreeMap<&'m str, usize>,
) {
    let tensor = Tensor::from_vec(vec![values.len()], values);
    let old = node.input(slot);
    if let Some(name) = old
        && model.graph.initializers.contains_key(name)
        && model.graph.index().consumers(name).len() == 1
    {
        let name = name.to_owned();
        patch.push(Edit::StoreTensor { name, tensor });
        return;
    }
    let taken = |name: &str| {
        let graph = &model.graph;
        let mut outputs = graph.nodes.iter().flat_map(|node| node.outputs());
        graph.initializers.contains_key(name)
            || graph.inputs.iter().any(|input| input.name() == name)
            || outputs.any(|output| output == name)
    };
    let mut name = format!("{}/sizes", node.id());
    while taken(&name) {
        name.push('_');
    }
    let value = name.clone();
    patch.push(Edit::StoreTensor { name, tensor });
    patch.push(Edit::Rewire {
        node: node.id().to_owned(),
        input: slot,
        value,
    });
    if let Some(old) = old {
        *rewired.entry(old).or_default() += 1;
    }
}
