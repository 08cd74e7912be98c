//! A subject made of tables, with meters that can lie.

use std::collections::HashMap;

use kmr_core::*;

/// How the toy's meters misbehave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Manner {
    /// Costs and qualities follow the tables.
    Honest,
    /// Every answer depends on how many were given before.
    Oscillating,
    /// Some answers are NaN or infinite, some are missing, some candidates are refused.
    Broken,
}

/// Tables of savings and losses by knob and value.
#[derive(Clone, Debug)]
pub struct Toy {
    pub knobs: Vec<Knob>,
    /// Costs of the state with everything off, by meter.
    pub costs: Vec<(&'static str, f64)>,
    /// What each value of each knob takes off every cost.
    pub saves: Vec<Vec<f64>>,
    /// What each value of each knob takes off the quality; a recovering knob adds it.
    pub loses: Vec<Vec<f64>>,
    pub manner: Manner,
    pub seed: u64,
    /// Answers left before somebody asks to stop.
    pub patience: Option<usize>,
    /// Gained by the recoveries adopted so far.
    pub recovered: f64,
    pub adopted: Vec<Assignment>,
    pub answers: usize,
    pub quality_calls: Vec<(Assignment, Fidelity)>,
    last_costs: HashMap<Assignment, Option<f64>>,
}

pub const SIZE: &str = "size_bytes";

impl Toy {
    pub fn new(size: f64) -> Self {
        Toy {
            knobs: Vec::new(),
            costs: vec![(SIZE, size)],
            saves: Vec::new(),
            loses: Vec::new(),
            manner: Manner::Honest,
            seed: 0,
            patience: None,
            recovered: 0.0,
            adopted: Vec::new(),
            answers: 0,
            quality_calls: Vec::new(),
            last_costs: HashMap::new(),
        }
    }

    /// Adds a reducing knob: what each value beyond off saves and loses.
    pub fn reducing(mut self, saves: &[f64], loses: &[f64]) -> Self {
        self.push("prune", Role::Reduce, saves, loses);
        self
    }

    /// Adds a recovering knob: what each value beyond off costs and gains.
    pub fn recovering(mut self, costs: &[f64], gains: &[f64]) -> Self {
        let saves: Vec<f64> = costs.iter().map(|cost| -cost).collect();
        self.push("distill", Role::Recover, &saves, gains);
        self
    }

    pub fn push(&mut self, rule: &str, role: Role, saves: &[f64], loses: &[f64]) {
        let values = (0..=saves.len()).map(|value| Value::Number(value as f64)).collect();
        let target = format!("layer{}", self.knobs.len());
        self.knobs.push(Knob::new(rule, "strength", target, role, values));
        self.saves.push([&[0.0], saves].concat());
        self.loses.push([&[0.0], loses].concat());
    }

    fn sum(&self, table: &[Vec<f64>], at: &Assignment, role: Role) -> f64 {
        let knobs = self.knobs.iter().zip(table).zip(at.as_slice());
        knobs
            .filter(|((knob, _), _)| knob.role == role)
            .map(|((_, row), &value)| row[value])
            .sum()
    }

    /// A number in [0, 1) that depends on the candidate and, for an oscillating toy, on the time.
    fn noise(&self, at: &Assignment, purpose: u64) -> f64 {
        let time = if self.manner == Manner::Oscillating {
            self.answers as u64
        } else {
            0
        };
        let mut state = self.seed ^ (purpose << 32) ^ time.wrapping_mul(0x9E37_79B9);
        for &value in at.as_slice() {
            state = mix(state ^ value as u64);
        }
        mix(state) as f64 / 2f64.powi(64)
    }

    fn load(&self, costs: &Costs) -> Option<f64> {
        let [(meter, _)] = self.costs[..] else {
            return None;
        };
        costs.get(meter).copied().filter(|cost| cost.is_finite())
    }
}

/// SplitMix64's finalizer.
pub fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Numbers by a seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(mix(seed))
    }

    /// In [0, 1).
    pub fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        (mix(self.0) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        (self.unit() * sides as f64) as usize
    }
}

impl Subject for Toy {
    type Error = String;

    fn knobs(&mut self) -> Result<Vec<Knob>, String> {
        Ok(self.knobs.clone())
    }

    fn cost(&mut self, at: &Assignment) -> Result<Costs, SubjectError<String>> {
        self.answers += 1;
        let start = at.as_slice().iter().all(|&value| value == 0);
        let saved = self.sum(&self.saves, at, Role::Reduce) + self.sum(&self.saves, at, Role::Recover);
        let mut costs: Costs = self
            .costs
            .iter()
            .map(|&(meter, cost)| (meter.to_owned(), cost - saved))
            .collect();
        let noise = self.noise(at, 1);
        match self.manner {
            Manner::Honest => {}
            Manner::Oscillating => costs.values_mut().for_each(|cost| *cost *= 0.5 + noise),
            Manner::Broken if start => {}
            Manner::Broken => {
                let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
                match (noise * 20.0) as usize {
                    which @ 0..3 => costs.values_mut().for_each(|cost| *cost = bad[which]),
                    3 => costs.clear(),
                    4 => return Err(SubjectError::Refused("cannot be pruned".into())),
                    _ => {}
                }
            }
        }
        self.last_costs.insert(at.clone(), self.load(&costs));
        Ok(costs)
    }

    fn quality(&mut self, at: &Assignment, fidelity: Fidelity) -> Result<Quality, SubjectError<String>> {
        assert_ne!(fidelity.samples, Some(0), "costs alone need no quality");
        let cost = self.last_costs.get(at).expect("costs come first");
        if self.costs.len() == 1 && self.manner != Manner::Oscillating {
            let here = self
                .adopted
                .last()
                .cloned()
                .unwrap_or(vec![0; at.as_slice().len()].into());
            let cost = cost.expect("an unusable cost needs no quality");
            let same = self.knobs.iter().zip(at.as_slice().iter().zip(here.as_slice()));
            let reduces = same.clone().any(|(knob, (a, b))| knob.role == Role::Reduce && a != b);
            if reduces {
                let current = self.last_costs[&here].expect("adopted with a usable cost");
                assert!(cost < current, "quality was asked for without progress in cost");
            }
        }
        self.answers += 1;
        self.quality_calls.push((at.clone(), fidelity));
        let mut value =
            0.9 + self.recovered - self.sum(&self.loses, at, Role::Reduce) + self.sum(&self.loses, at, Role::Recover);
        let noise = self.noise(at, 2);
        let start = at.as_slice().iter().all(|&value| value == 0);
        match self.manner {
            Manner::Honest => {}
            Manner::Oscillating => value += 0.3 * (noise - 0.5),
            Manner::Broken if start => {}
            Manner::Broken => match (noise * 16.0) as usize {
                0 => value = f64::NAN,
                1 => value = f64::INFINITY,
                2 => return Err(SubjectError::Refused("cannot be measured".into())),
                _ => {}
            },
        }
        Ok(Quality::new(value, fidelity.samples.unwrap_or(1000)))
    }

    fn adopt(&mut self, at: &Assignment) -> Result<(), String> {
        self.recovered += self.sum(&self.loses, at, Role::Recover);
        self.adopted.push(at.clone());
        Ok(())
    }

    fn interrupted(&self) -> bool {
        self.patience.is_some_and(|patience| self.answers >= patience)
    }
}
