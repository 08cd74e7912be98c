//! Gradients of whole models against those of PyTorch, see `fixtures/gradients.py`.

mod common;

use std::{collections::BTreeMap, path::Path};

use common::{feeds, load};
use kmr_compute::{BatchNorm, Mode};
use kmr_model::{Model, Tensor};

/// What a line of the fixture says of a tensor.
struct Expected {
    length: f64,
    projection: f64,
    first: Vec<f64>,
}

/// The lines of a model and a mode, by tensor.
fn expected(model: &str, mode: &str) -> BTreeMap<String, Expected> {
    let text = include_str!("fixtures/gradients.txt");
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split(' ');
        if (words.next(), words.next()) != (Some(model), Some(mode)) {
            return None;
        }
        let name = words.next()?.to_owned();
        let numbers: Vec<f64> = words.map(|word| word.parse().unwrap()).collect();
        let expected = Expected {
            length: numbers[0],
            projection: numbers[1],
            first: numbers[2..].to_vec(),
        };
        Some((name, expected))
    });
    lines.collect()
}

fn wave(position: usize) -> f64 {
    (position as f64 + 1.0).sin()
}

/// Compares what a pass gives with the fixture. `tolerance` is relative to the gradient's length: sums over a batch are
/// rounded in another order than PyTorch's.
fn check(name: &str, path: &Path, shape: &[usize], tolerance: f64) {
    let model = Model::decode(std::fs::read(path).unwrap().into()).unwrap();
    let program = load(&model);
    let input = model.graph.feeds().next().unwrap().name().to_owned();
    let count: usize = shape.iter().product();
    let values = (0..count).map(|k| (7919 * k % 1000) as f32 / 1000.0 - 0.3).collect();
    let given = feeds(&[(input.as_str(), Tensor::from_vec(shape.to_vec(), values))]);
    for (label, batch_norm) in [("running", BatchNorm::Running), ("batch", BatchNorm::Batch)] {
        let mode = Mode {
            batch_norm,
            ..Mode::default()
        };
        let mut expected = expected(name, label);
        let longest = expected.values().map(|line| line.length).fold(0.0, f64::max);
        let statistics: Vec<&String> = model
            .graph
            .nodes
            .iter()
            .filter(|node| node.is("BatchNormalization"))
            .flat_map(|node| &node.inputs()[3..5])
            .collect();
        let trainable: Vec<&str> = expected
            .keys()
            .filter(|name| !statistics.contains(name))
            .map(String::as_str)
            .collect();
        let pullback = program.pullback(&given, &[], &trainable, mode).unwrap();
        let output = &pullback.outputs()[0];
        let cotangent = (0..output.len()).map(|k| wave(k) as f32).collect();
        let cotangent = Tensor::from_vec(output.shape().to_vec(), cotangent);
        let moved: Vec<(String, Tensor)> = pullback.moved().to_vec();
        assert_eq!(moved.is_empty(), label == "running" || statistics.is_empty());
        let found = pullback.pull(vec![cotangent]).unwrap();
        let found: Vec<(String, Tensor)> = found.into_iter().chain(moved).collect();
        for (tensor, found) in found {
            let found = found.values::<f32>().unwrap();
            let wanted = expected.remove(&tensor).unwrap();
            let length = found.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let projection: f64 = found.iter().enumerate().map(|(k, v)| f64::from(*v) * wave(k)).sum();
            // A gradient that is zero but for rounding has no length of its own to compare with.
            let scale = wanted.length.max(longest * 1e-3);
            let close = |found: f64, wanted: f64| {
                let fits = (found - wanted).abs() < tolerance * scale;
                assert!(
                    fits,
                    "{name} {label} {tensor}: {found} is not {wanted}, of a length of {scale}"
                );
            };
            close(length, wanted.length);
            close(projection, wanted.projection);
            for (found, wanted) in found.iter().zip(&wanted.first) {
                close(f64::from(*found), *wanted);
            }
        }
        assert!(expected.is_empty(), "{name} {label}: nothing for {:?}", expected.keys());
    }
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn a_residual_block_as_pytorch() {
    check("residual", &fixture("residual.onnx"), &[4, 3, 9, 9], 1e-4);
}

#[test]
fn a_transformer_block_as_pytorch() {
    check("encoder", &fixture("encoder.onnx"), &[2, 5, 12], 1e-4);
}

#[test]
fn a_residual_network_as_pytorch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fashion-mnist/resnet20.onnx");
    check("resnet20", &path, &[8, 1, 28, 28], 1e-3);
}
