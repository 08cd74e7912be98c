//! Every group is cut twice on trial, without touching data, before it is offered.
//!
//! This is where shapes that are computed at run time are judged: a chain of Shape, Gather, Concat may
//! follow a cut by itself, or may spell a number of channels that no edit mends. Only nodes that a cut
//! can reach are looked at.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap, HashSet},
};

use super::{
    ChannelAnalysis, ChannelGroup, Refusal,
    cut::Remains,
    mend::{Change, Sites},
};
use crate::{
    DType, Model, ModelError, Node,
    shapes::{Known, Numbers, Shapes, infer_node},
};

/// What all trials together may look at, beside some for each node: nodes, their values, elements of small ones.
const STEPS: usize = 1 << 21;

/// Elements of an axis that are marked in one step.
const WORD: usize = 64;

/// What each node adds to it.
const STEPS_PER_NODE: usize = 16;

pub(super) fn refuse_what_does_not_fit(
    model: &Model,
    shapes: &Shapes,
    analysis: &mut ChannelAnalysis,
) -> Result<(), ModelError> {
    let judge = Judge {
        sites: Sites::of(model),
        shapes,
        shown: model.graph.outputs.iter().map(|output| output.name()).collect(),
        steps: Cell::new(STEPS + STEPS_PER_NODE * model.graph.nodes.len()),
    };
    let refused = &mut analysis.refused;
    analysis.groups.retain(|group| {
        let most: Vec<usize> = (0..group.channels.saturating_sub(1)).collect();
        let trials = [most, vec![0]];
        for keep in trials.iter().filter(|keep| !keep.is_empty()) {
            if let Err((node, reason)) = judge.trial(group, keep) {
                let mut members: Vec<String> = Vec::new();
                for producer in &group.producers {
                    if !members.contains(&producer.node) {
                        members.push(producer.node.clone());
                    }
                }
                refused.push(Refusal {
                    members,
                    node,
                    reason,
                    channels: group.channels,
                });
                return false;
            }
        }
        true
    });
    Ok(())
}

type Verdict = Result<(), (String, String)>;

struct Judge<'m> {
    sites: Sites<'m>,
    shapes: &'m Shapes,
    /// The outputs of the model.
    shown: HashSet<&'m str>,
    /// Steps that are left.
    steps: Cell<usize>,
}

impl Judge<'_> {
    fn trial(&self, group: &ChannelGroup, keep: &[usize]) -> Verdict {
        let error = |error: ModelError| (error.place().to_owned(), error.to_string());
        let slices = group.slices.iter().chain(&group.values);
        self.step(slices.map(|slice| slice.size / WORD).sum())?;
        self.step(group.adjustments.len())?;
        let remains = Remains::of([(group, keep)]).map_err(error)?;
        let mut mends: HashMap<usize, Vec<Change>> = HashMap::new();
        for mend in self.sites.mends(group.adjustments.iter(), &remains).map_err(error)? {
            mends.entry(mend.position).or_default().push(mend.change);
        }
        let mut changed: HashMap<&str, Known> = HashMap::new();
        let mut waiting: BTreeSet<usize> = mends.keys().copied().collect();
        for value in remains.values() {
            waiting.extend(self.sites.index.producer(value));
        }
        for (&tensor, axes) in &remains.tensors {
            let Some(mut known) = self.shapes.get(tensor).cloned() else {
                continue;
            };
            for &axis in axes {
                known.shape[axis] = remains.sizes(tensor, axis).map_or(0, |(_, after)| after);
            }
            known.numbers = None;
            changed.insert(tensor, known);
            self.wait_for_readers(tensor, &mut waiting);
        }
        while let Some(position) = waiting.pop_first() {
            let node = self.sites.node(position);
            self.step(1 + node.outputs().len() + self.weight(node))?;
            // Constants that are cut are stored as tensors.
            if node.is("Constant") && remains.tensors.contains_key(node.id()) {
                continue;
            }
            let (node, local) = self.as_cut(node, mends.get(&position), &changed);
            let found = infer_node(&node, self.sites.opset, &local).map_err(error)?;
            let mut found = found.into_iter();
            for output in self.sites.node(position).outputs() {
                let known = found.next().flatten();
                let Some(before) = self.shapes.get(output).filter(|_| !output.is_empty()) else {
                    continue;
                };
                self.check_shape(&node, output, before, known.as_ref(), &remains)?;
                let Some(known) = known.filter(|known| known != before) else {
                    continue;
                };
                self.check_computed(&node, output, before, &known)?;
                changed.insert(output, known);
                self.wait_for_readers(output, &mut waiting);
            }
        }
        Ok(())
    }

    /// Takes steps, of which there is an end: many groups on one axis, each with many readers, would take too long.
    fn step(&self, count: usize) -> Verdict {
        match self.steps.get().checked_sub(count) {
            Some(left) => {
                self.steps.set(left);
                Ok(())
            }
            None => Err((
                "the model".into(),
                "there are too many channels and nodes to try this cut".into(),
            )),
        }
    }

    /// What looking at the inputs of `node` takes.
    fn weight(&self, node: &Node) -> usize {
        let numbers = |name: &String| match &self.shapes.get(name)?.numbers {
            Some(Numbers::Integers(values)) => Some(values.len()),
            _ => None,
        };
        node.inputs().iter().map(|name| 1 + numbers(name).unwrap_or(0)).sum()
    }

    fn wait_for_readers(&self, value: &str, waiting: &mut BTreeSet<usize>) {
        let readers = self.sites.index.consumers(value).iter();
        waiting.extend(readers.map(|&(position, _)| position));
    }

    /// The node after the cut, and what is known of its inputs then.
    fn as_cut(&self, node: &Node, mends: Option<&Vec<Change>>, changed: &HashMap<&str, Known>) -> (Node, Shapes) {
        let mut local = Shapes::default();
        for input in node.inputs().iter().filter(|input| !input.is_empty()) {
            match changed.get(input.as_str()) {
                Some(known) => local.insert(input, known.clone()),
                None => local.adopt(input, self.shapes),
            }
        }
        let mut node = node.clone();
        for change in mends.into_iter().flatten() {
            match change {
                Change::Int(name, value) => node = node.with_int(name, *value),
                Change::Ints(name, values) => node = node.with_ints(name, values),
                Change::Remove(name) => {
                    let attributes = &mut node.proto_mut().attribute;
                    attributes.retain(|attribute| attribute.name.as_deref() != Some(name));
                }
                Change::Input(slot, values) => {
                    // A name that no value of a model has.
                    let name = format!("\0{slot}");
                    local.insert(
                        &name,
                        Known {
                            dtype: DType::INT64,
                            shape: vec![values.len()],
                            numbers: Some(Numbers::Integers(values.clone())),
                            follows_shape: false,
                        },
                    );
                    let inputs = &mut node.proto_mut().input;
                    inputs.resize((*slot + 1).max(inputs.len()), String::new());
                    inputs[*slot] = name;
                }
            }
        }
        (node, local)
    }

    fn check_shape(
        &self,
        node: &Node,
        output: &str,
        before: &Known,
        found: Option<&Known>,
        remains: &Remains,
    ) -> Verdict {
        let sizes = before.shape.iter().enumerate();
        let expected: Vec<usize> = sizes
            .map(|(axis, &size)| remains.sizes(output, axis).map_or(size, |(_, after)| after))
            .collect();
        match found {
            Some(found) if found.shape == expected => return Ok(()),
            // Known by declaration alone, and not affected.
            None if before.shape == expected => return Ok(()),
            _ => {}
        }
        let found = found.map_or("an unknown shape".into(), |found| format!("shape {:?}", found.shape));
        let reason = format!("its output would have {found} where {expected:?} is needed");
        Err((format!("node `{}`", node.label()), reason))
    }

    /// A value computed from the number of channels may only become a shape.
    fn check_computed(&self, node: &Node, output: &str, before: &Known, after: &Known) -> Verdict {
        let constant = node.is("ConstantOfShape");
        if constant || !before.follows_shape || before.numbers == after.numbers {
            return Ok(());
        }
        let refuse = |place: &str| {
            let reason = "computes with the number of channels".to_owned();
            Err((format!("node `{place}`"), reason))
        };
        for &(position, slot) in self.sites.index.consumers(output) {
            let consumer = self.sites.node(position);
            let sets_a_shape = consumer.domain().is_empty()
                && matches!(
                    (consumer.op_type(), slot),
                    ("Reshape" | "Expand", 1) | ("Resize", 3) | ("Shape" | "Size" | "ConstantOfShape", 0)
                );
            let known = self.shapes.get(consumer.id());
            let computes_on = known.is_some_and(|known| known.follows_shape || known.numbers.is_some());
            if !sets_a_shape && !computes_on {
                return refuse(consumer.label());
            }
        }
        if self.shown.contains(output) || self.sites.index.is_captured(output) {
            return refuse(node.label());
        }
        Ok(())
    }
}
