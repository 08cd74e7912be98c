//! The rule against a host whose gradients are exact.

use kmr_sdk::{
    Assignment,
    model::{Graph, Node, Tensor},
    serde_json,
};
use proptest::prelude::*;

use super::*;
use crate::{
    epochs::KNOB,
    testing::{Sample, ToyHost, evaluate, model, network, samples},
};

fn rule(config: &str) -> Distill {
    let config: Config = serde_json::from_str(config).unwrap();
    let knobs = serde_json::from_str(r#"{"epochs": {"values": [0, 0.5, 1, 2], "per": "model"}}"#).unwrap();
    Distill::new(config, knobs).unwrap()
}

fn action(epochs: f64) -> Action {
    Action {
        assignments: vec![Assignment {
            knob: KNOB.into(),
            target: "model".into(),
            value: epochs.into(),
        }],
        costs_only: false,
    }
}

fn train(host: &ToyHost, config: &str, epochs: f64) -> Result<Applied> {
    host.with(|host| rule(config).apply(host, &action(epochs)))
}

fn refused(host: &ToyHost, config: &str) -> String {
    let before = host.candidate();
    let error = train(host, config, 1.0).unwrap_err().to_string();
    assert_eq!(host.candidate(), before, "{error}");
    error
}

/// A host whose candidate has fewer hidden units than its reference.
fn host() -> ToyHost {
    ToyHost::new(network(5, 40), network(8, 3), samples(60))
}

fn rows(samples: &[Sample]) -> Vec<Vec<f32>> {
    samples.iter().map(|(row, _)| row.clone()).collect()
}

fn accuracy(graph: &Graph, samples: &[Sample]) -> f64 {
    let answers = evaluate(graph, &rows(samples), "logits");
    let right = answers.chunks_exact(3).zip(samples).filter(|(scores, (_, label))| {
        let best = (0..3).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        best.map(|best| best as i64) == *label
    });
    right.count() as f64 / samples.len() as f64
}

/// How far two models' answers are apart, as distributions.
fn apart(a: &Graph, b: &Graph, samples: &[Sample]) -> f64 {
    let answers = |graph| {
        evaluate(graph, &rows(samples), "logits")
            .iter()
            .map(|&v| v as f32)
            .collect::<Vec<_>>()
    };
    kmr_methods::loss::divergence(&answers(a), &answers(b), 3, 1.0)
        .unwrap()
        .value
}

const PLAIN: &str = r#"{"alpha": 0, "batch": 10, "learning_rate": 0.1, "weight_decay": 0}"#;
const SOFT: &str = r#"{"alpha": 1, "batch": 10, "learning_rate": 0.05, "temperature": 2, "weight_decay": 0}"#;

#[test]
fn labels_alone_teach() {
    let host = host();
    let before = accuracy(&host.candidate().graph, &host.samples);
    let applied = train(&host, PLAIN, 30.0).unwrap();
    let after = accuracy(&host.candidate().graph, &host.samples);
    assert!(after > 0.9 && after > before + 0.2, "{before} {after}");
    assert!(
        applied.notes.iter().any(|note| note.contains("180 steps")),
        "{applied:?}"
    );
    // Where the teacher has nothing to say it is not asked.
    assert!(host.seen().sessions.iter().all(|session| session.model == "candidate"));
    assert_eq!(host.seen().rates.len(), 180);
}

#[test]
fn the_teacher_alone_teaches() {
    let mut host = host();
    host.samples.iter_mut().for_each(|(_, label)| *label = None);
    let teacher = network(8, 3).graph;
    let before = apart(&host.candidate().graph, &teacher, &host.samples);
    // Labels are missing, so an alpha below 1 means 1.
    let applied = train(
        &host,
        r#"{"batch": 10, "learning_rate": 0.05, "weight_decay": 0}"#,
        60.0,
    )
    .unwrap();
    let after = apart(&host.candidate().graph, &teacher, &host.samples);
    assert!(after < before / 20.0, "{before} {after}");
    assert!(applied.notes[0].contains("no labels"), "{applied:?}");
}

#[test]
fn teacher_and_student_draw_the_same() {
    let host = host();
    train(&host, SOFT, 1.5).unwrap();
    let seen = host.seen();
    // One pass to count, then nine batches for each.
    assert_eq!((seen.batches["candidate"], seen.batches["reference"]), (6 + 9, 9));
    let [survey, student, teacher] = &seen.sessions[..] else {
        panic!("{:?}", seen.sessions);
    };
    assert!(survey.trainable.is_empty() && teacher.trainable.is_empty());
    let alike = SessionRequest {
        model: "candidate".into(),
        trainable: student.trainable.clone(),
        ..teacher.clone()
    };
    assert_eq!(alike, *student);
    assert!(student.augment && student.whole_batches && student.split == Split::Training);
    assert_eq!(
        student.trainable,
        ["first.weight", "first.bias", "second.weight", "second.bias"]
    );
    assert!(seen.told[8].starts_with("epoch 2, batch 3, loss "), "{:?}", seen.told);
}

#[test]
fn what_is_ignored_stays() {
    for (config, same) in [
        (
            r#"{"alpha": 0, "batch": 10, "ignore": ["first*"]}"#,
            ["first.weight", "first.bias"],
        ),
        (
            r#"{"alpha": 0, "batch": 10, "train": ["first"], "ignore": ["*.bias"]}"#,
            ["second.weight", "first.bias"],
        ),
    ] {
        let host = host();
        let before = host.candidate().graph;
        train(&host, config, 1.0).unwrap();
        let after = host.candidate().graph;
        for (name, stored) in &before.initializers {
            let changed = after.tensor(name).unwrap() != &stored.tensor;
            let ignored = same.contains(&name.as_str()) || (config.contains("train") && name.starts_with("second"));
            assert_eq!(changed, !ignored, "{config} {name}");
        }
    }
}

#[test]
fn zeros_stay_zero() {
    let mut candidate = network(5, 40);
    let values = crate::testing::noise(20, 4)
        .iter()
        .map(|&v| if v < 0.2 { 0.0 } else { v })
        .collect::<Vec<f32>>();
    let pruned = Tensor::from_vec(vec![4, 5], values.clone());
    candidate
        .graph
        .initializers
        .insert("first.weight".into(), pruned.into());
    for optimizer in [r#""sgd""#, r#""adamw""#] {
        let host = ToyHost::new(candidate.clone(), network(8, 3), samples(60));
        let config = format!(r#"{{"batch": 10, "optimizer": {optimizer}, "learning_rate": 0.05, "average": 0.9}}"#);
        let applied = train(&host, &config, 2.0).unwrap();
        let after = host.candidate();
        let trained = after
            .graph
            .tensor("first.weight")
            .unwrap()
            .values::<f32>()
            .unwrap()
            .into_owned();
        for (before, after) in values.iter().zip(trained) {
            assert_eq!(*before == 0.0, after == 0.0);
            assert!(*before == 0.0 || *before != after);
        }
        assert!(applied.notes[0].contains("zeros of 1 tensors"), "{applied:?}");
        let names = |model: &Model| model.graph.initializers.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            (names(&after), after.graph.nodes.len()),
            (names(&candidate), candidate.graph.nodes.len())
        );
    }
}

#[test]
fn inner_values_are_taught_through_a_projection() {
    let host = host();
    let candidate = host.candidate();
    let config = r#"{"alpha": 1, "batch": 10, "learning_rate": 0.05, "weight_decay": 0,
        "features": [{"student": "hidden", "weight": 2}]}"#;
    let applied = train(&host, config, 20.0).unwrap();
    let loss = |text: &str| text.parse::<f64>().unwrap();
    assert!(
        loss(&applied.changes[0].after) < loss(&applied.changes[0].before) / 3.0,
        "{applied:?}"
    );
    let after = host.candidate();
    assert_eq!(after.graph.nodes, candidate.graph.nodes);
    assert_eq!(after.graph.initializers.len(), candidate.graph.initializers.len());
    assert!(
        host.seen().sessions[1]
            .trainable
            .contains(&"feature_0.weight".to_owned())
    );
    let error = refused(
        &host,
        r#"{"batch": 10, "features": [{"student": "hidden", "teacher": "x"}]}"#,
    );
    assert_eq!(error, "config.features[0].teacher: the model has no inner value `x`");
}

#[test]
fn the_same_again_gives_the_same_bytes() {
    let trained = || {
        let host = host();
        train(&host, SOFT, 2.5).unwrap();
        host.candidate()
    };
    assert_eq!(trained(), trained());
}

#[test]
fn an_interrupted_training_ends_as_one_that_was_not() {
    let config = r#"{"batch": 10, "learning_rate": 0.05, "average": 0.9, "accumulate": 4}"#;
    let undisturbed = host();
    train(&undisturbed, config, 3.5).unwrap();
    for patience in [3, 8, 14, 20] {
        let mut host = host();
        host.patience = patience;
        let error = train(&host, config, 3.5).unwrap_err();
        assert_eq!(error.code, ErrorCode::CANCELLED);
        host.patience = usize::MAX;
        train(&host, config, 3.5).unwrap();
        assert_eq!(host.candidate(), undisturbed.candidate(), "{patience}");
        let again = host.seen().batches["reference"];
        assert_eq!(
            again,
            patience + 21,
            "patience {patience}: what was done is drawn again, and not trained again"
        );
    }
}

/// A model whose batch normalization has statistics far from the data's.
fn normalized() -> Model {
    let vector = |values: [f32; 3]| Tensor::from_vec(vec![3], values.to_vec());
    model(
        4,
        vec![
            ("weight", Tensor::from_vec(vec![4, 3], crate::testing::noise(12, 1))),
            ("gamma", vector([1.0; 3])),
            ("beta", vector([0.0; 3])),
            ("mean", vector([2.0; 3])),
            ("variance", vector([9.0; 3])),
        ],
        vec![
            Node::new("MatMul", "", &["x", "weight"], &["product"]),
            Node::new(
                "BatchNormalization",
                "",
                &["product", "gamma", "beta", "mean", "variance"],
                &["logits"],
            ),
        ],
    )
}

#[test]
fn running_statistics_move_where_batches_have_their_own() {
    for (config, moves) in [
        (r#"{"alpha": 0, "batch": 10}"#, true),
        (r#"{"alpha": 0, "batch": 10, "average": 0.5}"#, true),
        (r#"{"alpha": 0, "batch": 10, "batch_statistics": false}"#, false),
    ] {
        let host = ToyHost::new(normalized(), normalized(), samples(60));
        train(&host, config, 4.0).unwrap();
        let mean = host
            .candidate()
            .graph
            .tensor("mean")
            .unwrap()
            .values::<f32>()
            .unwrap()
            .into_owned();
        assert_eq!(mean.iter().all(|&mean| mean < 1.0), moves, "{config} {mean:?}");
        assert!(!host.seen().sessions[1].trainable.iter().any(|name| name == "mean"));
    }
}

#[test]
fn a_small_data_set_is_one_batch() {
    let host = ToyHost::new(network(5, 40), network(8, 3), samples(7));
    let applied = train(&host, SOFT, 2.0).unwrap();
    assert_eq!(host.seen().rates.len(), 2);
    assert!(
        applied.notes[0].contains("all 7 samples are in one batch"),
        "{applied:?}"
    );
}

#[test]
fn off_and_costs_train_nothing() {
    let host = host();
    let before = host.candidate();
    let off = train(&host, PLAIN, 0.0).unwrap();
    assert!(off.complete && off.changes.is_empty());
    let costs = Action {
        costs_only: true,
        ..action(1.0)
    };
    let applied = host.with(|host| rule(PLAIN).apply(host, &costs)).unwrap();
    assert!(!applied.complete);
    assert!(host.seen().sessions.is_empty());
    assert_eq!(host.candidate(), before);
}

#[test]
fn the_knob_is_turned_for_the_nodes_that_are_trained() {
    let host = host();
    let targets = host.with(|host| rule(PLAIN).targets(host)).unwrap();
    assert_eq!(targets.len(), 1);
    assert_eq!(targets[0].values, [0.0, 0.5, 1.0, 2.0]);
    assert_eq!(targets[0].layers, ["product", "sum", "logits"]);
}

#[test]
fn epochs_are_no_configuration() {
    let config: Config = serde_json::from_str(r#"{"epochs": 2}"#).unwrap();
    let error = Distill::new(config, KnobSettings::default()).err().unwrap().to_string();
    assert!(error.starts_with("config.epochs: is a knob of this rule"), "{error}");
}

#[test]
fn a_loss_that_is_no_number_ends_training() {
    let host = host();
    let error = refused(
        &host,
        r#"{"alpha": 0, "batch": 10, "learning_rate": 1e30, "schedule": "constant"}"#,
    );
    assert!(
        error.starts_with("epoch 1, batch 2: the loss is NaN, so training has failed"),
        "{error}"
    );
    assert!(error.contains("Try a smaller `learning_rate`"), "{error}");
    assert_eq!(host.seen().restores, 1);
    let broken = model(
        4,
        vec![("w", Tensor::from_vec(vec![4, 3], vec![f32::NAN; 12]))],
        vec![Node::new("MatMul", "", &["x", "w"], &["logits"])],
    );
    let host = ToyHost::new(network(5, 40), broken, samples(60));
    let error = refused(&host, SOFT);
    assert!(
        error.contains("the teacher's `logits` holds what is no number"),
        "{error}"
    );
}

#[test]
fn data_that_does_not_do_is_refused() {
    let none = ToyHost::new(network(5, 40), network(8, 3), Vec::new());
    assert!(refused(&none, SOFT).contains("there is no training data; give the manifest a `data.training`"));
    let mut host = host();
    host.samples[17].1 = Some(3);
    let error = refused(&host, PLAIN);
    assert!(
        error.starts_with("training data: label 3 is none of the 3 classes of `logits`"),
        "{error}"
    );
    assert_eq!(host.seen().sessions.len(), 1, "found before training");
    host.samples[17].1 = Some(-1);
    assert!(refused(&host, PLAIN).contains("label -1"));
    host.samples.iter_mut().for_each(|(_, label)| *label = None);
    assert!(refused(&host, PLAIN).starts_with("config.alpha: trains by labels alone"));
}

#[test]
fn models_that_do_not_do_are_refused() {
    let two = model(
        4,
        vec![("w", Tensor::from_vec(vec![4, 2], vec![0.5_f32; 8]))],
        vec![Node::new("MatMul", "", &["x", "w"], &["logits"])],
    );
    let error = refused(&ToyHost::new(network(5, 40), two, samples(60)), SOFT);
    assert!(
        error.starts_with("epoch 1, batch 1, value `logits`: has the shape [10, 3]; the teacher's"),
        "{error}"
    );
    let host = host();
    let error = refused(&host, r#"{"teacher": "large"}"#);
    assert!(
        error.starts_with("config.teacher: there is no model `large`; name its file under `[models]`"),
        "{error}"
    );
    assert!(refused(&host, r#"{"output": "scores"}"#).contains("no value `scores`; its outputs are `logits`"));
    assert!(refused(&host, r#"{"train": ["third"]}"#).starts_with("config.train: `third` matches no layer"));
    assert!(refused(&host, r#"{"ignore": ["*"]}"#).contains("leave no weight to train"));
}

#[test]
fn integers_that_are_not_understood_are_named() {
    let codes = Tensor::from_vec(vec![4, 3], vec![1_i32; 12]);
    let integers = model(
        4,
        vec![("w", codes), ("s", Tensor::scalar(0.1_f32))],
        vec![
            Node::new("DequantizeLinear", "", &["w", "s"], &["d"]),
            Node::new("MatMul", "", &["x", "d"], &["logits"]),
        ],
    );
    let host = ToyHost::new(integers, network(8, 3), samples(60));
    let error = host.with(|host| rule(PLAIN).targets(host)).unwrap_err().to_string();
    assert!(
        error.starts_with("tensor `w`: is int32, and the model has no weight that can be trained"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A step over many small batches is the step over one great one.
    #[test]
    fn small_batches_add_up(parts in prop::sample::select(vec![1, 2, 4, 5]), alpha in prop::sample::select(vec![0.0, 0.4, 1.0])) {
        let trained = |batch: usize, accumulate: usize| {
            let host = host();
            let config = format!(
                r#"{{"batch": {batch}, "accumulate": {accumulate}, "alpha": {alpha}, "learning_rate": 0.1, "augment": false}}"#
            );
            train(&host, &config, 1.0).unwrap();
            host.candidate().graph.tensor("first.weight").unwrap().values::<f32>().unwrap().into_owned()
        };
        for (small, great) in trained(3, parts).iter().zip(trained(3 * parts, 1)) {
            prop_assert!((small - great).abs() < 1e-5);
        }
    }
}

mod quantized;
