//! Proposition 1 and its company, over random rules, meters and policies.

use std::collections::HashSet;

use kmr_core::*;
use proptest::prelude::*;

use crate::toy::{Manner, SIZE, Toy, mix};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Greedy {
        confirm: usize,
        jump: bool,
        reuse: bool,
    },
    Lockstep,
    Knapsack,
    Evolve,
    /// Raises knobs, one or several at once, and probes now and then.
    Away,
    /// Any valid ask.
    Random,
    /// Anything at all.
    Malicious,
}

/// Answers by dice. Goes through JSON as a foreign policy would.
struct Dice {
    kind: Kind,
    seed: u64,
    rolls: u64,
}

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.rolls += 1;
        (mix(self.seed ^ self.rolls) % sides.max(1) as u64) as usize
    }

    fn ask(&mut self, history: &History) -> Ask {
        match (self.kind, self.roll(12)) {
            (Kind::Malicious, 0..4) => self.nonsense(history),
            (_, 0..3) => self.probe(history),
            (_, 3) if self.roll(20) == 0 => Ask::Done,
            _ => self.step(history),
        }
    }

    fn probe(&mut self, history: &History) -> Ask {
        let mut assignments = Vec::new();
        for _ in 0..1 + self.roll(3) {
            let knobs = history.knobs.iter();
            let values: Vec<usize> = knobs.map(|knob| self.roll(knob.values.len())).collect();
            assignments.push(values.into());
        }
        let fidelities = [Fidelity::FULL, Fidelity::COSTS, Fidelity::proxy(16)];
        Ask::Probe {
            assignments,
            fidelity: fidelities[self.roll(3)],
            labels: vec!["dice".to_owned(); self.roll(2)],
        }
    }

    fn step(&mut self, history: &History) -> Ask {
        let knobs = &history.knobs;
        let mut changes = Vec::new();
        let first = self.roll(knobs.len());
        for knob in (0..knobs.len()).map(|knob| (first + knob) % knobs.len()) {
            let here = history.current.assignment[knob];
            let values = knobs[knob].values.len();
            let value = match self.kind {
                Kind::Away => here + 1 + self.roll(values - here),
                _ => self.roll(values),
            };
            if value < values {
                changes.push(Change { knob, value });
            }
            if !changes.is_empty() && self.roll(3) > 0 {
                break;
            }
        }
        Ask::Step {
            changes: Action(changes),
        }
    }

    fn nonsense(&mut self, history: &History) -> Ask {
        let far = [0, 1, 7, usize::MAX];
        let last = history.all_trials().last().map(|trial| trial.changes.clone());
        match self.roll(6) {
            0 => Ask::Step {
                changes: Action::single(far[self.roll(4)], far[self.roll(4)]),
            },
            1 => Ask::Step {
                changes: Action(vec![Change { knob: 0, value: 1 }; 2]),
            },
            2 => Ask::Step {
                changes: last.unwrap_or_default(),
            },
            3 => Ask::probe(vec![vec![0; far[self.roll(3)]].into()], Fidelity::FULL),
            4 => Ask::probe(vec![vec![9; history.knobs.len()].into()], Fidelity::FULL),
            _ => Ask::probe(vec![history.current.assignment.clone()], Fidelity::FULL),
        }
    }
}

impl Policy for Dice {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        let read: History =
            serde_json::from_str(&history.to_json()).map_err(|error| PolicyError::new(error.to_string()))?;
        Ask::from_json(&self.ask(&read).to_json())
    }
}

fn policy(kind: Kind, seed: u64) -> Box<dyn Policy> {
    match kind {
        Kind::Greedy { confirm, jump, reuse } => Box::new(Greedy {
            proxy_samples: 16,
            confirm,
            jump,
            reuse,
        }),
        Kind::Lockstep => Box::new(Scheduled::Lockstep),
        Kind::Knapsack => Box::new(Knapsack::new(KnapsackSettings {
            seed,
            ..KnapsackSettings::default()
        })),
        Kind::Evolve => Box::new(Evolve::new(EvolveSettings {
            seed,
            ..EvolveSettings::default()
        })),
        _ => Box::new(Dice { kind, seed, rolls: 0 }),
    }
}

#[derive(Clone, Debug)]
struct Case {
    toy: Toy,
    kind: Kind,
    objective: Objective,
    options: Options,
}

fn kinds() -> impl Strategy<Value = Kind> {
    let greedy = (0..4_usize, any::<bool>(), any::<bool>());
    prop_oneof![
        3 => greedy.prop_map(|(confirm, jump, reuse)| Kind::Greedy { confirm, jump, reuse }),
        1 => Just(Kind::Lockstep),
        2 => Just(Kind::Knapsack),
        1 => Just(Kind::Evolve),
        2 => Just(Kind::Away),
        2 => Just(Kind::Random),
        3 => Just(Kind::Malicious),
    ]
}

fn toys() -> impl Strategy<Value = Toy> {
    let row = (1..4_usize).prop_flat_map(|values| {
        // Whole numbers, so that savings tie.
        let saves = proptest::collection::vec((-2..10_i32).prop_map(f64::from), values);
        let loses = proptest::collection::vec(-0.01..0.05_f64, values);
        (proptest::bool::weighted(0.2), saves, loses, any::<bool>())
    });
    let manner = prop_oneof![
        2 => Just(Manner::Honest),
        1 => Just(Manner::Oscillating),
        1 => Just(Manner::Broken),
    ];
    let meters = prop_oneof![Just(1_usize), Just(2)];
    (proptest::collection::vec(row, 1..5), manner, any::<u64>(), meters).prop_map(|(rows, manner, seed, meters)| {
        let mut toy = Toy::new(40.0);
        (toy.manner, toy.seed) = (manner, seed);
        if meters == 2 {
            toy.costs.push(("macs", 30.0));
        }
        for (recovers, mut saves, mut loses, monotone) in rows {
            if monotone {
                saves.sort_by(f64::total_cmp);
                loses.sort_by(f64::total_cmp);
            }
            let role = if recovers { Role::Recover } else { Role::Reduce };
            if recovers {
                saves.iter_mut().for_each(|saved| *saved = saved.clamp(-1.0, 0.0));
            }
            toy.push(if recovers { "distill" } else { "prune" }, role, &saves, &loses);
        }
        toy
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let floor = proptest::option::of(prop_oneof![
        (0.0..0.1_f64).prop_map(Floor::DropAtMost),
        (0.8..0.92_f64).prop_map(Floor::AtLeast),
    ]);
    let options = (
        any::<bool>(),
        proptest::option::of(0..6_usize),
        0..3_usize,
        any::<bool>(),
    );
    (toys(), kinds(), 5.0..45.0_f64, floor, options).prop_map(
        |(toy, kind, at_most, floor, (stop, max_steps, recoveries, few_probes))| {
            let limits = toy.costs.iter().map(|&(meter, _)| Limit {
                meter: meter.into(),
                at_most,
            });
            let budget = Budget::new(limits.collect()).unwrap();
            let objective = Objective {
                floor,
                ..Objective::new(budget)
            };
            let options = Options {
                on_no_progress: if stop { OnNoProgress::Stop } else { OnNoProgress::Skip },
                max_steps,
                recoveries,
                max_probes: if few_probes { 3 } else { 60 },
                max_useless_asks: 20,
                ..Options::default()
            };
            Case {
                toy,
                kind,
                objective,
                options,
            }
        },
    )
}

fn run(case: &Case) -> (Conclusion, Toy, Vec<State>) {
    let mut toy = case.toy.clone();
    // The states that could have been the best: accepted, or probed in full; of these masters.
    let mut seen = Vec::new();
    let mut watch = |event: &Event<'_>| {
        match event {
            Event::Started { history } => seen.push(history.current.clone()),
            Event::Adopted { assignment, state } => {
                if assignment != &&state.assignment {
                    seen.clear();
                }
                seen.push((*state).clone());
            }
            Event::Probed { probe } if probe.fidelity == Fidelity::FULL => {
                if let (Some(measurement), None) = (&probe.measurement, &probe.rejection) {
                    let assignment = probe.assignment.clone();
                    seen.push(State {
                        assignment,
                        measurement: measurement.clone(),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    };
    let mut policy = policy(case.kind, case.toy.seed);
    let conclusion = budgeted_kmr(&mut toy, &mut policy, &case.objective, &case.options, &mut watch).unwrap();
    (conclusion, toy, seen)
}

/// The violation, computed apart from the crate.
fn violation(case: &Case, costs: &Costs) -> f64 {
    let limits = case.objective.budget.limits().iter();
    limits
        .map(|limit| (costs[&limit.meter] / limit.at_most - 1.0).max(0.0))
        .sum()
}

/// What must strictly fall.
fn load(case: &Case, costs: &Costs) -> f64 {
    if case.toy.costs.len() == 1 {
        costs[SIZE]
    } else {
        violation(case, costs)
    }
}

fn honors(case: &Case, reference: f64, quality: f64) -> bool {
    match case.objective.floor {
        None => true,
        Some(Floor::DropAtMost(drop)) => quality >= reference - drop - 1e-9,
        Some(Floor::AtLeast(least)) => quality >= least - 1e-9,
    }
}

fn check(case: &Case) {
    let (conclusion, toy, seen) = run(case);
    let history = &conclusion.history;
    let knobs = &history.knobs;
    let reference = history.reference.quality.as_ref().unwrap().value;
    let quality = |measured: &Measurement| measured.quality.as_ref().unwrap().value;

    // Cost never rises over accepted steps, and strictly falls over reductions.
    let mut here = knobs.off();
    let mut cost = load(case, &history.reference.costs);
    let mut value = reference;
    let mut accepted = HashSet::from([here.clone()]);
    let (mut reductions, mut since_reduction) = (0, 0);
    let reducing = knobs.levels(Role::Reduce) > 0;
    for step in history.steps() {
        let next = step.assignment.as_ref().unwrap();
        let measured = step.measurement.as_ref().unwrap();
        let next_cost = load(case, &measured.costs);
        if here.differs(next, knobs, Role::Reduce) {
            assert!(next_cost < cost, "{next_cost} after {cost}");
            assert!(honors(case, reference, quality(measured)));
            assert!(accepted.insert(next.settled(knobs)), "accepted twice");
            reductions += 1;
            since_reduction = 0;
        } else {
            assert!(next_cost <= cost && quality(measured) > value);
            since_reduction += 1;
            assert!(since_reduction <= case.options.recoveries);
            assert!(reductions > 0 || !reducing);
        }
        here = next.settled(knobs);
        cost = next_cost;
        value = quality(measured);
    }
    assert_eq!(here, history.current.assignment);

    // It halts within the bounds.
    let levels = knobs.levels(Role::Reduce);
    let all_levels = levels + knobs.levels(Role::Recover);
    let steps = history.steps().count();
    let repeats = 1 + case.options.recoveries;
    let bound = if reducing {
        levels * repeats
    } else {
        case.options.recoveries
    };
    assert!(steps <= case.options.max_steps.unwrap_or(bound));
    if matches!(case.kind, Kind::Greedy { .. } | Kind::Lockstep | Kind::Away) {
        assert!(reductions <= levels);
        assert!(steps <= bound);
    }
    let measured = |trial: &&Trial| {
        use Rejection::*;
        !matches!(
            trial.rejection,
            Some(Invalid { .. } | NoChange | Repeated | Visited | RecoveryLimit | BudgetMet | TrialLimit)
        )
    };
    let trials = history.all_trials().filter(measured).count();
    assert!(trials <= all_levels * (steps + 1));
    if levels == all_levels && matches!(case.kind, Kind::Greedy { .. } | Kind::Lockstep | Kind::Away) {
        assert!(trials <= levels * (levels + 1));
    }

    // The best state seen is what comes back, and what the subject ended up with.
    let feasible = |state: &&State| {
        violation(case, &state.measurement.costs) == 0.0 && honors(case, reference, quality(&state.measurement))
    };
    let best = &conclusion.best;
    match seen
        .iter()
        .filter(feasible)
        .map(|state| quality(&state.measurement))
        .reduce(f64::max)
    {
        Some(highest) => {
            assert!(feasible(&best));
            assert_eq!(quality(&best.measurement), highest);
            assert_eq!(conclusion.outcome, Outcome::Feasible);
        }
        None => {
            assert_ne!(conclusion.outcome, Outcome::Feasible);
            let honoring = seen
                .iter()
                .filter(|state| honors(case, reference, quality(&state.measurement)));
            let closest = honoring
                .map(|state| load(case, &state.measurement.costs))
                .reduce(f64::min);
            if let Some(closest) = closest {
                assert!(honors(case, reference, quality(&best.measurement)));
                assert!((load(case, &best.measurement.costs) - closest).abs() < 1e-9);
            }
        }
    }
    let last_adopted = toy.adopted.last().cloned().unwrap_or(knobs.off());
    assert_eq!(last_adopted.settled(knobs), best.assignment);
    assert!(load(case, &conclusion.smallest.costs) <= load(case, &best.measurement.costs) + 1e-9);

    // Nothing depends on chance, and everything survives being written.
    let (again, _, _) = run(case);
    let json = serde_json::to_string(&conclusion).unwrap();
    assert_eq!(json, serde_json::to_string(&again).unwrap());
    let read: Conclusion = serde_json::from_str(&json).unwrap();
    assert_eq!(read, conclusion);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn proposition_1_holds_for_whatever_rules_meters_and_policies(case in cases()) {
        check(&case);
    }

    /// Where later values never cost more, no floor is in the way and the budget can be met at
    /// all, every built-in policy meets it, also past values that save nothing.
    #[test]
    fn what_can_be_reached_is_reached(mut case in cases(), confirm in 0..4_usize) {
        case.toy.manner = Manner::Honest;
        case.objective.floor = None;
        case.options.max_steps = None;
        case.options.on_no_progress = OnNoProgress::Skip;
        case.options.max_probes = 1000;
        for row in &mut case.toy.saves {
            row.iter_mut().for_each(|saved| *saved = saved.abs());
            row.sort_by(f64::total_cmp);
        }
        let roles = case.toy.knobs.iter().map(|knob| knob.role);
        let most: f64 = roles.zip(&case.toy.saves)
            .filter(|(role, _)| *role == Role::Reduce)
            .filter_map(|(_, row)| row.last())
            .sum();
        for row in case.toy.saves.iter_mut().zip(&case.toy.knobs) {
            if row.1.role == Role::Recover {
                row.0.fill(0.0);
            }
        }
        let budget = 40.0 - most * 0.98;
        prop_assume!(most > 0.1 && budget > 0.0);
        case.toy.costs.truncate(1);
        case.objective.budget = Budget::at_most(SIZE, budget).unwrap();
        for kind in [
            Kind::Greedy { confirm, jump: false, reuse: false },
            Kind::Greedy { confirm, jump: true, reuse: true },
            Kind::Lockstep,
            Kind::Knapsack,
            Kind::Evolve,
        ] {
            case.kind = kind;
            check(&case);
            let (conclusion, ..) = run(&case);
            prop_assert_eq!(conclusion.outcome, Outcome::Feasible);
        }
    }
}
