//! What `transformers` computes is what the models compute.

use kmr_compute::{Engine, Feeds, Interpreter, Mode};
use kmr_formats::{NamedArrays, read_npz};
use kmr_huggingface::open;
use kmr_model::{DType, Model, Tensor};

use crate::folders;

/// The output of a model on the inputs of one case of a fixture.
pub fn output(model: &Model, stored: &NamedArrays, case: &str) -> Tensor {
    let name = model.graph.outputs[0].name();
    let feeds: Feeds = model
        .graph
        .feeds()
        .map(|feed| {
            (
                feed.name().to_owned(),
                stored[&format!("{case}.{}", feed.name())].clone(),
            )
        })
        .collect();
    let program = Interpreter.load(model).unwrap();
    program.forward(&feeds, &[name], Mode::default()).unwrap().remove(0)
}

/// The largest difference at tokens that are no padding, as a part of the largest number.
fn difference(found: &Tensor, expected: &Tensor, mask: &Tensor) -> f32 {
    assert_eq!(found.shape(), expected.shape());
    let (found, expected) = (found.to_f32().unwrap(), expected.to_f32().unwrap());
    let mask = mask.to_i64().unwrap();
    let width = found.len() / mask.len();
    let tokens = found.len() > mask.len() && found.len().is_multiple_of(mask.len());
    let seen = |at: usize| !tokens || mask[at / width] == 1;
    let pairs = found.iter().zip(expected.iter()).enumerate();
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let differences = pairs.filter(|(at, _)| seen(*at)).map(|(_, (a, b))| (a - b).abs());
    assert!(found.iter().all(|value| value.is_finite()));
    differences.fold(0.0, f32::max) / largest
}

#[test]
fn answers_are_those_of_transformers() {
    for name in folders::NAMES {
        let folder = folders::path(name);
        let model = open(&folder).unwrap().model;
        let stored = read_npz(&folder.join("expected.npz")).unwrap();
        for case in ["a", "b"] {
            let found = output(&model, &stored, case);
            let (expected, mask) = (
                &stored[&format!("{case}.output")],
                &stored[&format!("{case}.attention_mask")],
            );
            let difference = difference(&found, expected, mask);
            assert!(difference < 2e-5, "{name} {case}: {difference}");
        }
    }
}

#[test]
fn shapes_are_known_whatever_the_batch_and_the_length() {
    for name in folders::NAMES {
        let model = open(&folders::path(name)).unwrap().model;
        let shapes = kmr_model::shapes::infer_symbolic(&model).unwrap();
        for node in &model.graph.nodes {
            let known = shapes.partial(node.id());
            assert!(
                known.is_some_and(|known| known.shape.is_some()),
                "{name}: {}",
                node.id()
            );
        }
        let output = model.graph.outputs[0].clone();
        assert_eq!(output.dtype(), Some(DType::FLOAT));
    }
}

#[test]
fn positions_are_those_that_texts_may_have() {
    let positions = |name: &str| kmr_huggingface::read_config(&folders::path(name)).unwrap().positions();
    assert_eq!(positions("bert"), Some(20));
    assert_eq!(positions("distilbert"), Some(20));
    // Two rows come before the first token's.
    assert_eq!(positions("roberta"), Some(18));
    assert_eq!(positions("llama"), None);
    let opened = open(&folders::path("roberta")).unwrap();
    assert_eq!(opened.config.positions(), Some(18));
}
