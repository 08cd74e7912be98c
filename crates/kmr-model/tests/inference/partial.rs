//! Open sizes, subgraphs, functions and hostile sizes, on graphs built by hand.

use std::{collections::BTreeMap, sync::Arc};

use buffa::{Message, MessageField};
use kmr_model::{
    DType, Dimension, ErrorKind, Graph, Model, Node, Tensor, ValueInfo,
    cost::Costs,
    proto,
    shapes::{self, Shapes},
};

fn named(name: &str) -> Dimension {
    Dimension::Named(name.into())
}

fn image(name: &str) -> ValueInfo {
    let shape = [named("batch"), Dimension::Fixed(3), named("height"), Dimension::Unknown];
    ValueInfo::tensor(name, DType::FLOAT, &shape)
}

fn graph(inputs: Vec<ValueInfo>, nodes: Vec<Node>, tensors: Vec<(&str, Tensor)>) -> Graph {
    let mut graph = Graph::new("test");
    graph.inputs = inputs;
    if let Some(last) = nodes.last() {
        graph.outputs = vec![ValueInfo::tensor(
            last.id(),
            DType::FLOAT,
            &[Dimension::Unknown, Dimension::Unknown],
        )];
    }
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    for (name, tensor) in tensors {
        graph.initializers.insert(name.into(), tensor.into());
    }
    graph
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), vec![0.0_f32; shape.iter().product()])
}

fn integers(values: &[i64]) -> Tensor {
    Tensor::from_vec(vec![values.len()], values.to_vec())
}

fn truth(value: bool) -> Tensor {
    Tensor::new(DType::BOOL, vec![], vec![u8::from(value)].into()).unwrap()
}

/// A node with the subgraph `inner` in an attribute.
fn with_subgraph(mut node: Node, attribute: &str, inner: Graph) -> Node {
    let model = Model::new(inner, 8, 17).encode_to_vec();
    let mut graph = proto::ModelProto::decode_from_slice(&model).unwrap().graph;
    for output in &mut graph.as_option_mut().unwrap().output {
        output.r#type = MessageField::none();
    }
    node.set_attribute(proto::AttributeProto {
        name: Some(attribute.into()),
        r#type: Some(5),
        g: graph,
        ..Default::default()
    });
    node
}

fn spelled(shapes: &Shapes, value: &str) -> String {
    let Some(found) = shapes.partial(value).and_then(|found| found.shape) else {
        return "nothing".to_owned();
    };
    let sizes: Vec<String> = found.iter().map(Dimension::to_string).collect();
    sizes.join(", ")
}

#[test]
fn open_sizes_stay_open_through_a_network() {
    let nodes = vec![
        Node::new("Conv", "", &["x", "w"], &["a"])
            .with_ints("strides", &[2, 2])
            .with_ints("pads", &[1, 1, 1, 1]),
        Node::new("Upsample", "", &["a", "scales"], &["b"]),
        Node::new("Add", "", &["x", "y"], &["c"]),
        Node::new("Concat", "", &["x", "c"], &["d"]).with_int("axis", 2),
        Node::new("Shape", "", &["a"], &["shape"]),
        Node::new("Slice", "", &["shape", "zero", "two"], &["front"]),
        Node::new("Concat", "", &["front", "open"], &["target"]).with_int("axis", 0),
        Node::new("Reshape", "", &["a", "target"], &["e"]),
        Node::new("Transpose", "", &["e"], &["f"]).with_ints("perm", &[0, 2, 1]),
        Node::new("NonZero", "", &["f"], &["g"]),
        Node::new("Slice", "", &["x", "one", "all", "three"], &["h"]),
    ];
    let tensors = vec![
        ("w", zeros(&[8, 3, 3, 3])),
        ("scales", Tensor::from_vec(vec![4], vec![1.0_f32, 1.0, 2.0, 0.5])),
        ("zero", integers(&[0])),
        ("one", integers(&[1])),
        ("two", integers(&[2])),
        ("three", integers(&[2])),
        ("all", integers(&[i64::MAX])),
        ("open", integers(&[-1])),
    ];
    let model = Model::new(graph(vec![image("x"), image("y")], nodes, tensors), 8, 10);
    let found = shapes::infer_symbolic(&model).unwrap();
    assert_eq!(
        spelled(&found, "a"),
        "batch, 8, floor((height + 1)/2), floor((x[3] + 1)/2)"
    );
    assert_eq!(
        spelled(&found, "b"),
        "batch, 8, 2*floor((height + 1)/2), floor((x[3] + 1)/4)"
    );
    // Both widths are open, and may differ.
    assert_eq!(spelled(&found, "c"), "batch, 3, height, ?");
    assert_eq!(spelled(&found, "d"), "batch, 3, 2*height, x[3]");
    assert_eq!(
        spelled(&found, "f"),
        "batch, floor((height + 1)/2)*floor((x[3] + 1)/2), 8"
    );
    assert_eq!(spelled(&found, "g"), "3, ?");
    assert_eq!(spelled(&found, "h"), "batch, 3, height - 1, x[3]");
    // The same network at fixed sizes has those sizes.
    let feeds = ["x", "y"].map(|name| (name.to_owned(), vec![5, 3, 9, 7]));
    let fixed = shapes::infer(&model, &feeds.into()).unwrap();
    assert_eq!(fixed.shape("f"), Some(&[5, 20, 8][..]));
    assert_eq!(fixed.shape("b"), Some(&[5, 8, 10, 2][..]));
}

/// `x` goes into an If whose branches are a Relu and a Squeeze of axis 2.
fn branching(condition: Option<bool>, height: usize, squeezed: bool) -> Model {
    let relu = Node::new("Relu", "", &["x"], &["kept"]);
    let other = if squeezed {
        Node::new("Squeeze", "", &["x"], &["kept"]).with_ints("axes", &[1])
    } else {
        Node::new("Neg", "", &["x"], &["kept"])
    };
    let node = Node::new("If", "choice", &["condition"], &["y"]);
    let node = with_subgraph(node, "then_branch", graph(vec![], vec![relu], vec![]));
    let node = with_subgraph(node, "else_branch", graph(vec![], vec![other], vec![]));
    let x = ValueInfo::tensor("x", DType::FLOAT, &[Dimension::Fixed(2), Dimension::Fixed(height)]);
    let mut inputs = vec![x];
    let mut tensors = Vec::new();
    match condition {
        Some(value) => tensors.push(("condition", truth(value))),
        None => inputs.push(ValueInfo::tensor("condition", DType::BOOL, &[])),
    }
    let mut graph = graph(inputs, vec![node], tensors);
    graph.outputs.clear();
    Model::new(graph, 8, 11)
}

#[test]
fn branches_are_joined() {
    let infer = |model: &Model| shapes::infer(model, &BTreeMap::new()).unwrap();
    assert_eq!(spelled(&infer(&branching(None, 3, false)), "y"), "2, 3");
    // Shapes of different rank leave the element type.
    let different = infer(&branching(None, 1, true));
    assert_eq!(spelled(&different, "y"), "nothing");
    assert_eq!(different.dtype("y"), Some(DType::FLOAT));
    assert_eq!(spelled(&infer(&branching(Some(false), 1, true)), "y"), "2");
    // The Squeeze cannot be executed: whatever ends has taken the other branch.
    assert_eq!(spelled(&infer(&branching(None, 3, true)), "y"), "2, 3");
    let error = shapes::infer(&branching(Some(false), 3, true), &BTreeMap::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
    let inner = infer(&branching(None, 3, false));
    assert_eq!(spelled(&inner.body("y", "then_branch").unwrap().shapes, "kept"), "2, 3");
}

/// A loop of `rounds` rounds whose state grows, or is multiplied by a matrix inside the body.
fn looping(rounds: Option<i64>, grows: bool) -> Model {
    let step = if grows {
        Node::new("Concat", "", &["state", "state"], &["next"]).with_int("axis", 0)
    } else {
        Node::new("MatMul", "", &["state", "w"], &["next"])
    };
    let body = vec![Node::new("Identity", "", &["going"], &["on"]), step];
    let inputs = vec![
        ValueInfo::tensor("round", DType::INT64, &[]),
        ValueInfo::tensor("going", DType::BOOL, &[]),
        ValueInfo::tensor("state", DType::FLOAT, &[Dimension::Unknown, Dimension::Unknown]),
    ];
    let mut body = graph(inputs, body, vec![("w", zeros(&[4, 4]))]);
    let output = |name| ValueInfo::tensor(name, DType::FLOAT, &[]);
    body.outputs = vec![output("on"), output("next"), output("state")];
    let node = with_subgraph(
        Node::new("Loop", "", &["count", "", "x"], &["last", "all"]),
        "body",
        body,
    );
    let mut inputs = vec![ValueInfo::tensor(
        "x",
        DType::FLOAT,
        &[Dimension::Fixed(2), Dimension::Fixed(4)],
    )];
    let mut tensors = Vec::new();
    match rounds {
        Some(rounds) => tensors.push(("count", Tensor::scalar(rounds))),
        None => inputs.push(ValueInfo::tensor("count", DType::INT64, &[])),
    }
    let mut graph = graph(inputs, vec![node], tensors);
    graph.outputs.clear();
    Model::new(graph, 8, 13)
}

#[test]
fn loops_claim_what_holds_in_every_round() {
    let infer = |model: &Model| shapes::infer(model, &BTreeMap::new()).unwrap();
    let known = infer(&looping(Some(5), false));
    assert_eq!(spelled(&known, "last"), "2, 4");
    assert_eq!(spelled(&known, "all"), "5, 2, 4");
    let unknown = infer(&looping(None, false));
    assert_eq!(spelled(&unknown, "last"), "2, 4");
    assert_eq!(spelled(&unknown, "all"), "?, 2, 4");
    let growing = infer(&looping(Some(5), true));
    assert_eq!(spelled(&growing, "last"), "?, 4");
    assert_eq!(spelled(&growing, "all"), "5, ?, 4");
    assert_eq!(spelled(&infer(&looping(Some(0), true)), "last"), "2, 4");
    assert_eq!(spelled(&infer(&looping(Some(0), true)), "all"), "0, ?, 4");
}

#[test]
fn costs_go_into_subgraphs() {
    let costs = |model: &Model| Costs::of(model, &BTreeMap::new()).unwrap();
    let looped = costs(&looping(Some(5), false));
    assert_eq!(looped.macs(), Ok(5 * 2 * 4 * 4));
    assert_eq!(looped.params(), 16);
    // The input, then the state and the condition inside, or both results after.
    assert_eq!(looped.peak_activation_bytes(), Ok(32 + 32 + 5 * 32));
    let error = costs(&looping(None, false)).macs().unwrap_err();
    assert!(error.to_string().ends_with("how often it runs is not known"), "{error}");
    assert_eq!(costs(&looping(None, true)).macs(), Ok(0));

    let product = |width: usize| {
        let weight = zeros(&[3, width]);
        let nodes = vec![
            Node::new("MatMul", "", &["x", "weight"], &["wide"]),
            Node::new("ReduceSum", "", &["wide"], &["kept"]).with_ints("axes", &[1]),
        ];
        graph(vec![], nodes, vec![("weight", weight)])
    };
    let node = Node::new("If", "choice", &["condition"], &["y"]);
    let node = with_subgraph(node, "then_branch", product(7));
    let node = with_subgraph(node, "else_branch", product(9));
    for (condition, macs) in [(None, 2 * 3 * 9), (Some(true), 2 * 3 * 7), (Some(false), 2 * 3 * 9)] {
        let mut inputs = vec![ValueInfo::tensor(
            "x",
            DType::FLOAT,
            &[Dimension::Fixed(2), Dimension::Fixed(3)],
        )];
        let mut tensors = Vec::new();
        match condition {
            Some(value) => tensors.push(("condition", truth(value))),
            None => inputs.push(ValueInfo::tensor("condition", DType::BOOL, &[])),
        }
        let model = Model::new(graph(inputs, vec![node.clone()], tensors), 8, 11);
        let costs = costs(&model);
        assert_eq!(costs.macs(), Ok(macs), "{condition:?}");
        assert_eq!(costs.params(), 3 * 7 + 3 * 9);
        assert_eq!(costs.layers.len(), 1);
        assert_eq!((costs.layers[0].params, costs.layers[0].macs), (48, Some(macs)));
    }
}

#[test]
fn recurrent_layers_and_attention_are_counted() {
    let x = ValueInfo::tensor("x", DType::FLOAT, &[5, 2, 3].map(Dimension::Fixed));
    let lstm = Node::new("LSTM", "", &["x", "w", "r"], &["y", "", "c"])
        .with_int("hidden_size", 4)
        .with_string("direction", "bidirectional");
    let tensors = vec![("w", zeros(&[2, 16, 3])), ("r", zeros(&[2, 16, 4]))];
    let model = Model::new(graph(vec![x], vec![lstm], tensors), 8, 14);
    let costs = Costs::of(&model, &BTreeMap::new()).unwrap();
    assert_eq!(costs.macs(), Ok(5 * 2 * 2 * 16 * (3 + 4)));
    assert_eq!(costs.params(), 2 * 16 * (3 + 4));
    let found = shapes::infer(&model, &BTreeMap::new()).unwrap();
    assert_eq!(found.shape("y"), Some(&[5, 2, 2, 4][..]));
    assert_eq!(found.shape("c"), Some(&[2, 2, 4][..]));

    let tensor = |name: &str, shape: [usize; 4]| ValueInfo::tensor(name, DType::FLOAT, &shape.map(Dimension::Fixed));
    let inputs = vec![
        tensor("q", [2, 6, 7, 8]),
        tensor("k", [2, 3, 5, 8]),
        tensor("v", [2, 3, 5, 4]),
    ];
    let attention = Node::new("Attention", "", &["q", "k", "v"], &["y"]);
    let model = Model::new(graph(inputs, vec![attention], vec![]), 10, 23);
    let costs = Costs::of(&model, &BTreeMap::new()).unwrap();
    assert_eq!(costs.macs(), Ok(2 * 6 * 7 * 5 * (8 + 4)));

    let x = ValueInfo::tensor("x", DType::FLOAT, &[Dimension::Fixed(2)]);
    let model = Model::new(
        graph(vec![x], vec![Node::new("Mystery", "m", &["x"], &["y"])], vec![]),
        8,
        14,
    );
    let error = Costs::of(&model, &BTreeMap::new()).unwrap().macs().unwrap_err();
    assert!(
        error.to_string().starts_with("node `m` (Mystery): multiplies"),
        "{error}"
    );
}

#[test]
fn functions_are_looked_into() {
    let x = ValueInfo::tensor("x", DType::FLOAT, &[2, 6].map(Dimension::Fixed));
    let mut call = proto::NodeProto {
        input: vec!["x".into()],
        output: vec!["y".into()],
        op_type: Some("Halves".into()),
        domain: Some("own".into()),
        ..Default::default()
    };
    call.attribute.push(proto::AttributeProto {
        name: Some("along".into()),
        r#type: Some(2),
        i: Some(1),
        ..Default::default()
    });
    let mut reduce = Node::new("ReduceSum", "", &["a"], &["b"]).proto().clone();
    let mut softmax = Node::new("Concat", "", &["a", "a"], &["c"]).proto().clone();
    for (message, name) in [(&mut reduce, "keepdims"), (&mut softmax, "axis")] {
        message.attribute.push(proto::AttributeProto {
            name: Some(name.into()),
            ref_attr_name: Some("along".into()),
            r#type: Some(2),
            ..Default::default()
        });
    }
    let standard = |version| proto::OperatorSetIdProto {
        version: Some(version),
        ..Default::default()
    };
    let function = proto::FunctionProto {
        name: Some("Halves".into()),
        domain: Some("own".into()),
        input: vec!["a".into()],
        output: vec!["c".into()],
        attribute: vec!["along".into()],
        node: vec![reduce, softmax],
        opset_import: vec![standard(13)],
        ..Default::default()
    };
    let bytes = Model::new(graph(vec![x], vec![Node::from_proto(call).unwrap()], vec![]), 8, 17).encode_to_vec();
    let mut message = proto::ModelProto::decode_from_slice(&bytes).unwrap();
    message.functions.push(function);
    message.opset_import.push(proto::OperatorSetIdProto {
        domain: Some("own".into()),
        version: Some(1),
        ..Default::default()
    });
    let model = Model::decode(message.encode_to_vec().into()).unwrap();
    let found = shapes::infer(&model, &BTreeMap::new()).unwrap();
    assert_eq!(found.shape("y"), Some(&[2, 12][..]));

    // One that calls itself comes to an end, and is not known.
    let again = message.functions[0].clone();
    message.functions[0].node = vec![proto::NodeProto {
        input: vec!["a".into()],
        output: vec!["c".into()],
        op_type: again.name,
        domain: again.domain,
        ..Default::default()
    }];
    message.graph.as_option_mut().unwrap().output[0].r#type = MessageField::none();
    let model = Model::decode(message.encode_to_vec().into()).unwrap();
    assert_eq!(shapes::infer(&model, &BTreeMap::new()).unwrap().get("y"), None);
}

#[test]
fn sizes_beyond_memory_are_one_error_at_their_node() {
    let huge = 1_i64 << 40;
    let cases = [
        (Node::new("Expand", "n", &["x", "sizes"], &["y"]), vec![huge, huge]),
        (Node::new("ConstantOfShape", "n", &["sizes"], &["y"]), vec![huge, huge]),
        (Node::new("Tile", "n", &["x", "sizes"], &["y"]), vec![huge, huge]),
        (Node::new("ConstantOfShape", "n", &["sizes"], &["y"]), vec![-5]),
        (Node::new("Pad", "n", &["x", "sizes"], &["y"]), vec![0, 0, 0, -9]),
        (Node::new("Pad", "n", &["x", "sizes"], &["y"]), vec![i64::MAX; 4]),
        (Node::new("Reshape", "n", &["x", "sizes"], &["y"]), vec![huge, huge]),
        (
            Node::new("RandomNormal", "n", &[], &["y"]).with_ints("shape", &[huge, huge]),
            vec![],
        ),
    ];
    for (node, sizes) in cases {
        let operator = node.op_type().to_owned();
        let x = ValueInfo::tensor("x", DType::FLOAT, &[2, 3].map(Dimension::Fixed));
        let model = Model::new(graph(vec![x], vec![node], vec![("sizes", integers(&sizes))]), 8, 13);
        let error = shapes::infer(&model, &BTreeMap::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape, "{operator}");
        assert!(
            error.to_string().starts_with(&format!("node `n` ({operator}): ")),
            "{error}"
        );
    }
    // A long Range is no more than a size.
    let bounds = [0, i64::MAX, 1].map(Tensor::scalar);
    let names = ["start", "limit", "step"];
    let range = Node::new("Range", "n", &names, &["y"]);
    let model = Model::new(
        graph(vec![], vec![range], names.into_iter().zip(bounds).collect()),
        8,
        13,
    );
    let found = shapes::infer(&model, &BTreeMap::new()).unwrap();
    assert_eq!(found.shape("y"), Some(&[i64::MAX as usize][..]));
}

#[test]
fn newer_operator_sets_are_refused_by_name() {
    let x = ValueInfo::tensor("x", DType::FLOAT, &[Dimension::Fixed(2)]);
    let model = Model::new(
        graph(vec![x], vec![Node::new("Relu", "", &["x"], &["y"])], vec![]),
        8,
        29,
    );
    let error = shapes::infer(&model, &BTreeMap::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "the standard operator set: has version 29; the newest that is known here is 28"
    );
    assert_eq!(shapes::infer_symbolic(&model).unwrap_err(), error);
}

#[test]
fn deep_nesting_and_long_chains_come_to_an_end() {
    let mut inner = graph(vec![], vec![Node::new("Relu", "", &["x"], &["deepest"])], vec![]);
    for depth in 0..30 {
        let node = Node::new("If", "", &["condition"], &[&format!("out{depth}")]);
        let node = with_subgraph(node, "then_branch", inner.clone());
        inner = graph(
            vec![],
            vec![with_subgraph(
                node,
                "else_branch",
                graph(vec![], vec![Node::new("Neg", "", &["x"], &["other"])], vec![]),
            )],
            vec![],
        );
    }
    inner.inputs = vec![
        ValueInfo::tensor("x", DType::FLOAT, &[Dimension::Fixed(2)]),
        ValueInfo::tensor("condition", DType::BOOL, &[]),
    ];
    inner.outputs.clear();
    let found = shapes::infer(&Model::new(inner, 8, 13), &BTreeMap::new()).unwrap();
    assert_eq!(found.get("out29"), None);

    let nodes: Vec<Node> = (0..100_000_usize)
        .map(|position| {
            let input = if position == 0 {
                "x".to_owned()
            } else {
                format!("v{}", position - 1)
            };
            Node::new(
                if position % 2 == 0 { "Relu" } else { "Shape" },
                "",
                &[if position % 2 == 0 { "x" } else { &input }],
                &[&format!("v{position}")],
            )
        })
        .collect();
    let x = ValueInfo::tensor("x", DType::FLOAT, &[named("n")]);
    let model = Model::new(graph(vec![x], nodes, vec![]), 8, 13);
    assert_eq!(spelled(&shapes::infer_symbolic(&model).unwrap(), "v99998"), "n");
    assert_eq!(Costs::of(&model, &BTreeMap::new()).unwrap().macs(), Ok(0));
}
