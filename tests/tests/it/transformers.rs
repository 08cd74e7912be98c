//! Folders of `transformers` where a model is asked for.

use std::fs;

use kmr_model::Model;
use kmr_tests::{Bench, kmr, root};

fn folder(name: &str) -> String {
    let path = root().join("crates/kmr-huggingface/tests/fixtures").join(name);
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_folder_is_converted_and_measured_like_a_file() {
    let bench = Bench::new("");
    let out = bench.path("model.onnx");
    kmr(&["convert", &folder("sentences"), out.to_str().unwrap()]).expect(0, &[]);
    let model = Model::decode(fs::read(&out).unwrap().into()).unwrap();
    assert_eq!(model.graph.outputs[0].name(), "sentence_embedding");
    let measured = kmr(&["measure", &folder("sentences"), "--json"]);
    let file = kmr(&["measure", out.to_str().unwrap(), "--json"]);
    measured.expect(0, &[]);
    assert_eq!(measured.json()["meters"], file.expect(0, &[]).json()["meters"]);
}

#[test]
fn a_folder_that_is_not_known_says_what_is() {
    let bench = Bench::new("");
    let unknown = bench.path("unknown");
    fs::create_dir(&unknown).unwrap();
    let measure = || kmr(&["measure", unknown.to_str().unwrap()]);
    measure().expect(25, &["has no `config.json`", "save_pretrained"]);
    for file in ["config.json", "model.safetensors"] {
        fs::copy(format!("{}/{file}", folder("bert")), unknown.join(file)).unwrap();
    }
    measure().expect(0, &[]);
    let config = fs::read_to_string(unknown.join("config.json")).unwrap();
    fs::write(unknown.join("config.json"), config.replace("\"bert\"", "\"gpt2\"")).unwrap();
    measure().expect(25, &["`model_type` is `gpt2`", "distilbert", "llama"]);
}

#[test]
fn a_model_goes_back_to_what_it_came_from() {
    let bench = Bench::new("");
    let path = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let (onnx, back, source) = (path("model.onnx"), path("back"), folder("llama"));
    kmr(&["convert", &source, &onnx]).expect(0, &[]);
    let convert =
        |output: &str, like: &str, more: &[&str]| kmr(&[&["convert", &onnx, output, "--like", like], more].concat());
    let written = convert(&back, &source, &["--json"]);
    written.expect(0, &["wrote"]);
    let report = written.json();
    assert_eq!(
        (&report["changes"], &report["warnings"]),
        (&serde_json::json!([]), &serde_json::json!([]))
    );
    let files = report["files"].as_array().unwrap();
    assert_eq!(files.len(), 3);
    for file in files {
        let written = file["path"].as_str().unwrap();
        let name = written.rsplit('/').next().unwrap();
        assert_eq!(
            fs::read(written).unwrap(),
            fs::read(format!("{source}/{name}")).unwrap()
        );
        assert_eq!(file["bytes"], fs::metadata(written).unwrap().len());
    }
    // A folder that is there stays as it is, and nothing is left beside it.
    convert(&back, &source, &[]).expect(2, &["is not empty", "choose another name"]);
    convert(&path("other"), &folder("bert"), &["--quiet"]).expect(25, &["error: "]);
    let mut left: Vec<_> = fs::read_dir(bench.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["back", "model.onnx", "pipeline.toml"]);

    let gguf = path("model.gguf");
    convert(&gguf, &source, &["--gguf-type", "f32"]).expect(0, &["warning: ", "no tokenizer"]);
    let costs = |model: &str| kmr(&["measure", model, "--json"]).json()["meters"].clone();
    assert_eq!(costs(&gguf)["params"], costs(&onnx)["params"]);
    // What is a folder or a GGUF file is its own source.
    kmr(&["convert", &gguf, &path("again.gguf"), "--gguf-type", "q8_0"]).expect(0, &["instead of Q8_0"]);
    let tied = folder("llama_tied");
    kmr(&["convert", &tied, &gguf]).expect(25, &["rope_scaling"]);
}

#[test]
fn what_does_not_go_together_is_said_before_anything_is_read() {
    let bench = Bench::new("");
    let gguf = bench.path("model.gguf");
    let gguf = gguf.to_str().unwrap();
    let convert = |arguments: &[&str]| kmr(&[&["convert", "missing.onnx"], arguments].concat());
    convert(&[gguf]).expect(2, &["what the model came from", "--like"]);
    convert(&["out.onnx", "--gguf-type", "f16"]).expect(2, &["ends in `.gguf`"]);
    convert(&[gguf, "--like", &folder("llama"), "--external-data"]).expect(2, &["are for ONNX files"]);
    convert(&[gguf, "--like", &folder("llama"), "--gguf-type", "q5_k"]).expect(2, &["takes one of f32, f16"]);
}
