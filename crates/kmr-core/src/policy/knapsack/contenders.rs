//! Ways to the budget by the sensitivity table alone, each audited by counting real candidates.

use std::collections::HashSet;
use std::sync::Arc;

use super::known::{Answer, Known};
use super::survey::{Survey, Variable, minus};
use crate::frontier::Frontier;

/// The most candidates that the uniform way compares.
const UNIFORM_LIMIT: usize = 256;

/// How often a way is corrected by what its solutions really cost.
const AUDITS: usize = 12;

/// One joint choice of values, a position for each of the survey's variables.
pub(in crate::policy) type Choices = Vec<usize>;

impl Survey {
    /// The sum of the shares by which modelled costs, off by `offsets`, exceed the limits.
    pub fn excess(&self, choices: &[usize], offsets: &[f64]) -> f64 {
        self.excess_of(&self.costs(choices), offsets)
    }

    fn excess_of(&self, costs: &[f64], offsets: &[f64]) -> f64 {
        let excess = |((cost, offset), limit): ((&f64, &f64), &f64)| (cost + offset - limit).max(0.0) / limit;
        costs.iter().zip(offsets).zip(&self.limits).map(excess).sum()
    }

    /// How far the model is off at these choices; none where they cannot be measured.
    pub fn offsets(&self, known: &Known, choices: &[usize]) -> Answer<Option<Vec<f64>>> {
        let real = known.costs(&[self.assignment(choices)])?[0];
        Ok(real.map(|real| minus(&self.limited(real), &self.costs(choices))))
    }

    /// What `solve` finds within the budget, for offsets between real and modelled costs that are
    /// learnt from the real costs of what it found before. Of several, the one of least loss.
    pub fn audited(&self, known: &Known, solve: impl Fn(&[f64]) -> Option<Choices>) -> Answer<Option<Choices>> {
        let mut offsets = vec![0.0; self.limits.len()];
        let mut best: Option<Choices> = None;
        let mut seen = HashSet::new();
        for _ in 0..AUDITS {
            let Some(choices) = solve(&offsets).filter(|choices| seen.insert(choices.clone())) else {
                break;
            };
            let off = self.offsets(known, &choices)?;
            let real = known.costs(&[self.assignment(&choices)])?[0];
            if real.is_some_and(|real| self.excess_of(&self.limited(real), &vec![0.0; self.limits.len()]) == 0.0) {
                if best.as_ref().is_none_or(|best| self.loss(&choices) < self.loss(best)) {
                    best = Some(choices);
                }
                // The model may have been too strict once; what it is off elsewhere is not forgotten.
                match off {
                    Some(off) if seen.len() == 1 => offsets = off,
                    _ => break,
                }
            } else {
                // What cannot be made is kept away from as if it were just beyond the budget.
                let beyond: Vec<f64> = self.limits.iter().map(|limit| limit * (1.0 + 1e-6)).collect();
                let off = off.unwrap_or_else(|| minus(&beyond, &self.costs(&choices)));
                let offsets = offsets.iter_mut().zip(off);
                offsets.for_each(|(offset, off)| *offset = offset.max(off));
            }
        }
        Ok(best)
    }

    /// All knobs of a rule at the same relative level; among those within the budget the levels that
    /// lose least.
    pub fn uniform(&self, known: &Known) -> Answer<Option<Choices>> {
        let knobs = &known.history.knobs;
        let kind = |at: usize| {
            let knob = &knobs[self.variables[at].knob];
            (&knob.rule, &knob.name)
        };
        let mut kinds: Vec<Vec<usize>> = Vec::new();
        for at in 0..self.variables.len() {
            match kinds.iter_mut().find(|members| kind(members[0]) == kind(at)) {
                Some(members) => members.push(at),
                None => kinds.push(vec![at]),
            }
        }
        let levels = |members: &Vec<usize>| members.iter().map(|&at| self.variables[at].values.len() - 1).max();
        let levels: Vec<usize> = kinds.iter().filter_map(levels).collect();
        let grid: Vec<Vec<f64>> = if levels.iter().map(|level| level + 1).product::<usize>() <= UNIFORM_LIMIT {
            levels.iter().fold(vec![vec![]], |grid, &top| {
                let longer = grid.iter().flat_map(|shares: &Vec<f64>| {
                    (0..=top).map(move |level| shares.iter().copied().chain([level as f64 / top as f64]).collect())
                });
                longer.collect()
            })
        } else {
            let top = levels.iter().copied().max().unwrap_or(1);
            (0..=top)
                .map(|level| vec![level as f64 / top as f64; kinds.len()])
                .collect()
        };
        let choices = grid.iter().map(|shares| {
            let mut choices = vec![0; self.variables.len()];
            for (members, share) in kinds.iter().zip(shares) {
                for &at in members {
                    choices[at] = (share * (self.variables[at].values.len() - 1) as f64).round() as usize;
                }
            }
            choices
        });
        let choices: Vec<Choices> = choices.collect();
        let assignments: Vec<_> = choices.iter().map(|choices| self.assignment(choices)).collect();
        let costs = known.costs(&assignments)?;
        let within = choices.into_iter().zip(costs).filter_map(|(choices, costs)| {
            let costs = costs.filter(|costs| known.meets(costs))?;
            Some((self.loss(&choices), known.load(costs), choices))
        });
        let gentlest = within.min_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
        Ok(gentlest.map(|(_, _, choices)| choices))
    }

    /// From the current state, one change to a knob's next value that helps after the other: the least
    /// loss for the excess that it takes away, or, of those that take it all away, the least loss.
    pub fn greedy(&self, offsets: &[f64]) -> Option<Choices> {
        let mut choices = vec![0; self.variables.len()];
        let mut excess = self.excess(&choices, offsets);
        while excess > 0.0 {
            let mut moves = self.moves(&choices, offsets, excess);
            moves.retain(|change| change.item > choices[change.variable]);
            moves.dedup_by_key(|change| change.variable);
            let first = |change: &Move| (change.excess > 0.0, change.price);
            let change = moves.into_iter().min_by(|one, other| {
                let (one, other) = (first(one), first(other));
                one.0.cmp(&other.0).then(one.1.total_cmp(&other.1))
            })?;
            choices[change.variable] = change.item;
            excess = change.excess;
        }
        Some(choices)
    }

    /// Every single change that lowers the excess.
    pub fn moves(&self, choices: &[usize], offsets: &[f64], excess: f64) -> Vec<Move> {
        let mut moves = Vec::new();
        let costs = self.costs(choices);
        let mut next = choices.to_vec();
        for (variable, Variable { losses, .. }) in self.variables.iter().enumerate() {
            let mine = self.share(variable, choices);
            for item in 0..losses.len() {
                next[variable] = item;
                let change = minus(&mine, &self.share(variable, &next));
                let left = self.excess_of(&minus(&costs, &change), offsets);
                let loss = losses[item] - losses[choices[variable]];
                let price = if left > 0.0 { loss / (excess - left) } else { loss };
                let change = Move {
                    variable,
                    item,
                    excess: left,
                    price,
                };
                moves.extend((left < excess).then_some(change));
            }
            next[variable] = choices[variable];
        }
        moves
    }

    /// The least modelled loss within the budget that any of these frontiers knows of.
    pub fn optimum(&self, frontiers: &[Weighted], offsets: &[f64]) -> Option<Choices> {
        let best = frontiers.iter().filter_map(|Weighted { units, frontier }| {
            let mut within = frontier.within(self.target(units, offsets));
            within.find(|solution| self.excess(&solution.choices, offsets) <= 1e-12)
        });
        best.min_by(|one, other| one.loss.total_cmp(&other.loss))
            .map(|solution| solution.choices)
    }

    /// The cheapest known way, within the budget or not.
    pub fn cheapest(&self, known: &Known, frontiers: &[Weighted]) -> Answer<Option<Choices>> {
        let last = self
            .variables
            .iter()
            .map(|variable| variable.values.len() - 1)
            .collect();
        let cheapest = frontiers.iter().filter_map(|weighted| weighted.frontier.solution(0));
        let choices: Vec<Choices> = cheapest.map(|solution| solution.choices).chain([last]).collect();
        let assignments: Vec<_> = choices.iter().map(|choices| self.assignment(choices)).collect();
        let loads = known
            .costs(&assignments)?
            .into_iter()
            .map(|costs| costs.map_or(f64::INFINITY, |costs| known.load(costs)));
        let measured = choices.into_iter().zip(loads).filter(|(_, load)| load.is_finite());
        Ok(measured
            .min_by(|one, other| one.1.total_cmp(&other.1))
            .map(|(choices, _)| choices))
    }
}

/// A single change that lowers the excess over the limits.
pub(in crate::policy) struct Move {
    pub variable: usize,
    pub item: usize,
    /// What is left of the excess.
    pub excess: f64,
    /// The loss; for each share of excess taken away, unless all is.
    pub price: f64,
}

/// A frontier of the costs under some weights of the limits, with what one unit of each cost counts.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Weighted {
    pub units: Vec<f64>,
    pub frontier: Arc<Frontier>,
}
