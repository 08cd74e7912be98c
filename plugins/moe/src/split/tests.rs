use std::sync::atomic::Ordering;

use kmr_sdk::model::{
    Tensor,
    cost::Costs,
    experts::{Activation, find},
    shapes,
};
use proptest::prelude::*;

use super::*;
use crate::testing::{self, ModelHost, action, apply, dense, noise, rounded_and_halved, run, values};

const ID: &str = "mlp.up_proj.weight";

fn layers() -> impl Strategy<Value = testing::Dense> {
    (8_usize..20, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(neurons, relu, gated, biased, outputs_first)| testing::Dense {
            neurons,
            activation: if relu { Activation::Relu } else { Activation::Silu },
            gated,
            biased,
            outputs_first,
        },
    )
}

fn tokens() -> Tensor {
    Tensor::from_vec(vec![3, 4, testing::WIDTH], noise(72, 3))
}

fn greatest_difference(a: &testing::Value, b: &testing::Value) -> f64 {
    assert_eq!(a.shape, b.shape);
    a.values
        .iter()
        .zip(&b.values)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

/// Splits the one layer of the host's model, all experts active.
fn split_with_all_active(host: &ModelHost, config: SplitConfig) -> Result<Applied> {
    let experts = config.experts;
    let mut rule: Split = testing::rule(config, "active", "layer")?;
    host.with(|host| {
        let base = host.graph()?;
        let layers = rule.layers(&base.graph)?;
        let chosen: Vec<(&Dense, usize)> = layers.iter().map(|layer| (layer, experts)).collect();
        rule.split(host, &base, &chosen, false)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// With every expert active, a split layer computes what the dense one does.
    #[test]
    fn all_experts_together_are_the_dense_layer(
        layer in layers(),
        experts in 2_usize..8,
        shared in 0_usize..3,
        cluster in prop_oneof![Just(crate::config::Cluster::Activation), Just(crate::config::Cluster::Weights)],
        halves in any::<bool>(),
    ) {
        prop_assume!(shared + 1 < experts);
        let model = rounded_and_halved(&dense(layer))[usize::from(halves)].clone();
        let host = ModelHost::new(model.clone());
        let config = SplitConfig { experts, shared, cluster, ..SplitConfig::default() };
        let applied = split_with_all_active(&host, config).unwrap();
        prop_assert_eq!(applied.changes.len(), 1);
        let split = host.candidate();
        prop_assert!(greatest_difference(&run(&model, &tokens()), &run(&split, &tokens())) < 1e-5);
        let found = find(&split.graph);
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(found[0].count(), experts - shared);
        prop_assert_eq!(found[0].experts.shared.is_some(), shared > 0);
        // Nothing of the dense layer is left.
        let index = split.graph.index();
        for name in split.graph.initializers.keys() {
            prop_assert!(!index.consumers(name).is_empty(), "nobody reads {name}");
            prop_assert!(![ID, "mlp.down_proj.weight"].contains(&name.trim_end_matches("_stored")));
        }
    }

    /// Costs are told right without a look at the data, and fall.
    #[test]
    fn costs_are_told_before_values(layer in layers(), experts in 3_usize..8, active in 1_usize..8, halves in any::<bool>()) {
        prop_assume!(active < experts);
        let model = rounded_and_halved(&dense(layer))[usize::from(halves)].clone();
        let costs = |costs_only: bool| {
            let host = ModelHost::new(model.clone());
            let config = SplitConfig { experts, shared: 0, ..SplitConfig::default() };
            let mut rule: Split = testing::rule(config, "active", "layer").unwrap();
            let action = Action { costs_only, ..action("active", &[(ID, active)]) };
            let applied = host.with(|host| rule.apply(host, &action)).unwrap();
            assert_eq!(applied.complete, !costs_only);
            assert_eq!(host.runs.load(Ordering::SeqCst), usize::from(!costs_only));
            let split = host.candidate();
            let shapes = shapes::infer(&split, &[("x".to_owned(), vec![2, 3, 6])].into()).unwrap();
            let costs = Costs::with_shapes(&split, &shapes).unwrap();
            (costs.params(), costs.size_bytes(), costs.macs().ok())
        };
        prop_assert_eq!(costs(true), costs(false));
    }
}

fn config() -> SplitConfig {
    SplitConfig {
        experts: 8,
        shared: 0,
        ..SplitConfig::default()
    }
}

fn relu(neurons: usize) -> Model {
    dense(testing::Dense {
        neurons,
        activation: Activation::Relu,
        gated: false,
        biased: true,
        outputs_first: true,
    })
}

/// The more experts are active, the closer is the layer to the dense one, and routing beats no choice at all.
#[test]
fn more_active_experts_are_closer() {
    let model = relu(64);
    let wanted = run(&model, &tokens());
    let error = |active: usize| {
        let host = ModelHost::new(model.clone());
        apply::<Split>(&host, config(), "active", "layer", &[(ID, active)]).unwrap();
        let made = run(&host.candidate(), &tokens());
        made.values
            .iter()
            .zip(&wanted.values)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f64>()
    };
    let errors: Vec<f64> = [1, 3, 5, 7].map(error).into();
    assert!(errors.windows(2).all(|pair| pair[1] < pair[0]), "{errors:?}");
}

/// On the tokens that it was fitted on, means stand in for what is not computed: the output keeps its mean.
#[test]
fn means_are_kept() {
    let model = relu(32);
    let host = ModelHost::new(model.clone());
    let config = SplitConfig {
        refit: false,
        ..config()
    };
    apply::<Split>(&host, config, "active", "model", &[("model", 3)]).unwrap();
    let data = Tensor::from_vec(vec![8, 5, 6], noise(240, 99));
    let mean = |model: &Model| {
        let made = run(model, &data);
        (0..6)
            .map(|at| made.values.iter().skip(at).step_by(6).sum::<f64>() / 40.0)
            .collect::<Vec<_>>()
    };
    for (before, after) in mean(&model).into_iter().zip(mean(&host.candidate())) {
        assert!((before - after).abs() < 1e-5, "{before} {after}");
    }
}

/// Neurons that are computed make up for some of what is missing, on other tokens, too.
#[test]
fn refitted_layers_are_closer() {
    let model = relu(64);
    let wanted = run(&model, &tokens());
    for active in [2, 4, 6] {
        let error = |refit: bool| {
            let data = Tensor::from_vec(vec![60, 5, 6], noise(1800, 17));
            let host = ModelHost::with_data(model.clone(), data);
            let config = SplitConfig { refit, ..config() };
            apply::<Split>(&host, config, "active", "layer", &[(ID, active)]).unwrap();
            let made = run(&host.candidate(), &tokens());
            let pairs = made.values.iter().zip(&wanted.values);
            pairs.map(|(a, b)| (a - b).powi(2)).sum::<f64>()
        };
        let (plain, refitted) = (error(false), error(true));
        assert!(refitted < 0.9 * plain, "{active}: {refitted} {plain}");
    }
}

#[test]
fn each_token_has_as_many_experts_as_asked_for() {
    let host = ModelHost::new(relu(20));
    let config = SplitConfig {
        experts: 5,
        shared: 1,
        ..SplitConfig::default()
    };
    apply::<Split>(&host, config, "active", "layer", &[(ID, 3)]).unwrap();
    let split = host.candidate();
    let found = find(&split.graph).remove(0);
    assert_eq!(found.experts.router.top_k, 2);
    assert_eq!(values(&split, &tokens())[&found.chosen].shape, [12, 2]);
    assert_eq!(found.label(), "mlp.up_proj.router");
}

#[test]
fn values_are_those_between_one_expert_and_the_dense_layer() {
    let host = ModelHost::new(relu(20));
    let config = SplitConfig {
        experts: 4,
        shared: 1,
        ..SplitConfig::default()
    };
    let mut rule: Split = testing::rule(config, "active", "layer").unwrap();
    let targets = host.with(|host| rule.targets(host)).unwrap();
    assert_eq!(targets.len(), 1);
    assert_eq!(
        (targets[0].target.as_str(), targets[0].label.as_str()),
        (ID, "mlp.up_proj")
    );
    assert_eq!(targets[0].values, [0, 3, 2]);
    // What is off is off.
    let applied = host
        .with(|host| rule.apply(host, &action("active", &[(ID, 0)])))
        .unwrap();
    assert!(applied.complete && applied.changes.is_empty());
    assert_eq!(host.candidate(), relu(20));
}

#[test]
fn a_layer_is_looked_at_once() {
    let host = ModelHost::new(relu(20));
    let mut rule: Split = testing::rule(config(), "active", "layer").unwrap();
    for active in [3, 5] {
        host.replace(relu(20));
        host.with(|host| rule.apply(host, &action("active", &[(ID, active)])))
            .unwrap();
    }
    assert_eq!(host.runs.load(Ordering::SeqCst), 1);
    host.replace(relu(21));
    host.with(|host| rule.apply(host, &action("active", &[(ID, 3)])))
        .unwrap();
    assert_eq!(host.runs.load(Ordering::SeqCst), 2);
}

#[test]
fn narrow_layers_and_ignored_ones_stay_dense() {
    let targets = |neurons: usize, ignore: &str| {
        let host = ModelHost::new(relu(neurons));
        let config = SplitConfig {
            ignore: kmr_sdk::serde_json::from_str(ignore).unwrap(),
            ..config()
        };
        let mut rule: Split = testing::rule(config, "active", "layer").unwrap();
        host.with(|host| rule.targets(host)).map(|targets| targets.len())
    };
    assert_eq!(targets(8, "[]").unwrap(), 1);
    assert_eq!(targets(7, "[]").unwrap(), 0);
    assert_eq!(targets(8, r#"["mlp.*"]"#).unwrap(), 0);
    assert!(
        targets(8, r#"["nlp.*"]"#)
            .unwrap_err()
            .to_string()
            .contains("`nlp.*` matches no layer")
    );
}

#[test]
fn data_that_is_not_finite_is_refused() {
    let data = Tensor::from_vec(vec![1, 1, 6], vec![f32::NAN; 6]);
    let host = ModelHost::with_data(relu(20), data);
    let error = apply::<Split>(&host, config(), "active", "layer", &[(ID, 3)]).unwrap_err();
    assert_eq!(error.to_string(), "value `x`: is not finite on the calibration data");
    assert_eq!(host.candidate(), relu(20));
    let host = ModelHost::with_data(relu(20), Tensor::from_vec(vec![0, 1, 6], Vec::<f32>::new()));
    let error = apply::<Split>(&host, config(), "active", "layer", &[(ID, 3)]).unwrap_err();
    assert!(error.to_string().contains("the calibration data is empty"), "{error}");
}
