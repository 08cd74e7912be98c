//! The built-in policies, and the wire form that others speak.

use kmr_core::*;

use crate::toy::{SIZE, Toy};

fn run(toy: &mut Toy, policy: &mut dyn Policy, at_most: f64, floor: Option<Floor>) -> Conclusion {
    let objective = Objective {
        floor,
        ..Objective::new(Budget::at_most(SIZE, at_most).unwrap())
    };
    budgeted_kmr(toy, policy, &objective, &Options::default(), &mut Silent).unwrap()
}

#[test]
fn greedy_takes_the_cheapest_saving_first() {
    let mut toy = Toy::new(100.0)
        .reducing(&[10.0, 20.0], &[0.05, 0.1])
        .reducing(&[10.0, 20.0], &[0.01, 0.08])
        .reducing(&[10.0], &[0.02]);
    let conclusion = run(&mut toy, &mut Greedy::default(), 70.0, None);
    let steps: Vec<Action> = conclusion.history.steps().map(|step| step.changes.clone()).collect();
    assert_eq!(
        steps,
        [Action::single(1, 1), Action::single(2, 1), Action::single(0, 1)]
    );
}

#[test]
fn greedy_does_not_overshoot_when_a_gentler_step_meets_the_budget() {
    // By ratio the first knob is the bargain; the second loses less and is enough.
    let toy = Toy::new(100.0).reducing(&[60.0], &[0.06]).reducing(&[10.0], &[0.02]);
    for confirm in [0, 1, 3] {
        let mut greedy = Greedy {
            confirm,
            ..Greedy::default()
        };
        let conclusion = run(&mut toy.clone(), &mut greedy, 90.0, None);
        assert_eq!(conclusion.best.assignment.as_slice(), [0, 1]);
    }
    // With jumps, the gentlest value that is enough.
    let mut toy = Toy::new(100.0).reducing(&[10.0, 20.0, 30.0], &[0.01, 0.011, 0.012]);
    let mut greedy = Greedy {
        jump: true,
        ..Greedy::default()
    };
    let conclusion = run(&mut toy, &mut greedy, 85.0, None);
    assert_eq!(conclusion.best.assignment.as_slice(), [2]);
    assert_eq!(conclusion.step_count(), 1);
}

/// A proxy that ranks the candidates the wrong way around.
struct Misleading(Toy);

impl Subject for Misleading {
    type Error = String;
    fn knobs(&mut self) -> Result<Vec<Knob>, String> {
        self.0.knobs()
    }
    fn cost(&mut self, at: &Assignment) -> Result<Costs, SubjectError<String>> {
        self.0.cost(at)
    }
    fn quality(&mut self, at: &Assignment, fidelity: Fidelity) -> Result<Quality, SubjectError<String>> {
        let quality = self.0.quality(at, fidelity)?;
        let sign = if fidelity.proxy { -1.0 } else { 1.0 };
        Ok(Quality::new(sign * quality.value, quality.samples))
    }
    fn adopt(&mut self, at: &Assignment) -> Result<(), String> {
        self.0.adopt(at)
    }
}

#[test]
fn the_real_meter_corrects_the_proxy_and_the_floor_sends_greedy_on() {
    let toy = Toy::new(100.0)
        .reducing(&[50.0], &[0.30])
        .reducing(&[50.0], &[0.20])
        .reducing(&[50.0], &[0.10])
        .reducing(&[50.0], &[0.01]);
    let objective = Objective::new(Budget::at_most(SIZE, 50.0).unwrap());
    let best = |confirm, floor| {
        let objective = Objective {
            floor,
            ..objective.clone()
        };
        let mut greedy = Greedy {
            confirm,
            ..Greedy::default()
        };
        let mut subject = Misleading(toy.clone());
        let options = Options::default();
        let conclusion = budgeted_kmr(&mut subject, &mut greedy, &objective, &options, &mut Silent).unwrap();
        (conclusion.best.assignment.as_slice().to_vec(), subject.0.quality_calls)
    };
    assert_eq!(best(2, None).0, [0, 1, 0, 0], "the better of the two confirmed");
    assert_eq!(best(4, None).0, [0, 0, 0, 1]);
    for confirm in [0, 1, 2] {
        let (assignment, calls) = best(confirm, Some(Floor::DropAtMost(0.05)));
        assert_eq!(assignment, [0, 0, 0, 1], "confirm {confirm}");
        let full = calls.iter().filter(|(_, fidelity)| *fidelity == Fidelity::FULL).count();
        assert_eq!(full, 5, "the start and each candidate once; confirm {confirm}");
    }
}

#[test]
fn reuse_saves_proxy_measurements_without_changing_a_separable_result() {
    let mut toy = Toy::new(1000.0);
    for knob in 1..=8 {
        let losses: Vec<f64> = (1..=6).map(|v| f64::from(v * v * knob) * 1e-4).collect();
        let saves: Vec<f64> = (1..=6).map(|v| f64::from(v) * 10.0).collect();
        toy.push("prune", Role::Reduce, &saves, &losses);
    }
    let count = |reuse| {
        let mut toy = toy.clone();
        let mut greedy = Greedy {
            reuse,
            confirm: 1,
            ..Greedy::default()
        };
        let conclusion = run(&mut toy, &mut greedy, 750.0, None);
        assert_eq!(conclusion.outcome, Outcome::Feasible);
        let proxies = toy.quality_calls.iter().filter(|(_, fidelity)| fidelity.proxy).count();
        (conclusion.best.assignment, proxies)
    };
    let (fresh, reused) = (count(false), count(true));
    assert_eq!(fresh.0, reused.0);
    assert!(reused.1 * 2 < fresh.1, "{} proxies instead of {}", reused.1, fresh.1);
}

#[test]
fn lockstep_raises_everything_together() {
    let mut toy = Toy::new(100.0)
        .reducing(&[10.0], &[0.0])
        .reducing(&[10.0, 20.0, 40.0], &[0.0, 0.0, 0.0]);
    let conclusion = run(&mut toy, &mut Scheduled::Lockstep, 60.0, None);
    let adopted: Vec<&[usize]> = toy.adopted.iter().map(Assignment::as_slice).collect();
    assert_eq!(adopted, [[1, 1], [1, 2], [1, 3]]);
    assert_eq!(conclusion.outcome, Outcome::Feasible);
    assert!(conclusion.history.steps().next().unwrap().changes.is_composite());
    assert_eq!(toy.quality_calls.len(), 4, "no probes");
}

/// The whole protocol of a foreign policy: what it reads, and what it may answer.
#[test]
fn the_wire_form_is_the_documented_one() {
    let mut toy = Toy::new(100.0).reducing(&[40.0, 60.0], &[0.01, 0.2]);
    let floor = Some(Floor::DropAtMost(0.05));
    let conclusion = run(&mut toy, &mut Scheduled::Lockstep, 50.0, floor);
    let history: serde_json::Value = serde_json::from_str(&conclusion.history.to_json()).unwrap();
    let expected = serde_json::json!({
        "schema": 1,
        "knobs": [{"rule": "prune", "name": "strength", "target": "layer0", "label": "layer0",
                   "role": "reduce", "values": [0, 1, 2]}],
        "budget": [{"meter": "size_bytes", "at_most": 50.0}],
        "floor": {"drop_at_most": 0.05},
        "reference": {"costs": {"size_bytes": 100.0}, "quality": {"value": 0.9, "samples": 1000}},
        "step": 1,
        "current": {"assignment": [1], "measurement":
            {"costs": {"size_bytes": 60.0}, "quality": {"value": 0.89, "samples": 1000}}},
        "met": false,
        "remaining": {"steps": 1, "trials": 1, "probes": 10000, "recoveries": 0},
        "records": [
            {"kind": "trial", "step": 0, "changes": [{"knob": 0, "value": 1}], "assignment": [1],
             "accepted": true, "rejection": null, "measurement":
                {"costs": {"size_bytes": 60.0}, "quality": {"value": 0.89, "samples": 1000}}},
            {"kind": "trial", "step": 1, "changes": [{"knob": 0, "value": 2}], "assignment": [2],
             "accepted": false, "measurement":
                {"costs": {"size_bytes": 40.0}, "quality": {"value": 0.7, "samples": 1000}},
             "rejection": {"reason": "floor", "quality": 0.7, "least": 0.85}},
        ],
    });
    assert_eq!(history, expected);

    let step = Ask::Step {
        changes: Action::single(0, 1),
    };
    assert_eq!(step.to_json(), r#"{"ask":"step","changes":[{"knob":0,"value":1}]}"#);
    let probe = r#"{"ask":"probe","assignments":[[0,1]],"fidelity":{"samples":256,"proxy":true}}"#;
    let read = Ask::from_json(probe).unwrap();
    let assignments = vec![vec![0, 1].into()];
    assert_eq!(read, Ask::probe(assignments, Fidelity::proxy(256)));
    assert_eq!(read.to_json(), probe);
    assert_eq!(Ask::from_json(r#"{"ask":"done"}"#).unwrap(), Ask::Done);
    let mistyped = r#"{"ask":"probe","assignments":[[0]],"fidelty":{"samples":256}}"#;
    assert!(Ask::from_json(mistyped).unwrap_err().to_string().contains("fidelty"));
}
