//! The sensitivity table: what every single change costs and loses, and which knobs' costs depend on
//! one another.
//!
//! A cost is modelled as the current one, plus what each knob's value changes alone, plus a
//! correction for every coupled pair, plus one for every coupled triple (ANOVA anchored at the
//! current state: bytes that are a product of bits, inputs and outputs have all three). Couplings
//! are found by what the model without them misses at the knobs' last values.

use std::collections::HashSet;

use super::known::{Answer, Known};
use crate::assignment::Assignment;
use crate::frontier::{Coupling, Item, Table};
use crate::knob::{Knob, Role};
use crate::measurement::{Costs, Fidelity};

/// Corrections below this share of a limited cost are left to the audit.
const NEGLIGIBLE: f64 = 1e-5;

/// What saving a whole limit counts as a loss, so that of changes that lose the same the gentler wins.
const GENTLENESS: f64 = 1e-7;

/// Units per limit where costs are not whole, or are weighted.
const UNITS: f64 = (1_u64 << 32) as f64;

/// The values of a knob that lower the cost and have a known loss, the current one first.
pub(in crate::policy) struct Variable {
    pub knob: usize,
    pub values: Vec<usize>,
    pub losses: Vec<f64>,
    /// The change of every limited cost by each value alone.
    costs: Vec<Vec<f64>>,
}

/// Corrections of every limited cost for joint values; the last variable's value changes fastest.
struct Correction {
    variables: Vec<usize>,
    costs: Vec<Vec<f64>>,
}

/// The sensitivity table of the current state.
pub(in crate::policy) struct Survey {
    pub variables: Vec<Variable>,
    /// The limits, and the costs of the current state, in the order of the budget.
    pub limits: Vec<f64>,
    start: Vec<f64>,
    corrections: Vec<Correction>,
    /// The corrections that depend on each variable.
    involving: Vec<Vec<usize>>,
    here: Assignment,
    meters: Vec<String>,
}

impl Survey {
    /// Asks for all that is missing. `cost_probes` bounds the probes that look for couplings.
    pub fn new(known: &Known, proxy: Fidelity, cost_probes: usize) -> Answer<Self> {
        let here = &known.history.current.assignment;
        let limits = known.history.budget.limits();
        let mut survey = Survey {
            variables: Vec::new(),
            limits: limits.iter().map(|limit| limit.at_most).collect(),
            start: Vec::new(),
            corrections: Vec::new(),
            involving: Vec::new(),
            here: here.clone(),
            meters: limits.iter().map(|limit| limit.meter.clone()).collect(),
        };
        survey.start = survey.limited(&known.history.current.measurement.costs);
        survey.measure_alone(known, proxy)?;
        let mut allowance = cost_probes.min(known.probes_at_first() / 2);
        let pairs = survey.measure_pairs(known, &mut allowance)?;
        survey.measure_triples(known, &pairs, &mut allowance)?;
        survey.involving = vec![Vec::new(); survey.variables.len()];
        for (at, correction) in survey.corrections.iter().enumerate() {
            correction
                .variables
                .iter()
                .for_each(|&variable| survey.involving[variable].push(at));
        }
        Ok(survey)
    }

    /// The assignment that takes these values.
    pub fn assignment(&self, choices: &[usize]) -> Assignment {
        self.variables
            .iter()
            .zip(choices)
            .fold(self.here.clone(), |at, (variable, &choice)| {
                at.with(variable.knob, variable.values[choice])
            })
    }

    /// The limited costs as modelled, in the order of the budget.
    pub fn costs(&self, choices: &[usize]) -> Vec<f64> {
        let mut costs = self.start.clone();
        let mut add = |change: &[f64]| costs.iter_mut().zip(change).for_each(|(cost, change)| *cost += change);
        for (variable, &choice) in self.variables.iter().zip(choices) {
            add(&variable.costs[choice]);
        }
        for correction in &self.corrections {
            add(&correction.costs[self.position(&correction.variables, choices)]);
        }
        costs
    }

    /// The part of the modelled costs that depends on a variable.
    pub fn share(&self, variable: usize, choices: &[usize]) -> Vec<f64> {
        let mut share = self.variables[variable].costs[choices[variable]].clone();
        for &correction in &self.involving[variable] {
            let Correction { variables, costs } = &self.corrections[correction];
            let change = &costs[self.position(variables, choices)];
            share.iter_mut().zip(change).for_each(|(cost, change)| *cost += change);
        }
        share
    }

    /// The modelled loss: the sum of what the changes lose alone.
    pub fn loss(&self, choices: &[usize]) -> f64 {
        self.variables
            .iter()
            .zip(choices)
            .map(|(variable, &choice)| variable.losses[choice])
            .sum()
    }

    /// The limited ones of measured costs, in the order of the budget.
    pub fn limited(&self, costs: &Costs) -> Vec<f64> {
        self.meters
            .iter()
            .map(|meter| costs.get(meter).copied().unwrap_or(f64::NAN))
            .collect()
    }

    /// The units of the table for these weights of the limits: what one unit of each cost counts.
    /// Whole costs under one limit count as they are.
    pub fn units(&self, weights: &[f64]) -> Vec<f64> {
        let mut changes = self
            .variables
            .iter()
            .flat_map(|variable| variable.costs.iter().flatten());
        let whole = self.limits.len() == 1 && changes.all(|change| change.fract() == 0.0);
        let unit = |(weight, limit): (&f64, &f64)| if whole { 1.0 } else { UNITS * weight / limit };
        weights.iter().zip(&self.limits).map(unit).collect()
    }

    /// The knapsack's table: changes of cost in these units. None where they exceed all bounds.
    pub fn table(&self, units: &[f64]) -> Option<Table> {
        let count = |change: &Vec<f64>| -> i64 {
            let sum: f64 = change.iter().zip(units).map(|(change, unit)| change * unit).sum();
            sum.round() as i64
        };
        let variables = self.variables.iter().map(|variable| {
            let items = variable.costs.iter().zip(&variable.losses);
            items
                .map(|(change, &loss)| Item {
                    cost: count(change),
                    loss,
                })
                .collect()
        });
        let couplings = self.corrections.iter().map(|correction| Coupling {
            variables: correction.variables.clone(),
            costs: correction.costs.iter().map(count).collect(),
        });
        Table::new(variables.collect(), couplings.collect()).ok()
    }

    /// The budget in the table's units when every limit is lowered by `offsets`.
    pub fn target(&self, units: &[f64], offsets: &[f64]) -> i64 {
        let room = self.limits.iter().zip(&self.start).zip(offsets).zip(units);
        let sum: f64 = room
            .map(|(((limit, start), offset), unit)| (limit - start - offset) * unit)
            .sum();
        sum.floor() as i64
    }

    /// Costs and losses of single changes.
    fn measure_alone(&mut self, known: &Known, proxy: Fidelity) -> Answer<()> {
        let knobs = &known.history.knobs;
        let here = self.here.clone();
        let reducing = knobs.with_role(Role::Reduce);
        let changes: Vec<(usize, usize)> = reducing
            .flat_map(|knob| (0..knobs[knob].values.len()).map(move |value| (knob, value)))
            .filter(|&(knob, value)| here[knob] != value)
            .collect();
        let candidates: Vec<Assignment> = changes.iter().map(|&(knob, value)| here.with(knob, value)).collect();
        let costs = known.costs(&candidates)?;
        let load = known.load(&known.history.current.measurement.costs);
        let saving: Vec<(usize, usize, &Costs)> = changes
            .into_iter()
            .zip(costs)
            .filter_map(|((knob, value), costs)| Some((knob, value, costs?)))
            .filter(|(_, _, costs)| known.load(costs) < load)
            .collect();
        let candidates = saving.iter().map(|&(knob, value, _)| here.with(knob, value));
        let candidates: Vec<Assignment> = [here.clone()].into_iter().chain(candidates).collect();
        let qualities = known.qualities(&candidates, proxy)?;
        for (&(knob, value, costs), quality) in saving.iter().zip(&qualities[1..]) {
            let (Some(before), Some(after)) = (qualities[0], *quality) else {
                continue;
            };
            if self.variables.last().is_none_or(|last| last.knob != knob) {
                self.variables.push(Variable {
                    knob,
                    values: vec![here[knob]],
                    losses: vec![0.0],
                    costs: vec![vec![0.0; self.limits.len()]],
                });
            }
            let change = minus(&self.limited(costs), &self.start);
            let gentleness = GENTLENESS * self.saving(&change).max(0.0);
            if let Some(variable) = self.variables.last_mut() {
                variable.values.push(value);
                // A gain is noise more often than not, and must not pay for losses elsewhere.
                variable.losses.push((before - after).max(0.0) + gentleness);
                variable.costs.push(change);
            }
        }
        Ok(())
    }

    /// Finds the coupled pairs, strongest savings first, and measures their joint values.
    fn measure_pairs(&mut self, known: &Known, allowance: &mut usize) -> Answer<Vec<Vec<usize>>> {
        let knobs = &known.history.knobs;
        let knob = |variable: usize| &knobs[self.variables[variable].knob];
        let saving = |variable: usize| {
            self.variables[variable]
                .costs
                .last()
                .map_or(0.0, |last| self.saving(last))
        };
        let count = self.variables.len();
        let pairs = (0..count).flat_map(|one| (one + 1..count).map(move |other| vec![one, other]));
        let mut pairs: Vec<Vec<usize>> = pairs
            .filter(|pair| may_be_coupled(&[knob(pair[0]), knob(pair[1])]))
            .collect();
        let weaker = |pair: &Vec<usize>| saving(pair[0]).min(saving(pair[1]));
        pairs.sort_by(|one, other| weaker(other).total_cmp(&weaker(one)));
        let coupled = self.coupled(known, pairs, allowance)?;
        let mut wanted: Vec<(Vec<usize>, Vec<Vec<usize>>)> = Vec::new();
        for pair in coupled {
            let inner = self.every_choice(&pair);
            if inner.len() <= *allowance {
                *allowance -= inner.len();
                wanted.push((pair, inner));
            }
        }
        let all: Vec<Vec<usize>> = wanted.iter().flat_map(|(_, inner)| inner.iter().cloned()).collect();
        let missed = self.missed(known, &all)?;
        let mut missed = missed.into_iter();
        let mut corrections = Vec::new();
        for (variables, inner) in &wanted {
            let mut costs = vec![vec![0.0; self.limits.len()]; self.joint(variables)];
            for choices in inner {
                costs[self.position(variables, choices)] = missed.next().unwrap_or_default();
            }
            corrections.push(Correction {
                variables: variables.clone(),
                costs,
            });
        }
        self.corrections.extend(corrections);
        Ok(wanted.into_iter().map(|(pair, _)| pair).collect())
    }

    /// Finds the coupled triples among variables that are coupled by pairs. Their corrections are
    /// taken to be products of one function of each value, as the products are that bytes come from.
    fn measure_triples(&mut self, known: &Known, pairs: &[Vec<usize>], allowance: &mut usize) -> Answer<()> {
        let knobs = &known.history.knobs;
        let paired: HashSet<(usize, usize)> = pairs.iter().map(|pair| (pair[0], pair[1])).collect();
        let mut triples = Vec::new();
        for (one, other) in pairs.iter().map(|pair| (pair[0], pair[1])) {
            for third in other + 1..self.variables.len() {
                let three = [one, other, third].map(|variable| &knobs[self.variables[variable].knob]);
                if paired.contains(&(one, third)) && paired.contains(&(other, third)) && may_be_coupled(&three) {
                    triples.push(vec![one, other, third]);
                }
            }
        }
        let coupled = self.coupled(known, triples, allowance)?;
        let mut wanted: Vec<(Vec<usize>, Vec<Vec<usize>>)> = Vec::new();
        for triple in coupled {
            let last = self.last(&triple);
            let slices = triple.iter().flat_map(|&variable| {
                let last = &last;
                (1..=last[variable]).map(move |choice| {
                    let mut choices = last.clone();
                    choices[variable] = choice;
                    choices
                })
            });
            let slices: Vec<Vec<usize>> = slices.collect();
            if slices.len() <= *allowance {
                *allowance -= slices.len();
                wanted.push((triple, slices));
            }
        }
        let all: Vec<Vec<usize>> = wanted.iter().flat_map(|(_, slices)| slices.iter().cloned()).collect();
        let mut missed = self.missed(known, &all)?.into_iter();
        let mut corrections = Vec::new();
        for (variables, slices) in wanted {
            // Each slice relative to its last value, which all three share.
            let last = self.last(&variables);
            let along: Vec<Vec<Vec<f64>>> = variables
                .iter()
                .map(|&variable| {
                    (1..=last[variable])
                        .map(|_| missed.next().unwrap_or_default())
                        .collect()
                })
                .collect();
            debug_assert_eq!(slices.len(), along.iter().map(Vec::len).sum::<usize>());
            let at_last = along[0][last[variables[0]] - 1].clone();
            let mut costs = vec![vec![0.0; self.limits.len()]; self.joint(&variables)];
            for choices in self.every_choice(&variables) {
                let correction = (0..self.limits.len()).map(|limit| {
                    let shares = variables
                        .iter()
                        .zip(&along)
                        .map(|(&variable, along)| match at_last[limit] {
                            0.0 => 0.0,
                            most => along[choices[variable] - 1][limit] / most,
                        });
                    at_last[limit] * shares.product::<f64>()
                });
                costs[self.position(&variables, &choices)] = correction.collect();
            }
            corrections.push(Correction { variables, costs });
        }
        self.corrections.extend(corrections);
        Ok(())
    }

    /// Those groups of variables at whose last values the model misses more than a trifle, the
    /// strongest first.
    fn coupled(&self, known: &Known, mut groups: Vec<Vec<usize>>, allowance: &mut usize) -> Answer<Vec<Vec<usize>>> {
        groups.truncate(*allowance);
        *allowance -= groups.len();
        let last: Vec<Vec<usize>> = groups.iter().map(|group| self.last(group)).collect();
        let missed = self.missed(known, &last)?;
        let strength = |missed: &Vec<f64>| {
            let shares = missed
                .iter()
                .zip(&self.start)
                .map(|(missed, start)| missed.abs() / start.abs().max(f64::MIN_POSITIVE));
            shares.fold(0.0, f64::max)
        };
        let mut coupled: Vec<(f64, Vec<usize>)> = missed.iter().map(strength).zip(groups).collect();
        coupled.retain(|(strength, _)| *strength > NEGLIGIBLE);
        coupled.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        Ok(coupled.into_iter().map(|(_, group)| group).collect())
    }

    /// By how much the model misses the measured costs; by nothing where they cannot be measured.
    fn missed(&self, known: &Known, choices: &[Vec<usize>]) -> Answer<Vec<Vec<f64>>> {
        let candidates: Vec<Assignment> = choices.iter().map(|choices| self.assignment(choices)).collect();
        let measured = known.costs(&candidates)?;
        let miss = |(choices, costs): (&Vec<usize>, Option<&Costs>)| match costs {
            Some(costs) => minus(&self.limited(costs), &self.costs(choices)),
            None => vec![0.0; self.limits.len()],
        };
        Ok(choices.iter().zip(measured).map(miss).collect())
    }

    /// The shares of the limits that a change of costs saves, summed up.
    fn saving(&self, change: &[f64]) -> f64 {
        let shares = self.limits.iter().zip(change).map(|(limit, change)| -change / limit);
        shares.sum()
    }

    /// These variables at their last values, the others at their current ones.
    fn last(&self, variables: &[usize]) -> Vec<usize> {
        let mut choices = vec![0; self.variables.len()];
        for &variable in variables {
            choices[variable] = self.variables[variable].values.len() - 1;
        }
        choices
    }

    /// Every joint choice of these variables in which none has its current value.
    fn every_choice(&self, variables: &[usize]) -> Vec<Vec<usize>> {
        let start = vec![vec![0; self.variables.len()]];
        variables.iter().fold(start, |choices, &variable| {
            let values = 1..self.variables[variable].values.len();
            let turned = choices.iter().flat_map(|choices| {
                values.clone().map(move |value| {
                    let mut choices = choices.clone();
                    choices[variable] = value;
                    choices
                })
            });
            turned.collect()
        })
    }

    fn joint(&self, variables: &[usize]) -> usize {
        variables
            .iter()
            .map(|&variable| self.variables[variable].values.len())
            .product()
    }

    fn position(&self, variables: &[usize], choices: &[usize]) -> usize {
        variables.iter().fold(0, |at, &variable| {
            at * self.variables[variable].values.len() + choices[variable]
        })
    }
}

/// Element by element.
pub(super) fn minus(one: &[f64], other: &[f64]) -> Vec<f64> {
    one.iter().zip(other).map(|(one, other)| one - other).collect()
}

/// Whether these knobs change a part in common, as far as is known.
fn may_be_coupled(knobs: &[&Knob]) -> bool {
    let mut known = knobs
        .iter()
        .map(|knob| &knob.touches)
        .filter(|touches| !touches.is_empty());
    let Some(first) = known.next() else {
        return true;
    };
    let rest: Vec<_> = known.collect();
    rest.is_empty()
        || first
            .iter()
            .any(|part| rest.iter().all(|touches| touches.contains(part)))
}
