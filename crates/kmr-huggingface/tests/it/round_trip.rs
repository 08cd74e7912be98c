//! What nobody changed comes back as it was.

use std::fs;

use kmr_formats::read_safetensors;
use kmr_huggingface::{ErrorKind, Written, open, write_back};

use crate::folders;

#[test]
fn an_unchanged_model_is_written_as_it_was_read() {
    for name in folders::NAMES {
        let source = folders::path(name);
        let opened = open(&source).unwrap();
        let target = tempfile::tempdir().unwrap();
        let written = write_back(&opened.model, &source, target.path()).unwrap();
        assert_eq!(written, Written::default(), "{name}");
        let again = open(target.path()).unwrap();
        assert_eq!(again.model, opened.model, "{name}");
        assert_eq!(again.unused, opened.unused, "{name}");
        let sharded = source.join("model.safetensors.index.json").exists();
        if !sharded {
            assert_eq!(folders::files(target.path()), folders::files(&source), "{name}");
        }
    }
}

#[test]
fn shards_become_one_file() {
    let source = folders::path("llama_rope3");
    let target = tempfile::tempdir().unwrap();
    write_back(&open(&source).unwrap().model, &source, target.path()).unwrap();
    let names: Vec<String> = folders::files(target.path())
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["config.json", "expected.npz", "model.safetensors"]);
    let tensors = read_safetensors(&target.path().join("model.safetensors")).unwrap();
    let first = read_safetensors(&source.join("model-00001-of-00003.safetensors")).unwrap();
    assert!(first.iter().all(|(name, tensor)| tensors.get(name) == Some(tensor)));
}

#[test]
fn the_source_is_never_written() {
    let folder = folders::copy("llama");
    let before = folders::files(folder.path());
    let model = open(folder.path()).unwrap().model;
    let error = write_back(&model, folder.path(), &folder.path().join(".")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.to_string().contains("what the model came from"), "{error}");
    assert_eq!(folders::files(folder.path()), before);
}

#[test]
fn weights_of_16_bits_stay_what_they_are() {
    let opened = open(&folders::path("llama_tied")).unwrap();
    let graph = &opened.model.graph;
    let stored = graph.tensor("model.layers.0.mlp.up_proj.weight_stored").unwrap();
    assert_eq!(stored.dtype(), kmr_model::DType::BFLOAT16);
    assert!(graph.node("model.layers.0.mlp.up_proj.weight").unwrap().is("Cast"));
    // As the project knows weights of 16 bits.
    let halves = kmr_model::stored::stored_weights(graph).halves;
    assert!(
        halves
            .iter()
            .any(|half| half.value == "model.layers.0.mlp.up_proj.weight")
    );
    let bytes: usize = graph.initializers.values().map(|stored| stored.tensor.byte_len()).sum();
    let file = fs::metadata(folders::path("llama_tied").join("model.safetensors"))
        .unwrap()
        .len();
    assert!((bytes as u64) < file);
}
