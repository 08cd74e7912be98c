//! Knapsack: measure once, solve exactly, refine, and let the real meter choose.

mod contenders;
mod curve;
mod known;
mod settle;
mod survey;

use std::sync::Arc;

use super::evolve::{Refinement, refined};
use super::{Ask, Greedy, Policy, PolicyError, untried_recovery};
use crate::frontier::Table;
use crate::history::History;
use crate::measurement::Fidelity;

pub use curve::Curve;

pub(super) use contenders::{Choices, Weighted};
pub(super) use known::{Answer, Known};
pub(super) use settle::{Contender, ranked, settle};
pub(super) use survey::Survey;

/// Weights of the limits are multiples of one over this, where there are several limits.
const DIVISIONS: usize = 8;

/// The most combinations of weights.
const WEIGHTS: usize = 64;

/// What [`Knapsack`] goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnapsackSettings {
    /// Samples for the proxy that single changes are compared by; see [`Fidelity::proxy`].
    pub proxy_samples: usize,
    /// The most cost probes that look for couplings between knobs.
    pub cost_probes: usize,
    /// How the best contender is refined; none leaves it as it is.
    pub refine: Option<Refinement>,
    /// The seed of the refinement.
    pub seed: u64,
}

impl Default for KnapsackSettings {
    fn default() -> Self {
        KnapsackSettings {
            proxy_samples: 256,
            cost_probes: 4000,
            refine: Some(Refinement::default()),
            seed: 0,
        }
    }
}

/// Probes every single change for its cost and, by the proxy, its loss; finds out which knobs'
/// costs depend on one another; solves the knapsack for every budget ([`frontier`](crate::frontier))
/// and corrects its solution by counting the real candidate. This one, the uniform and the greedy
/// way, and the refinement of the best of them, are measured in full as the probes `uniform`,
/// `greedy`, `knapsack` and `refined`; the best is the one step.
///
/// Losses are taken to add up, and gains to be noise: a change that the proxy likes counts as free.
/// With several limits, costs are added up under each of a grid of weights. Where the budget is out
/// of reach the step leads to the cheapest candidate, and where the floor forbids all contenders to
/// the cheapest allowed one on the frontier; [`Greedy`] tries what is left.
#[derive(Clone, Debug, Default)]
pub struct Knapsack {
    settings: KnapsackSettings,
    /// Solved tables: the same table has the same frontier.
    solved: Vec<(Table, Weighted)>,
}

impl Knapsack {
    /// The policy with these settings.
    pub fn new(settings: KnapsackSettings) -> Self {
        Knapsack {
            settings,
            solved: Vec::new(),
        }
    }

    fn plan(&mut self, known: &Known) -> Answer<Ask> {
        let proxy = Fidelity::proxy(self.settings.proxy_samples.max(1));
        let survey = Survey::new(known, proxy, self.settings.cost_probes)?;
        if survey.variables.is_empty() {
            return Ok(Ask::Done);
        }
        let mut greedy = greedy(self.settings.proxy_samples);
        let frontiers = self.frontiers(&survey);
        let ways = [
            ("uniform", survey.uniform(known)?),
            ("greedy", survey.audited(known, |offsets| survey.greedy(offsets))?),
            (
                "knapsack",
                survey.audited(known, |offsets| survey.optimum(&frontiers, offsets))?,
            ),
        ];
        let found = ways.into_iter().filter_map(|(label, choices)| Some((label, choices?)));
        let mut contenders: Vec<Contender> = found.collect();
        if contenders.is_empty() {
            contenders.extend(survey.cheapest(known, &frontiers)?.map(|choices| ("cheapest", choices)));
        } else if let Some(refine) = &self.settings.refine
            && let Some(best) = ranked(known, &survey, &contenders)?.first()
        {
            let KnapsackSettings {
                proxy_samples, seed, ..
            } = self.settings;
            let refined = refined(known, &survey, best, refine, proxy_samples, seed)?;
            contenders.push(("refined", refined));
        }
        let curve = frontiers.first().map(|weighted| &*weighted.frontier);
        settle(known, &survey, &contenders, curve, &mut greedy)
    }

    /// The frontiers under each combination of weights.
    fn frontiers(&mut self, survey: &Survey) -> Vec<Weighted> {
        let mut solved = Vec::new();
        for weights in weights(survey.limits.len()) {
            let units = survey.units(&weights);
            let Some(table) = survey.table(&units) else {
                continue;
            };
            let known = self.solved.iter().position(|(known, _)| *known == table);
            let (table, weighted) = match known {
                Some(known) => self.solved.swap_remove(known),
                None => {
                    let frontier = Arc::new(table.frontier());
                    (table, Weighted { units, frontier })
                }
            };
            solved.push((table, weighted));
        }
        self.solved = solved;
        self.solved.iter().map(|(_, weighted)| weighted.clone()).collect()
    }
}

impl Policy for Knapsack {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        let proxy_samples = self.settings.proxy_samples;
        planned(history, proxy_samples, |known| self.plan(known))
    }
}

/// Recovers where it may, follows the plan from the start, and leaves what the plan's step did not
/// reach to [`Greedy`].
pub(super) fn planned(
    history: &History,
    proxy_samples: usize,
    plan: impl FnOnce(&Known) -> Answer<Ask>,
) -> Result<Ask, PolicyError> {
    if let Some(changes) = untried_recovery(history) {
        return Ok(Ask::Step { changes });
    }
    if history.met {
        return Ok(Ask::Done);
    }
    let known = Known::new(history);
    if known.has_reduced() {
        return greedy(proxy_samples).next(history);
    }
    let (Ok(ask) | Err(ask)) = plan(&known);
    Ok(ask)
}

/// What tries to get further when a plan fell short.
pub(super) fn greedy(proxy_samples: usize) -> Greedy {
    Greedy {
        proxy_samples,
        ..Greedy::default()
    }
}

/// Weights of so many limits that add up to 1: one alone; of several, as fine a grid as is allowed,
/// with the even weights first.
fn weights(limits: usize) -> Vec<Vec<f64>> {
    let even = vec![1.0 / limits as f64; limits];
    if limits < 2 {
        return vec![even];
    }
    let parts = |divisions: usize| {
        (0..limits - 1).fold(vec![(vec![], divisions)], |parts, _| {
            let longer = parts.iter().flat_map(|(part, left): &(Vec<usize>, usize)| {
                (0..=*left).map(move |next| (part.iter().copied().chain([next]).collect(), left - next))
            });
            longer.collect()
        })
    };
    let grid = (1..=DIVISIONS).rev().map(|divisions| (divisions, parts(divisions)));
    let fitting = grid.into_iter().find(|(_, parts)| parts.len() <= WEIGHTS);
    let weights = fitting.into_iter().flat_map(|(divisions, parts)| {
        let share = move |part: usize| part as f64 / divisions as f64;
        parts
            .into_iter()
            .map(move |(part, left)| part.into_iter().chain([left]).map(share).collect())
    });
    [even].into_iter().chain(weights).collect()
}
