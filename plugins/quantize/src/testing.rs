//! Small graphs for tests.

use std::collections::BTreeMap;

use kmr_compute::{Engine, Interpreter, Mode};
use kmr_sdk::model::{
    DType, Dimension, Graph, Model, Node, Tensor, ValueInfo,
    shapes::{self, Shapes},
};

/// A graph from `x` of this shape to `y`.
pub fn graph(shape: &[usize], initializers: &[(&str, Tensor)], nodes: Vec<Node>) -> Graph {
    let mut graph = Graph::new("test");
    let dimensions: Vec<Dimension> = shape.iter().map(|&size| Dimension::Fixed(size)).collect();
    graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &dimensions)];
    graph.outputs = vec![ValueInfo::untyped("y")];
    for (name, tensor) in initializers {
        graph.initializers.insert((*name).into(), tensor.clone().into());
    }
    graph.nodes = nodes.into_iter().map(Into::into).collect();
    graph.check().unwrap();
    graph
}

/// A node that is called as its output.
pub fn node(op_type: &str, inputs: &[&str], output: &str) -> Node {
    Node::new(op_type, output, inputs, &[output])
}

/// So many numbers in [-1, 1).
pub fn numbers(count: usize) -> Vec<f32> {
    let number = |at: usize| ((at * 2_654_435_761) >> 7) % 1024;
    (0..count).map(|at| number(at + 1) as f32 / 512.0 - 1.0).collect()
}

/// A tensor of such numbers.
pub fn tensor(shape: &[usize]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), numbers(shape.iter().product()))
}

/// The sizes of all values of `graph`.
pub fn sizes(graph: &Graph) -> Shapes {
    shapes::infer(&Model::new(graph.clone(), 10, 21), &BTreeMap::new()).unwrap()
}

/// What `graph` answers to `x`.
pub fn answer(graph: &Graph, x: &Tensor) -> Vec<f32> {
    let program = Interpreter.load(&Model::new(graph.clone(), 10, 21)).unwrap();
    let feeds = BTreeMap::from([("x".into(), x.clone())]);
    let answers = program.forward(&feeds, &[], Mode::default()).unwrap();
    answers[0].to_f32().unwrap().into_owned()
}

/// How far two answers are apart at most.
pub fn apart(one: &[f32], other: &[f32]) -> f32 {
    assert_eq!(one.len(), other.len());
    one.iter().zip(other).fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

/// The operators of `graph`, in its order.
pub fn operators(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.op_type()).collect()
}
