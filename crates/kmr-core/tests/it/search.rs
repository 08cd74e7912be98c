//! The loop, case by case.

use kmr_core::*;

use crate::toy::{SIZE, Toy};

fn objective(at_most: f64) -> Objective {
    Objective::new(Budget::at_most(SIZE, at_most).unwrap())
}

/// Proposes these steps in order.
fn list(steps: &[&[(usize, usize)]]) -> Scheduled {
    let action = |changes: &&[(usize, usize)]| changes.iter().map(|&(knob, value)| Change { knob, value }).collect();
    Scheduled::List(steps.iter().map(action).collect())
}

fn search(toy: &mut Toy, policy: Scheduled, goal: Objective, options: Options) -> Conclusion {
    let mut policy = policy;
    budgeted_kmr(toy, &mut policy, &goal, &options, &mut Silent).unwrap()
}

fn reasons(conclusion: &Conclusion) -> Vec<String> {
    let name = |trial: &Trial| match &trial.rejection {
        None => "accepted".to_owned(),
        Some(rejection) => serde_json::to_value(rejection).unwrap()["reason"]
            .as_str()
            .unwrap()
            .into(),
    };
    conclusion.history.all_trials().map(name).collect()
}

#[test]
fn stop_is_the_papers_break_and_skip_asks_again() {
    // The second knob's value saves nothing.
    let toy = || {
        Toy::new(100.0)
            .reducing(&[10.0], &[0.0])
            .reducing(&[0.0], &[0.0])
            .reducing(&[50.0], &[0.0])
    };
    let steps: &[&[(usize, usize)]] = &[&[(0, 1)], &[(1, 1)], &[(2, 1)]];
    let stop = Options {
        on_no_progress: OnNoProgress::Stop,
        ..Options::default()
    };

    let stopped = search(&mut toy(), list(steps), objective(40.0), stop);
    assert_eq!(
        stopped.outcome,
        Outcome::NoProgress {
            changes: Action::single(1, 1)
        }
    );
    assert_eq!(stopped.best.measurement.costs[SIZE], 90.0);
    assert!(
        stopped
            .describe()
            .contains("prune.strength of layer1 = 1: no progress: 90")
    );

    let skipped = search(&mut toy(), list(steps), objective(40.0), Options::default());
    assert_eq!(skipped.outcome, Outcome::Feasible);
    assert_eq!(reasons(&skipped), ["accepted", "no_progress", "accepted"]);
    assert_eq!(skipped.blocked, None);
}

#[test]
fn the_floor_rejects_and_names_itself() {
    let mut toy = Toy::new(100.0).reducing(&[10.0, 60.0], &[0.01, 0.2]);
    let goal = objective(50.0).with_floor(Floor::DropAtMost(0.05));
    let conclusion = search(&mut toy, Scheduled::Lockstep, goal, Options::default());
    assert_eq!(
        conclusion.outcome,
        Outcome::QualityFloor {
            changes: Action::single(0, 2)
        }
    );
    assert_eq!(conclusion.best.assignment.as_slice(), [1]);
    assert_eq!(conclusion.smallest.costs[SIZE], 40.0);
    assert_eq!(reasons(&conclusion), ["accepted", "floor"]);
}

#[test]
fn a_start_below_the_floor_is_not_feasible_however_small() {
    let mut toy = Toy::new(10.0).reducing(&[1.0], &[0.0]);
    let goal = objective(50.0).with_floor(Floor::AtLeast(0.99));
    let conclusion = search(&mut toy, Scheduled::Lockstep, goal, Options::default());
    assert_eq!(
        conclusion.outcome,
        Outcome::QualityFloor {
            changes: Action::default()
        }
    );
}

#[test]
fn a_composite_is_one_step_under_one_test() {
    // Alone, the second knob's value costs more; together with the first it saves.
    let mut toy = Toy::new(100.0).reducing(&[30.0], &[0.0]).reducing(&[-5.0], &[0.0]);
    let policy = list(&[&[(1, 1)], &[(0, 1), (1, 1)]]);
    let conclusion = search(&mut toy, policy, objective(80.0), Options::default());
    assert_eq!(reasons(&conclusion), ["no_progress", "accepted"]);
    assert_eq!(conclusion.best.assignment.as_slice(), [1, 1]);
    assert_eq!(toy.adopted.len(), 1);
}

#[test]
fn quality_is_not_measured_where_the_cost_failed() {
    let mut toy = Toy::new(100.0).reducing(&[0.0], &[0.0]);
    search(&mut toy, Scheduled::Lockstep, objective(50.0), Options::default());
    assert_eq!(toy.quality_calls.len(), 1, "the start alone");
}

#[test]
fn several_limits_progress_by_their_violation() {
    let mut toy = Toy::new(100.0).reducing(&[20.0], &[0.0]).reducing(&[30.0], &[0.0]);
    toy.costs.push(("macs", 40.0));
    let limit = |meter: &str, at_most| Limit {
        meter: meter.into(),
        at_most,
    };
    let budget = Budget::new(vec![limit(SIZE, 60.0), limit("macs", 35.0)]).unwrap();
    let policy = list(&[&[(0, 1)], &[(1, 1)]]);
    let conclusion = search(&mut toy, policy, Objective::new(budget), Options::default());
    assert_eq!(conclusion.outcome, Outcome::Feasible);
    assert_eq!(conclusion.step_count(), 2);
}

#[test]
fn recoveries_follow_reductions_and_go_into_the_masters() {
    let mut toy = Toy::new(100.0)
        .reducing(&[20.0, 40.0, 60.0], &[0.03, 0.06, 0.09])
        .recovering(&[0.0], &[0.02]);
    let options = Options {
        recoveries: 2,
        ..Options::default()
    };
    let goal = objective(60.0).with_floor(Floor::DropAtMost(0.05));
    let conclusion = search(&mut toy, Scheduled::Lockstep, goal, options);
    assert_eq!(conclusion.outcome, Outcome::Feasible);
    // Reduce, recover twice, reduce, recover twice: also after the budget is met.
    let adopted: Vec<&[usize]> = toy.adopted.iter().map(Assignment::as_slice).collect();
    assert_eq!(adopted, [[1, 0], [1, 1], [1, 1], [2, 0], [2, 1], [2, 1]]);
    assert_eq!(conclusion.best.assignment.as_slice(), [2, 0]);
    let quality = conclusion.best.measurement.quality.unwrap().value;
    assert!((quality - (0.9 - 0.06 + 0.08)).abs() < 1e-12);
}

#[test]
fn recoveries_must_neither_cost_nor_come_uncalled_for() {
    let toy = || {
        Toy::new(100.0)
            .reducing(&[20.0, 60.0], &[0.0, 0.0])
            .recovering(&[1.0, 0.0], &[0.1, 0.0])
    };
    let policy = list(&[&[(1, 1)], &[(0, 1)], &[(1, 1)], &[(1, 2)], &[(0, 2)]]);
    let conclusion = search(&mut toy(), policy, objective(70.0), Options::default());
    let expected = ["recovery_limit", "accepted", "cost_rose", "no_recovery", "accepted"];
    assert_eq!(reasons(&conclusion), expected);
}

#[test]
fn an_uncertain_recovery_is_none() {
    struct Scored(Vec<Vec<f64>>);
    impl Subject for Scored {
        type Error = String;
        fn knobs(&mut self) -> Result<Vec<Knob>, String> {
            let values = (0..self.0.len()).map(|value| Value::Number(value as f64)).collect();
            Ok(vec![Knob::new("distill", "on", "model", Role::Recover, values)])
        }
        fn cost(&mut self, _: &Assignment) -> Result<Costs, SubjectError<String>> {
            Ok(Costs::from([(SIZE.into(), 1.0)]))
        }
        fn quality(&mut self, at: &Assignment, _: Fidelity) -> Result<Quality, SubjectError<String>> {
            Ok(Quality::from_scores(self.0[at[0]].clone().into()))
        }
        fn adopt(&mut self, _: &Assignment) -> Result<(), String> {
            Ok(())
        }
    }
    let scores = |right: usize| (0..100).map(|at| f64::from(u8::from(at < right))).collect();
    let run = |confidence| {
        let options = Options {
            recovery_confidence: confidence,
            ..Options::default()
        };
        let mut subject = Scored(vec![scores(80), scores(81), scores(90)]);
        let mut policy = Scheduled::Lockstep;
        budgeted_kmr(&mut subject, &mut policy, &objective(0.5), &options, &mut Silent).unwrap()
    };
    assert_eq!(reasons(&run(None)), ["accepted"]);
    assert_eq!(reasons(&run(Some(0.95))), ["no_recovery", "accepted"]);
}

#[test]
fn an_interruption_leaves_the_best_state_and_no_half_trial() {
    let mut toy = Toy::new(100.0).reducing(&[10.0, 20.0, 30.0], &[0.0, 0.0, 0.0]);
    toy.patience = Some(5); // start: 2 answers, first step: 2, then a cost without its quality
    let conclusion = search(&mut toy, Scheduled::Lockstep, objective(50.0), Options::default());
    assert_eq!(conclusion.outcome, Outcome::Interrupted);
    assert_eq!(conclusion.best.assignment.as_slice(), [1]);
    assert_eq!(conclusion.history.records.len(), 1);
}

#[test]
fn a_policy_that_only_repeats_itself_is_sent_home() {
    struct Stuck(&'static str);
    impl Policy for Stuck {
        fn next(&mut self, _: &History) -> Result<Ask, PolicyError> {
            Ask::from_json(self.0)
        }
    }
    for ask in [
        r#"{"ask":"step","changes":[{"knob":9,"value":1}]}"#,
        r#"{"ask":"step","changes":[{"knob":0,"value":0}]}"#,
        r#"{"ask":"step","changes":[]}"#,
        r#"{"ask":"probe","assignments":[]}"#,
        r#"{"ask":"probe","assignments":[[1,2,3],[1]],"fidelity":{"samples":10}}"#,
    ] {
        let mut toy = Toy::new(100.0).reducing(&[10.0], &[0.0]);
        let options = Options::default();
        let conclusion = budgeted_kmr(&mut toy, &mut Stuck(ask), &objective(50.0), &options, &mut Silent).unwrap();
        let because = Exhaustion::UselessAsks;
        assert_eq!(conclusion.outcome, Outcome::Exhausted { because }, "{ask}");
    }
    for garbage in ["", "{}", r#"{"ask":"step"}"#, r#"{"ask":"probe","assignments":[[-1]]}"#] {
        let mut toy = Toy::new(100.0).reducing(&[10.0], &[0.0]);
        let goal = objective(50.0);
        let result = budgeted_kmr(&mut toy, &mut Stuck(garbage), &goal, &Options::default(), &mut Silent);
        assert!(matches!(result, Err(KmrError::Policy(_))), "{garbage}");
    }
}

#[test]
fn a_start_that_cannot_be_measured_is_an_error() {
    let start = |size: f64, goal: Objective| {
        let mut toy = Toy::new(size).reducing(&[1.0], &[0.0]);
        let mut policy = Scheduled::Lockstep;
        budgeted_kmr(&mut toy, &mut policy, &goal, &Options::default(), &mut Silent).unwrap_err()
    };
    assert!(matches!(start(f64::NAN, objective(1.0)), KmrError::Start { .. }));
    let other = Objective::new(Budget::at_most("macs", 1.0).unwrap());
    assert!(start(1.0, other).to_string().contains("`macs`"));
    let unknown = Measurement {
        costs: Costs::new(),
        quality: None,
    };
    let goal = Objective {
        reference: Some(unknown),
        ..objective(1.0)
    };
    assert!(matches!(start(2.0, goal), KmrError::Start { .. }));
    let goal = objective(1.0).with_floor(Floor::AtLeast(f64::NAN));
    assert!(matches!(start(2.0, goal), KmrError::Setting { .. }));
}

#[test]
fn a_failing_journal_ends_the_run_before_the_step_counts() {
    let mut toy = Toy::new(100.0).reducing(&[60.0], &[0.0]);
    let mut full_disk = |event: &Event<'_>| match event {
        Event::Tried { .. } => Err("no space left".to_owned()),
        _ => Ok(()),
    };
    let mut policy = Scheduled::Lockstep;
    let options = Options::default();
    let result = budgeted_kmr(&mut toy, &mut policy, &objective(50.0), &options, &mut full_disk);
    assert!(matches!(result, Err(KmrError::Subject(message)) if message == "no space left"));
    assert!(toy.adopted.is_empty());
}
