//! Declared types of inner values after an edit: true, and kept where they can be.

use std::collections::BTreeMap;

use kmr_model::{DType, Dimension, Edit, Model, Node, Patch, Tensor, ValueInfo, channels::analyze, shapes};

use super::networks::Network;

/// A network whose middle is an operator that nobody knows, all values declared, the batch by name.
fn annotated() -> Model {
    let mut network = Network::new();
    network.block(0, 3);
    network.block(1, 3);
    let value = network.value.clone();
    network.value = network.node("Unknown", &[&value], |node| node);
    let value = network.value.clone();
    network.value = network.conv(&value, [6, 4, 3], 1);
    network.channels = 6;
    network.block(8, 2);
    let mut model = network.finish(0);
    let batch = |first: Dimension, shape: &[usize]| -> Vec<Dimension> {
        let sizes = shape.iter().skip(1).map(|&size| Dimension::Fixed(size));
        std::iter::once(first).chain(sizes).collect()
    };
    // The unknown operator changes nothing about shapes; what comes after it is known by declaration alone.
    let unknown = model
        .graph
        .nodes
        .iter()
        .find(|node| node.is("Unknown"))
        .unwrap()
        .id()
        .to_owned();
    let sizes = batch(
        Dimension::Fixed(1),
        &[1, 4, super::networks::SIDE, super::networks::SIDE],
    );
    model
        .graph
        .value_info
        .push(ValueInfo::tensor(&unknown, DType::FLOAT, &sizes));
    let found = shapes::infer(&model, &BTreeMap::new()).unwrap();
    let outputs = model.graph.nodes.iter().map(|node| node.id().to_owned());
    let inner: Vec<String> = outputs.filter(|name| *name != model.graph.outputs[0].name()).collect();
    model.graph.value_info = inner
        .iter()
        .map(|name| {
            let shape = found.shape(name).unwrap();
            let first = match shape.first() {
                Some(1) => Dimension::Named("batch".into()),
                _ => Dimension::Fixed(shape[0]),
            };
            ValueInfo::tensor(name, found.dtype(name).unwrap(), &batch(first, shape))
        })
        .collect();
    model
}

#[test]
fn declarations_stay_and_stay_true_when_channels_go() {
    let model = annotated();
    // The named size is that of the input.
    let feeds: BTreeMap<String, Vec<usize>> = [("x".into(), vec![1, 3, 4, 4])].into();
    let found = analyze(&model, &shapes::infer(&model, &feeds).unwrap()).unwrap();
    assert!(found.groups.len() >= 2, "{found:?}");
    let keep = found.groups.iter().map(|group| (group.id.clone(), vec![0])).collect();
    let patch = found.cut(&model, &keep).unwrap();
    let cut = model.with_graph(patch.apply(&model.graph).unwrap());
    let after = shapes::infer(&cut, &feeds).unwrap();
    assert!(
        cut.graph.value_info.len() >= model.graph.value_info.len() - 1,
        "constants alone may go"
    );
    for info in &cut.graph.value_info {
        let told: Vec<usize> = info
            .shape()
            .unwrap()
            .iter()
            .map(|size| match size {
                Dimension::Fixed(size) => *size,
                _ => 1,
            })
            .collect();
        assert_eq!(after.shape(info.name()).unwrap(), told, "{}", info.name());
    }
}

#[test]
fn what_comes_after_another_shape_loses_its_declaration_and_nothing_else_does() {
    let model = annotated();
    let unknown = model.graph.nodes.iter().position(|node| node.is("Unknown")).unwrap();
    let after = &model.graph.nodes[unknown + 1];
    let weight = after.input(1).unwrap().to_owned();
    let wider = |shape: Vec<usize>| Edit::StoreTensor {
        name: weight.clone(),
        tensor: Tensor::from_vec(shape.clone(), vec![1.0_f32; shape.iter().product()]),
    };
    let names = |edits: Vec<Edit>| -> Vec<String> {
        let graph = Patch { edits }.apply(&model.graph).unwrap();
        graph.value_info.iter().map(|info| info.name().to_owned()).collect()
    };
    let all = names(vec![wider(vec![6, 4, 3, 3])]);
    assert_eq!(all.len(), model.graph.value_info.len(), "the same shape says nothing");
    let left = names(vec![wider(vec![7, 4, 3, 3])]);
    let before: Vec<&str> = model.graph.nodes[..=unknown].iter().map(|node| node.id()).collect();
    assert!(before.iter().all(|name| left.iter().any(|l| l == name)), "{left:?}");
    assert!(!left.iter().any(|name| name == after.id()));
    let attribute = Node::new("x", "", &[], &["x"])
        .with_int("group", 2)
        .attribute("group")
        .unwrap()
        .clone();
    let changed = names(vec![Edit::SetAttribute {
        node: after.id().into(),
        attribute: Box::new(attribute),
    }]);
    assert_eq!(changed, left);
}

#[test]
fn nodes_go_where_they_are_put_however_edits_follow_one_another() {
    let model = annotated();
    let end = model.graph.outputs[0].name().to_owned();
    let add = |name: &str, input: &str, before: &str| Edit::AddNode {
        node: Box::new(Node::new("Relu", "", &[input], &[name])),
        before: Some(before.to_owned()),
    };
    let last = model.graph.node(&end).unwrap();
    let read = last.input(0).unwrap().to_owned();
    let edits = vec![
        add("b", &read, &end),
        add("a", &read, "b"),
        add("c", "b", &end),
        Edit::Rewire {
            node: "b".into(),
            input: 0,
            value: "a".into(),
        },
        Edit::Rewire {
            node: end.clone(),
            input: 0,
            value: "c".into(),
        },
        add("d", &read, "a"),
        Edit::RemoveNode { node: "d".into() },
    ];
    let graph = Patch { edits }.apply(&model.graph).unwrap();
    let order: Vec<&str> = graph.nodes.iter().rev().take(4).map(|node| node.id()).collect();
    assert_eq!(order, [end.as_str(), "c", "b", "a"]);
}
