//! Upgrades, by the structure that they give; `upgrade_answers.py` compares answers.

use std::sync::Arc;

use bytes::Bytes;
use kmr_model::{DType, Dimension, Graph, Initializer, Model, Node, Tensor, ValueInfo, upgrade::upgrade};

/// A model of these nodes: `x` of shape [1, 4, 2, 2] is its input, the last node's outputs are its outputs.
fn model(opset: i64, nodes: Vec<Node>) -> Model {
    let shape = [1, 4, 2, 2].map(Dimension::Fixed);
    let last = nodes.last().unwrap();
    let mut graph = Graph::new("main");
    graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &shape)];
    graph.outputs = last
        .outputs()
        .iter()
        .filter(|name| !name.is_empty())
        .map(|name| ValueInfo::tensor(name, DType::FLOAT, &[]))
        .collect();
    for name in ["a", "b", "c", "d"] {
        let tensor = Tensor::from_vec(vec![4], vec![1.0_f32; 4]);
        graph.initializers.insert(name.into(), Initializer::from(tensor));
    }
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    Model::new(graph, 3, opset)
}

fn operators(model: &Model) -> Vec<&str> {
    model.graph.nodes.iter().map(|node| node.op_type()).collect()
}

/// The node that makes the last output, after an upgrade of a model of one node.
fn upgraded(from: i64, to: i64, node: Node) -> (Model, Arc<Node>) {
    let id = node.id().to_owned();
    let (model, _) = upgrade(&model(from, vec![node]), to).unwrap();
    model.graph.check().unwrap();
    assert_eq!(model.opset(), to);
    let again = Model::decode(Bytes::from(model.encode_to_vec())).unwrap();
    assert!(again.encode_to_vec() == model.encode_to_vec());
    let node = Arc::clone(model.graph.node(&id).unwrap());
    (model, node)
}

/// The integers of a Constant node.
fn constant(model: &Model, name: &str) -> Vec<i64> {
    let value = model
        .graph
        .node(name)
        .unwrap()
        .attribute("value")
        .unwrap()
        .t
        .as_option()
        .unwrap();
    kmr_model::codec::tensor_from_message(value).unwrap().to_i64().unwrap()
}

fn refusal(from: i64, to: i64, node: Node) -> String {
    upgrade(&model(from, vec![node]), to).unwrap_err().to_string()
}

#[test]
fn axes_become_inputs() {
    for (op, opset) in [
        ("ReduceSum", 13),
        ("Squeeze", 13),
        ("Unsqueeze", 13),
        ("ReduceMean", 18),
        ("ReduceL2", 18),
    ] {
        let node = Node::new(op, "", &["x"], &["y"]).with_ints("axes", &[0]);
        let (before, same) = upgraded(11, opset - 1, node.clone());
        assert_eq!((operators(&before), same.ints("axes")), (vec![op], Some(&[0][..])));
        let (model, node) = upgraded(11, opset, node);
        assert_eq!(operators(&model), ["Constant", op]);
        assert_eq!(constant(&model, node.input(1).unwrap()), [0]);
        assert!(node.attribute("axes").is_none());
    }
}

#[test]
fn pads_slices_splits_and_counts_become_inputs() {
    let pad = Node::new("Pad", "", &["x"], &["y"])
        .with_ints("pads", &[0; 8])
        .with_float("value", 1.5);
    let (model, pad) = upgraded(7, 25, pad);
    assert_eq!(constant(&model, pad.input(1).unwrap()), [0; 8]);
    assert!(pad.input(2).is_some());
    let slice = Node::new("Slice", "", &["x"], &["y"])
        .with_ints("starts", &[1])
        .with_ints("ends", &[3]);
    let (model, slice) = upgraded(9, 10, slice.with_ints("axes", &[1]));
    let read: Vec<_> = slice.inputs()[1..].iter().map(|name| constant(&model, name)).collect();
    assert_eq!(read, [[1], [3], [1]]);
    let split = Node::new("Split", "", &["x"], &["y", "z"]).with_int("axis", 1);
    let (_, equal) = upgraded(11, 18, split.clone());
    assert_eq!((equal.int("num_outputs"), equal.inputs().len()), (Some(2), 1));
    let (model, sized) = upgraded(11, 18, split.with_ints("split", &[1, 3]));
    assert_eq!(
        (sized.int("num_outputs"), constant(&model, &sized.inputs()[1])),
        (None, vec![1, 3])
    );
    let (model, top) = upgraded(9, 11, Node::new("TopK", "", &["x"], &["y", "z"]).with_int("k", 2));
    assert_eq!(constant(&model, &top.inputs()[1]), [2]);
}

#[test]
fn clip_keeps_its_old_ends() {
    let (model, clip) = upgraded(6 + 1, 13, Node::new("Clip", "", &["x"], &["y"]).with_float("min", 0.0));
    assert_eq!(operators(&model), ["Constant", "Constant", "Clip"]);
    let end = model.graph.node(&clip.inputs()[2]).unwrap().attribute("value").unwrap();
    let end = kmr_model::codec::tensor_from_message(end.t.as_option().unwrap()).unwrap();
    assert_eq!(end.to_f32().unwrap().as_ref(), [f32::MAX]);
}

#[test]
fn softmax_over_several_axes_normalizes_rows() {
    let (model, _) = upgraded(12, 13, Node::new("Softmax", "", &["x"], &["y"]));
    assert_eq!(operators(&model), ["Shape", "Flatten", "Softmax", "Reshape"]);
    assert_eq!(model.graph.nodes[1].int("axis"), Some(1));
    let (model, node) = upgraded(12, 13, Node::new("Softmax", "", &["x"], &["y"]).with_int("axis", 3));
    assert_eq!((operators(&model), node.int("axis")), (vec!["Softmax"], Some(-1)));
}

#[test]
fn upsample_is_a_resize_that_floors() {
    let mut node = Node::new("Upsample", "", &["x"], &["y"]).with_floats("scales", &[1.0, 1.0, 2.0, 2.0]);
    node = node.with_string("mode", "nearest");
    let (model, node) = upgraded(7, 21, node);
    assert_eq!(operators(&model), ["Constant", "Constant", "Resize"]);
    assert_eq!(node.string("coordinate_transformation_mode"), Some("asymmetric"));
    assert_eq!(node.string("nearest_mode"), Some("floor"));
    assert_eq!(node.inputs().len(), 3);
}

#[test]
fn normalization_loses_what_training_needed() {
    let norm = |outputs: &[&str]| Node::new("BatchNormalization", "n", &["x", "a", "b", "c", "d"], outputs);
    let (_, node) = upgraded(7, 15, norm(&["y", ""]).with_int("spatial", 1));
    assert_eq!((node.outputs().len(), node.attribute("spatial").is_none()), (1, true));
    assert_eq!(
        refusal(7, 9, norm(&["y"]).with_int("spatial", 0)),
        "node `n` (BatchNormalization): cannot be upgraded to operator set 9: its statistics are not per channel \
         (`spatial` is 0)"
    );
    assert!(refusal(9, 14, norm(&["y", "mean"])).contains("training mode"));
    assert!(refusal(7, 10, Node::new("Dropout", "", &["x"], &["y", "mask"])).contains("its mask is read"));
    let (model, node) = upgraded(
        7,
        22,
        Node::new("Dropout", "", &["x"], &["y"]).with_float("ratio", 0.25),
    );
    assert_eq!(
        (operators(&model), node.inputs().len()),
        (vec!["Constant", "Dropout"], 2)
    );
}

#[test]
fn what_has_no_known_way_is_refused_by_name() {
    let scan = Node::new("Scan", "loop", &["x"], &["y"]);
    assert_eq!(
        refusal(8, 9, scan),
        "node `loop` (Scan): cannot be upgraded to operator set 9: its definition changed there, in a way that is \
         not known here"
    );
    let relu = Node::new("Relu", "", &["x"], &["y"]);
    assert!(refusal(13, 12, relu.clone()).contains("operator set 13, which cannot become 12"));
    assert!(refusal(6, 12, relu.clone()).contains("operator set 6"));
    assert!(refusal(7, 26, relu).contains("cannot become 26"));
}

#[test]
fn foreign_and_unchanged_operators_pass_and_subgraphs_are_entered() {
    let mut branch = Graph::new("then");
    branch.nodes = vec![Arc::new(
        Node::new("ReduceSum", "", &["x"], &["r"]).with_ints("axes", &[1]),
    )];
    branch.outputs = vec![ValueInfo::tensor("r", DType::FLOAT, &[])];
    let choose = Node::new("If", "", &["a"], &["y"]).with_subgraph("then_branch", &branch);
    let (_, node) = upgraded(11, 13, choose);
    let inner = node.subgraph("then_branch").unwrap().unwrap();
    let inner: Vec<_> = inner.nodes.iter().map(|node| node.op_type()).collect();
    assert_eq!(inner, ["Constant", "ReduceSum"]);
    let (model, changes) = upgrade(&model(8, vec![Node::new("Relu", "", &["x"], &["y"])]), 21).unwrap();
    assert_eq!(
        (operators(&model), changes.len(), model.ir_version()),
        (vec!["Relu"], 0, 10)
    );
}
