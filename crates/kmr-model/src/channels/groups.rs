//! From related elements to groups of channels.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Adjustment, ChannelAnalysis, ChannelGroup, Refusal, TensorSlice,
    relations::{Making, Relations},
};
use crate::Graph;

/// Where one unit lies: axes by number, each with indices.
type Places = BTreeMap<usize, Vec<usize>>;

pub(super) fn form(mut relations: Relations) -> ChannelAnalysis {
    // What each unit is produced by, and at which of the first producer's channels.
    let mut units: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for making in 0..relations.making.len() {
        let Making {
            operand, operand_axis, ..
        } = relations.making[making];
        for (index, element) in relations.elements.range((operand, operand_axis)).enumerate() {
            let root = relations.elements.root(element);
            units.entry(root).or_default().push((making, index));
        }
    }
    let refused = take_refused(&mut relations, &mut units);
    let axes = all_axes(&relations);
    let places = places(&mut relations, &units, &axes);

    // Units that lie alike: the same axes, as many elements on each.
    let mut alike: BTreeMap<Vec<(usize, usize)>, Vec<usize>> = BTreeMap::new();
    for (&root, places) in &places {
        let signature = places.iter().map(|(&axis, indices)| (axis, indices.len()));
        alike.entry(signature.collect()).or_default().push(root);
    }
    let mut families: Vec<Vec<usize>> = alike.into_values().collect();
    for family in &mut families {
        family.sort_by_key(|root| units[root][0]);
    }
    families.sort_by_key(|family| units[&family[0]][0]);

    let mut named: HashMap<String, usize> = HashMap::new();
    let groups = families.iter().map(|family| {
        let mut group = describe(&relations, family, &units, &places, &axes);
        let count = named.entry(group.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            group.id = format!("{}#{count}", group.id);
        }
        group
    });
    ChannelAnalysis {
        groups: groups.collect(),
        refused,
    }
}

fn take_refused(relations: &mut Relations, units: &mut BTreeMap<usize, Vec<(usize, usize)>>) -> Vec<Refusal> {
    let mut refused: Vec<Refusal> = Vec::new();
    units.retain(|&root, makings| {
        let Some(reason) = relations.elements.refusal(root).cloned() else {
            return true;
        };
        let makers: BTreeSet<usize> = makings.iter().map(|&(making, _)| making).collect();
        let mut members: Vec<String> = Vec::new();
        for making in makers {
            let node = &relations.making[making].producer.node;
            if !members.contains(node) {
                members.push(node.clone());
            }
        }
        let same = refused.iter_mut().find(|refusal| {
            refusal.members == members && refusal.node == reason.place && refusal.reason == reason.text
        });
        match same {
            Some(refusal) => refusal.channels += 1,
            None => refused.push(Refusal {
                members,
                node: reason.place,
                reason: reason.text,
                channels: 1,
            }),
        }
        false
    });
    refused
}

/// Every axis of every value, the stored ones first; then in the order of execution.
fn all_axes<'m>(relations: &Relations<'m>) -> Vec<(&'m str, usize)> {
    let graph: &'m Graph = &relations.model.graph;
    let outputs = graph.nodes.iter().flat_map(|node| node.outputs());
    let values = graph.initializers.keys().chain(outputs);
    values
        .flat_map(|value| (0..relations.rank(value)).map(move |axis| (value.as_str(), axis)))
        .collect()
}

fn places(
    relations: &mut Relations,
    units: &BTreeMap<usize, Vec<(usize, usize)>>,
    axes: &[(&str, usize)],
) -> BTreeMap<usize, Places> {
    let mut places: BTreeMap<usize, Places> = BTreeMap::new();
    for (number, &axis) in axes.iter().enumerate() {
        for (index, element) in relations.elements.range(axis).enumerate() {
            let root = relations.elements.root(element);
            if units.contains_key(&root) {
                let places = places.entry(root).or_default();
                places.entry(number).or_default().push(index);
            }
        }
    }
    places
}

fn describe(
    relations: &Relations,
    family: &[usize],
    units: &BTreeMap<usize, Vec<(usize, usize)>>,
    places: &BTreeMap<usize, Places>,
    axes: &[(&str, usize)],
) -> ChannelGroup {
    let makings: BTreeSet<usize> = family
        .iter()
        .flat_map(|root| units[root].iter().map(|&(making, _)| making))
        .collect();
    let mut makings: Vec<&Making> = makings.iter().map(|&m| &relations.making[m]).collect();
    makings.sort_by_key(|making| making.position);
    let (mut slices, mut values) = (Vec::new(), Vec::new());
    for &number in places[&family[0]].keys() {
        let (tensor, axis) = axes[number];
        let slice = TensorSlice {
            tensor: tensor.to_owned(),
            axis,
            size: relations.size(tensor, axis),
            indices: family.iter().map(|root| places[root][&number].clone()).collect(),
        };
        let constant = relations.maker(tensor).is_some_and(|n| n.is("Constant"));
        if constant || relations.model.graph.initializers.contains_key(tensor) {
            slices.push(slice);
        } else {
            values.push(slice);
        }
    }
    let touches = |value: &str, axis: Option<usize>| {
        let mut values = values.iter();
        values.any(|slice| slice.tensor == value && axis.is_none_or(|axis| axis == slice.axis))
    };
    let adjustments = relations.adjustments.iter().filter(|a| match a {
        Adjustment::GroupCount { input, .. } => touches(input, Some(1)),
        Adjustment::SplitSizes { input, axis, .. } => touches(input, Some(*axis)),
        Adjustment::ShapeConstant { output, .. } => touches(output, None),
    });
    let adjustments = adjustments.cloned().collect();
    ChannelGroup {
        id: makings[0].producer.node.clone(),
        channels: family.len(),
        producers: makings.iter().map(|making| making.producer.clone()).collect(),
        slices,
        values,
        adjustments,
    }
}
