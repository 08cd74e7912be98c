//! Knapsack and evolve on networks whose layers' bytes are products: bits by inputs by outputs.

use kmr_core::*;
use proptest::prelude::*;

use crate::toy::{Dice, SIZE};

const BITS: [usize; 3] = [32, 8, 4];

/// A chain of layers. Groups of channels between them can be narrowed by quarters, weights stored
/// in fewer bits. Losses add up but for what a layer loses with both its bits and its outputs.
#[derive(Clone, Debug)]
struct Network {
    /// Channels before, between and after the layers; multiples of 8.
    widths: Vec<usize>,
    channels_lose: Vec<[f64; 4]>,
    bits_lose: Vec<[f64; 3]>,
    /// What the full meter sees beyond the sum.
    together: f64,
    /// Whether knobs say what they touch.
    tells: bool,
}

impl Network {
    fn new(layers: usize, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let widths = (0..=layers).map(|_| 8 * (1 + dice.roll(8))).collect();
        let mut row = |count: usize| -> Vec<f64> {
            let mut sum = 0.0;
            let steps = (1..count).map(|_| {
                sum += 0.03 * dice.unit() * dice.unit();
                sum
            });
            [0.0].into_iter().chain(steps).collect()
        };
        Network {
            widths,
            channels_lose: (1..layers).map(|_| row(4).try_into().unwrap()).collect(),
            bits_lose: (0..layers).map(|_| row(3).try_into().unwrap()).collect(),
            together: 0.0,
            tells: true,
        }
    }

    fn layers(&self) -> usize {
        self.bits_lose.len()
    }

    /// Channels of a group that are left.
    fn width(&self, group: usize, at: &Assignment) -> usize {
        let inner = (1..self.layers()).contains(&group);
        let cut = if inner { at[group - 1] } else { 0 };
        self.widths[group] * (4 - cut) / 4
    }

    fn costs(&self, at: &Assignment) -> Costs {
        let (mut bytes, mut macs) = (100, 0);
        for layer in 0..self.layers() {
            let weights = self.width(layer, at) * self.width(layer + 1, at);
            bytes += weights * BITS[at[self.layers() - 1 + layer]] / 8;
            macs += weights;
        }
        Costs::from([(SIZE.to_owned(), bytes as f64), ("macs".to_owned(), macs as f64)])
    }

    fn loss(&self, at: &Assignment) -> f64 {
        let channels = self.channels_lose.iter().zip(at.as_slice());
        let bits = self.bits_lose.iter().zip(&at.as_slice()[self.layers() - 1..]);
        channels.map(|(row, &value)| row[value]).sum::<f64>() + bits.map(|(row, &value)| row[value]).sum::<f64>()
    }

    fn every_assignment(&self) -> Vec<Assignment> {
        let sizes = vec![4; self.layers() - 1].into_iter().chain(vec![3; self.layers()]);
        let all = sizes.fold(vec![vec![]], |all: Vec<Vec<usize>>, size| {
            let longer = all
                .iter()
                .flat_map(|at| (0..size).map(|value| at.iter().copied().chain([value]).collect()));
            longer.collect()
        });
        all.into_iter().map(Assignment::from).collect()
    }
}

impl Subject for Network {
    type Error = String;

    fn knobs(&mut self) -> Result<Vec<Knob>, String> {
        let layers = |range: std::ops::Range<usize>| range.map(|layer| format!("layer{layer}")).collect::<Vec<_>>();
        let values = |values: &[f64]| values.iter().copied().map(Value::Number).collect();
        let channels = (1..self.layers()).map(|group| {
            let knob = Knob::new(
                "prune",
                "share",
                format!("group{group}"),
                Role::Reduce,
                values(&[0.0, 0.25, 0.5, 0.75]),
            );
            knob.touching(layers(group - 1..group + 1))
        });
        let bits = (0..self.layers()).map(|layer| {
            let knob = Knob::new(
                "quantize",
                "bits",
                format!("layer{layer}"),
                Role::Reduce,
                values(&[32.0, 8.0, 4.0]),
            );
            knob.touching(layers(layer..layer + 1))
        });
        let knobs = channels.chain(bits);
        Ok(knobs
            .map(|knob| if self.tells { knob } else { knob.touching(vec![]) })
            .collect())
    }

    fn cost(&mut self, at: &Assignment) -> Result<Costs, SubjectError<String>> {
        Ok(self.costs(at))
    }

    fn quality(&mut self, at: &Assignment, fidelity: Fidelity) -> Result<Quality, SubjectError<String>> {
        let narrow = (1..self.layers())
            .filter(|&group| at[group - 1] > 0 && at[self.layers() - 2 + group] > 0)
            .count();
        let together = if fidelity.proxy && fidelity.samples.is_some_and(|samples| samples <= 256) {
            0.0
        } else {
            self.together
        };
        Ok(Quality::new(
            0.9 - self.loss(at) - together * narrow as f64,
            fidelity.samples.unwrap_or(5000),
        ))
    }

    fn adopt(&mut self, _: &Assignment) -> Result<(), String> {
        Ok(())
    }
}

fn knapsack(refine: bool) -> Knapsack {
    let settings = KnapsackSettings::default();
    Knapsack::new(KnapsackSettings {
        refine: settings.refine.filter(|_| refine),
        ..settings
    })
}

fn evolve() -> Evolve {
    let refine = Refinement {
        generations: 8,
        ..Refinement::default()
    };
    Evolve::new(EvolveSettings {
        refine,
        ..EvolveSettings::default()
    })
}

fn bytes(share: f64, network: &Network) -> Objective {
    let start = network.costs(&vec![0; 2 * network.layers() - 1].into())[SIZE];
    Objective::new(Budget::at_most(SIZE, (share * start).floor()).unwrap())
}

fn run(network: &Network, policy: &mut dyn Policy, objective: &Objective) -> Conclusion {
    let mut network = network.clone();
    budgeted_kmr(&mut network, policy, objective, &Options::default(), &mut Silent).unwrap()
}

/// The labelled full probes: label and assignment.
fn labelled(conclusion: &Conclusion) -> Vec<(String, Assignment)> {
    let probes = conclusion.history.records.iter().filter_map(|record| match record {
        Record::Probe(probe) => Some((probe.label.clone()?, probe.assignment.clone())),
        Record::Trial(_) => None,
    });
    probes.collect()
}

fn best_by_force(network: &Network, objective: &Objective) -> Option<f64> {
    let within = network.every_assignment().into_iter();
    let within = within.filter(|at| objective.budget.standing(&network.costs(at)).unwrap().met);
    within.map(|at| network.loss(&at)).min_by(f64::total_cmp)
}

/// What [`Knapsack`] counts for gentleness.
const TIES: f64 = 1e-5;

proptest! {
    #![proptest_config(ProptestConfig { cases: 50, failure_persistence: None, ..ProptestConfig::default() })]

    /// Products of three included, the table is exact here, and so is the solution.
    #[test]
    fn the_best_of_all_assignments_is_found(seed: u64, share in 0.05..0.95_f64, tells: bool) {
        let network = Network { tells, ..Network::new(4, seed) };
        let objective = bytes(share, &network);
        let conclusion = run(&network, &mut knapsack(false), &objective);
        let Some(best) = best_by_force(&network, &objective) else {
            prop_assert_eq!(conclusion.outcome, Outcome::Exhausted { because: Exhaustion::Actions });
            return Ok(());
        };
        prop_assert_eq!(&conclusion.outcome, &Outcome::Feasible);
        prop_assert_eq!(conclusion.step_count(), 1);
        let named = labelled(&conclusion);
        let loss = |label: &str| {
            let (_, at) = named.iter().find(|(name, _)| name == label).unwrap();
            assert!(objective.budget.standing(&network.costs(at)).unwrap().met, "{label} is over the budget");
            network.loss(at)
        };
        prop_assert!(loss("knapsack") <= best + TIES, "{} instead of {}", loss("knapsack"), best);
        prop_assert!(loss("knapsack") <= loss("greedy") + TIES && loss("knapsack") <= loss("uniform") + TIES);
        let chosen = network.loss(&conclusion.best.assignment);
        prop_assert!(chosen <= best + TIES);
    }

    #[test]
    fn several_limits_hold_at_once(seed: u64, share in 0.1..0.9_f64, macs in 0.3..0.9_f64) {
        let network = Network::new(4, seed);
        let start = network.costs(&vec![0; 7].into());
        let limit = |meter: &str, share: f64| Limit { meter: meter.into(), at_most: (share * start[meter]).floor() };
        let budget = Budget::new(vec![limit(SIZE, share), limit("macs", macs)]).unwrap();
        let objective = Objective::new(budget);
        let conclusion = run(&network, &mut knapsack(false), &objective);
        let best = best_by_force(&network, &objective);
        prop_assert_eq!(conclusion.outcome == Outcome::Feasible, best.is_some());
        if let Some(best) = best {
            let chosen = network.loss(&conclusion.best.assignment);
            prop_assert!(chosen <= 1.25 * best + 0.004, "{} where {} is possible", chosen, best);
        }
    }

    /// What the proxy cannot see, the refinement on more data can.
    #[test]
    fn refining_never_makes_it_worse(seed: u64, share in 0.1..0.6_f64) {
        let network = Network { together: 0.01, ..Network::new(5, seed) };
        let objective = bytes(share, &network);
        let quality = |conclusion: &Conclusion| conclusion.best.measurement.quality.as_ref().unwrap().value;
        let plain = run(&network, &mut knapsack(false), &objective);
        let refined = run(&network, &mut knapsack(true), &objective);
        prop_assert!(quality(&refined) >= quality(&plain));
        let evolved = run(&network, &mut evolve(), &objective);
        prop_assert_eq!(&evolved.outcome, &plain.outcome);
        if let Some((_, start)) = labelled(&evolved).first() {
            let start = network.clone().quality(start, Fidelity::FULL).unwrap().value;
            prop_assert!(quality(&evolved) >= start || evolved.outcome != Outcome::Feasible);
        }
    }

    /// A policy made anew for every ask, as after a crash, asks the same.
    #[test]
    fn everything_is_decided_from_the_history(seed: u64, share in 0.05..0.9_f64, floor in proptest::option::of(0.0..0.1_f64)) {
        struct Anew<P>(fn() -> P);
        impl<P: Policy> Policy for Anew<P> {
            fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
                let read: History = serde_json::from_str(&history.to_json()).unwrap();
                Ask::from_json(&(self.0)().next(&read)?.to_json())
            }
        }
        let network = Network { together: 0.005, ..Network::new(3, seed) };
        let objective = Objective { floor: floor.map(Floor::DropAtMost), ..bytes(share, &network) };
        let once = run(&network, &mut knapsack(true), &objective);
        prop_assert_eq!(&once, &run(&network, &mut Anew(|| knapsack(true)), &objective));
        let once = run(&network, &mut evolve(), &objective);
        prop_assert_eq!(&once, &run(&network, &mut Anew(evolve), &objective));
    }

    /// Few probes make the plan worse, never wrong.
    #[test]
    fn few_probes_are_enough_for_something(seed: u64, probes in 1..200_usize, share in 0.3..0.9_f64) {
        let mut network = Network::new(4, seed);
        let objective = bytes(share, &network);
        let options = Options { max_probes: probes, ..Options::default() };
        let conclusion = budgeted_kmr(&mut network, &mut knapsack(true), &objective, &options, &mut Silent).unwrap();
        let met = objective.budget.standing(&conclusion.best.measurement.costs).unwrap().met;
        prop_assert_eq!(met, conclusion.outcome == Outcome::Feasible);
    }
}

#[test]
fn a_budget_out_of_reach_ends_at_the_cheapest_and_says_so() {
    let network = Network::new(4, 3);
    let objective = bytes(0.01, &network);
    for policy in [&mut knapsack(true) as &mut dyn Policy, &mut evolve()] {
        let conclusion = run(&network, policy, &objective);
        assert_eq!(
            conclusion.outcome,
            Outcome::Exhausted {
                because: Exhaustion::Actions
            }
        );
        assert_eq!(conclusion.best.assignment.as_slice(), [3, 3, 3, 2, 2, 2, 2]);
        assert_eq!(conclusion.best.measurement.costs, conclusion.smallest.costs);
        assert_eq!(labelled(&conclusion)[0].0, "cheapest");
    }
}

#[test]
fn a_floor_in_the_way_leaves_the_smallest_allowed() {
    let network = Network::new(4, 3);
    let unbounded = bytes(0.1, &network);
    let goal = unbounded.clone().with_floor(Floor::DropAtMost(0.02));
    let conclusion = run(&network, &mut knapsack(true), &goal);
    assert!(
        matches!(conclusion.outcome, Outcome::QualityFloor { .. }),
        "{:?}",
        conclusion.outcome
    );
    let best = &conclusion.best;
    assert!(network.loss(&best.assignment) <= 0.02 + 1e-9);
    let allowed = network
        .every_assignment()
        .into_iter()
        .filter(|at| network.loss(at) <= 0.02);
    let smallest = allowed
        .map(|at| network.costs(&at)[SIZE])
        .min_by(f64::total_cmp)
        .unwrap();
    let reached = best.measurement.costs[SIZE];
    assert!(reached <= 1.05 * smallest, "{reached} where {smallest} is allowed");
    assert!(conclusion.blocked.is_some());
}

/// The refinement is worth its probes where losses do not add up.
#[test]
fn refining_helps_where_the_table_is_wrong() {
    let (mut better, mut gained) = (0, 0.0);
    for seed in 0..20 {
        let network = Network {
            together: 0.02,
            ..Network::new(5, seed)
        };
        let objective = bytes(0.2, &network);
        let quality = |refine| {
            run(&network, &mut knapsack(refine), &objective)
                .best
                .measurement
                .quality
                .unwrap()
                .value
        };
        let gain = quality(true) - quality(false);
        better += usize::from(gain > 0.0);
        gained += gain;
    }
    println!("{better} of 20 refined, by {:.4} on average", gained / 20.0);
    assert!(better >= 5, "{better}");
}

/// The four contenders are told apart, also where they are the same candidate.
#[test]
fn all_contenders_are_measured_under_their_names() {
    let network = Network {
        together: 0.01,
        ..Network::new(5, 11)
    };
    let conclusion = run(&network, &mut knapsack(true), &bytes(0.3, &network));
    let probes: Vec<&Probe> = conclusion
        .history
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Probe(probe) if probe.label.is_some() => Some(probe),
            _ => None,
        })
        .collect();
    let names: Vec<&str> = probes.iter().filter_map(|probe| probe.label.as_deref()).collect();
    assert_eq!(names, ["uniform", "greedy", "knapsack", "refined"]);
    for probe in &probes {
        let measured = probe
            .measurement
            .as_ref()
            .and_then(|measured| measured.quality.as_ref());
        assert!(measured.is_some() && probe.rejection.is_none(), "{probe:?}");
        println!(
            "{} {:?} {:?}",
            probe.label.as_deref().unwrap(),
            probe.assignment,
            measured.unwrap().value
        );
    }
    println!("{} probes", conclusion.history.records.len());
}
