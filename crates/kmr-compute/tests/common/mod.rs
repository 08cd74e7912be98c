//! Small models for tests.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::sync::Arc;

use kmr_compute::{ComputeError, Engine, Feeds, Interpreter, Mode, Program};
use kmr_model::{DType, Dimension, Graph, Initializer, Model, Node, Tensor, ValueInfo};

/// A float32 tensor.
pub fn floats(shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), values.to_vec())
}

/// An int64 tensor.
pub fn integers(shape: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_vec(shape.to_vec(), values.to_vec())
}

/// Numbers around zero that need no generator crate.
pub fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values = (0..shape.iter().product()).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    Tensor::from_vec(shape.to_vec(), values.collect())
}

/// A model of these nodes, whose inputs are declared as `inputs` are, with any batch.
pub fn model(
    opset: i64,
    nodes: Vec<Node>,
    inputs: &[(&str, Tensor)],
    initializers: &[(&str, Tensor)],
    outputs: &[&str],
) -> Model {
    let mut graph = Graph::new("test");
    for (name, tensor) in initializers {
        let initializer = Initializer::from(tensor.clone());
        graph.initializers.insert((*name).to_owned(), initializer);
    }
    for (name, tensor) in inputs {
        let shape: Vec<Dimension> = tensor
            .shape()
            .iter()
            .enumerate()
            .map(|(axis, &size)| match axis {
                0 => Dimension::Named("batch".into()),
                _ => Dimension::Fixed(size),
            })
            .collect();
        graph.inputs.push(ValueInfo::tensor(name, tensor.dtype(), &shape));
    }
    let outputs = outputs.iter();
    graph.outputs = outputs.map(|name| ValueInfo::tensor(name, DType::FLOAT, &[])).collect();
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    Model::new(graph, 8, opset)
}

/// The program of a model.
pub fn load(model: &Model) -> Box<dyn Program> {
    Interpreter.load(model).unwrap()
}

/// Feeds by name.
pub fn feeds(values: &[(&str, Tensor)]) -> Feeds {
    values
        .iter()
        .map(|(name, tensor)| ((*name).to_owned(), tensor.clone()))
        .collect()
}

/// Runs one node on inputs named `a`, `b`, `c`…; an absent one is `None`.
pub fn run_node(
    opset: i64,
    operator: &str,
    inputs: &[Option<Tensor>],
    outputs: usize,
    attributes: impl FnOnce(Node) -> Node,
) -> Result<Vec<Tensor>, ComputeError> {
    let all = ["a", "b", "c", "d", "e", "f"];
    let names: Vec<&str> = inputs
        .iter()
        .zip(all)
        .map(|(input, name)| if input.is_some() { name } else { "" })
        .collect();
    let results = ["y0", "y1", "y2"];
    let results = &results[..outputs];
    let node = attributes(Node::new(operator, "the node", &names, results));
    let present: Vec<(&str, Tensor)> = inputs
        .iter()
        .zip(all)
        .filter_map(|(input, name)| Some((name, input.clone()?)))
        .collect();
    // Once fed and once as initializers: what is constant goes another way.
    let fed = load(&model(opset, vec![node.clone()], &present, &[], results));
    let fed = fed.forward(&feeds(&present), &[], Mode::default());
    let folded = load(&model(opset, vec![node], &[], &present, results));
    let folded = folded.forward(&Feeds::new(), &[], Mode::default());
    if let (Ok(fed), Ok(folded)) = (&fed, &folded) {
        let bytes = |tensors: &[Tensor]| -> Vec<_> {
            tensors
                .iter()
                .map(|t| (t.shape().to_vec(), t.bytes().clone()))
                .collect()
        };
        assert_eq!(bytes(fed), bytes(folded));
    } else {
        assert_eq!(fed, folded);
    }
    fed
}
