//! Low-rank adapters, from a run to a PEFT folder and back.

use std::fs;

use kmr_formats::read_npz;
use kmr_tests::{Bench, example, kmr, kmr_in};

use crate::SHORT;

/// A manifest that turns fine-tuning of everything into that of few parameters.
fn manifest() -> String {
    let short = SHORT
        .replace("meter = \"size_bytes\"", "meter = \"trainable_params\"")
        .replace("\"95%\"", "\"20%\"")
        .replace("use = \"greedy\"", "use = \"scheduled\"")
        .replace("use = \"prune\"", "use = \"lora_adapt\"")
        .replace(
            "knobs.channel_sparsity = { values = [0.0, 0.25, 0.5], per = \"layer\" }",
            "knobs.rank = { values = [0, 8, 4] }",
        );
    let kept: Vec<&str> = short.lines().filter(|line| !line.starts_with("config.")).collect();
    kept.join("\n")
}

#[test]
fn adapters_leave_a_run_as_a_peft_folder_and_can_be_merged() {
    let bench = Bench::new(&manifest());
    bench.run(&[]).expect(0, &["trainable_params"]);
    let folder = bench.folder.path();
    kmr_in(folder, &["adapters", "run/model.onnx", "--out", "peft"]).expect(0, &["wrote peft"]);
    let configuration = fs::read_to_string(bench.path("peft/adapter_config.json")).unwrap();
    let configuration: serde_json::Value = serde_json::from_str(&configuration).unwrap();
    assert_eq!(configuration["peft_type"], "LORA");
    assert!(bench.path("peft/adapter_model.safetensors").exists());

    // An adapter that has not been trained adds nothing, so the merged model answers as the original does.
    let original = example().join("resnet20.onnx");
    let original = original.to_str().unwrap();
    kmr_in(
        folder,
        &["adapters", original, "--merge", "peft", "--out", "merged.onnx"],
    )
    .expect(0, &["merged.onnx"]);
    let inputs = example().join("search-5k.npz");
    let answers = [original, bench.path("merged.onnx").to_str().unwrap()].map(|model| {
        let outputs = bench.path("logits.npz");
        let (inputs, outputs) = (inputs.to_str().unwrap(), outputs.to_str().unwrap());
        let run = [
            "infer",
            model,
            "--inputs",
            inputs,
            "--outputs",
            outputs,
            "--scale",
            "1/255",
        ];
        kmr(&run).expect(0, &[]);
        read_npz(&bench.path("logits.npz")).unwrap()["logits"]
            .to_f32()
            .unwrap()
            .into_owned()
    });
    assert!(answers[0] == answers[1]);
}

#[test]
fn adapters_that_do_not_fit_a_model_are_refused_by_name() {
    let bench = Bench::new(&manifest());
    bench.run(&[]).expect(0, &[]);
    let folder = bench.folder.path();
    kmr_in(folder, &["adapters", "run/model.onnx", "--out", "peft"]).expect(0, &[]);
    let other = kmr_tests::root().join("tests/fixtures/networks/mobilenet.onnx");
    let merge = [
        "adapters",
        other.to_str().unwrap(),
        "--merge",
        "peft",
        "--out",
        "merged.onnx",
    ];
    let run = kmr_in(folder, &merge);
    run.expect(25, &["conv1"]);
    assert!(!bench.path("merged.onnx").exists());

    let original = example().join("resnet20.onnx");
    let none = ["adapters", original.to_str().unwrap(), "--out", "nothing"];
    kmr_in(folder, &none).expect(25, &["adapter"]);
    fs::write(bench.path("peft/adapter_model.safetensors"), b"damaged").unwrap();
    let merge = [
        "adapters",
        original.to_str().unwrap(),
        "--merge",
        "peft",
        "--out",
        "merged.onnx",
    ];
    kmr_in(folder, &merge).expect(25, &["adapter_model.safetensors"]);
}
