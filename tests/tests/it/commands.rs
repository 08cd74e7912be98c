//! The other commands.

use std::fs;

use kmr_formats::read_npz;
use kmr_tests::{Bench, build_folder, example, kmr};

use crate::SHORT;

fn model() -> String {
    example().join("resnet20.onnx").to_str().unwrap().to_owned()
}

#[test]
fn measure_prints_every_cost() {
    let measured = kmr(&["measure", &model(), "--json"]);
    measured.expect(0, &[]);
    let meters = &measured.json()["meters"];
    let length = fs::metadata(model()).unwrap().len();
    assert_eq!(meters["size_bytes"], length);
    assert_eq!(meters["params"].as_u64().unwrap(), 273_756);
    assert!(meters["macs"].as_u64().unwrap() > 30_000_000);
    assert!(meters["nonzero_params"].as_u64() <= meters["params"].as_u64());
    assert!(meters["peak_activation_bytes"].as_u64().unwrap() >= 2 * 16 * 28 * 28 * 4);
    kmr(&["measure", &model(), "--input", "nobody=1,2"]).expect(2, &["no input `nobody`", "its inputs are image"]);
}

#[test]
fn infer_gives_named_arrays_and_inner_values() {
    let bench = Bench::new("");
    let inputs = example().join("search-5k.npz");
    let out = bench.path("out.npz");
    let run = |values: &[&str]| {
        let mut arguments = vec![
            "infer",
            "MODEL",
            "--inputs",
            inputs.to_str().unwrap(),
            "--scale",
            "1/255",
        ];
        let model = model();
        arguments[1] = &model;
        arguments.extend(["--outputs", out.to_str().unwrap(), "--batch", "700"]);
        for value in values {
            arguments.extend(["--value", value]);
        }
        kmr(&arguments)
    };
    run(&["logits", "/layer1/layer1.0/Relu_output_0"]).expect(0, &[]);
    let arrays = read_npz(&out).unwrap();
    assert_eq!(arrays["logits"].shape(), [5000, 10]);
    assert_eq!(arrays["/layer1/layer1.0/Relu_output_0"].shape(), [5000, 16, 28, 28]);
    let labels = read_npz(&inputs).unwrap()["labels"].to_i64().unwrap();
    let logits = arrays["logits"].to_f32().unwrap();
    let right = logits.chunks(10).zip(&labels).filter(|(row, label)| {
        let best = (0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        best as i64 == **label
    });
    assert_eq!(right.count(), 4668, "93.36 % of 5,000, as ONNX Runtime counts");
    run(&["no_such_value"]).expect(25, &["no_such_value"]);
}

#[test]
fn convert_changes_nothing() {
    let bench = Bench::new("");
    let out = bench.path("again.onnx");
    kmr(&["convert", &model(), out.to_str().unwrap()]).expect(0, &[]);
    assert!(fs::read(model()).unwrap() == fs::read(out).unwrap());
}

#[test]
fn plugins_are_listed_and_inspected_without_running_them() {
    let listed = kmr(&["plugin", "list"]);
    listed.expect(0, &["prune", "meters", "rule prune", "meter top1"]);
    let library = build_folder().join("libkmr_prune.so");
    kmr(&["plugin", "inspect", library.to_str().unwrap()]).expect(0, &["channel_sparsity", "sha256", "abi"]);
    let json = kmr(&["plugin", "inspect", library.to_str().unwrap(), "--json"]).json();
    assert_eq!(json["metadata"]["abi"], "1.0.0");
}

#[test]
fn a_manifest_is_checked_and_its_schema_printed() {
    let bench = Bench::new(SHORT);
    let path = bench.path("pipeline.toml");
    kmr(&["manifest", "check", path.to_str().unwrap()])
        .expect(0, &["is valid", "a holdout of 200 samples", "answers changed"]);
    let bench = Bench::new(&SHORT.replace("drop_at_most = 0.2", "drop_at_most = 0.001"));
    let short = bench.path("pipeline.toml");
    let checked = kmr(&["manifest", "check", short.to_str().unwrap(), "--json"]);
    checked.expect(0, &["warning: ", "cannot prove a drop of at most 0.001", "it takes"]);
    let holdout = &checked.json()["holdout"];
    assert_eq!(holdout["samples"], 200);
    assert!(holdout["drops"][0]["drop"].as_f64().unwrap() > 0.001);
    assert!(kmr(&["manifest", "schema"]).json()["properties"]["budget"].is_object());
}

#[test]
fn errors_are_json_too() {
    let failed = kmr(&["measure", "no-such-file.onnx", "--json"]);
    failed.expect(25, &[]);
    let error = &failed.json()["error"];
    assert_eq!(error["code"], 25);
    assert_eq!(error["kind"], "input_unsupported");
    assert_eq!(error["place"], "no-such-file.onnx");
    kmr(&["frobnicate"]).expect(2, &["unrecognized subcommand"]);
}
