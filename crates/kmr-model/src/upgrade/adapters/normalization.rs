//! Normalization, and what behaves differently in training.

use super::super::site::{Refusal, Site};
use crate::Node;

/// BatchNormalization: statistics are per channel.
pub(in crate::upgrade) fn spatial(site: &mut Site) -> Result<(), Refusal> {
    match site.take_int("spatial")? {
        None => Ok(()),
        Some(0) => Err("its statistics are not per channel (`spatial` is 0)".into()),
        Some(_) => {
            site.note("the attribute `spatial` is no more");
            Ok(())
        }
    }
}

/// BatchNormalization: training is an attribute, and has other outputs.
pub(in crate::upgrade) fn inference(site: &mut Site) -> Result<(), Refusal> {
    if site.named_outputs() > 1 {
        return Err("it is in training mode".into());
    }
    let outputs = &mut site.node.proto_mut().output;
    if outputs.len() > 1 {
        outputs.truncate(1);
        site.note("outputs of training are left out");
    }
    Ok(())
}

/// Dropout: the mask has another element type.
pub(in crate::upgrade) fn mask(site: &mut Site) -> Result<(), Refusal> {
    match site.node.outputs().get(1) {
        Some(mask) if !mask.is_empty() => Err("its mask is read, whose element type changed".into()),
        _ => Ok(()),
    }
}

/// Softmax and its kin: the old definitions normalized over this axis and all after it, taken together.
pub(in crate::upgrade) fn coerced(site: &mut Site) -> Result<(), Refusal> {
    let axis = site.take_int("axis")?.unwrap_or(1);
    let input = site.node.input(0).ok_or("it has no input")?.to_owned();
    let rank = site.facts.rank(&input);
    let last = axis == -1 || rank.is_some_and(|rank| axis + 1 == rank as i64);
    site.node = site.node.clone().with_int("axis", -1);
    if last {
        site.note("the axis is counted from the end");
        return Ok(());
    }
    let (shape, rows, normal) = (site.fresh("shape"), site.fresh("rows"), site.fresh("normal"));
    let output = site.node.id().to_owned();
    site.precede(Node::new("Shape", "", &[&input], &[&shape]));
    site.precede(Node::new("Flatten", "", &[&input], &[&rows]).with_int("axis", axis));
    site.set_input(0, rows);
    site.node.proto_mut().output = vec![normal.clone()];
    site.follow(Node::new("Reshape", "", &[&normal, &shape], &[&output]));
    site.note("normalizes rows, because several axes are normalized together");
    Ok(())
}

/// GroupNormalization: scale and bias are per channel rather than per group.
pub(in crate::upgrade) fn channel_parameters(site: &mut Site) -> Result<(), Refusal> {
    let groups = match site.node.attribute("num_groups") {
        Some(attribute) if attribute.ref_attr_name.is_none() => attribute.i.unwrap_or_default(),
        Some(_) => return Err("its attribute `num_groups` is set by the calls of a function".into()),
        None => return Err("it has no attribute `num_groups`".into()),
    };
    let input = site.node.input(0).ok_or("it has no input")?.to_owned();
    let channels = site.fresh("channels");
    let shape = Node::new("Shape", "", &[&input], &[&channels]);
    site.precede(shape.with_int("start", 1).with_int("end", 2));
    let (count, one, all) = (
        site.integers("groups", vec![groups]),
        site.integers("one", vec![1]),
        site.integers("all", vec![-1]),
    );
    let (each, wide) = (site.fresh("each"), site.fresh("wide"));
    site.precede(Node::new("Div", "", &[&channels, &count], &[&each]));
    site.precede(Node::new("Concat", "", &[&one, &each], &[&wide]).with_int("axis", 0));
    for (position, role) in [(1, "scale"), (2, "bias")] {
        let parameter = site.node.input(position).ok_or("it lacks scale or bias")?.to_owned();
        let (column, table, row) = (
            site.fresh(&format!("{role}_column")),
            site.fresh(&format!("{role}_table")),
            site.fresh(role),
        );
        site.precede(Node::new("Unsqueeze", "", &[&parameter, &one], &[&column]));
        site.precede(Node::new("Expand", "", &[&column, &wide], &[&table]));
        site.precede(Node::new("Reshape", "", &[&table, &all], &[&row]));
        site.set_input(position, row);
    }
    site.note("scale and bias are repeated for each channel of a group");
    Ok(())
}
