//! Reshape and Flatten: the same elements under other axes.
//!
//! Both shapes are read as products of the same factors: `[12, 64]` and `[768]` are both 12 × 64, a group
//! normalization's `[C, H, W]` and `[G, M]` are both G × C/G × H × W. Of one run of axes a single factor may
//! lose elements, or what is left would be no product any more; all other axes of the run are fixed.

use std::collections::{HashMap, HashSet};

use super::{layout::permutation, relations::Relations};
use crate::Node;

/// Passes over all reshapes that carry fixed axes from one to the next.
const PASSES: usize = 4;

/// A factor that both shapes have in common.
struct Factor {
    size: usize,
    /// The axis of the input, and the distance of the factor's neighbours on it.
    from: (usize, usize),
    /// The axis of the output, and the distance there.
    to: (usize, usize),
}

/// Axes of both shapes with as many elements.
struct Run {
    sources: Vec<usize>,
    targets: Vec<usize>,
    /// None if the axes have no factors in common.
    factors: Option<Vec<Factor>>,
}

struct Reshape<'m> {
    node: &'m Node,
    from: &'m str,
    runs: Vec<Run>,
}

/// Relates all reshapes of a graph, when everything else has been.
pub(super) fn relate<'m>(relations: &mut Relations<'m>, nodes: &[&'m Node]) {
    let mut reshapes = Vec::with_capacity(nodes.len());
    for &node in nodes {
        let from = node.input(0).unwrap_or_default();
        let old = sizes(relations, from);
        let new = sizes(relations, node.id());
        if old.contains(&0) || new.contains(&0) {
            relations.refuse(node, "it has no elements");
            continue;
        }
        let runs = runs(&old, &new);
        reshapes.push(Reshape { node, from, runs });
        if node.is("Reshape") {
            relations.spells(node, 1, node.id(), 0);
        }
    }
    for reshape in &reshapes {
        let plain = reshape.runs.iter().filter(|run| run.is_plain());
        for run in plain {
            let (source, target) = (run.sources[0], run.targets[0]);
            relations
                .elements
                .link((reshape.from, source), (reshape.node.id(), target));
        }
    }
    // What is fixed on one side of a reshape is on the other: known before anything is chosen.
    for pass in 0..PASSES {
        let mut changed = false;
        let mut spread = |reshape: &Reshape<'m>| {
            if relations.elements.is_exhausted() {
                return;
            }
            for run in reshape.runs.iter().filter(|run| !run.is_plain()) {
                changed |= run.spread(relations, reshape);
            }
        };
        match pass % 2 {
            0 => reshapes.iter().rev().for_each(&mut spread),
            _ => reshapes.iter().for_each(&mut spread),
        }
        if !changed {
            break;
        }
    }
    for reshape in &reshapes {
        if relations.elements.is_exhausted() {
            return;
        }
        for run in reshape.runs.iter().filter(|run| !run.is_plain()) {
            run.choose(relations, reshape);
        }
    }
}

fn sizes(relations: &Relations, value: &str) -> Vec<usize> {
    relations.shapes.shape(value).unwrap_or_default().to_vec()
}

impl Run {
    fn is_plain(&self) -> bool {
        self.sources.len() == 1 && self.targets.len() == 1
    }

    /// Fixes all axes of the run if no factor can lose anything; says whether that is news.
    fn spread(&self, relations: &mut Relations, reshape: &Reshape) -> bool {
        let (from, to) = (reshape.from, reshape.node.id());
        let factors = self.factors.iter().flatten();
        let mut alive = factors.filter(|factor| {
            let elements = &mut relations.elements;
            !elements.all_fixed((from, factor.from.0)) && !elements.all_fixed((to, factor.to.0))
        });
        if alive.next().is_some() {
            return false;
        }
        let elements = &mut relations.elements;
        let sources = self.sources.iter().all(|&axis| elements.all_fixed((from, axis)));
        let targets = self.targets.iter().all(|&axis| elements.all_fixed((to, axis)));
        if sources && targets {
            return false;
        }
        self.fix_but(relations, reshape, None);
        true
    }

    /// Fixes the axes of the run on which `factor` does not lie.
    fn fix_but(&self, relations: &mut Relations, reshape: &Reshape, factor: Option<&Factor>) {
        let text = match (&self.factors, self.targets.len()) {
            (None, _) => "it splits this axis in a way that is not understood",
            (Some(_), 1) => "it merges this axis with others",
            (Some(_), _) => "it splits or merges this axis",
        };
        let reason = relations.reason(reshape.node, text);
        let kept = |axis: usize, of: fn(&Factor) -> usize| factor.is_some_and(|factor| of(factor) == axis);
        for &axis in self.sources.iter().filter(|&&axis| !kept(axis, |f| f.from.0)) {
            relations.elements.fix((reshape.from, axis), reason);
        }
        for &axis in self.targets.iter().filter(|&&axis| !kept(axis, |f| f.to.0)) {
            relations.elements.fix((reshape.node.id(), axis), reason);
        }
    }

    /// Lets one factor lose elements, and fixes the others.
    ///
    /// The first of them that leaves units to choose among: the heads of an attention rather than what is in each.
    /// Where the next operator swaps the factors, as a channel shuffle does, the one that leaves most.
    fn choose(&self, relations: &mut Relations, reshape: &Reshape) {
        let factors = self.factors.as_deref().unwrap_or_default();
        let units: Vec<usize> = factors
            .iter()
            .map(|factor| factor.free_units(relations, reshape))
            .collect();
        let most = units.iter().copied().max().unwrap_or(0);
        let enough = if self.is_shuffled(relations, reshape.node) {
            most
        } else {
            most.min(2)
        };
        let chosen = units.iter().position(|&units| units > 0 && units >= enough);
        let chosen = chosen.and_then(|place| factors.get(place));
        self.fix_but(relations, reshape, chosen);
        if let Some(factor) = chosen {
            factor.link(relations, reshape);
        }
    }

    /// Whether the next operator brings the output's axes of this run into another order.
    fn is_shuffled(&self, relations: &Relations, node: &Node) -> bool {
        if self.targets.len() < 2 {
            return false;
        }
        let mut consumers = relations.consumers(node.id());
        consumers.any(|consumer| {
            let order = permutation(consumer, relations.rank(node.id()));
            let places = self
                .targets
                .iter()
                .map(|axis| order.iter().position(|from| from == axis));
            consumer.is("Transpose") && !places.collect::<Vec<_>>().is_sorted()
        })
    }
}

impl Factor {
    fn index(&self, element: usize, stride: usize) -> usize {
        element / stride % self.size
    }

    /// How many units there would be if this factor were the one to lose elements.
    fn free_units(&self, relations: &mut Relations, reshape: &Reshape) -> usize {
        let mut parents: Vec<usize> = (0..self.size).collect();
        let mut fixed = vec![false; self.size];
        let mut seen: HashMap<usize, usize> = HashMap::new();
        let sides = [(reshape.from, self.from), (reshape.node.id(), self.to)];
        for (value, (axis, stride)) in sides {
            let range = relations.elements.range((value, axis));
            if range.is_empty() {
                return 0;
            }
            for (element, place) in range.enumerate() {
                let index = self.index(element, stride);
                if relations.elements.is_fixed(place) {
                    fixed[index] = true;
                }
                let root = relations.elements.root(place);
                let other = *seen.entry(root).or_insert(index);
                let (a, b) = (find(&mut parents, index), find(&mut parents, other));
                parents[a.max(b)] = a.min(b);
            }
        }
        let lost: HashSet<usize> = (0..self.size)
            .filter(|&index| fixed[index])
            .map(|index| find(&mut parents, index))
            .collect();
        (0..self.size)
            .filter(|&index| parents[index] == index && !lost.contains(&index))
            .count()
    }

    fn link(&self, relations: &mut Relations, reshape: &Reshape) {
        let (from, to) = ((reshape.from, self.from.0), (reshape.node.id(), self.to.0));
        // One element of the output stands for each index; all others with this index are linked to it.
        let first = |index: usize| (to, index * self.to.1);
        for element in 0..relations.elements.size(from) {
            let index = self.index(element, self.from.1);
            relations.elements.link_at((from, element), first(index));
        }
        for element in 0..relations.elements.size(to) {
            let index = self.index(element, self.to.1);
            relations.elements.link_at((to, element), first(index));
        }
    }
}

fn find(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

/// The shortest runs of axes with the same number of elements in both shapes, axes of size 1 left out.
fn runs(old: &[usize], new: &[usize]) -> Vec<Run> {
    let long = |sizes: &[usize]| -> Vec<usize> { (0..sizes.len()).filter(|&axis| sizes[axis] != 1).collect() };
    let (sources, targets) = (long(old), long(new));
    let (mut result, mut source, mut target) = (Vec::new(), 0, 0);
    while source < sources.len() && target < targets.len() {
        let (first_source, first_target) = (source, target);
        let (mut left, mut right) = (old[sources[source]], new[targets[target]]);
        (source, target) = (source + 1, target + 1);
        while left != right {
            if left < right && source < sources.len() {
                left = left.saturating_mul(old[sources[source]]);
                source += 1;
            } else if right < left && target < targets.len() {
                right = right.saturating_mul(new[targets[target]]);
                target += 1;
            } else {
                break;
            }
        }
        let (sources, targets) = (&sources[first_source..source], &targets[first_target..target]);
        result.push(Run {
            factors: factors(old, sources, new, targets),
            sources: sources.to_vec(),
            targets: targets.to_vec(),
        });
    }
    result
}

/// The factors that both runs have in common, first to last.
fn factors(old: &[usize], sources: &[usize], new: &[usize], targets: &[usize]) -> Option<Vec<Factor>> {
    let mut factors = Vec::new();
    let (mut sources, mut targets) = (sources.iter(), targets.iter());
    // The axis at hand on each side, and what is left of it: also the distance of what has been taken.
    let (mut source, mut target) = (None, None);
    loop {
        let from = match source {
            Some((axis, left)) if left > 1 => Some((axis, left)),
            _ => sources.next().map(|&axis| (axis, old[axis])),
        };
        let to = match target {
            Some((axis, left)) if left > 1 => Some((axis, left)),
            _ => targets.next().map(|&axis| (axis, new[axis])),
        };
        let ((from, left), (to, right)) = match (from, to) {
            (Some(from), Some(to)) => (from, to),
            (None, None) => return Some(factors),
            _ => return None,
        };
        let size = left.min(right);
        if left % size != 0 || right % size != 0 {
            return None;
        }
        factors.push(Factor {
            size,
            from: (from, left / size),
            to: (to, right / size),
        });
        (source, target) = (Some((from, left / size)), Some((to, right / size)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(old: &[usize], new: &[usize]) -> Vec<Option<Vec<(usize, usize, usize)>>> {
        let factors = |run: Run| {
            let factors = run.factors?.into_iter();
            Some(factors.map(|f| (f.size, f.from.1, f.to.1)).collect())
        };
        runs(old, new).into_iter().map(factors).collect()
    }

    #[test]
    fn both_shapes_are_products_of_the_same_factors() {
        let heads = described(&[1, 5, 12], &[1, 5, 3, 4]);
        assert_eq!(heads, [Some(vec![(5, 1, 1)]), Some(vec![(3, 4, 1), (4, 1, 1)])]);
        let merged = described(&[2, 8, 3, 3], &[2, 72]);
        assert_eq!(
            merged,
            [Some(vec![(2, 1, 1)]), Some(vec![(8, 1, 9), (3, 1, 3), (3, 1, 1)])]
        );
        let grouped = described(&[1, 8, 3, 5], &[1, 4, 30]);
        assert_eq!(grouped, [Some(vec![(4, 2, 1), (2, 1, 15), (3, 1, 5), (5, 1, 1)])]);
        assert_eq!(described(&[4, 6], &[6, 4]), [None]);
    }
}
