//! Which tensors training moves, on networks of the kinds that people train.

mod silence;
mod zoo;

use std::collections::BTreeSet;

use kmr_model::{DType, Model, codec::DecodeOptions, parameters::parameters, weights::weights};

fn names(model: &Model) -> Vec<String> {
    parameters(&model.graph)
        .into_iter()
        .map(|parameter| parameter.tensor)
        .collect()
}

#[test]
fn every_weight_is_a_parameter_and_no_statistic_is() {
    for network in zoo::networks() {
        let graph = &network.model.graph;
        let found: BTreeSet<String> = names(&network.model).into_iter().collect();
        for weight in weights(graph) {
            let inside = weight
                .readers
                .iter()
                .all(|reader| graph.node(&reader.node).is_none_or(|node| node.has_subgraph()));
            let float = graph
                .tensor(&weight.tensor)
                .is_some_and(|tensor| tensor.dtype() == DType::FLOAT);
            if float && !inside {
                assert!(found.contains(&weight.tensor), "{}: {}", network.name, weight.tensor);
            }
        }
        for node in graph.nodes.iter().filter(|node| node.is("BatchNormalization")) {
            for statistic in &node.inputs()[3..5] {
                assert!(!found.contains(statistic), "{}: {statistic}", network.name);
            }
        }
    }
}

#[test]
fn the_parameters_of_a_resnet() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/fashion-mnist/resnet20.onnx"
    );
    let model = DecodeOptions::default()
        .decode(std::fs::read(path).unwrap().into())
        .unwrap();
    let found = names(&model);
    // 21 convolutions, a scale and a bias for each, the last layer; not the mean and deviation of pixels.
    assert_eq!(found.len(), 21 * 3 + 2, "{found:?}");
    assert_eq!(found.first().map(String::as_str), Some("conv1.weight"));
    assert_eq!(found.last().map(String::as_str), Some("fc.bias"));
    let count: usize = found
        .iter()
        .filter_map(|name| model.graph.tensor(name))
        .map(|tensor| tensor.len())
        .sum();
    // As many as the training code counts.
    assert_eq!(count, 272_186);
}
