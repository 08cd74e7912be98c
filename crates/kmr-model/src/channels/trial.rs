//! Every group is cut once on trial, without touching data, before it is offered.
//!
//! This is where shapes that are computed at run time are judged: a chain of Shape, Gather, Concat may
//! follow a cut by itself, or may spell a number of channels that no edit mends.

use std::collections::{BTreeMap, HashMap};

use super::{
    ChannelAnalysis, ChannelGroup, Refusal,
    cut::{Remains, adjust},
};
use crate::{
    Model, ModelError, Node, Patch,
    shapes::{self, Shapes},
};

pub(super) fn refuse_what_does_not_fit(model: &Model, shapes: &Shapes, analysis: &mut ChannelAnalysis) {
    let feeds: BTreeMap<String, Vec<usize>> = model
        .graph
        .feeds()
        .filter_map(|feed| Some((feed.name().to_owned(), shapes.shape(feed.name())?.to_vec())))
        .collect();
    let refused = &mut analysis.refused;
    analysis.groups.retain(|group| {
        let most: Vec<usize> = (0..group.channels.saturating_sub(1)).collect();
        let trials = [most, vec![0]];
        for keep in trials.iter().filter(|keep| !keep.is_empty()) {
            if let Err((node, reason)) = trial(model, shapes, &feeds, group, keep) {
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
}

type Verdict = Result<(), (String, String)>;

fn trial(
    model: &Model,
    shapes: &Shapes,
    feeds: &BTreeMap<String, Vec<usize>>,
    group: &ChannelGroup,
    keep: &[usize],
) -> Verdict {
    let error = |error: ModelError| (error.place().to_owned(), error.to_string());
    let remains = Remains::of([(group, keep)]).map_err(error)?;
    let mut patch = Patch::new();
    adjust(model, group.adjustments.iter(), &remains, &mut patch).map_err(error)?;
    let mut graph = patch.apply(&model.graph).map_err(error)?;
    // Declared types serve what cannot be inferred, and no such value is part of a group.
    graph.value_info.clone_from(&model.graph.value_info);
    let cut = model.with_graph(graph);
    let mut resized: HashMap<String, Vec<usize>> = HashMap::new();
    for (tensor, axes) in &remains.tensors {
        let mut shape = shapes.shape(tensor).unwrap_or_default().to_vec();
        for (&axis, kept) in axes {
            shape[axis] = kept.len();
        }
        resized.insert(tensor.clone(), shape);
    }
    let found = shapes::infer_with(&cut, feeds, &resized).map_err(error)?;
    for node in &cut.graph.nodes {
        for output in node.outputs().iter().filter(|output| !output.is_empty()) {
            check_shape(node, output, shapes, &found, &remains)?;
            check_computed(&cut, node, output, shapes, &found)?;
        }
    }
    Ok(())
}

fn check_shape(node: &Node, output: &str, before: &Shapes, after: &Shapes, remains: &Remains) -> Verdict {
    let Some(shape) = before.shape(output) else {
        return Ok(());
    };
    let sizes = shape.iter().enumerate();
    let expected: Vec<usize> = sizes
        .map(|(axis, &size)| remains.size(output, axis).unwrap_or(size))
        .collect();
    let found = after.shape(output);
    if found == Some(expected.as_slice()) {
        return Ok(());
    }
    let found = found.map_or("an unknown shape".into(), |found| format!("shape {found:?}"));
    let reason = format!("its output would have {found} where {expected:?} is needed");
    Err((format!("node `{}`", node.label()), reason))
}

/// A value computed from the number of channels may only become a shape.
fn check_computed(model: &Model, node: &Node, output: &str, before: &Shapes, after: &Shapes) -> Verdict {
    let (Some(old), Some(new)) = (before.get(output), after.get(output)) else {
        return Ok(());
    };
    if !old.follows_shape || old.numbers == new.numbers {
        return Ok(());
    }
    let refuse = |place: &str| {
        let reason = "computes with the number of channels".to_owned();
        Err((format!("node `{place}`"), reason))
    };
    let index = model.graph.index();
    for &(position, slot) in index.consumers(output) {
        let consumer = &model.graph.nodes[position];
        let sets_a_shape = matches!(
            (consumer.op_type(), slot),
            ("Reshape" | "Expand", 1) | ("Resize", 3) | ("Shape" | "Size", 0)
        );
        let computes_on = after.get(consumer.id()).is_some_and(|k| k.follows_shape);
        if !sets_a_shape && !computes_on {
            return refuse(consumer.label());
        }
    }
    let shown = model.graph.outputs.iter().any(|o| o.name() == output);
    if shown || index.is_captured(output) {
        return refuse(node.label());
    }
    Ok(())
}
