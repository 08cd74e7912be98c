//! A host for tests, small and exact: models of a few operators, trained in float64.

mod host;
mod session;
mod tape;

use std::sync::Arc;

use kmr_sdk::model::{DType, Dimension, Graph, Model, Node, Tensor, ValueInfo};

pub use host::{Sample, ToyHost};
pub use kmr_testkit::noise;
pub use tape::evaluate;

/// A model with the input `x` `[N, inputs]` and the output `logits`.
pub fn model(inputs: usize, tensors: Vec<(&str, Tensor)>, nodes: Vec<Node>) -> Model {
    let mut graph = Graph::new("test");
    let rows = || Dimension::Named("N".into());
    graph.inputs = vec![ValueInfo::tensor(
        "x",
        DType::FLOAT,
        &[rows(), Dimension::Fixed(inputs)],
    )];
    graph.outputs = vec![ValueInfo::untyped("logits")];
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    for (name, tensor) in tensors {
        graph.initializers.insert(name.into(), tensor.into());
    }
    let model = Model::new(graph, 10, 21);
    model.graph.check().unwrap();
    model
}

/// Two layers with `hidden` units between them, four inputs and three classes: `first.weight`, `first.bias`,
/// `second.weight`, `second.bias`; the inner value `hidden`.
pub fn network(hidden: usize, seed: u64) -> Model {
    let weight = |shape: [usize; 2], seed| Tensor::from_vec(shape.to_vec(), noise(shape[0] * shape[1], seed));
    model(
        4,
        vec![
            ("first.weight", weight([4, hidden], seed)),
            ("first.bias", Tensor::from_vec(vec![hidden], noise(hidden, seed + 1))),
            ("second.weight", weight([hidden, 3], seed + 2)),
            ("second.bias", Tensor::from_vec(vec![3], noise(3, seed + 3))),
        ],
        vec![
            Node::new("MatMul", "first", &["x", "first.weight"], &["product"]),
            Node::new("Add", "", &["product", "first.bias"], &["sum"]),
            Node::new("Relu", "", &["sum"], &["hidden"]),
            Node::new(
                "Gemm",
                "second",
                &["hidden", "second.weight", "second.bias"],
                &["logits"],
            ),
        ],
    )
}

/// Samples of four numbers, labeled by which of the first three is the greatest.
pub fn samples(count: usize) -> Vec<Sample> {
    (0..count)
        .map(|at| {
            let values = noise(4, at as u64 + 100);
            let label = (0..3).max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap_or(0);
            (values, Some(label as i64))
        })
        .collect()
}
