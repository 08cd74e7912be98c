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
