//! Functions become nodes, constants become initializers, and nothing else changes.

use buffa::{Message, MessageField};
use bytes::Bytes;
use kmr_model::{DType, ErrorKind, Graph, Model, ModelError, Node, Tensor, ValueInfo, codec::tensor_to_message, proto};

fn message(op: &str, inputs: &[&str], outputs: &[&str]) -> proto::NodeProto {
    Node::new(op, "", inputs, outputs).proto().clone()
}

fn in_domain(domain: &str, node: proto::NodeProto) -> proto::NodeProto {
    proto::NodeProto {
        domain: Some(domain.into()),
        ..node
    }
}

fn reference(name: &str, to: &str) -> proto::AttributeProto {
    proto::AttributeProto {
        name: Some(name.into()),
        ref_attr_name: Some(to.into()),
        ..Default::default()
    }
}

fn float(name: &str, value: f32) -> proto::AttributeProto {
    Node::new("X", "", &[], &["x"])
        .with_float(name, value)
        .attribute(name)
        .unwrap()
        .clone()
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<proto::NodeProto>) -> proto::FunctionProto {
    proto::FunctionProto {
        name: Some(name.into()),
        domain: Some("own".into()),
        input: inputs.iter().map(|&name| name.into()).collect(),
        output: outputs.iter().map(|&name| name.into()).collect(),
        node: nodes,
        opset_import: vec![operator_set("", 17)],
        ..Default::default()
    }
}

fn operator_set(domain: &str, version: i64) -> proto::OperatorSetIdProto {
    proto::OperatorSetIdProto {
        domain: Some(domain.into()),
        version: Some(version),
        ..Default::default()
    }
}

fn value(name: &str) -> ValueInfo {
    ValueInfo::tensor(name, DType::FLOAT, &[])
}

/// A model of these nodes and functions with the input `x` and the output `y`.
fn model(nodes: Vec<proto::NodeProto>, functions: Vec<proto::FunctionProto>) -> Model {
    let mut graph = Graph::new("main");
    graph.inputs.push(value("x"));
    graph.outputs.push(value("y"));
    let nodes = nodes.into_iter().map(|node| Node::from_proto(node).unwrap().into());
    graph.nodes.extend(nodes);
    let bytes = Model::new(graph, 10, 17).encode_to_vec();
    let mut message = proto::ModelProto::decode(&mut Bytes::from(bytes)).unwrap();
    message.functions = functions;
    Model::decode(message.encode_to_vec().into()).unwrap()
}

fn lines(model: &Model) -> Vec<String> {
    let nodes = model.graph.nodes.iter();
    nodes
        .map(|node| {
            format!(
                "{} = {}({})",
                node.outputs().join(", "),
                node.op_type(),
                node.inputs().join(", ")
            )
        })
        .collect()
}

#[test]
fn calls_become_the_nodes_of_their_functions() {
    let inner = function(
        "Inner",
        &["a", "b"],
        &["o"],
        vec![
            proto::NodeProto {
                attribute: vec![reference("alpha", "slope")],
                ..message("LeakyRelu", &["a"], &["t"])
            },
            message("Add", &["t", "b"], &["o"]),
        ],
    );
    let inner = proto::FunctionProto {
        attribute_proto: vec![float("slope", 0.25)],
        ..inner
    };
    let call = |slope: Option<proto::AttributeProto>, inputs: &[&str], output: &str| proto::NodeProto {
        attribute: slope.into_iter().collect(),
        ..in_domain("own", message("Inner", inputs, &[output]))
    };
    let outer = function(
        "Outer",
        &["a"],
        &["first", "second"],
        vec![
            call(Some(reference("slope", "given")), &["a", "a"], "first"),
            call(Some(float("slope", 0.5)), &["first", "a"], "second"),
        ],
    );
    let unused = function("Unused", &[], &[], vec![]);
    let nodes = vec![
        in_domain("own", message("Outer", &["x"], &["p", "q"])),
        proto::NodeProto {
            attribute: vec![float("given", 2.0)],
            ..in_domain("own", message("Outer", &["q"], &["", "y"]))
        },
    ];
    let original = model(nodes, vec![inner, outer, unused]);
    let (inlined, changes) = original.inline_functions().unwrap();
    assert_eq!(
        lines(&inlined),
        [
            "p/t = LeakyRelu(x)",
            "p = Add(p/t, x)",
            "q/t = LeakyRelu(p)",
            "q = Add(q/t, x)",
            "y/first/t = LeakyRelu(q)",
            "y/first = Add(y/first/t, q)",
            "y/t = LeakyRelu(y/first)",
            "y = Add(y/t, q)",
        ]
    );
    let slopes: Vec<_> = inlined
        .graph
        .nodes
        .iter()
        .filter_map(|node| node.float("alpha"))
        .collect();
    // The first call gives nothing: the default of the function that asks counts.
    assert_eq!(slopes, [0.25, 0.5, 2.0, 0.5]);
    assert!(!inlined.has_functions());
    assert_eq!(
        changes,
        [
            "inlined the function `own:Inner` at 4 calls",
            "inlined the function `own:Outer` at 2 calls",
            "removed the function `own:Unused`, which nothing calls",
        ]
    );
    assert_eq!(inlined.inline_functions().unwrap(), (inlined.clone(), vec![]));
}

#[test]
fn subgraphs_of_functions_keep_their_scopes() {
    let branch = |nodes: Vec<Node>, output: &str| {
        let mut graph = Graph::new("branch");
        graph.nodes = nodes.into_iter().map(Into::into).collect();
        graph.outputs.push(value(output));
        graph
    };
    let choose = Node::new("If", "choose", &["c"], &["o"])
        .with_subgraph("then_branch", &branch(vec![Node::new("Relu", "", &["a"], &["r"])], "r"))
        .with_subgraph("else_branch", &branch(vec![Node::new("Neg", "", &["n"], &["r"])], "r"));
    let pick = function(
        "Pick",
        &["c", "a"],
        &["o", "same"],
        vec![message("Abs", &["a"], &["n"]), choose.proto().clone()],
    );
    let pick = proto::FunctionProto {
        output: vec!["o".into(), "a".into()],
        ..pick
    };
    let nodes = vec![
        message("Cast", &["x"], &["flag"]),
        in_domain("own", message("Pick", &["flag", "x"], &["n", "copy"])),
        in_domain("own", message("Pick", &["flag", "n"], &["y"])),
    ];
    let (inlined, _) = model(nodes, vec![pick]).inline_functions().unwrap();
    assert_eq!(
        lines(&inlined),
        [
            "flag = Cast(x)",
            "n/n = Abs(x)",
            "n = If(flag)",
            "copy = Identity(x)",
            "y/n = Abs(n)",
            "y = If(flag)"
        ]
    );
    let last = inlined.graph.node("y").unwrap();
    assert_eq!(last.captures().unwrap(), ["n", "y/n"]);
    let then = last.subgraph("then_branch").unwrap().unwrap();
    assert_eq!(then.nodes[0].id(), "y/r");
    assert_eq!(then.outputs[0].name(), "y/r");
    assert_eq!(last.name(), "y/choose");
}

#[track_caller]
fn refused(functions: Vec<proto::FunctionProto>) -> ModelError {
    let nodes = vec![in_domain("own", message("F", &["x"], &["y"]))];
    model(nodes, functions).inline_functions().unwrap_err()
}

#[test]
fn functions_that_cannot_be_inlined_are_refused_by_name() {
    let plain = |nodes| function("F", &["x"], &["y"], nodes);
    let versions = proto::FunctionProto {
        opset_import: vec![operator_set("", 16)],
        ..plain(vec![message("Relu", &["x"], &["y"])])
    };
    let error = refused(vec![versions]);
    let told = "function `own:F`: imports version 16 of ONNX's own operator set, and the model imports version 17";
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::Unsupported, told)
    );
    let foreign = plain(vec![in_domain("far", message("Relu", &["x"], &["y"]))]);
    let told = "function `own:F`: uses operators of the operator set `far`, which it does not import";
    assert_eq!(refused(vec![foreign]).to_string(), told);
    let circle = plain(vec![in_domain("own", message("F", &["x"], &["y"]))]);
    assert_eq!(
        refused(vec![circle]).to_string(),
        "function `own:F`: calls itself, or a function that does"
    );
    let loose = plain(vec![message("Relu", &["z"], &["y"])]);
    assert_eq!(
        refused(vec![loose]).to_string(),
        "function `own:F`: reads `z`, which nothing before it produces"
    );
    assert!(
        refused(vec![plain(vec![])])
            .to_string()
            .ends_with("is produced by nothing")
    );
    assert!(
        refused(vec![function("F", &[], &["y"], vec![])])
            .to_string()
            .contains("1 inputs and 1 outputs; it has 0 and 1")
    );
    let twice = plain(vec![message("Relu", &["x"], &["y"])]);
    assert_eq!(
        refused(vec![twice.clone(), twice]).to_string(),
        "function `own:F`: exists twice"
    );
    // Twenty-one levels that double the calls.
    let mut doubling: Vec<_> = (0..21)
        .map(|level| {
            let name = if level == 0 {
                "F".to_owned()
            } else {
                format!("F{level}")
            };
            let call = |input, output| in_domain("own", message(&format!("F{}", level + 1), &[input], &[output]));
            function(&name, &["x"], &["y"], vec![call("x", "t"), call("t", "y")])
        })
        .collect();
    doubling.push(function("F21", &["x"], &["y"], vec![message("Relu", &["x"], &["y"])]));
    let told = "the model's functions: come to more than 250000 nodes when they are inlined";
    assert_eq!(refused(doubling).to_string(), told);
}

#[test]
fn new_operator_sets_of_functions_are_imported() {
    let foreign = proto::FunctionProto {
        opset_import: vec![operator_set("far", 3)],
        ..function(
            "F",
            &["x"],
            &["y"],
            vec![in_domain("far", message("Relu", &["x"], &["y"]))],
        )
    };
    let nodes = vec![in_domain("own", message("F", &["x"], &["y"]))];
    let (inlined, _) = model(nodes, vec![foreign]).inline_functions().unwrap();
    let sets: Vec<_> = inlined
        .operator_sets()
        .into_iter()
        .map(|set| (set.domain, set.version))
        .collect();
    assert_eq!(sets, [(String::new(), 17), ("far".to_owned(), 3)]);
    assert_eq!(inlined.graph.nodes[0].domain(), "far");
}

fn constant(name: &str, tensor: &Tensor) -> proto::NodeProto {
    let attribute = proto::AttributeProto {
        name: Some("value".into()),
        r#type: Some(4),
        t: MessageField::some(tensor_to_message("inner", tensor)),
        ..Default::default()
    };
    proto::NodeProto {
        attribute: vec![attribute],
        ..message("Constant", &[], &[name])
    }
}

#[test]
fn constants_become_initializers_in_every_form() {
    let with = |name: &str, attribute: proto::AttributeProto| proto::NodeProto {
        attribute: vec![attribute],
        ..message("Constant", &[], &[name])
    };
    let named = |name: &str| proto::AttributeProto {
        name: Some(name.into()),
        ..Default::default()
    };
    let text = Bytes::from_static(b"text");
    let sparse = proto::SparseTensorProto {
        values: MessageField::some(tensor_to_message("", &Tensor::from_vec(vec![1], vec![2.0_f32]))),
        indices: MessageField::some(tensor_to_message("", &Tensor::from_vec(vec![1], vec![1_i64]))),
        dims: vec![3],
        ..Default::default()
    };
    let mut forms = vec![
        constant("tensor", &Tensor::from_vec(vec![2], vec![1.0_f32, 2.0])),
        with(
            "int",
            proto::AttributeProto {
                i: Some(7),
                ..named("value_int")
            },
        ),
        with(
            "ints",
            proto::AttributeProto {
                ints: vec![1, 2],
                ..named("value_ints")
            },
        ),
        with(
            "float",
            proto::AttributeProto {
                f: Some(0.5),
                ..named("value_float")
            },
        ),
        with(
            "floats",
            proto::AttributeProto {
                floats: vec![0.5],
                ..named("value_floats")
            },
        ),
        with(
            "text",
            proto::AttributeProto {
                s: Some(text.clone()),
                ..named("value_string")
            },
        ),
        with(
            "texts",
            proto::AttributeProto {
                strings: vec![text.clone(), text],
                ..named("value_strings")
            },
        ),
        with(
            "sparse",
            proto::AttributeProto {
                sparse_tensor: MessageField::some(sparse),
                ..named("sparse_value")
            },
        ),
        with("unknown", named("value_of_tomorrow")),
        in_domain("own", constant("foreign", &Tensor::scalar(1_i64))),
        constant("y", &Tensor::scalar(1.0_f32)),
    ];
    forms.insert(0, message("Relu", &["x"], &["kept"]));
    let (lifted, changes) = model(forms, vec![]).lift_constants().unwrap();
    assert_eq!(changes, ["lifted 8 Constant nodes into initializers"]);
    let ids: Vec<_> = lifted.graph.nodes.iter().map(|node| node.id()).collect();
    assert_eq!(ids, ["kept", "unknown", "foreign", "y"]);
    let again = Model::decode(lifted.encode_to_vec().into()).unwrap();
    let shape = |name: &str| {
        (
            again.graph.tensor(name).unwrap().dtype(),
            again.graph.tensor(name).unwrap().shape().to_vec(),
        )
    };
    assert_eq!(shape("tensor"), (DType::FLOAT, vec![2]));
    assert_eq!(again.graph.tensor("int"), Some(&Tensor::scalar(7_i64).into()));
    assert_eq!(
        again.graph.tensor("ints"),
        Some(&Tensor::from_vec(vec![2], vec![1_i64, 2]).into())
    );
    assert_eq!(again.graph.tensor("float"), Some(&Tensor::scalar(0.5_f32).into()));
    assert_eq!(
        again.graph.tensor("floats"),
        Some(&Tensor::from_vec(vec![1], vec![0.5_f32]).into())
    );
    assert_eq!(
        again.graph.tensor("sparse"),
        Some(&Tensor::from_vec(vec![3], vec![0.0_f32, 2.0, 0.0]).into())
    );
    assert_eq!(shape("text"), (DType::STRING, vec![]));
    assert_eq!(shape("texts"), (DType::STRING, vec![2]));
    assert_eq!(lifted.lift_constants().unwrap(), (lifted.clone(), vec![]));
}

#[test]
fn constants_of_branches_become_initializers_of_the_main_graph() {
    let branch = |scale: f32, offset: f32| {
        let mut graph = Graph::new("branch");
        graph
            .initializers
            .insert("offset".into(), Tensor::scalar(offset).into());
        let scale = Node::from_proto(constant("scale", &Tensor::scalar(scale))).unwrap();
        let shown = Node::from_proto(constant("shown", &Tensor::scalar(0.0_f32))).unwrap();
        let inner = {
            let mut inner = Graph::new("inner");
            inner
                .nodes
                .push(Node::new("Add", "", &["scale", "offset"], &["s"]).into());
            inner.outputs.push(value("s"));
            inner
        };
        let nested = Node::new("If", "", &["flag"], &["n"])
            .with_subgraph("then_branch", &inner)
            .with_subgraph("else_branch", &inner);
        graph.nodes = vec![
            scale.into(),
            shown.into(),
            nested.into(),
            Node::new("Mul", "", &["x", "scale"], &["m"]).into(),
        ];
        graph.outputs = vec![value("m"), value("shown")];
        graph.value_info = vec![value("scale"), value("m")];
        graph
    };
    let choose = Node::new("If", "", &["flag"], &["y"])
        .with_subgraph("then_branch", &branch(2.0, 1.0))
        .with_subgraph("else_branch", &branch(3.0, 1.0));
    let nodes = vec![message("Cast", &["x"], &["flag"]), choose.proto().clone()];
    let (lifted, changes) = model(nodes, vec![]).lift_constants().unwrap();
    assert_eq!(
        changes,
        [
            "lifted 2 Constant nodes of subgraphs into initializers of the main graph",
            "lifted 2 initializers of subgraphs into initializers of the main graph",
            "gave 4 of them new names, because theirs existed several times",
        ]
    );
    let node = lifted.graph.node("y").unwrap();
    for (name, expected) in [("then_branch", 2.0_f32), ("else_branch", 3.0)] {
        let graph = node.subgraph(name).unwrap().unwrap();
        assert!(graph.initializers.is_empty());
        assert_eq!(
            graph.nodes.iter().map(|node| node.op_type()).collect::<Vec<_>>(),
            ["Constant", "If", "Mul"]
        );
        let scale = &graph.nodes[2].inputs()[1];
        assert_eq!(lifted.graph.tensor(scale), Some(&Tensor::scalar(expected).into()));
        assert!(graph.nodes[1].captures().unwrap().contains(&scale.as_str()));
        assert_eq!(graph.value_info.iter().map(ValueInfo::name).collect::<Vec<_>>(), ["m"]);
    }
    let mut tensors: Vec<_> = lifted.graph.initializers.keys().cloned().collect();
    tensors.sort();
    assert_eq!(tensors.len(), 4);
}

#[test]
fn old_files_declare_what_is_lifted() {
    let mut graph = Graph::new("old");
    graph.nodes.push(
        Node::from_proto(constant("c", &Tensor::scalar(1.0_f32)))
            .unwrap()
            .into(),
    );
    graph.nodes.push(Node::new("Relu", "", &["c"], &["y"]).into());
    graph.outputs.push(value("y"));
    let (lifted, _) = Model::new(graph, 3, 8).lift_constants().unwrap();
    assert_eq!(lifted.graph.inputs[0].name(), "c");
    assert_eq!(lifted.graph.feeds().count(), 0);
}
