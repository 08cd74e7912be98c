//! Runs that are judged in ONNX Runtime, and runs that are not.

use std::{env, path::Path, process::Command};

use kmr_formats::read_npz;
use kmr_tests::{Bench, build_folder, example, kmr};
use serde_json::Value;

use crate::SHORT;

/// Whether `kmr` finds the runtime, which only a machine that is not for tests may lack.
pub fn runtime_is_there() -> bool {
    let model = example().join("resnet20.onnx");
    let there = kmr(&["measure", model.to_str().unwrap(), "--latency"]).code == 0;
    if !there {
        assert!(
            env::var_os("CI").is_none(),
            "ONNX Runtime is missing; name its library in KMR_ORT_DYLIB"
        );
        eprintln!("SKIPPED: ONNX Runtime is not found; name its library in KMR_ORT_DYLIB or `pip install onnxruntime`");
    }
    there
}

/// How many of the first 200 images in `file` the model at `path` gets right in an engine.
fn right(bench: &Bench, path: &Path, file: &str, engine: &str) -> f64 {
    let (inputs, outputs) = (example().join(file), bench.path("logits.npz"));
    let [model, from, to] = [path, &inputs, &outputs].map(|path| path.to_str().unwrap());
    let arguments = [
        "infer",
        model,
        "--inputs",
        from,
        "--outputs",
        to,
        "--scale",
        "1/255",
        "--engine",
        engine,
    ];
    kmr(&arguments).expect(0, &[]);
    let logits = read_npz(&outputs).unwrap()["logits"].to_f32().unwrap().into_owned();
    let labels = read_npz(&inputs).unwrap()["labels"].to_i64().unwrap();
    let right = |(row, label): &(&[f32], &i64)| (0..10).all(|class| row[class] <= row[**label as usize]);
    logits.chunks(10).zip(&labels).take(200).filter(right).count() as f64
}

#[test]
fn the_holdout_is_judged_in_the_runtime_and_compared_with_the_built_in_engine() {
    if !runtime_is_there() {
        return;
    }
    let bench = Bench::new(SHORT);
    bench.run(&[]).expect(
        0,
        &[
            "holdout flips: ",
            "right to wrong",
            "onnxruntime 1.",
            "latency in ms (batch 64, 1 thread)",
        ],
    );
    let report = bench.report();
    let holdout = &report["quality"]["holdout"];
    assert_eq!(holdout["engine"], "onnxruntime");
    let readings = holdout["engines"].as_array().unwrap();
    let names: Vec<&Value> = readings.iter().map(|reading| &reading["engine"]).collect();
    assert_eq!(names, ["interpreter", "onnxruntime"]);
    for key in ["before", "after", "lost", "gained"] {
        assert_eq!(holdout[key], readings[1][key], "{key}");
    }
    let artifact = bench.path("run/model.onnx");
    for (reading, engine) in readings.iter().zip(["builtin", "onnxruntime"]) {
        let (before, after) = (reading["before"].as_f64().unwrap(), reading["after"].as_f64().unwrap());
        assert_eq!(
            after * 200.0,
            right(&bench, &artifact, "test-10k.npz", engine),
            "{engine}"
        );
        let count = |key: &str| reading[key].as_f64().unwrap();
        assert!(((after - before) * 200.0 - (count("gained") - count("lost"))).abs() < 1e-9);
        assert_eq!(reading["binary"], true);
    }
    let latency = report["latency"].as_array().unwrap();
    assert_eq!(latency.len(), 2);
    for (row, batch) in latency.iter().zip([1, 64]) {
        assert_eq!((&row["batch"], &row["threads"]), (&batch.into(), &1.into()));
        assert!(
            ["before", "after", "ratio"]
                .iter()
                .all(|key| row[key].as_f64().unwrap() > 0.0)
        );
    }
}

#[test]
fn the_built_in_engine_is_enough() {
    let bench = Bench::new(SHORT);
    bench.run(&["--engine", "builtin"]).expect(0, &["budget met"]);
    let report = bench.report();
    assert_eq!(report["quality"]["holdout"]["engine"], "interpreter");
    assert_eq!(report["quality"]["holdout"]["engines"].as_array().unwrap().len(), 1);
    assert_eq!(report["latency"].as_array().unwrap().len(), 0);
}

#[test]
fn the_search_is_judged_in_the_runtime_where_it_is_asked_for() {
    if !runtime_is_there() {
        return;
    }
    let bench = Bench::new(SHORT);
    bench
        .run(&["--engine", "onnxruntime", "--no-latency"])
        .expect(0, &["budget met"]);
    let report = bench.report();
    let search = report["quality"]["search"]["after"].as_f64().unwrap();
    let artifact = bench.path("run/model.onnx");
    assert_eq!(search * 200.0, right(&bench, &artifact, "search-5k.npz", "onnxruntime"));
    assert_eq!(report["latency"].as_array().unwrap().len(), 0);
}

#[test]
fn a_library_that_is_named_and_not_there_is_an_error() {
    let run = |library: &str, engine: &str| {
        let mut command = Command::new(build_folder().join("kmr"));
        let model = example().join("resnet20.onnx");
        let inputs = example().join("search-5k.npz");
        let bench = Bench::new("");
        let outputs = bench.path("out.npz");
        let [inputs, outputs] = [&inputs, &outputs].map(|path| path.to_str().unwrap());
        command.args([
            "infer",
            model.to_str().unwrap(),
            "--inputs",
            inputs,
            "--outputs",
            outputs,
            "--scale",
            "1/255",
            "--engine",
            engine,
        ]);
        let output = command.env("KMR_ORT_DYLIB", library).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, message) = run("no-such-library.so", "onnxruntime");
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("KMR_ORT_DYLIB=no-such-library.so"), "{message}");
    let (code, message) = run(example().join("resnet20.onnx").to_str().unwrap(), "onnxruntime");
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("version 1.17 or newer"), "{message}");
    assert_eq!(run("no-such-library.so", "builtin").0, Some(0));
}

#[test]
fn latency_is_measured_in_turn() {
    if !runtime_is_there() {
        return;
    }
    let model = example().join("resnet20.onnx");
    let model = model.to_str().unwrap();
    let measured = kmr(&[
        "measure",
        model,
        "--latency",
        "--batch",
        "1,3",
        "--compare",
        model,
        "--json",
    ]);
    measured.expect(0, &[]);
    let json = measured.json();
    let rows = json["latency"].as_array().unwrap();
    let batches: Vec<&Value> = rows.iter().map(|row| &row["batch"]).collect();
    assert_eq!(batches, [1, 1, 3, 3]);
    for row in rows {
        let value = |key: &str| row[key].as_f64().unwrap();
        assert!(0.0 < value("lower_quartile_ms"));
        assert!(value("lower_quartile_ms") <= value("median_ms") && value("median_ms") <= value("upper_quartile_ms"));
        assert!(value("rounds") >= 5.0);
    }
    assert_eq!(rows[0]["ratio"], 1.0);
    kmr(&["measure", model, "--batch", "2"]).expect(2, &["--latency"]);
}
