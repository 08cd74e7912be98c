//! From units to keep to edits.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    ChannelAnalysis, ChannelGroup,
    mend::{Change, Mend, Sites},
};
use crate::{
    Dimension, Edit, ErrorKind, Model, ModelError, Node, Patch, Tensor, codec::tensor_to_message,
    cost::constant_tensor, proto,
};

/// ONNX's number for an attribute that is a tensor.
const TENSOR_ATTRIBUTE: i32 = 4;

/// From this version of the format on, a tensor can be stored without being declared as an input.
const STORED_IR_VERSION: i64 = 4;

/// An axis that loses elements: its number, its size before, and the indices that stay.
type Losing = (usize, usize, Vec<usize>);

/// By tensor or value, and axis: whether it is stored, and for each index whether it stays.
type Stays<'a> = BTreeMap<(&'a str, usize), (bool, Vec<bool>)>;

/// What remains of each axis that loses elements.
#[derive(Default)]
pub(super) struct Remains<'a> {
    /// By stored tensor: the axes that lose elements.
    pub tensors: BTreeMap<&'a str, Vec<usize>>,
    /// By value (stored ones, too): each axis with its size before, and the indices that stay.
    axes: HashMap<&'a str, Vec<Losing>>,
}

impl<'a> Remains<'a> {
    pub fn of(cuts: impl IntoIterator<Item = (&'a ChannelGroup, &'a [usize])>) -> Result<Self, ModelError> {
        let mut stays = Stays::new();
        for (group, keep) in cuts {
            check(group, keep)?;
            let mut gone = vec![true; group.channels];
            keep.iter().for_each(|&unit| gone[unit] = false);
            let slices = group.slices.iter().map(|slice| (true, slice));
            let values = group.values.iter().map(|slice| (false, slice));
            for (stored, slice) in slices.chain(values) {
                let (_, stays) = stays
                    .entry((slice.tensor.as_str(), slice.axis))
                    .or_insert_with(|| (stored, vec![true; slice.size]));
                let lost = slice.indices.iter().zip(&gone).filter(|&(_, &gone)| gone);
                for &index in lost.flat_map(|(indices, _)| indices) {
                    if let Some(stays) = stays.get_mut(index) {
                        *stays = false;
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
            let axes = remains.axes.entry(name).or_default();
            axes.push((axis, stays.len(), kept));
            if stored {
                remains.tensors.entry(name).or_default().push(axis);
            }
        }
        Ok(remains)
    }

    fn axis(&self, value: &str, axis: usize) -> Option<&Losing> {
        self.axes.get(value)?.iter().find(|(losing, ..)| *losing == axis)
    }

    /// The indices that stay of an axis that loses elements.
    pub fn kept(&self, value: &str, axis: usize) -> Option<&[usize]> {
        self.axis(value, axis).map(|(_, _, kept)| kept.as_slice())
    }

    /// The size before and after of an axis that loses elements.
    pub fn sizes(&self, value: &str, axis: usize) -> Option<(usize, usize)> {
        self.axis(value, axis).map(|(_, before, kept)| (*before, kept.len()))
    }

    /// The values that lose elements, stored ones too, in no order.
    pub fn values(&self) -> impl Iterator<Item = &'a str> {
        self.axes.keys().copied()
    }
}

fn check(group: &ChannelGroup, keep: &[usize]) -> Result<(), ModelError> {
    let fail = |message: String| {
        let place = format!("channel group `{}`", group.id);
        Err(ModelError::new(ErrorKind::Shape, place, message))
    };
    match keep.last() {
        None => fail("must keep at least one channel".into()),
        Some(_) if !keep.is_sorted_by(|a, b| a < b) => fail("the channels to keep must be ascending".into()),
        Some(&last) if last >= group.channels => {
            fail(format!("has {} channels; there is no channel {last}", group.channels))
        }
        _ => Ok(()),
    }
}

pub(super) fn patch(
    analysis: &ChannelAnalysis,
    model: &Model,
    keep: &BTreeMap<String, Vec<usize>>,
) -> Result<Patch, ModelError> {
    let groups: HashMap<&str, &ChannelGroup> = analysis.groups.iter().map(|g| (g.id.as_str(), g)).collect();
    let mut cuts = Vec::new();
    for (id, keep) in keep {
        let group = *groups.get(id.as_str()).ok_or_else(|| {
            let place = format!("channel group `{id}`");
            ModelError::new(ErrorKind::Name, place, "does not exist")
        })?;
        cuts.push((group, keep.as_slice()));
    }
    let remains = Remains::of(cuts.iter().copied())?;
    let sites = Sites::of(model);
    let mut patch = Patch::new();
    for (name, axes) in &remains.tensors {
        cut_tensor(model, &sites, name, axes, &remains, &mut patch)?;
    }
    let adjustments = cuts.iter().flat_map(|(group, _)| &group.adjustments);
    let mends = sites.mends(adjustments, &remains)?;
    Edits::of(model, &sites).add(mends, &mut patch);
    retype(&sites, &remains, &mut patch);
    Ok(patch)
}

/// Declares anew what changes; the trial cuts have shown that nothing else does.
fn retype(sites: &Sites, remains: &Remains, patch: &mut Patch) {
    for info in &sites.graph.value_info {
        let (Some(dtype), Some(mut shape)) = (info.dtype(), info.shape()) else {
            continue;
        };
        let mut losing = false;
        for (axis, size) in shape.iter_mut().enumerate() {
            if let Some((_, after)) = remains.sizes(info.name(), axis) {
                *size = Dimension::Fixed(after);
                losing = true;
            }
        }
        if losing {
            let value = info.name().to_owned();
            patch.push(Edit::Retype { value, dtype, shape });
        }
    }
    if !sites.graph.value_info.is_empty() && !patch.edits.is_empty() {
        patch.push(Edit::KeepTypes);
    }
}

fn cut_tensor(
    model: &Model,
    sites: &Sites,
    name: &str,
    axes: &[usize],
    remains: &Remains,
    patch: &mut Patch,
) -> Result<(), ModelError> {
    let (mut tensor, is_node) = match sites.graph.tensor(name) {
        Some(tensor) => ((**tensor).clone(), false),
        None => match sites.index.producer(name).map(|position| sites.node(position)) {
            Some(node) => (constant_tensor(node)?.ok_or_else(|| changed(name))?, true),
            None => return Err(changed(name)),
        },
    };
    for &axis in axes {
        let kept = remains.kept(name, axis).unwrap_or_default();
        tensor = tensor.taken(axis, kept).ok_or_else(|| changed(name))?;
    }
    // A constant becomes an initializer, which can be read and replaced like any other weight.
    if is_node {
        let node = name.to_owned();
        if model.ir_version() < STORED_IR_VERSION {
            let attribute = Box::new(value_of(&tensor));
            patch.push(Edit::SetAttribute { node, attribute });
            return Ok(());
        }
        patch.push(Edit::RemoveNode { node });
    }
    let name = name.to_owned();
    patch.push(Edit::StoreTensor { name, tensor });
    Ok(())
}

/// The attribute of a Constant node that holds `tensor`.
fn value_of(tensor: &Tensor) -> proto::AttributeProto {
    proto::AttributeProto {
        name: Some("value".into()),
        r#type: Some(TENSOR_ATTRIBUTE),
        t: Some(tensor_to_message("", tensor)).into(),
        ..Default::default()
    }
}

fn changed(name: &str) -> ModelError {
    let place = format!("tensor `{name}`");
    ModelError::new(ErrorKind::Shape, place, "is not as it was when analyzed")
        .with_help("analyze the model again after changing it")
}

/// Turns changes of nodes into edits.
struct Edits<'s, 'm> {
    sites: &'s Sites<'m>,
    names: HashSet<&'m str>,
    ir_version: i64,
    /// How many readers each constant has lost.
    rewired: BTreeMap<&'m str, usize>,
}

impl<'s, 'm> Edits<'s, 'm> {
    fn of(model: &Model, sites: &'s Sites<'m>) -> Self {
        let graph = sites.graph;
        let outputs = graph.nodes.iter().flat_map(|node| node.outputs());
        let names = graph.initializers.keys().chain(outputs).map(String::as_str);
        let names = names.chain(graph.inputs.iter().map(|input| input.name()));
        Self {
            sites,
            names: names.collect(),
            ir_version: model.ir_version(),
            rewired: BTreeMap::new(),
        }
    }

    fn add(mut self, mends: Vec<Mend>, patch: &mut Patch) {
        for Mend { position, change } in mends {
            let node = self.sites.node(position);
            match change {
                Change::Int(name, value) => set(patch, node, &name, |node| node.with_int(&name, value)),
                Change::Ints(name, values) => set(patch, node, name, |node| node.with_ints(name, &values)),
                Change::Remove(name) => patch.push(Edit::RemoveAttribute {
                    node: node.id().to_owned(),
                    name: name.to_owned(),
                }),
                Change::Input(slot, values) => self.store(node, slot, values, patch),
            }
        }
        // A constant that nobody reads any more goes.
        for (name, count) in &self.rewired {
            if self.sites.index.consumers(name).len() > *count || self.is_seen_elsewhere(name) {
                continue;
            }
            let name = (*name).to_owned();
            if self.sites.graph.initializers.contains_key(&name) {
                patch.push(Edit::RemoveTensor { name });
            } else if let Some(position) = self.sites.index.producer(&name)
                && self.sites.node(position).is("Constant")
            {
                patch.push(Edit::RemoveNode { node: name });
            }
        }
    }

    /// Whether a subgraph reads `name`, or the model shows it.
    fn is_seen_elsewhere(&self, name: &str) -> bool {
        let mut outputs = self.sites.graph.outputs.iter();
        self.sites.index.is_captured(name) || outputs.any(|output| output.name() == name)
    }

    /// Makes `node` read `values` at `slot`.
    fn store(&mut self, node: &'m Node, slot: usize, values: Vec<i64>, patch: &mut Patch) {
        let old = node.input(slot);
        let stored = old.and_then(|name| self.sites.graph.tensor(name));
        let tensor = match stored.map(|tensor| tensor.dtype()) {
            Some(crate::DType::INT32) => {
                Tensor::from_vec(vec![values.len()], values.iter().map(|&value| value as i32).collect())
            }
            _ => Tensor::from_vec(vec![values.len()], values),
        };
        if let (Some(name), Some(_)) = (old, stored)
            && self.sites.index.consumers(name).len() == 1
            && !self.is_seen_elsewhere(name)
        {
            let name = name.to_owned();
            patch.push(Edit::StoreTensor { name, tensor });
            return;
        }
        let mut name = format!("{}/sizes", node.id());
        if slot != 1 {
            name = format!("{name}{slot}");
        }
        while self.names.contains(name.as_str()) {
            name.push('_');
        }
        let value = name.clone();
        if self.ir_version < STORED_IR_VERSION {
            let mut constant = Node::new("Constant", "", &[], &[&name]);
            constant.set_attribute(value_of(&tensor));
            patch.push(Edit::AddNode {
                node: Box::new(constant),
                before: Some(node.id().to_owned()),
            });
        } else {
            patch.push(Edit::StoreTensor { name, tensor });
        }
        patch.push(Edit::Rewire {
            node: node.id().to_owned(),
            input: slot,
            value,
        });
        if let Some(old) = old {
            *self.rewired.entry(old).or_default() += 1;
        }
    }
}

fn set(patch: &mut Patch, node: &Node, name: &str, with: impl Fn(Node) -> Node) {
    if let Some(attribute) = with(node.clone()).attribute(name) {
        patch.push(Edit::SetAttribute {
            node: node.id().to_owned(),
            attribute: Box::new(attribute.clone()),
        });
    }
}
