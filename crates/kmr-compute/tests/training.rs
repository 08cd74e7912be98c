//! What training needs beside derivatives: rounding that lets them through, dropout, moved statistics.

mod common;

use std::collections::BTreeMap;

use common::{feeds, floats, load, model, noise};
use kmr_compute::{BatchNorm, ErrorKind, Mode};
use kmr_model::{Model, Node, Tensor};

const STRAIGHT: Mode = Mode {
    batch_norm: BatchNorm::Running,
    straight_through: true,
    dropout: None,
};

/// y = DequantizeLinear(QuantizeLinear(x, scale, zero), scale, zero)
fn rounded(x: &Tensor, scale: &Tensor, zero: Tensor, axis: i64) -> Model {
    let inputs = ["x", "scale", "zero"];
    let quantize = Node::new("QuantizeLinear", "q", &inputs, &["codes"]).with_int("axis", axis);
    let dequantize = Node::new("DequantizeLinear", "d", &["codes", "scale", "zero"], &["y"]).with_int("axis", axis);
    let others = [("scale", scale.clone()), ("zero", zero)];
    model(21, vec![quantize, dequantize], &[("x", x.clone())], &others, &["y"])
}

fn gradients(model: &Model, x: &Tensor, by: &[&str], cotangent: &[f32], mode: Mode) -> BTreeMap<String, Vec<f32>> {
    let program = load(model);
    let pullback = program.pullback(&feeds(&[("x", x.clone())]), &["y"], by, mode).unwrap();
    let shape = pullback.outputs()[0].shape().to_vec();
    let pulled = pullback.pull(vec![floats(&shape, cotangent)]).unwrap();
    let pulled = pulled.into_iter();
    pulled
        .map(|(name, gradient)| (name, gradient.values::<f32>().unwrap().into_owned()))
        .collect()
}

#[test]
fn rounding_lets_derivatives_through_inside_of_its_range() {
    // Codes of uint8 with a zero point of 2: from -2 to 253 steps of 0.5.
    let x = floats(&[4], &[0.6, -5.0, 300.0, 1.0]);
    let scale = Tensor::scalar(0.5_f32);
    let model = rounded(&x, &scale, Tensor::scalar(2_u8), 0);
    let pulled = gradients(&model, &x, &["x", "scale"], &[1.0, 2.0, 3.0, 4.0], STRAIGHT);
    assert_eq!(pulled["x"], [1.0, 0.0, 0.0, 4.0]);
    // Equation 3 of "Learned Step Size Quantization": round(v) - v inside, the bound outside.
    let expected = 1.0 * (1.0 - 1.2) + 2.0 * -2.0 + 3.0 * 253.0 + 4.0 * 0.0;
    assert!((pulled["scale"][0] - expected).abs() < 1e-4, "{:?}", pulled["scale"]);
}

#[test]
fn each_channel_has_its_own_step() {
    let x = floats(&[2, 2], &[0.3, 0.9, -0.3, 40.0]);
    let scale = floats(&[2], &[0.25, 0.1]);
    let zero = Tensor::from_vec(vec![2], vec![0_i8; 2]);
    let model = rounded(&x, &scale, zero, 0);
    let pulled = gradients(&model, &x, &["x", "scale"], &[1.0; 4], STRAIGHT);
    assert_eq!(pulled["x"], [1.0, 1.0, 1.0, 0.0]);
    let expected = [(1.0 - 1.2) + (4.0 - 3.6), (-3.0 + 3.0) + 127.0];
    for (found, expected) in pulled["scale"].iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4, "{:?}", pulled["scale"]);
    }
}

#[test]
fn rounding_has_no_derivative_where_nobody_asked_for_one() {
    let x = floats(&[2], &[0.6, 1.0]);
    let model = rounded(&x, &Tensor::scalar(0.5_f32), Tensor::scalar(2_u8), 0);
    let program = load(&model);
    let refused = program.pullback(&feeds(&[("x", x)]), &["y"], &["x"], Mode::default());
    assert_eq!(refused.err().unwrap().kind(), ErrorKind::Unsupported);
}

#[test]
fn integers_between_rounding_and_its_end_lose_no_derivative_in_silence() {
    let x = floats(&[2, 2], &[0.6, 1.0, 2.0, -1.0]);
    let inputs = ["x", "scale", "zero"];
    let nodes = vec![
        Node::new("QuantizeLinear", "q", &inputs, &["codes"]),
        Node::new("Transpose", "turn", &["codes"], &["turned"]),
        Node::new("DequantizeLinear", "d", &["turned", "scale", "zero"], &["y"]),
    ];
    let others = [("scale", Tensor::scalar(0.5_f32)), ("zero", Tensor::scalar(2_u8))];
    let program = load(&model(21, nodes, &[("x", x.clone())], &others, &["y"]));
    let refused = program.pullback(&feeds(&[("x", x)]), &["y"], &["x"], STRAIGHT);
    let error = refused.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("by the integers of `codes`"), "{error}");
}

#[test]
fn round_itself_counts_as_the_identity() {
    let x = floats(&[3], &[0.4, 1.6, -2.5]);
    let model = model(
        21,
        vec![Node::new("Round", "r", &["x"], &["y"])],
        &[("x", x.clone())],
        &[],
        &["y"],
    );
    assert_eq!(
        gradients(&model, &x, &["x"], &[1.0, 2.0, 3.0], STRAIGHT)["x"],
        [1.0, 2.0, 3.0]
    );
    assert_eq!(
        gradients(&model, &x, &["x"], &[1.0, 2.0, 3.0], Mode::default())["x"],
        [0.0; 3]
    );
}

fn dropping(seed: u64) -> Mode {
    Mode {
        dropout: Some(seed),
        ..Mode::default()
    }
}

#[test]
fn dropout_keeps_the_mean_and_its_derivative_the_same_elements() {
    let count = 100_000;
    let x = floats(&[count], &vec![1.0; count]);
    let ratio = Tensor::scalar(0.25_f32);
    let node = Node::new("Dropout", "drop", &["x", "ratio"], &["y"]);
    let model = model(21, vec![node], &[("x", x.clone())], &[("ratio", ratio)], &["y"]);
    let program = load(&model);
    let run = |mode| {
        program
            .pullback(&feeds(&[("x", x.clone())]), &["y"], &["x"], mode)
            .unwrap()
    };
    let pullback = run(dropping(3));
    let y = pullback.outputs()[0].values::<f32>().unwrap().into_owned();
    let kept = y.iter().filter(|value| **value != 0.0).count();
    // Five standard deviations are 685.
    assert!((74_315..75_685).contains(&kept), "{kept}");
    assert!(y.iter().all(|value| *value == 0.0 || (*value - 4.0 / 3.0).abs() < 1e-6));
    let pulled = pullback.pull(vec![x.clone()]).unwrap();
    assert_eq!(pulled["x"].values::<f32>().unwrap().into_owned(), y);
    let again = run(dropping(3)).outputs()[0].values::<f32>().unwrap().into_owned();
    let other = run(dropping(4)).outputs()[0].values::<f32>().unwrap().into_owned();
    assert!(again == y && other != y);
    assert!(
        run(Mode::default()).outputs()[0] == x,
        "nothing is dropped without a seed"
    );
}

#[test]
fn statistics_of_the_batch_move_the_running_ones() {
    let x = floats(&[2, 1, 2], &[1.0, 3.0, 5.0, 7.0]);
    let parameter = |value: f32| floats(&[1], &[value]);
    let others = [
        ("scale", parameter(1.0)),
        ("bias", parameter(0.0)),
        ("mean", parameter(10.0)),
        ("variance", parameter(2.0)),
    ];
    let node = Node::new(
        "BatchNormalization",
        "n",
        &["x", "scale", "bias", "mean", "variance"],
        &["y"],
    );
    let model = model(
        21,
        vec![node.with_float("momentum", 0.75)],
        &[("x", x.clone())],
        &others,
        &["y"],
    );
    let program = load(&model);
    let mode = Mode {
        batch_norm: BatchNorm::Batch,
        ..Mode::default()
    };
    let pullback = program.pullback(&feeds(&[("x", x)]), &["y"], &[], mode).unwrap();
    let moved: BTreeMap<&str, f32> = pullback
        .moved()
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.values::<f32>().unwrap()[0]))
        .collect();
    // Mean 4, population variance 5.
    assert_eq!(moved, BTreeMap::from([("mean", 8.5), ("variance", 2.75)]));
}

#[test]
fn gradients_do_not_depend_on_the_number_of_threads() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fashion-mnist/resnet20.onnx");
    let model = Model::decode(std::fs::read(path).unwrap().into()).unwrap();
    let names: Vec<&str> = model
        .graph
        .initializers
        .keys()
        .map(String::as_str)
        .filter(|name| !name.contains("running"))
        .collect();
    let x = noise(&[30, 1, 28, 28], 5);
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mode = Mode {
                batch_norm: BatchNorm::Batch,
                ..Mode::default()
            };
            let pullback = load(&model)
                .pullback(&feeds(&[("image", x.clone())]), &[], &names, mode)
                .unwrap();
            let moved = pullback.moved().to_vec();
            let cotangent = noise(pullback.outputs()[0].shape(), 6);
            (pullback.pull(vec![cotangent]).unwrap(), moved)
        })
    };
    let one = with(1);
    for threads in [2, 3, 4] {
        assert!(with(threads) == one, "{threads} threads");
    }
}
