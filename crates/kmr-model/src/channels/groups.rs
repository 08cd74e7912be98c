//! From related elements to groups of channels.

use std::collections::{BTreeSet, HashMap};

use super::{
    Adjustment, ChannelAnalysis, ChannelGroup, Refusal, TensorSlice,
    relations::{Making, Relations},
};
use crate::Graph;

/// A set of elements that can be removed.
struct Unit {
    /// What produces it, and at which of the producer's channels.
    makings: Vec<(usize, usize)>,
    /// Where it lies: numbers of axes, ascending, each with an index.
    places: Vec<(u32, u32)>,
}

impl Unit {
    /// The axes that it lies on, with the number of its elements there.
    fn signature(&self) -> Vec<(u32, u32)> {
        let axes = self.places.chunk_by(|left, right| left.0 == right.0);
        axes.map(|places| (places[0].0, places.len() as u32)).collect()
    }
}

pub(super) fn form(mut relations: Relations) -> ChannelAnalysis {
    let (mut units, refused) = units(&mut relations);
    let axes = all_axes(&relations);
    place(&mut relations, &mut units, &axes);

    // Units that lie alike: the same axes, as many elements on each.
    let mut alike: HashMap<Vec<(u32, u32)>, usize> = HashMap::new();
    let mut families: Vec<Vec<&Unit>> = Vec::new();
    let mut units: Vec<&Unit> = units.units.iter().collect();
    units.sort_by_key(|unit| unit.makings[0]);
    for unit in units {
        let next = families.len();
        let family = *alike.entry(unit.signature()).or_insert(next);
        if family == next {
            families.push(Vec::new());
        }
        families[family].push(unit);
    }

    let adjustments = Adjustments::of(&relations.adjustments);
    let mut named: HashMap<String, usize> = HashMap::new();
    let groups = families.iter().map(|family| {
        let mut group = describe(&relations, family, &axes, &adjustments);
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

/// Units, and which one each element belongs to.
struct Units {
    units: Vec<Unit>,
    /// By root: 1 + the unit's number, or 0.
    numbers: Vec<u32>,
}

/// Everything that is produced, parted into what can be removed and what cannot.
fn units(relations: &mut Relations) -> (Units, Vec<Refusal>) {
    let mut numbers = vec![0_u32; relations.elements.len()];
    let mut all: Vec<(usize, Vec<(usize, usize)>)> = Vec::new();
    for making in 0..relations.making.len() {
        let Making {
            operand, operand_axis, ..
        } = relations.making[making];
        for (index, element) in relations.elements.range((operand, operand_axis)).enumerate() {
            let root = relations.elements.root(element);
            if numbers[root] == 0 {
                all.push((root, Vec::new()));
                numbers[root] = all.len() as u32;
            }
            all[numbers[root] as usize - 1].1.push((making, index));
        }
    }
    let mut units = Vec::new();
    let mut refused: Vec<Refusal> = Vec::new();
    let mut known: HashMap<(Vec<usize>, String, String), usize> = HashMap::new();
    for (root, makings) in all {
        let Some(reason) = relations.elements.refusal(root).cloned() else {
            units.push(Unit {
                makings,
                places: Vec::new(),
            });
            numbers[root] = units.len() as u32;
            continue;
        };
        numbers[root] = 0;
        let mut makers: Vec<usize> = makings.iter().map(|&(making, _)| making).collect();
        makers.dedup();
        let next = refused.len();
        let place = *known
            .entry((makers.clone(), reason.place.clone(), reason.text.clone()))
            .or_insert(next);
        if place == next {
            refused.push(Refusal {
                members: members(relations, makers),
                node: reason.place,
                reason: reason.text,
                channels: 0,
            });
        }
        refused[place].channels += 1;
    }
    (Units { units, numbers }, refused)
}

/// The nodes of these makings, each once.
fn members(relations: &Relations, makings: impl IntoIterator<Item = usize>) -> Vec<String> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    let nodes = makings.into_iter().map(|m| relations.making[m].producer.node.as_str());
    nodes.filter(|node| seen.insert(node)).map(str::to_owned).collect()
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

fn place(relations: &mut Relations, units: &mut Units, axes: &[(&str, usize)]) {
    for (number, &axis) in axes.iter().enumerate() {
        for (index, element) in relations.elements.range(axis).enumerate() {
            let root = relations.elements.root(element);
            if let Some(unit) = units.numbers[root].checked_sub(1) {
                let places = &mut units.units[unit as usize].places;
                places.push((number as u32, index as u32));
            }
        }
    }
}

/// Adjustments by the value that they depend on.
struct Adjustments<'r> {
    all: &'r [Adjustment],
    /// With the axis; `None` where any axis counts.
    by_value: HashMap<&'r str, Vec<(Option<usize>, usize)>>,
}

impl<'r> Adjustments<'r> {
    fn of(all: &'r [Adjustment]) -> Self {
        let mut by_value: HashMap<&str, Vec<(Option<usize>, usize)>> = HashMap::new();
        for (number, adjustment) in all.iter().enumerate() {
            let (value, axis) = match adjustment {
                Adjustment::Count { value, axis, .. } => (value, Some(*axis)),
                Adjustment::SplitSizes { input, axis, .. } => (input, Some(*axis)),
                Adjustment::SliceBounds { input, .. } => (input, None),
                Adjustment::Sizes { output, .. } => (output, None),
            };
            by_value.entry(value).or_default().push((axis, number));
        }
        Self { all, by_value }
    }

    /// Those that depend on one of `slices`, in their order.
    fn touching<'s>(&self, slices: impl Iterator<Item = &'s TensorSlice>) -> Vec<Adjustment> {
        let mut found: BTreeSet<usize> = BTreeSet::new();
        for slice in slices {
            let here = self.by_value.get(slice.tensor.as_str()).into_iter().flatten();
            let here = here.filter(|(axis, _)| axis.is_none_or(|axis| axis == slice.axis));
            found.extend(here.map(|&(_, number)| number));
        }
        found.into_iter().map(|number| self.all[number].clone()).collect()
    }
}

fn describe(
    relations: &Relations,
    family: &[&Unit],
    axes: &[(&str, usize)],
    adjustments: &Adjustments,
) -> ChannelGroup {
    let makings: BTreeSet<usize> = family
        .iter()
        .flat_map(|unit| unit.makings.iter().map(|&(making, _)| making))
        .collect();
    let mut makings: Vec<&Making> = makings.iter().map(|&m| &relations.making[m]).collect();
    makings.sort_by_key(|making| making.position);
    let (mut slices, mut values) = (Vec::new(), Vec::new());
    // All units of a family lie on the same axes, with as many places each.
    let mut start = 0;
    for (number, count) in family[0].signature() {
        let end = start + count as usize;
        let (tensor, axis) = axes[number as usize];
        let indices = family.iter().map(|unit| {
            let places = unit.places[start..end].iter();
            places.map(|&(_, index)| index as usize).collect()
        });
        let slice = TensorSlice {
            tensor: tensor.to_owned(),
            axis,
            size: relations.size(tensor, axis),
            indices: indices.collect(),
        };
        start = end;
        let constant = relations.maker(tensor).is_some_and(|n| n.is("Constant"));
        if constant || relations.model.graph.initializers.contains_key(tensor) {
            slices.push(slice);
        } else {
            values.push(slice);
        }
    }
    ChannelGroup {
        id: makings[0].producer.node.clone(),
        channels: family.len(),
        producers: makings.iter().map(|making| making.producer.clone()).collect(),
        adjustments: adjustments.touching(slices.iter().chain(&values)),
        slices,
        values,
    }
}
