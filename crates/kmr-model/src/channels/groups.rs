//! From related elements to groups of channels.

use std::collections::{BTreeSet, HashMap};

use super::{
    Adjustment, ChannelAnalysis, ChannelGroup, Refusal, TensorSlice,
    relations::{Making, Relations},
};
use crate::Graph;

/// Producers that all refusals together name; each names one at least.
const MEMBERS: usize = 1 << 18;

/// Adjustments that all groups together name. Where many groups lie on one axis, each of them moves every slice of it.
const ADJUSTMENTS: usize = 1 << 18;

/// An operand, which may be that of many producers.
struct Source<'m> {
    axis: (&'m str, usize),
    /// The producers, in their order.
    makings: Vec<usize>,
}

/// A set of elements that can be removed.
struct Unit {
    /// The numbers of the sources that make it, and at which of their channels.
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
    let sources = sources(&relations);
    let (mut units, mut refused) = units(&mut relations, &sources);
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
    let mut room = ADJUSTMENTS;
    let groups = families.iter().filter_map(|family| {
        let mut group = describe(&relations, &sources, family, &axes);
        let touching = adjustments.touching(group.slices.iter().chain(&group.values));
        match room.checked_sub(touching.len()) {
            Some(left) => room = left,
            None => {
                refused.push(Refusal {
                    members: members(group.producers.iter().map(|producer| producer.node.as_str())),
                    node: "the model".into(),
                    reason: "too many nodes say something about these channels".into(),
                    channels: group.channels,
                });
                return None;
            }
        }
        group.adjustments = adjustments.named(&touching);
        let count = named.entry(group.id.clone()).or_default();
        *count += 1;
        if *count > 1 {
            group.id = format!("{}#{count}", group.id);
        }
        Some(group)
    });
    let groups = groups.collect();
    ChannelAnalysis { groups, refused }
}

/// Units, and which one each element belongs to.
struct Units {
    units: Vec<Unit>,
    /// By root: 1 + the unit's number, or 0.
    numbers: Vec<u32>,
}

/// The operands of all producers, each once, in the order of their first producers.
fn sources<'m>(relations: &Relations<'m>) -> Vec<Source<'m>> {
    let mut numbers: HashMap<(&str, usize), usize> = HashMap::new();
    let mut sources: Vec<Source> = Vec::new();
    for (number, making) in relations.making.iter().enumerate() {
        let axis = (making.operand, making.operand_axis);
        let next = sources.len();
        let source = *numbers.entry(axis).or_insert(next);
        if source == next {
            sources.push(Source {
                axis,
                makings: Vec::new(),
            });
        }
        sources[source].makings.push(number);
    }
    sources
}

/// Everything that is produced, parted into what can be removed and what cannot.
fn units(relations: &mut Relations, sources: &[Source]) -> (Units, Vec<Refusal>) {
    let mut room = MEMBERS;
    let mut members = |relations: &Relations, numbers: &[usize]| {
        let makings = numbers.iter().flat_map(|&source| &sources[source].makings);
        let makings = makings.take(room.max(1));
        let nodes = makings.map(|&making| relations.making[making].producer.node.as_str());
        let members = members(nodes);
        room = room.saturating_sub(members.len());
        members
    };
    let mut numbers = vec![0_u32; relations.elements.len()];
    let mut all: Vec<(usize, Vec<(usize, usize)>)> = Vec::new();
    let mut refused: Vec<Refusal> = Vec::new();
    for (source, &Source { axis, .. }) in sources.iter().enumerate() {
        let shape = relations.shapes.shape(axis.0).unwrap_or_default();
        let size = shape.get(axis.1).copied().unwrap_or(0);
        if relations.elements.size(axis) < size {
            refused.push(Refusal {
                members: members(relations, &[source]),
                node: format!("value `{}`", axis.0),
                reason: format!("its axis of {size} elements is too long to be followed"),
                channels: size,
            });
        }
        for (index, element) in relations.elements.range(axis).enumerate() {
            let root = relations.elements.root(element);
            if numbers[root] == 0 {
                all.push((root, Vec::new()));
                numbers[root] = all.len() as u32;
            }
            all[numbers[root] as usize - 1].1.push((source, index));
        }
    }
    let mut units = Vec::new();
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
        let mut makers: Vec<usize> = makings.iter().map(|&(source, _)| source).collect();
        makers.dedup();
        let next = refused.len();
        let place = *known
            .entry((makers.clone(), reason.place.clone(), reason.text.clone()))
            .or_insert(next);
        if place == next {
            refused.push(Refusal {
                members: members(relations, &makers),
                node: reason.place,
                reason: reason.text,
                channels: 0,
            });
        }
        refused[place].channels += 1;
    }
    (Units { units, numbers }, refused)
}

/// These nodes, each once.
fn members<'n>(nodes: impl Iterator<Item = &'n str>) -> Vec<String> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
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

    /// The numbers of those that depend on one of `slices`, in their order.
    fn touching<'s>(&self, slices: impl Iterator<Item = &'s TensorSlice>) -> BTreeSet<usize> {
        let mut found: BTreeSet<usize> = BTreeSet::new();
        for slice in slices {
            let here = self.by_value.get(slice.tensor.as_str()).into_iter().flatten();
            let here = here.filter(|(axis, _)| axis.is_none_or(|axis| axis == slice.axis));
            found.extend(here.map(|&(_, number)| number));
        }
        found
    }

    fn named(&self, numbers: &BTreeSet<usize>) -> Vec<Adjustment> {
        numbers.iter().map(|&number| self.all[number].clone()).collect()
    }
}

fn describe(relations: &Relations, sources: &[Source], family: &[&Unit], axes: &[(&str, usize)]) -> ChannelGroup {
    let numbers = family.iter().flat_map(|unit| &unit.makings);
    let numbers: BTreeSet<usize> = numbers.map(|&(source, _)| source).collect();
    let makings: BTreeSet<usize> = numbers
        .iter()
        .flat_map(|&source| &sources[source].makings)
        .copied()
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
        adjustments: Vec::new(),
        slices,
        values,
    }
}
