//! Evolve: (1 + λ) swaps that keep the budget, raced on growing data.

use std::collections::HashSet;

use super::knapsack::{Answer, Choices, Contender, Known, Survey, greedy, planned, settle};
use super::{Ask, Policy, PolicyError};
use crate::history::History;
use crate::measurement::Fidelity;

/// How much is drawn in vain before a child is given up.
const DRAWS: usize = 8;

/// By how much the data of a race grows from rung to rung.
const GROWTH: usize = 4;

/// How a candidate is refined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refinement {
    /// How often children are proposed.
    pub generations: usize,
    /// λ: children of one generation.
    pub lambda: usize,
    /// Whether they race by the proxy rather than by the meter of the floor.
    pub by_proxy: bool,
}

impl Default for Refinement {
    fn default() -> Self {
        Refinement {
            generations: 12,
            lambda: 4,
            by_proxy: true,
        }
    }
}

/// What [`Evolve`] goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvolveSettings {
    /// Samples for the proxy that single changes are compared by, and of a race's first rung.
    pub proxy_samples: usize,
    /// The most cost probes that look for couplings between knobs.
    pub cost_probes: usize,
    /// Generations and children.
    pub refine: Refinement,
    /// The seed of the swaps.
    pub seed: u64,
}

impl Default for EvolveSettings {
    fn default() -> Self {
        EvolveSettings {
            proxy_samples: 256,
            cost_probes: 4000,
            refine: Refinement {
                generations: 40,
                ..Refinement::default()
            },
            seed: 0,
        }
    }
}

/// Starts from the gentlest uniform way to the budget and improves it by swaps: a child loosens a
/// few knobs, by dice, and tightens others that lose little by it, until its modelled cost is
/// within the budget again; its real cost decides. Children race one another on more and more of
/// the data, the worse half of them leaving at each rung; one that beats its parent on all of the
/// data takes its place. The full meter chooses between the start, the probe
/// `uniform`, and the end, the probe `refined`.
#[derive(Clone, Debug, Default)]
pub struct Evolve {
    settings: EvolveSettings,
}

impl Evolve {
    /// The policy with these settings.
    pub fn new(settings: EvolveSettings) -> Self {
        Evolve { settings }
    }

    fn plan(&self, known: &Known) -> Answer<Ask> {
        let EvolveSettings {
            proxy_samples,
            cost_probes,
            refine,
            seed,
        } = &self.settings;
        let survey = Survey::new(known, Fidelity::proxy((*proxy_samples).max(1)), *cost_probes)?;
        if survey.variables.is_empty() {
            return Ok(Ask::Done);
        }
        let contenders: Vec<Contender> = match survey.uniform(known)? {
            Some(start) => {
                let end = refined(known, &survey, &start, refine, *proxy_samples, *seed)?;
                vec![("uniform", start), ("refined", end)]
            }
            None => {
                let cheapest = survey.cheapest(known, &[])?;
                cheapest.into_iter().map(|choices| ("cheapest", choices)).collect()
            }
        };
        settle(known, &survey, &contenders, None, &mut greedy(*proxy_samples))
    }
}

impl Policy for Evolve {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        planned(history, self.settings.proxy_samples, |known| self.plan(known))
    }
}

/// The last parent of a line that begins with `start`, which is within the budget.
pub(super) fn refined(
    known: &Known,
    survey: &Survey,
    start: &Choices,
    refine: &Refinement,
    proxy_samples: usize,
    seed: u64,
) -> Answer<Choices> {
    let first = proxy_samples.max(1);
    let rungs = [Some(first), Some(first.saturating_mul(GROWTH)), None].map(|samples| Fidelity {
        samples,
        proxy: refine.by_proxy,
    });
    let mut parent = start.clone();
    let mut seen = HashSet::from([parent.clone()]);
    for generation in 0..refine.generations {
        let Some(offsets) = survey.offsets(known, &parent)? else {
            break;
        };
        let mut children: Vec<Choices> = Vec::new();
        for child in 0..refine.lambda {
            let mut dice = Dice::new(&[seed, generation as u64, child as u64]);
            let mut drawn = (0..DRAWS).filter_map(|_| swapped(survey, &parent, &offsets, &mut dice));
            children.extend(drawn.find(|child| seen.insert(child.clone())));
        }
        let assignments: Vec<_> = children.iter().map(|child| survey.assignment(child)).collect();
        let costs = known.costs(&assignments)?;
        let within = children
            .into_iter()
            .zip(costs)
            .filter(|(_, costs)| costs.is_some_and(|costs| known.meets(costs)));
        let entrants = within.map(|(child, _)| child).collect();
        if let Some(winner) = race(known, survey, &parent, entrants, &rungs)? {
            parent = winner;
        }
    }
    Ok(parent)
}

/// The child that wins the race, if it beats `parent` on the last rung. Before that the parent is
/// no bar: the table was made from the first samples, so that few children look better on them.
fn race(
    known: &Known,
    survey: &Survey,
    parent: &Choices,
    mut entrants: Vec<Choices>,
    rungs: &[Fidelity],
) -> Answer<Option<Choices>> {
    let mut best = f64::NEG_INFINITY;
    for &rung in rungs {
        let assignments: Vec<_> = entrants.iter().map(|choices| survey.assignment(choices)).collect();
        let qualities = known.qualities(&assignments, rung)?;
        let measured = entrants.into_iter().zip(qualities);
        let mut ahead: Vec<(f64, Choices)> = measured
            .filter_map(|(child, quality)| Some((quality?, child)))
            .collect();
        ahead.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        ahead.truncate(ahead.len().div_ceil(2));
        best = ahead.first().map_or(f64::NEG_INFINITY, |(quality, _)| *quality);
        entrants = ahead.into_iter().map(|(_, child)| child).collect();
    }
    let (Some(winner), Some(&last)) = (entrants.into_iter().next(), rungs.last()) else {
        return Ok(None);
    };
    let bar = known.qualities(&[survey.assignment(parent)], last)?[0];
    Ok(bar.is_some_and(|bar| best > bar).then_some(winner))
}

/// A child: some values of `parent` gentler, others stronger, within the modelled budget. None when
/// there is nothing to loosen, or nothing left to tighten.
fn swapped(survey: &Survey, parent: &Choices, offsets: &[f64], dice: &mut Dice) -> Option<Choices> {
    let mut child = parent.clone();
    let mut loosened = HashSet::new();
    for _ in 0..=dice.heads().min(2) {
        let gentler = |at: &usize| {
            let losses = &survey.variables[*at].losses;
            let now = losses[child[*at]];
            (0..losses.len()).filter(|&item| losses[item] < now).collect::<Vec<_>>()
        };
        let loosenable = (0..child.len()).filter(|at| !loosened.contains(at) && !gentler(at).is_empty());
        let at = dice.pick(&loosenable.collect::<Vec<_>>())?;
        child[at] = dice.pick(&gentler(&at))?;
        loosened.insert(at);
    }
    for _ in 0..2 * child.len() {
        let excess = survey.excess(&child, offsets);
        if excess <= 0.0 {
            return Some(child);
        }
        let mut moves = survey.moves(&child, offsets, excess);
        moves.retain(|change| !loosened.contains(&change.variable));
        moves.sort_by(|one, other| one.price.total_cmp(&other.price));
        let change = moves.get(dice.heads().min(moves.len().checked_sub(1)?))?;
        child[change.variable] = change.item;
    }
    None
}

/// SplitMix64 (G. Steele et al., OOPSLA 2014).
struct Dice(u64);

impl Dice {
    fn new(seeds: &[u64]) -> Self {
        let mut dice = Dice(0);
        for seed in seeds {
            dice.0 = dice.next() ^ seed;
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of these, each as likely.
    fn pick(&mut self, from: &[usize]) -> Option<usize> {
        let count = from.len() as u128;
        from.get(((u128::from(self.next()) * count) >> 64) as usize).copied()
    }

    /// Heads in a row before the first tail.
    fn heads(&mut self) -> usize {
        self.next().trailing_ones() as usize
    }
}
