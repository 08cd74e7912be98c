//! What cannot be cut is refused with the name of what forbids it.

use std::collections::BTreeMap;

use kmr_model::{Model, channels::analyze, shapes};

use super::networks::{Network, SIDE};

/// What is said of the channels that the first convolution makes.
fn verdict(build: impl Fn(&mut Network)) -> Option<(String, String)> {
    let mut network = Network::new();
    network.block(0, 3);
    build(&mut network);
    let model = network.finish(0);
    refusal(&model)
}

fn refusal(model: &Model) -> Option<(String, String)> {
    let shapes = shapes::infer(model, &BTreeMap::new()).unwrap();
    let found = analyze(model, &shapes).unwrap();
    let first = model.graph.nodes.iter().find(|n| n.is("Conv")).unwrap().id();
    let refusal = found
        .refused
        .iter()
        .find(|refusal| refusal.members.iter().any(|member| member == first));
    assert_eq!(refusal.is_none(), found.group(first).is_some());
    refusal.map(|refusal| (refusal.node.clone(), refusal.reason.clone()))
}

fn pass(network: &mut Network, op: &str, with: impl Fn(kmr_model::Node) -> kmr_model::Node) {
    let value = network.value.clone();
    network.value = network.node(op, &[&value], with);
}

#[test]
fn what_mixes_channels_is_refused_by_name() {
    assert_eq!(verdict(|_| ()), None);
    let mixed = [
        ("LRN", "it normalizes each channel by its neighbours"),
        ("MeanVarianceNormalization", "it normalizes over this axis"),
        ("Softmax", "it normalizes over this axis"),
    ];
    for (op, reason) in mixed {
        let found = verdict(|network| pass(network, op, |node| node.with_int("axis", 1).with_ints("axes", &[1])));
        let (node, why) = found.unwrap();
        assert_eq!(why, reason);
        assert!(node.starts_with("node `v"), "{node}");
    }
    let spatial = verdict(|network| pass(network, "Softmax", |node| node.with_int("axis", 2)));
    assert_eq!(spatial, None);
    let mean = |network: &mut Network| {
        let value = network.value.clone();
        let mean = network.node("ReduceMean", &[&value], |n| n.with_ints("axes", &[1]));
        network.value = network.plain("Sub", &[&value, &mean]);
    };
    assert_eq!(verdict(mean).unwrap().1, "it reduces this axis");
}

/// Neither of the factors lies on axes of both shapes.
#[test]
fn axes_without_common_factors_are_refused() {
    let mut network = Network::new();
    network.block(0, 3);
    let value = network.value.clone();
    let y = network.conv(&value, [6, 4, 1], 1);
    let target = network.integers(&[0, SIDE as i64, 6, SIDE as i64]);
    network.value = network.plain("Reshape", &[&y, &target]);
    let model = network.finish(0);
    let shapes = shapes::infer(&model, &BTreeMap::new()).unwrap();
    let found = analyze(&model, &shapes).unwrap();
    let reasons: Vec<&str> = found.refused.iter().map(|refusal| refusal.reason.as_str()).collect();
    assert!(
        reasons.contains(&"it splits this axis in a way that is not understood"),
        "{reasons:?}"
    );
}

#[test]
fn arithmetic_with_the_number_of_channels_is_refused() {
    let scaled = |network: &mut Network| {
        let value = network.value.clone();
        let shape = network.plain("Shape", &[&value]);
        let one = network.integers(&[1]);
        let count = network.plain("Gather", &[&shape, &one]);
        let count = network.node("Cast", &[&count], |node| node.with_int("to", 1));
        network.value = network.plain("Div", &[&value, &count]);
    };
    let (_, reason) = verdict(scaled).unwrap();
    assert_eq!(reason, "computes with the number of channels");
}

/// A literal that is computed with is nothing that an edit mends, and the trial cut shows it.
#[test]
fn a_number_of_channels_computed_from_another_constant_is_refused() {
    let spelled = |network: &mut Network| {
        let value = network.value.clone();
        let shape = network.plain("Shape", &[&value]);
        let zero = network.integers(&[0]);
        let batch = network.plain("Gather", &[&shape, &zero]);
        let rest = network.integers(&[4, SIDE as i64, SIDE as i64]);
        let target = network.node("Concat", &[&batch, &rest], |node| node.with_int("axis", 0));
        let one = network.integers(&[1]);
        let target = network.plain("Mul", &[&target, &one]);
        network.value = network.plain("Reshape", &[&value, &target]);
    };
    let (node, reason) = verdict(spelled).unwrap();
    assert!(node.contains("(Reshape)"), "{node}");
    assert!(reason.contains("cannot take the shape"), "{reason}");
}

#[test]
fn channels_that_leave_the_model_are_refused() {
    let mut network = Network::new();
    network.block(0, 3);
    let value = network.value.clone();
    let found = refusal(&network.end(&value)).unwrap();
    assert_eq!(found.0, format!("output `{value}`"));
    assert_eq!(found.1, "is an output of the model");
}

#[test]
fn a_sum_with_the_models_input_is_refused() {
    let mut network = Network::new();
    let y = network.conv("x", [3, 3, 3], 1);
    network.value = network.plain("Add", &[&y, "x"]);
    let (place, reason) = refusal(&network.finish(0)).unwrap();
    assert_eq!((place.as_str(), reason.as_str()), ("input `x`", "is fed from outside"));
}
