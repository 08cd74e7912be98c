//! Graphs of many nodes: neither the stack nor anything else may depend on how many there are.

mod common;

use common::{feeds, floats, integers, load, model};
use kmr_compute::Mode;
use kmr_model::Node;

#[test]
fn a_chain_of_a_hundred_thousand_nodes_is_executed() {
    const LENGTH: usize = 100_000;
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("v{at}") };
    let nodes = (0..LENGTH).map(|at| {
        let operator = if at % 2 == 0 { "Add" } else { "Sub" };
        Node::new(operator, "", &[&name(at), "one"], &[&name(at + 1)])
    });
    let x = [("x", floats(&[2], &[1.0, 2.0]))];
    let one = [("one", floats(&[], &[1.0]))];
    let last = name(LENGTH);
    let model = model(17, nodes.collect(), &x, &one, &[&last]);
    let program = load(&model);
    let outputs = program
        .forward(&feeds(&x), &[&last, &name(1)], Mode::default())
        .unwrap();
    assert_eq!(outputs, [floats(&[2], &[1.0, 2.0]), floats(&[2], &[2.0, 3.0])]);
}

#[test]
fn a_hundred_thousand_constant_nodes_are_folded() {
    const LENGTH: usize = 100_000;
    let name = |at: usize| if at == 0 { "zero".to_owned() } else { format!("v{at}") };
    let nodes = (0..LENGTH).map(|at| Node::new("Add", "", &[&name(at), "one"], &[&name(at + 1)]));
    let constants = [("zero", integers(&[], &[0])), ("one", integers(&[], &[1]))];
    let last = name(LENGTH);
    let model = model(17, nodes.collect(), &[], &constants, &[&last]);
    let outputs = load(&model).forward(&feeds(&[]), &[], Mode::default()).unwrap();
    assert_eq!(outputs, [integers(&[], &[LENGTH as i64])]);
}

#[test]
fn every_value_of_many_may_be_asked_for() {
    const LENGTH: usize = 20_000;
    let name = |at: usize| if at == 0 { "x".to_owned() } else { format!("v{at}") };
    let nodes = (0..LENGTH).map(|at| Node::new("Conv", "", &[&name(at), "w"], &[&name(at + 1)]));
    let x = [("x", floats(&[1, 1, 1, 1], &[3.0]))];
    let weights = [("w", floats(&[1, 1, 1, 1], &[-1.0]))];
    let names: Vec<String> = (1..=LENGTH).map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let model = model(17, nodes.collect(), &x, &weights, &names);
    let outputs = load(&model).forward(&feeds(&x), &[], Mode::default()).unwrap();
    assert_eq!(outputs.len(), LENGTH);
    for (at, output) in outputs.iter().enumerate() {
        let sign = if at % 2 == 0 { -3.0 } else { 3.0 };
        assert_eq!(*output, floats(&[1, 1, 1, 1], &[sign]), "value {at}");
    }
}
