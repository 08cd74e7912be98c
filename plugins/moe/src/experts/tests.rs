use std::sync::atomic::Ordering;

use kmr_sdk::model::{
    DType,
    cost::Costs,
    experts::{Choice, find},
    shapes,
};
use kmr_testkit::halved;
use proptest::prelude::*;

use super::*;
use crate::{
    config::Importance,
    testing::{self, ModelHost, action, apply, mixture, noise, rounded_and_halved, run},
};

const ID: &str = "mlp.gate.weight";
const CHOSEN: Choice = Choice::SoftmaxThenTopK { renormalize: true };

fn tokens() -> kmr_sdk::model::Tensor {
    kmr_sdk::model::Tensor::from_vec(vec![3, 4, testing::WIDTH], noise(72, 3))
}

fn config(method: Method, importance: Importance) -> ExpertsConfig {
    ExpertsConfig {
        method,
        importance,
        ..ExpertsConfig::default()
    }
}

fn importances() -> impl Strategy<Value = Importance> {
    prop_oneof![
        Just(Importance::Error),
        Just(Importance::Usage),
        Just(Importance::Similarity)
    ]
}

/// The layer of `model` with these experts alone, put together by hand.
fn by_hand(model: &Model, top_k: usize, kept: &[usize]) -> Model {
    let mut small = mixture(kept.len(), top_k, CHOSEN);
    let value = |name: &str| model.graph.tensor(name).unwrap().clone();
    let mut patch = Patch::new();
    let mut rows = Vec::new();
    for (at, expert) in kept.iter().enumerate() {
        rows.extend_from_slice(&value(ID).to_f32().unwrap()[expert * 6..][..6]);
        for part in ["gate_proj", "up_proj", "down_proj"] {
            patch.push(Edit::StoreTensor {
                name: format!("mlp.experts.{at}.{part}.weight"),
                tensor: (*value(&format!("mlp.experts.{expert}.{part}.weight"))).clone(),
            });
        }
    }
    let router = kmr_sdk::model::Tensor::from_vec(vec![kept.len(), 6], rows);
    patch.push(Edit::StoreTensor {
        name: ID.into(),
        tensor: router,
    });
    small = small.with_graph(patch.apply(&small.graph).unwrap());
    small
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// What is left is the layer with fewer experts, under the first names, and costs as much.
    #[test]
    fn a_smaller_layer_is_left(
        (experts, top_k, count) in (2_usize..6).prop_flat_map(|experts| {
            (1..experts).prop_flat_map(move |top_k| (Just(experts), Just(top_k), top_k..experts))
        }),
        importance in importances(),
        merge in any::<bool>(),
        halves in any::<bool>(),
    ) {
        let [plain, stored] = rounded_and_halved(&mixture(experts, top_k, CHOSEN));
        let model = if halves { stored } else { plain.clone() };
        let method = if merge { Method::Merge } else { Method::Drop };
        let done = |costs_only: bool| {
            let host = ModelHost::new(model.clone());
            let mut rule: Experts = testing::rule(config(method, importance), "experts", "layer").unwrap();
            let action = Action { costs_only, ..action("experts", &[(ID, count)]) };
            let applied = host.with(|host| rule.apply(host, &action)).unwrap();
            assert_eq!(applied.complete, !costs_only);
            host.candidate()
        };
        let left = done(false);
        let [whole, short] = rounded_and_halved(&mixture(count, top_k, CHOSEN));
        let small = if halves { short } else { whole };
        let names = |model: &Model| {
            let mut names: Vec<String> = model.graph.initializers.keys().cloned().collect();
            names.sort();
            names
        };
        prop_assert_eq!(names(&left), names(&small));
        prop_assert_eq!(&find(&left.graph)[0].experts, &find(&small.graph)[0].experts);
        prop_assert_eq!(done(true).encoded_len(), left.encoded_len());
        prop_assert!(left.encoded_len() < model.encoded_len());
        let costs = |model: &Model| {
            let shapes = shapes::infer(model, &[("x".to_owned(), vec![1, 2, 6])].into()).unwrap();
            Costs::with_shapes(model, &shapes).unwrap().params()
        };
        prop_assert_eq!(costs(&left), costs(&small));
        if !merge {
            // One of the ways to keep so many experts, exactly.
            let kept = (0_usize..1 << experts).filter(|set| set.count_ones() as usize == count);
            let mut kept = kept.map(|set| (0..experts).filter(|at| set >> at & 1 == 1).collect::<Vec<_>>());
            let made = run(&left, &tokens());
            prop_assert!(kept.any(|kept| run(&by_hand(&plain, top_k, &kept), &tokens()) == made));
        }
    }
}

/// A mixture in which experts 1 and 2 are the same, but for the order of their neurons, and have equal scores.
fn twins() -> Model {
    let model = mixture(4, 1, CHOSEN);
    let mut patch = Patch::new();
    let turned = |name: &str, columns: bool| {
        let tensor = model.graph.tensor(&format!("mlp.experts.1.{name}.weight")).unwrap();
        let (values, shape) = (tensor.to_f32().unwrap(), tensor.shape().to_vec());
        let place = |at: usize| {
            let (row, column) = (at / shape[1], at % shape[1]);
            if columns {
                row * shape[1] + (column + 2) % 5
            } else {
                (row + 2) % 5 * shape[1] + column
            }
        };
        kmr_sdk::model::Tensor::from_vec(shape.clone(), (0..values.len()).map(|at| values[place(at)]).collect())
    };
    for (name, columns) in [("gate_proj", false), ("up_proj", false), ("down_proj", true)] {
        patch.push(Edit::StoreTensor {
            name: format!("mlp.experts.2.{name}.weight"),
            tensor: turned(name, columns),
        });
    }
    let mut router = model.graph.tensor(ID).unwrap().to_f32().unwrap().into_owned();
    router.copy_within(6..12, 12);
    patch.push(Edit::StoreTensor {
        name: ID.into(),
        tensor: kmr_sdk::model::Tensor::from_vec(vec![4, 6], router),
    });
    model.with_graph(patch.apply(&model.graph).unwrap())
}

#[test]
fn of_twins_one_is_enough() {
    let model = twins();
    let wanted = run(&model, &tokens());
    for importance in [Importance::Error, Importance::Similarity] {
        let host = ModelHost::new(model.clone());
        apply::<Experts>(
            &host,
            config(Method::Drop, importance),
            "experts",
            "model",
            &[("model", 3)],
        )
        .unwrap();
        let made = run(&host.candidate(), &tokens());
        let apart = made
            .values
            .iter()
            .zip(&wanted.values)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(apart < 1e-6, "{importance:?} {apart}");
    }
    // Merged, the one that is left is still either of them.
    let host = ModelHost::new(model.clone());
    apply::<Experts>(
        &host,
        config(Method::Merge, Importance::Similarity),
        "experts",
        "layer",
        &[(ID, 3)],
    )
    .unwrap();
    let merged = host.candidate();
    for part in ["gate_proj", "up_proj", "down_proj"] {
        let value = |model: &Model| {
            model
                .graph
                .tensor(&format!("mlp.experts.1.{part}.weight"))
                .unwrap()
                .to_f32()
                .unwrap()
                .into_owned()
        };
        let (merged, twin) = (value(&merged), value(&model));
        let same = merged.iter().zip(&twin).all(|(a, b)| (a - b).abs() < 1e-6);
        // Whichever leads gives the order of neurons.
        let mut sorted = [merged, twin];
        sorted.iter_mut().for_each(|values| values.sort_by(f32::total_cmp));
        assert!(
            same || sorted[0].iter().zip(&sorted[1]).all(|(a, b)| (a - b).abs() < 1e-6),
            "{part}"
        );
    }
}

#[test]
fn values_leave_as_many_as_a_token_needs() {
    let host = ModelHost::new(mixture(5, 2, CHOSEN));
    let mut rule: Experts = testing::rule(ExpertsConfig::default(), "experts", "layer").unwrap();
    let targets = host.with(|host| rule.targets(host)).unwrap();
    assert_eq!(targets[0].values, [0, 4, 3, 2]);
    assert_eq!(targets[0].label, "mlp.gate");
    let error = host
        .with(|host| rule.apply(host, &action("experts", &[("other", 3)])))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("target `other`: this model has no such target for `experts`")
    );
}

#[test]
fn a_layer_is_looked_at_once() {
    let host = ModelHost::new(mixture(5, 2, CHOSEN));
    let mut rule: Experts = testing::rule(ExpertsConfig::default(), "experts", "layer").unwrap();
    for count in [4, 3] {
        host.replace(mixture(5, 2, CHOSEN));
        host.with(|host| rule.apply(host, &action("experts", &[(ID, count)])))
            .unwrap();
    }
    assert_eq!(host.runs.load(Ordering::SeqCst), 1);
}

#[test]
fn experts_that_share_a_tensor_stay() {
    let model = mixture(3, 1, CHOSEN);
    let mut patch = Patch::new();
    let first = find(&model.graph)[0].each[1].nodes.clone();
    let gate = first
        .iter()
        .find(|id| model.graph.node(id).unwrap().is("Gemm"))
        .unwrap();
    patch.push(Edit::Rewire {
        node: gate.clone(),
        input: 1,
        value: "mlp.experts.0.gate_proj.weight".into(),
    });
    let host = ModelHost::new(model.with_graph(patch.apply(&model.graph).unwrap()));
    let mut rule: Experts = testing::rule(ExpertsConfig::default(), "experts", "layer").unwrap();
    assert!(host.with(|host| rule.targets(host)).unwrap().is_empty());
}

/// Each slot keeps the type that it has, whichever expert comes into it.
#[test]
fn experts_of_two_types_keep_theirs() {
    let model = mixture(4, 1, CHOSEN);
    let model = model.with_graph(halved(&model.graph, |name| name.starts_with("mlp.experts.1.")));
    for method in [Method::Drop, Method::Merge] {
        let sizes = [true, false].map(|costs_only| {
            let host = ModelHost::new(model.clone());
            let mut rule: Experts = testing::rule(config(method, Importance::Usage), "experts", "layer").unwrap();
            let action = Action {
                costs_only,
                ..action("experts", &[(ID, 3)])
            };
            host.with(|host| rule.apply(host, &action)).unwrap();
            run(&host.candidate(), &tokens());
            host.candidate().encoded_len()
        });
        assert_eq!(sizes[0], sizes[1]);
    }
}

/// What computes with 16 bits itself is left alone.
#[test]
fn experts_without_casts_stay() {
    let mut graph = mixture(3, 1, CHOSEN).graph;
    let names: Vec<String> = graph
        .initializers
        .keys()
        .filter(|name| name.contains("experts"))
        .cloned()
        .collect();
    for name in names {
        let tensor = graph.tensor(&name).unwrap();
        if tensor.dtype() == DType::FLOAT {
            let values = tensor.to_f32().unwrap().into_owned();
            let half = kmr_sdk::model::Tensor::from_f32(DType::FLOAT16, tensor.shape().to_vec(), values).unwrap();
            graph.initializers.insert(name, half.into());
        }
    }
    let host = ModelHost::new(mixture(3, 1, CHOSEN).with_graph(graph));
    let mut rule: Experts = testing::rule(ExpertsConfig::default(), "experts", "layer").unwrap();
    assert!(host.with(|host| rule.targets(host)).unwrap().is_empty());
}

/// Experts of two sizes: which of them go decides what is left, also where only costs are asked for.
#[test]
fn costs_of_uneven_experts_are_those_of_the_ones_that_stay() {
    let layer = testing::Dense {
        neurons: 9,
        activation: kmr_sdk::model::experts::Activation::Relu,
        gated: false,
        biased: false,
        outputs_first: true,
    };
    let host = ModelHost::new(testing::dense(layer));
    let split = crate::config::SplitConfig {
        experts: 4,
        shared: 0,
        ..Default::default()
    };
    apply::<crate::split::Split>(&host, split, "active", "model", &[("model", 1)]).unwrap();
    let uneven = host.candidate();
    let id = find(&uneven.graph)[0].experts.router.scores.weight.clone();
    for count in 1..4 {
        let sizes = [true, false].map(|costs_only| {
            let host = ModelHost::new(uneven.clone());
            let mut rule: Experts = testing::rule(config(Method::Drop, Importance::Usage), "experts", "layer").unwrap();
            let action = Action {
                costs_only,
                ..action("experts", &[(&id, count)])
            };
            let applied = host.with(|host| rule.apply(host, &action)).unwrap();
            assert!(applied.complete, "what was looked at is whole");
            host.candidate().encoded_len()
        });
        assert_eq!(sizes[0], sizes[1], "{count} experts");
    }
}
