//! Networks of other kinds than the example, brought within a budget without labels.
//!
//! They are made by `tests/fixtures/networks/make.py`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use kmr_formats::{read_npz, write_npz};
use kmr_model::{DType, Dimension, Graph, Initializer, Model, Node, Tensor, ValueInfo};
use kmr_tests::{Bench, kmr, root};

/// Seeded numbers in [0, 1).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + self.next() * (high - low)
    }
}

/// Inputs `[samples, channels, ...positions]`: each channel a plane wave of its own strength.
fn waves(seed: u64, samples: usize, shape: &[usize]) -> Tensor {
    let mut random = Numbers(seed);
    let (channels, positions) = (shape[0], &shape[1..]);
    let mut values = Vec::new();
    for _ in 0..samples {
        let frequencies: Vec<f32> = positions.iter().map(|_| random.between(0.0, 1.5)).collect();
        let phase = random.between(0.0, 6.3);
        for _ in 0..channels {
            let (strength, level) = (random.between(-1.0, 1.0), random.between(-0.5, 0.5));
            for position in 0..positions.iter().product() {
                let mut rest = position;
                let mut angle = phase;
                for (size, frequency) in positions.iter().zip(&frequencies).rev() {
                    angle += (rest % size) as f32 * frequency;
                    rest /= size;
                }
                values.push(strength * angle.sin() + level);
            }
        }
    }
    Tensor::from_vec([&[samples], shape].concat(), values)
}

fn network(name: &str) -> PathBuf {
    root().join("tests/fixtures/networks").join(name)
}

/// A pruning run on the model at `path`, until the file is at most `at_most` of what it was.
fn bench(path: &Path, shape: &[usize], at_most: &str) -> Bench {
    let bench = Bench::new(&format!(
        r#"
schema = 1

[model]
path = "{}"

[data]
calibration = {{ path = "calibration.npz" }}
search = {{ path = "search.npz" }}
holdout = {{ path = "holdout.npz" }}

[budget]
meter = "size_bytes"
at_most = "{at_most}"

[quality]
meter = "cosine"
drop_at_most = 0.35

[[stage]]
name = "shrink"

[[stage.rule]]
use = "prune"
knobs.channel_sparsity = {{ values = [0.0, 0.25, 0.5], per = "layer" }}

[meters]
report = ["agreement", "kl", "sqnr", "cosine"]
"#,
        path.display()
    ));
    for (seed, (split, samples)) in [("calibration", 16), ("search", 48), ("holdout", 96)]
        .iter()
        .enumerate()
    {
        let inputs = waves(seed as u64 + 1, *samples, shape);
        write_npz(&bench.path(&format!("{split}.npz")), [("x", &inputs)]).unwrap();
    }
    bench
}

/// The answers of a model to the holdout.
fn answers(bench: &Bench, model: &Path) -> Tensor {
    let (inputs, outputs) = (bench.path("holdout.npz"), bench.path("answers.npz"));
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = [
        "infer",
        &text(model),
        "--inputs",
        &text(&inputs),
        "--outputs",
        &text(&outputs),
    ];
    kmr(&arguments).expect(0, &[]);
    read_npz(&outputs).unwrap()["y"].clone()
}

/// The run meets its budget to the byte, with parameters really gone, and says the truth of the answers.
#[track_caller]
fn meets_its_budget(bench: &Bench, name: &str) {
    bench.run(&[]).expect(0, &["budget met"]);
    let report = bench.report();
    let artifact = bench.path("run/model.onnx");
    let bytes = fs::read(&artifact).unwrap();
    assert_eq!(report["budget"]["reached"].as_f64().unwrap(), bytes.len() as f64);
    assert!(bytes.len() as f64 <= report["budget"]["limit"].as_f64().unwrap());
    let original = fs::read(network(name)).unwrap();
    let elements = |bytes: Vec<u8>| -> usize {
        let model = Model::decode(Bytes::from(bytes)).unwrap();
        model.graph.initializers.values().map(|i| i.tensor.byte_len()).sum()
    };
    assert!(elements(bytes) < elements(original));

    let (before, after) = (answers(bench, &network(name)), answers(bench, &artifact));
    assert_eq!(before.shape(), after.shape());
    let samples = before.shape()[0];
    let (before, after) = (before.to_f32().unwrap(), after.to_f32().unwrap());
    let length = before.len() / samples;
    let product = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let cosines = before.chunks(length).zip(after.chunks(length));
    let cosines = cosines.map(|(a, b)| product(a, b) / (product(a, a) * product(b, b)).sqrt());
    let mean = cosines.sum::<f64>() / samples as f64;
    assert_eq!(report["quality"]["meter"], "cosine");
    let reported = report["quality"]["holdout"]["after"].as_f64().unwrap();
    assert!((mean - reported).abs() < 1e-6, "{mean} against {reported}");
}

#[test]
fn a_mobilenet_with_depthwise_convolutions_and_squeeze_and_excitation() {
    let bench = bench(&network("mobilenet.onnx"), &[3, 16, 16], "78%");
    meets_its_budget(&bench, "mobilenet.onnx");
    let report = bench.report();
    let macs = &report["meters"]["macs"];
    assert!(macs["after"].as_f64().unwrap() < 0.8 * macs["before"].as_f64().unwrap());
}

#[test]
fn a_densenet_with_concatenations() {
    let bench = bench(&network("densenet.onnx"), &[3, 16, 16], "75%");
    meets_its_budget(&bench, "densenet.onnx");
}

#[test]
fn a_unet_with_skip_connections() {
    let bench = bench(&network("unet.onnx"), &[1, 16, 16], "75%");
    meets_its_budget(&bench, "unet.onnx");
}

#[test]
fn an_lstm_behind_convolutions() {
    let bench = bench(&network("recurrent.onnx"), &[8, 24], "80%");
    meets_its_budget(&bench, "recurrent.onnx");
}

/// Two layers on one row `x`, times the number `gain`: no input has an axis of samples.
fn without_rows() -> Vec<u8> {
    let mut random = Numbers(9);
    let mut graph = Graph::new("without_rows");
    let row = [Dimension::Fixed(1), Dimension::Fixed(8)];
    graph.inputs.push(ValueInfo::tensor("x", DType::FLOAT, &row));
    graph.inputs.push(ValueInfo::tensor("gain", DType::FLOAT, &[]));
    let answer = [Dimension::Fixed(1), Dimension::Fixed(4)];
    graph.outputs.push(ValueInfo::tensor("y", DType::FLOAT, &answer));
    for (name, shape) in [("first", [8, 64]), ("second", [64, 4])] {
        let values = (0..shape[0] * shape[1]).map(|_| random.between(-1.0, 1.0)).collect();
        let tensor = Tensor::from_vec(shape.to_vec(), values);
        graph.initializers.insert(name.into(), Initializer::from(tensor));
    }
    for (operator, inputs, output) in [
        ("MatMul", ["x", "first"], "wide"),
        ("MatMul", ["active", "second"], "scores"),
        ("Mul", ["scores", "gain"], "y"),
    ] {
        graph.nodes.push(Arc::new(Node::new(operator, "", &inputs, &[output])));
        if output == "wide" {
            graph
                .nodes
                .push(Arc::new(Node::new("Relu", "", &["wide"], &["active"])));
        }
    }
    Model::new(graph, 8, 17).encode_to_vec()
}

#[test]
fn a_sample_may_be_a_whole_call() {
    let bench = bench(Path::new("model.onnx"), &[8], "75%");
    bench.write("model.onnx", &without_rows());
    for (seed, split) in ["calibration", "search", "holdout"].iter().enumerate() {
        let x = waves(seed as u64 + 1, 40, &[8]);
        let gain = waves(seed as u64 + 11, 40, &[1]).reshaped(vec![40]).unwrap();
        write_npz(&bench.path(&format!("{split}.npz")), [("x", &x), ("gain", &gain)]).unwrap();
    }
    bench.run(&[]).expect(0, &["budget met"]);
    assert_eq!(bench.report()["quality"]["holdout"]["samples"], 40);

    let whole = answers(&bench, &bench.path("model.onnx"));
    assert_eq!(whole.shape(), [40, 1, 4]);
    let gains = read_npz(&bench.path("holdout.npz")).unwrap()["gain"].clone();
    let ones = Tensor::from_vec(vec![40], vec![1.0_f32; 40]);
    let x = read_npz(&bench.path("holdout.npz")).unwrap()["x"].clone();
    write_npz(&bench.path("holdout.npz"), [("x", &x), ("gain", &ones)]).unwrap();
    let plain = answers(&bench, &bench.path("model.onnx"));
    let (whole, plain, gains) = (
        whole.to_f32().unwrap(),
        plain.to_f32().unwrap(),
        gains.to_f32().unwrap(),
    );
    for (position, value) in whole.iter().enumerate() {
        assert_eq!(*value, plain[position] * gains[position / 4]);
    }

    let manifest = fs::read_to_string(bench.path("pipeline.toml")).unwrap();
    let rows = manifest.replace("[data]", "[data]\nsample = \"row\"");
    bench.write("pipeline.toml", rows.as_bytes());
    bench
        .run(&[])
        .expect(25, &["`x`", "batches of exactly 1", "sample = \"call\""]);
}
