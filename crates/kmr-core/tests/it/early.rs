//! Rejecting clear losers on part of the data.

use std::collections::HashMap;

use kmr_core::*;
use proptest::prelude::*;

use crate::toy::{Dice, SIZE};

/// Right or wrong on a thousand samples and more: each knob's value flips its own share of the
/// answers, a fifth of them to right.
#[derive(Clone)]
struct Flipping {
    knobs: usize,
    samples: usize,
    seed: u64,
    worst: f64,
    /// The most samples asked for, by candidate.
    asked: HashMap<Assignment, usize>,
}

impl Flipping {
    fn score(&self, at: &Assignment, sample: usize) -> f64 {
        let mut dice = Dice::new(self.seed ^ (sample as u64 * 31));
        let mut right = dice.unit() < 0.9;
        for (knob, &value) in at.as_slice().iter().enumerate() {
            let share = self.worst * (value * (knob + 1)) as f64 / (3 * self.knobs) as f64;
            let draw = dice.unit();
            if draw < share {
                right = draw < share / 5.0;
            }
        }
        f64::from(u8::from(right))
    }
}

impl Subject for Flipping {
    type Error = String;

    fn knobs(&mut self) -> Result<Vec<Knob>, String> {
        let values: Vec<Value> = (0..4).map(|value| Value::Number(f64::from(value))).collect();
        let knob = |knob| Knob::new("prune", "share", format!("layer{knob}"), Role::Reduce, values.clone());
        Ok((0..self.knobs).map(knob).collect())
    }

    fn cost(&mut self, at: &Assignment) -> Result<Costs, SubjectError<String>> {
        let saved: usize = at.as_slice().iter().sum();
        Ok(Costs::from([(SIZE.into(), 1000.0 - 10.0 * saved as f64)]))
    }

    fn quality(&mut self, at: &Assignment, fidelity: Fidelity) -> Result<Quality, SubjectError<String>> {
        let samples = fidelity.samples.unwrap_or(self.samples).min(self.samples);
        if !fidelity.proxy {
            let asked = self.asked.entry(at.clone()).or_default();
            *asked = samples.max(*asked);
        }
        Ok(Quality::from_scores(
            (0..samples).map(|sample| self.score(at, sample)).collect(),
        ))
    }

    fn adopt(&mut self, _: &Assignment) -> Result<(), String> {
        Ok(())
    }
}

fn run(subject: &mut Flipping, early: bool, floor: Floor) -> Conclusion {
    let objective = Objective::new(Budget::at_most(SIZE, 900.0).unwrap()).with_floor(floor);
    let options = Options {
        early_rejection: early.then(EarlyRejection::default),
        ..Options::default()
    };
    let mut policy = Greedy {
        confirm: 2,
        proxy_samples: 50,
        ..Greedy::default()
    };
    budgeted_kmr(subject, &mut policy, &objective, &options, &mut Silent).unwrap()
}

fn accepted(conclusion: &Conclusion) -> Vec<Action> {
    conclusion.history.steps().map(|step| step.changes.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is lost early is lost on all samples: the same steps, for fewer samples.
    #[test]
    fn the_same_steps_are_accepted(seed: u64, worst in 0.05..0.6_f64, at_least: bool) {
        let subject = Flipping { knobs: 4, samples: 2000, seed, worst, asked: HashMap::new() };
        let floor = if at_least { Floor::AtLeast(0.87) } else { Floor::DropAtMost(0.03) };
        let (mut late, mut early) = (subject.clone(), subject);
        let (whole, part) = (run(&mut late, false, floor), run(&mut early, true, floor));
        prop_assert_eq!(accepted(&whole), accepted(&part));
        prop_assert_eq!(&whole.outcome, &part.outcome);
        prop_assert_eq!(&whole.best, &part.best);
        let sum = |subject: &Flipping| subject.asked.values().sum::<usize>();
        prop_assert!(sum(&early) <= sum(&late));
    }
}

#[test]
fn clear_losers_cost_few_samples() {
    let mut subject = Flipping {
        knobs: 4,
        samples: 5000,
        seed: 1,
        worst: 0.8,
        asked: HashMap::new(),
    };
    let conclusion = run(&mut subject, true, Floor::DropAtMost(0.01));
    let rejections = conclusion.history.records.iter().filter_map(|record| match record {
        Record::Probe(Probe {
            measurement, rejection, ..
        })
        | Record::Trial(Trial {
            measurement, rejection, ..
        }) => Some((measurement.as_ref()?.quality.as_ref()?, rejection.as_ref()?)),
    });
    let mut early = 0;
    for (quality, rejection) in rejections {
        let Rejection::Floor { quality: value, least } = rejection else {
            continue;
        };
        assert!(*value < *least && *value == quality.value);
        early += usize::from(quality.samples < 5000);
    }
    let asked: usize = subject.asked.values().sum();
    let all = 5000 * subject.asked.len();
    println!("{early} rejected early; {asked} samples instead of {all}");
    assert!(early > 0 && asked < all / 2, "{early} {asked} {all}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    for (alpha, growth) in [(0.0, 2.0), (f64::NAN, 2.0), (0.01, 1.0), (0.01, f64::NAN)] {
        let options = Options {
            early_rejection: Some(EarlyRejection {
                alpha,
                first: 100,
                growth,
            }),
            ..Options::default()
        };
        let mut subject = Flipping {
            knobs: 1,
            samples: 10,
            seed: 0,
            worst: 0.1,
            asked: HashMap::new(),
        };
        let objective = Objective::new(Budget::at_most(SIZE, 900.0).unwrap());
        let result = budgeted_kmr(&mut subject, &mut Greedy::default(), &objective, &options, &mut Silent);
        assert!(matches!(result, Err(KmrError::Setting { .. })));
    }
}
