use kmr_sdk::{
    model::{DType, Dimension, Graph, Node, Tensor, ValueInfo},
    serde_json::{self, json},
};

use super::*;
use crate::testing::{
    ModelHost,
    arithmetic::{Value as Numbers, values},
    noise, residual_network,
};

const WIDTH: usize = 6;

/// Residual blocks of two products, whose sizes `strengths` gives; normalized after each sum (as BERT is), or before each
/// block (as Llama is).
fn stack(strengths: &[f32], after: bool) -> Model {
    let mut graph = Graph::new("stack");
    let shape = [
        Dimension::Named("N".into()),
        Dimension::Fixed(3),
        Dimension::Fixed(WIDTH),
    ];
    graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &shape)];
    let mut seed = 0;
    let mut store = |graph: &mut Graph, name: &str, shape: &[usize], scale: f32| {
        seed += 1;
        let numbers = noise(shape.iter().product(), seed).iter().map(|v| v * scale).collect();
        graph
            .initializers
            .insert(name.into(), Tensor::from_vec(shape.to_vec(), numbers).into());
    };
    let ones = || Tensor::from_vec(vec![WIDTH], vec![1.0_f32; WIDTH]).into();
    let node = |graph: &mut Graph, op: &str, inputs: &[&str], output: &str| {
        graph.nodes.push(Arc::new(Node::new(op, output, inputs, &[output])));
    };
    let normalize = |graph: &mut Graph, x: &str, name: &str| {
        let (scale, shift) = (format!("{name}.scale"), format!("{name}.shift"));
        graph.initializers.insert(scale.clone(), ones());
        let zeros = Tensor::from_vec(vec![WIDTH], vec![0.0_f32; WIDTH]);
        graph.initializers.insert(shift.clone(), zeros.into());
        node(graph, "LayerNormalization", &[x, &scale, &shift], name);
    };
    store(&mut graph, "first.weight", &[WIDTH, WIDTH], 1.0);
    node(&mut graph, "MatMul", &["x", "first.weight"], "first");
    let mut x = "first".to_owned();
    if after {
        normalize(&mut graph, "first", "first.norm");
        x = "first.norm".into();
    }
    for (number, &strength) in strengths.iter().enumerate() {
        let name = |part: &str| format!("block{number}.{part}");
        let mut y = x.clone();
        if !after {
            normalize(&mut graph, &x, &name("norm"));
            y = name("norm");
        }
        for part in ["up", "down"] {
            store(&mut graph, &name(&format!("{part}.weight")), &[WIDTH, WIDTH], strength);
        }
        node(&mut graph, "MatMul", &[&y, &name("up.weight")], &name("up"));
        node(&mut graph, "Relu", &[&name("up")], &name("relu"));
        node(
            &mut graph,
            "MatMul",
            &[&name("relu"), &name("down.weight")],
            &name("down"),
        );
        node(&mut graph, "Add", &[&name("down"), &x], &name("sum"));
        x = name("sum");
        if after {
            normalize(&mut graph, &x, &name("norm"));
            x = name("norm");
        }
    }
    node(&mut graph, "Identity", &[&x], "y");
    graph.outputs = vec![ValueInfo::tensor("y", DType::FLOAT, &shape)];
    graph.check().unwrap();
    Model::new(graph, 8, 17)
}

/// The same, with all places of all samples as rows from the first normalization on.
fn flattened(mut model: Model) -> Model {
    let nodes = &mut model.graph.nodes;
    for node in nodes.iter_mut().filter(|node| node.id().starts_with("block0.")) {
        let reads = node.inputs().iter().map(|read| match read.as_str() {
            "first.norm" => "rows",
            other => other,
        });
        let reads: Vec<&str> = reads.collect();
        *node = Arc::new(Node::new(node.op_type(), node.id(), &reads, &[node.id()]));
    }
    let first = nodes.iter().position(|node| node.id() == "first.norm").unwrap();
    let rows = Node::new("Flatten", "rows", &["first.norm"], &["rows"]).with_int("axis", 2);
    nodes.insert(first + 1, Arc::new(rows));
    model.graph.outputs = vec![ValueInfo::untyped("y")];
    model.graph.check().unwrap();
    model
}

fn found(model: &Model) -> Vec<Block> {
    let shapes = shapes::infer(model, &std::collections::BTreeMap::new()).unwrap();
    blocks(&model.graph, &shapes)
}

fn ends(blocks: &[Block]) -> Vec<(&str, &str)> {
    blocks
        .iter()
        .map(|block| (block.input.as_str(), block.output.as_str()))
        .collect()
}

fn host(model: Model) -> ModelHost {
    let mut host = ModelHost::new(model);
    let feed = |seed| Numbers::new(&[2, 3, WIDTH], noise(6 * WIDTH, seed));
    host.feeds = vec![feed(91), feed(92)];
    host
}

fn rule(config: serde_json::Value, values: &str) -> Result<PruneDepth> {
    let knobs = format!(r#"{{"{KNOB}": {{"values": {values}, "per": "model"}}}}"#);
    PruneDepth::new(serde_json::from_value(config)?, serde_json::from_str(&knobs).unwrap())
}

fn action(count: usize) -> Action {
    let assignment = kmr_sdk::Assignment {
        knob: KNOB.into(),
        target: MODEL.into(),
        value: count.into(),
    };
    Action {
        assignments: vec![assignment],
        ..Action::default()
    }
}

#[test]
fn blocks_are_found_by_their_sums() {
    let model = stack(&[1.0, 1.0, 1.0], false);
    let before = found(&model);
    let expected = [
        ("first", "block0.sum"),
        ("block0.sum", "block1.sum"),
        ("block1.sum", "block2.sum"),
    ];
    assert_eq!(ends(&before), expected);
    assert_eq!(before[1].layers, ["block1.up", "block1.down"]);
    let after = found(&stack(&[1.0, 1.0], true));
    let expected = [("first.norm", "block0.norm"), ("block0.norm", "block1.norm")];
    assert_eq!(ends(&after), expected, "the normalization goes with the block");
    let flattened = found(&flattened(stack(&[1.0, 1.0], true)));
    let expected = [("rows", "block0.norm"), ("block0.norm", "block1.norm")];
    assert_eq!(ends(&flattened), expected, "as encoders do before their first block");
    assert_eq!(ends(&layers(flattened)), [("rows", "block1.norm")]);
    let network = residual_network();
    assert_eq!(ends(&found(&network)), [("stem.relu", "block.add")]);
    let pairs = layers(before);
    assert_eq!(ends(&pairs), [("first", "block1.sum"), ("block1.sum", "block2.sum")]);
    assert_eq!(pairs[0].layers.len(), 4);
}

#[test]
fn a_sum_with_another_shape_or_without_layers_is_no_block() {
    let mut model = stack(&[1.0], false);
    // A bias for each place, and a gate without weights.
    let bias = Tensor::from_vec(vec![3, 1], vec![1.0_f32; 3]);
    model.graph.initializers.insert("bias".into(), bias.into());
    model.graph.nodes.pop();
    for node in [
        Node::new("Add", "", &["block0.sum", "bias"], &["biased"]),
        Node::new("Relu", "", &["biased"], &["gate"]),
        Node::new("Add", "", &["biased", "gate"], &["y"]),
    ] {
        model.graph.nodes.push(Arc::new(node));
    }
    assert_eq!(ends(&found(&model)), [("first", "block0.sum")]);
}

#[test]
fn the_block_that_does_least_goes_first_and_takes_everything_along() {
    for after in [false, true] {
        for importance in ["influence", "output"] {
            let model = stack(&[0.9, 0.05, 0.7, 0.01], after);
            let mut rule = rule(json!({"importance": importance}), "[0, 1, 2, 4]").unwrap();
            let host = host(model.clone());
            let targets = host.with(|host| rule.targets(host)).unwrap();
            assert_eq!(targets[0].values, [0, 1, 2], "one block stays");
            let applied = host.with(|host| rule.apply(host, &action(2))).unwrap();
            let labels: Vec<_> = applied.changes.iter().map(|change| change.layer.as_str()).collect();
            assert_eq!(labels, ["block3.sum", "block1.sum"]);
            let cut = host.candidate();
            let names: Vec<&String> = cut.graph.initializers.keys().collect();
            assert!(
                names
                    .iter()
                    .all(|name| !name.starts_with("block1.") && !name.starts_with("block3.")),
                "{names:?}"
            );
            assert!(cut.graph.nodes.iter().all(|node| !node.id().starts_with("block3.")));
            // What is left computes what the whole model does when these blocks add nothing.
            let mut silent = model.graph.clone();
            for block in [1, 3] {
                let zeros = Tensor::from_vec(vec![WIDTH, WIDTH], vec![0.0_f32; WIDTH * WIDTH]);
                silent
                    .initializers
                    .insert(format!("block{block}.down.weight"), zeros.into());
            }
            let feed = [("x", host.feeds[0].clone())];
            let (left, right) = (&values(&cut.graph, &feed)["y"], &values(&silent, &feed)["y"]);
            let apart = left.numbers.iter().zip(&right.numbers).map(|(a, b)| (a - b).abs());
            // Normalizing twice differs by epsilon.
            assert!(apart.fold(0.0, f32::max) < 1e-4);
        }
    }
}

#[test]
fn an_output_of_the_model_keeps_its_name() {
    let mut model = stack(&[1.0, 0.1], false);
    model.graph.nodes.pop();
    model.graph.outputs = vec![ValueInfo::tensor(
        "block1.sum",
        DType::FLOAT,
        &[const { Dimension::Unknown }; 3],
    )];
    let mut rule = rule(json!({}), "[0, 1]").unwrap();
    let host = host(model);
    host.with(|host| rule.apply(host, &action(1))).unwrap();
    let cut = host.candidate();
    let last = cut.graph.nodes.last().unwrap();
    assert_eq!(
        (last.op_type(), last.id(), last.inputs()),
        ("Identity", "block1.sum", &["block0.sum".to_owned()][..])
    );
    assert!(!cut.graph.initializers.contains_key("block1.up.weight"));
}

#[test]
fn counts_that_are_too_great_are_told() {
    assert_eq!(
        without_effect(&[0, 4, 9], 4).unwrap(),
        "knob `blocks_removed` changes nothing at 4, 9: of 4 blocks one stays, so that it takes at most 3"
    );
    assert_eq!(without_effect(&[0, 3, 9], 4), None);
    assert_eq!(without_effect(&[0], 4), None);
    assert_eq!(
        without_effect(&[0, 1], 0),
        None,
        "that there is no block is said elsewhere"
    );
}

#[test]
fn mistakes_are_told() {
    let refused = |config, values| rule(config, values).err().unwrap().to_string();
    assert!(refused(json!({}), "[0, 1.5]").contains("takes whole numbers from 0 on; got 1.5"));
    assert!(refused(json!({}), "[1, 2]").contains("has to be 0"));
    assert!(refused(json!({"samples": 0}), "[0, 1]").starts_with("config.samples"));
    assert!(refused(json!({"importance": "size"}), "[0, 1]").contains("expected `influence` or `output`"));
    let mut blind = rule(json!({}), "[0, 1]").unwrap();
    let error = ModelHost::new(stack(&[1.0, 1.0], false))
        .with(|host| blind.targets(host))
        .unwrap_err();
    assert!(error.to_string().contains("`data.calibration`"), "{error}");
    let mut elsewhere = rule(json!({}), "[0, 1]").unwrap();
    let error = host(stack(&[1.0], false))
        .with(|host| elsewhere.apply(host, &action(1)))
        .unwrap_err();
    assert!(error.to_string().starts_with("target `model`"), "{error}");
}

#[test]
fn blocks_to_ignore_stay() {
    let mut rule = rule(json!({"ignore": ["block1.*"]}), "[0, 1]").unwrap();
    let host = host(stack(&[1.0, 0.01, 0.5], false));
    let applied = host.with(|host| rule.apply(host, &action(1))).unwrap();
    assert_eq!(applied.changes[0].layer, "block2.sum");
}
