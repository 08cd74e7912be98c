//! Stages in a row.

use kmr_core::*;

use crate::toy::{SIZE, Toy};

/// One toy per stage; a barrier carries costs and quality over.
struct Staged {
    toys: Vec<Toy>,
    open: usize,
    size: f64,
    quality: f64,
    log: Vec<String>,
}

impl Staged {
    fn new(toys: Vec<Toy>) -> Self {
        Staged {
            toys,
            open: 0,
            size: 100.0,
            quality: 0.0,
            log: Vec::new(),
        }
    }

    fn toy(&mut self) -> &mut Toy {
        &mut self.toys[self.open]
    }

    fn pipeline(&self, until: &[Option<f64>], at_most: f64, floor: Option<Floor>) -> Pipeline {
        let size = |at_most| Budget::at_most(SIZE, at_most).unwrap();
        let stages = self
            .toys
            .iter()
            .zip(until)
            .enumerate()
            .map(|(index, (toy, until))| Stage {
                name: format!("stage{index}"),
                rules: vec![StageRule {
                    id: toy.knobs[0].rule.clone(),
                    role: toy.knobs[0].role,
                }],
                until: until.map(size),
                floor: None,
            });
        Pipeline::new(stages.collect(), size(at_most), floor).unwrap()
    }
}

impl Subject for Staged {
    type Error = String;
    fn knobs(&mut self) -> Result<Vec<Knob>, String> {
        self.toy().knobs()
    }
    fn cost(&mut self, at: &Assignment) -> Result<Costs, SubjectError<String>> {
        let size = self.size;
        self.toy().costs = vec![(SIZE, size)];
        self.toy().cost(at)
    }
    fn quality(&mut self, at: &Assignment, fidelity: Fidelity) -> Result<Quality, SubjectError<String>> {
        let before = self.quality;
        let quality = self.toy().quality(at, fidelity)?;
        Ok(Quality::new(quality.value + before, quality.samples))
    }
    fn adopt(&mut self, at: &Assignment) -> Result<(), String> {
        self.log.push(format!("adopt {:?}", at.as_slice()));
        self.toy().adopt(at)
    }
}

impl StagedSubject for Staged {
    fn enter(&mut self, stage: &Stage) -> Result<(), String> {
        self.open = stage.name.trim_start_matches("stage").parse().unwrap();
        self.log.push(format!("enter {}", stage.name));
        Ok(())
    }
    fn barrier(&mut self) -> Result<(), String> {
        self.log.push("barrier".to_owned());
        if let Some(last) = self.toy().adopted.last().cloned() {
            let failed = |_| "the toy fails".to_owned();
            let size = self.cost(&last).map_err(failed)?[SIZE];
            // The recoveries are in the masters; the knobs are off again.
            let knobs = Knobs::new(self.toy().knobs.clone()).unwrap();
            let quality = self.quality(&last.settled(&knobs), Fidelity::FULL).map_err(failed)?;
            self.size = size;
            self.quality = quality.value - 0.9;
        }
        Ok(())
    }
}

fn run(subject: &mut Staged, pipeline: &Pipeline) -> PipelineConclusion {
    let policy = |_: &Stage| Scheduled::Lockstep;
    run_stages(subject, pipeline, policy, &Options::default(), &mut Silent).unwrap()
}

fn shrink_recover_pack() -> Staged {
    Staged::new(vec![
        Toy::new(100.0).reducing(&[20.0, 50.0, 80.0], &[0.03, 0.1, 0.5]),
        Toy::new(100.0).recovering(&[0.0], &[0.08]),
        Toy::new(100.0).reducing(&[30.0, 40.0], &[0.01, 0.4]),
    ])
}

#[test]
fn a_deep_cut_is_repaired_before_the_floor_is_judged() {
    let mut subject = shrink_recover_pack();
    let floor = Some(Floor::DropAtMost(0.05));
    let pipeline = subject.pipeline(&[Some(60.0), None, None], 25.0, floor);
    let conclusion = run(&mut subject, &pipeline);
    assert_eq!(conclusion.outcome, Outcome::Feasible);
    assert_eq!(conclusion.measurement.costs[SIZE], 20.0);
    let quality = conclusion.measurement.quality.unwrap().value;
    assert!((quality - 0.87).abs() < 1e-12, "{quality}");
    assert_eq!(conclusion.reference.quality.unwrap().value, 0.9);
    assert_eq!(
        subject.log,
        [
            "enter stage0",
            "adopt [1]",
            "adopt [2]",
            "barrier",
            "enter stage1",
            "adopt [1]",
            "barrier",
            "enter stage2",
            "adopt [1]",
            "barrier",
        ]
    );
}

#[test]
fn the_end_is_judged_by_budget_and_floor_of_the_whole() {
    let judge = |at_most, floor| {
        let mut subject = shrink_recover_pack();
        let pipeline = subject.pipeline(&[Some(60.0), None, None], at_most, floor);
        run(&mut subject, &pipeline)
    };
    let short = judge(5.0, None);
    assert_eq!(
        short.outcome,
        Outcome::Exhausted {
            because: Exhaustion::Actions
        }
    );
    assert_eq!(short.measurement.costs[SIZE], 10.0);
    let held = judge(15.0, Some(Floor::DropAtMost(0.05)));
    assert_eq!(
        held.outcome,
        Outcome::QualityFloor {
            changes: Action::single(0, 2)
        }
    );
    assert_eq!(held.measurement.costs[SIZE], 20.0);
    // The last stage recovers, so only the final judgment knows the floor.
    let mut subject = shrink_recover_pack();
    subject.toys.truncate(2);
    let pipeline = subject.pipeline(&[None, None], 60.0, Some(Floor::DropAtMost(0.01)));
    let low = run(&mut subject, &pipeline);
    assert_eq!(
        low.outcome,
        Outcome::QualityFloor {
            changes: Action::default()
        }
    );
}

#[test]
fn an_interruption_closes_no_stage() {
    let mut subject = shrink_recover_pack();
    subject.toys[0].patience = Some(0);
    let pipeline = subject.pipeline(&[Some(60.0), None, None], 25.0, None);
    // Interruptions are looked at before each measurement; the toys' own flags are not asked here.
    struct Flagged(Staged);
    impl Subject for Flagged {
        type Error = String;
        fn knobs(&mut self) -> Result<Vec<Knob>, String> {
            self.0.knobs()
        }
        fn cost(&mut self, at: &Assignment) -> Result<Costs, SubjectError<String>> {
            self.0.cost(at)
        }
        fn quality(&mut self, at: &Assignment, fidelity: Fidelity) -> Result<Quality, SubjectError<String>> {
            self.0.quality(at, fidelity)
        }
        fn adopt(&mut self, at: &Assignment) -> Result<(), String> {
            self.0.adopt(at)
        }
        fn interrupted(&self) -> bool {
            self.0.log.iter().any(|entry| entry.starts_with("adopt"))
        }
    }
    impl StagedSubject for Flagged {
        fn enter(&mut self, stage: &Stage) -> Result<(), String> {
            self.0.enter(stage)
        }
        fn barrier(&mut self) -> Result<(), String> {
            self.0.barrier()
        }
    }
    let mut subject = Flagged(subject);
    let policy = |_: &Stage| Scheduled::Lockstep;
    let conclusion = run_stages(&mut subject, &pipeline, policy, &Options::default(), &mut Silent).unwrap();
    assert_eq!(conclusion.outcome, Outcome::Interrupted);
    assert_eq!(subject.0.log, ["enter stage0", "adopt [1]"]);
    assert_eq!(conclusion.measurement.costs[SIZE], 80.0);
}

#[test]
fn stages_that_make_no_pipeline_are_refused() {
    let budget = || Budget::at_most(SIZE, 1.0).unwrap();
    let stage = |name: &str, role, until: bool| Stage {
        name: name.into(),
        rules: vec![StageRule {
            id: "rule".into(),
            role,
        }],
        until: until.then(budget),
        floor: None,
    };
    let refused = |stages| Pipeline::new(stages, budget(), None).unwrap_err().to_string();
    use Role::{Recover, Reduce};
    assert!(refused(vec![]).contains("at least one stage"));
    let endless = vec![
        stage("a", Reduce, false),
        stage("b", Recover, false),
        stage("c", Reduce, false),
    ];
    assert!(refused(endless).contains("stage `a` reduces and is not the last"));
    assert!(refused(vec![stage("a", Recover, true)]).contains("`until`"));
    assert!(refused(vec![stage("a", Reduce, true), stage("a", Reduce, false)]).contains("two stages"));
    let mut twice = stage("a", Reduce, false);
    twice.rules.push(twice.rules[0].clone());
    assert!(refused(vec![twice]).contains("names rule `rule` twice"));
    let mut empty = stage("a", Reduce, false);
    empty.rules.clear();
    assert!(refused(vec![empty]).contains("no rules"));
    assert!(
        Pipeline::new(
            vec![stage("a", Reduce, true), stage("b", Reduce, false)],
            budget(),
            None
        )
        .is_ok()
    );
}
