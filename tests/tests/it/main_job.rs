//! `kmr run` on the example.

use std::fs;

use bytes::Bytes;
use kmr_formats::read_npz;
use kmr_model::Model;
use kmr_tests::{Bench, example, kmr};

use crate::SHORT;

#[test]
fn a_run_fits_the_budget_to_the_byte_and_says_what_it_did() {
    let bench = Bench::new(SHORT);
    bench
        .run(&[])
        .expect(0, &["size_bytes", "top1 (holdout)", "budget met"]);
    let report = bench.report();
    assert_eq!(report["outcome"], "feasible");
    let artifact = fs::read(bench.path("run/model.onnx")).unwrap();
    assert_eq!(report["artifact"]["bytes"], artifact.len());
    assert_eq!(report["budget"]["meter"], "size_bytes");
    assert_eq!(report["budget"]["reached"].as_f64().unwrap(), artifact.len() as f64);
    assert!(artifact.len() as f64 <= report["budget"]["limit"].as_f64().unwrap());
    assert_eq!(report["quality"]["holdout"]["samples"], 200);
    for step in report["steps"].as_array().unwrap() {
        for key in [
            "rule", "knob", "target", "value", "accepted", "reason", "cost", "quality",
        ] {
            assert!(step.get(key).is_some(), "{key} is missing in {step}");
        }
    }

    let original = Model::decode(Bytes::from(fs::read(example().join("resnet20.onnx")).unwrap())).unwrap();
    let pruned = Model::decode(Bytes::from(artifact)).unwrap();
    let elements = |model: &Model| -> usize { model.graph.initializers.values().map(|i| i.tensor.len()).sum() };
    assert!(elements(&pruned) < elements(&original), "channels are really gone");
    assert_eq!(pruned.graph.nodes.len(), original.graph.nodes.len());
}

#[test]
fn the_reported_quality_is_that_of_the_written_file_on_each_split() {
    let bench = Bench::new(SHORT);
    bench.run(&[]).expect(0, &[]);
    let report = bench.report();
    let model = bench.path("run/model.onnx");
    for (split, file) in [("search", "search-5k.npz"), ("holdout", "test-10k.npz")] {
        let (inputs, outputs) = (example().join(file), bench.path("logits.npz"));
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let arguments = [
            "infer",
            &text(&model),
            "--inputs",
            &text(&inputs),
            "--outputs",
            &text(&outputs),
        ];
        kmr(&[&arguments[..], &["--scale", "1/255"]].concat()).expect(0, &[]);
        let logits = read_npz(&outputs).unwrap()["logits"].to_f32().unwrap().into_owned();
        let labels = read_npz(&inputs).unwrap()["labels"].to_i64().unwrap();
        let samples = logits.chunks(10).zip(&labels).take(200);
        let right = samples
            .filter(|(row, label)| (0..10).all(|class| row[class] <= row[**label as usize]))
            .count();
        assert_eq!(
            report["quality"][split]["after"].as_f64().unwrap(),
            right as f64 / 200.0,
            "{split}"
        );
    }
}

#[test]
fn the_same_run_gives_the_same_bytes_whatever_the_number_of_threads() {
    let artifacts: Vec<Vec<u8>> = ["1", "2"]
        .iter()
        .map(|threads| {
            let bench = Bench::new(SHORT);
            bench.run(&["--threads", threads]).expect(0, &[]);
            fs::read(bench.path("run/model.onnx")).unwrap()
        })
        .collect();
    assert!(artifacts[0] == artifacts[1]);
}

#[test]
fn a_budget_below_what_is_possible_writes_the_best_effort_and_says_so() {
    let bench = Bench::new(
        &SHORT
            .replace("\"95%\"", "\"1%\"")
            .replace("drop_at_most = 0.2", "drop_at_most = inf"),
    );
    let manifest = fs::read_to_string(bench.path("pipeline.toml")).unwrap();
    bench.write(
        "pipeline.toml",
        manifest.replace("\"greedy\"", "\"scheduled\"").as_bytes(),
    );
    let manifest = fs::read_to_string(bench.path("pipeline.toml")).unwrap();
    let kept: Vec<&str> = manifest.lines().filter(|line| !line.starts_with("config.")).collect();
    bench.write("pipeline.toml", kept.join("\n").as_bytes());
    bench.run(&[]).expect(30, &["best-effort.onnx", "smallest seen"]);
    assert!(!bench.path("run/model.onnx").exists());
    assert_eq!(bench.report()["outcome"], "exhausted");
    assert_eq!(bench.report()["exit_code"], 30);
}

#[test]
fn a_floor_in_the_way_is_an_outcome_of_its_own() {
    let bench = Bench::new(
        &SHORT
            .replace("\"95%\"", "\"30%\"")
            .replace("drop_at_most = 0.2", "drop_at_most = 0.005"),
    );
    bench.run(&[]).expect(31, &["best-effort.onnx"]);
    assert_eq!(bench.report()["outcome"], "quality_floor");
}

#[test]
fn a_model_without_labels_runs_by_agreement() {
    let bench = Bench::new(&SHORT.replace("meter = \"top1\"", "meter = \"agreement\""));
    bench.run(&[]).expect(0, &["agreement (holdout)"]);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_writes_the_best_model_found_so_far() {
    let long = SHORT
        .replace("\"95%\"", "\"1%\"")
        .replace("drop_at_most = 0.2", "drop_at_most = inf");
    let bench = Bench::new(&long);
    let child = bench.start(&[]);
    let journal = bench.path("run/journal.unfinished.ndjson");
    let stepped = || fs::read_to_string(&journal).is_ok_and(|text| text.contains("\"event\":\"adopted\""));
    while !stepped() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let kill = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    kmr_tests::finish(child).expect(130, &["best-effort.onnx"]);
    let report = bench.report();
    assert_eq!(report["outcome"], "interrupted");
    let artifact = fs::read(bench.path("run/best-effort.onnx")).unwrap();
    assert_eq!(report["artifact"]["bytes"], artifact.len());
    assert!((artifact.len() as u64) < fs::metadata(example().join("resnet20.onnx")).unwrap().len());
    let whole = fs::read_to_string(bench.path("run/journal.ndjson")).unwrap();
    assert!(whole.contains("\"event\":\"adopted\""));
    for line in whole.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
    assert!(!journal.exists());
}
