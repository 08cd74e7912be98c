//! Short names and shared tensors change bytes, and nothing that a model computes.

use std::collections::BTreeSet;

use bytes::Bytes;
use kmr_model::{
    DType, Dimension, Graph, Initializer, Layout, Model, Node, Tensor, ValueInfo,
    compact::{shared_initializers, short_names},
    proto,
};

fn value(name: &str, size: usize) -> ValueInfo {
    ValueInfo::tensor(name, DType::FLOAT, &[Dimension::Fixed(size)])
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::from_vec(vec![values.len()], values.to_vec())
}

/// `y = Relu(x + scale_one) * scale_two`, and an If whose branches read what lies around them.
fn model() -> Model {
    let mut graph = Graph::new("a graph with a long name");
    graph.inputs.push(value("x", 2));
    graph.inputs.push(ValueInfo::tensor("which", DType::BOOL, &[]));
    graph.outputs.push(value("y", 2));
    graph.value_info.push(value("the_sum_of_both", 2));
    for (name, values) in [("scale_one", [2.0, 3.0]), ("scale_two", [2.0, 3.0]), ("a", [5.0, 6.0])] {
        graph
            .initializers
            .insert(name.into(), Initializer::from(floats(&values)));
    }
    let branch = |name: &str, node: Node| {
        let mut branch = Graph::new(name);
        branch.outputs.push(value(node.id(), 2));
        branch.nodes.push(node.into());
        branch
    };
    let taken = branch(
        "taken",
        Node::new("Mul", "named", &["the_sum_of_both", "scale_two"], &["product"]),
    );
    let other = branch("other", Node::new("Sub", "", &["the_sum_of_both", "a"], &["product"]));
    let choice = Node::new("If", "choice", &["which"], &["chosen_value"])
        .with_subgraph("then_branch", &taken)
        .with_subgraph("else_branch", &other);
    for node in [
        Node::new("Add", "sum", &["x", "scale_one"], &["the_sum_of_both"]),
        choice,
        Node::new("Clip", "", &["chosen_value", "", "scale_two"], &["y"]),
    ] {
        graph.nodes.push(node.into());
    }
    Model::new(graph, 8, 17)
}

fn inputs(node: &Node) -> Vec<&str> {
    node.inputs().iter().map(String::as_str).collect()
}

#[test]
fn names_are_short_and_lead_to_the_same_values() {
    let model = short_names(&model()).unwrap();
    let graph = &model.graph;
    assert_eq!((graph.inputs[0].name(), graph.outputs[0].name()), ("x", "y"));
    assert!(graph.value_info.is_empty());
    let [sum, choice, clip] = &graph.nodes[..] else {
        panic!("three nodes")
    };
    assert!(graph.nodes.iter().all(|node| node.name().is_empty()));
    let scales: Vec<&str> = graph.initializers.keys().map(String::as_str).collect();
    assert_eq!(inputs(sum), ["x", scales[0]]);
    assert_eq!(inputs(clip), [choice.id(), "", scales[1]]);
    let then = choice.subgraph("then_branch").unwrap().unwrap();
    let other = choice.subgraph("else_branch").unwrap().unwrap();
    assert_eq!(inputs(&then.nodes[0]), [sum.id(), scales[1]]);
    assert_eq!(inputs(&other.nodes[0]), [sum.id(), scales[2]]);
    assert_eq!(then.outputs[0].name(), then.nodes[0].id());
    let named: BTreeSet<&str> = scales.iter().copied().chain([sum.id(), choice.id()]).collect();
    assert!(named.len() == 5 && named.iter().all(|name| name.len() == 1 && !["x", "y"].contains(name)));
    // The fourth name is the branches' product, which both of them give to a value of their own.
    assert_eq!(then.nodes[0].id(), other.nodes[0].id());
}

#[test]
fn short_names_cannot_become_shorter_and_are_read_back() {
    let once = short_names(&model()).unwrap();
    assert!(once.encoded_len() < model().encoded_len());
    assert_eq!(short_names(&once).unwrap(), once);
    let bytes = Bytes::from(once.encode_to_vec());
    assert_eq!(bytes.len() as u64, once.encoded_len());
    assert_eq!(Model::decode(bytes).unwrap().encode_to_vec(), once.encode_to_vec());
}

#[test]
fn equal_tensors_are_stored_once() {
    let shared = shared_initializers(&model()).unwrap();
    let names: Vec<&str> = shared.graph.initializers.keys().map(String::as_str).collect();
    assert_eq!(names, ["scale_one", "a"]);
    assert_eq!(inputs(&shared.graph.nodes[2]), ["chosen_value", "", "scale_one"]);
    let then = shared.graph.nodes[1].subgraph("then_branch").unwrap().unwrap();
    assert_eq!(inputs(&then.nodes[0]), ["the_sum_of_both", "scale_one"]);

    let mut apart = model();
    apart.graph.initializers.insert(
        "ints".into(),
        Initializer::from(Tensor::from_vec(vec![2], vec![0x4000_0000_i32, 0x4040_0000])),
    );
    apart.graph.initializers.insert(
        "column".into(),
        Initializer::from(floats(&[2.0, 3.0]).reshaped(vec![2, 1]).unwrap()),
    );
    let mut sparse = Initializer::from(floats(&[2.0, 3.0]));
    sparse.layout = Layout::Sparse;
    apart.graph.initializers.insert("sparse".into(), sparse);
    apart
        .graph
        .initializers
        .insert("declared".into(), Initializer::from(floats(&[2.0, 3.0])));
    apart.graph.inputs.push(value("declared", 2));
    let kept = shared_initializers(&apart).unwrap().graph.initializers.len();
    assert_eq!(
        kept,
        apart.graph.initializers.len() - 1,
        "type, shape, form and interface tell tensors apart"
    );
}

#[test]
fn what_others_may_look_for_stays() {
    let mut search = Node::new("Search", "search", &["x"], &["found"]);
    let mut body = Graph::new("body");
    body.inputs.push(value("input_ids", 2));
    body.outputs.push(value("logits", 2));
    body.nodes
        .push(Node::new("Relu", "", &["input_ids"], &["hidden_value"]).into());
    body.nodes
        .push(Node::new("Relu", "", &["hidden_value"], &["logits"]).into());
    search = search.with_subgraph("decoder", &body);
    let foreign = proto::NodeProto {
        domain: Some("com.example".into()),
        ..search.proto().clone()
    };
    let mut model = model();
    model.graph.value_info.push(value("found", 2));
    model.graph.nodes.push(Node::from_proto(foreign).unwrap().into());
    let short = short_names(&model).unwrap();
    let search = &short.graph.nodes[3];
    let body = search.subgraph("decoder").unwrap().unwrap();
    assert_eq!((body.inputs[0].name(), body.outputs[0].name()), ("input_ids", "logits"));
    assert_eq!(body.nodes[0].id().len(), 1);
    assert_eq!(
        short.graph.value_info[0].name(),
        search.id(),
        "only the declaration tells its type"
    );
}
