//! The folders that tests work on, and damaged copies of them.

use std::fs;
use std::path::{Path, PathBuf};

use kmr_formats::{NamedArrays, read_safetensors, write_safetensors};
use serde_json::{Map, Value};
use tempfile::TempDir;

pub const NAMES: [&str; 24] = [
    "bert",
    "bert_classifier",
    "sentences",
    "sentences_joined",
    "distilbert",
    "distilbert_classifier",
    "roberta",
    "roberta_classifier",
    "xlm_roberta",
    "llama",
    "llama_tied",
    "llama_rope3",
    "llama_dynamic",
    "qwen2_yarn",
    "qwen2_window",
    "qwen3",
    "qwen3_kinds",
    "bert_words",
    "distilbert_words",
    "roberta_words",
    "mistral",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
];

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Everything that lies in a folder, by its path within.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                files.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// A copy that can be damaged.
pub fn copy(name: &str) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (file, bytes) in files(&path(name)) {
        let target = copy.path().join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::write(target, bytes).unwrap();
    }
    copy
}

/// Changes the JSON object in a file.
pub fn edit(path: &Path, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut map = object(path);
    change(&mut map);
    fs::write(path, serde_json::to_vec(&map).unwrap()).unwrap();
}

pub fn object(path: &Path) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Changes the tensors of a folder.
pub fn edit_tensors(folder: &Path, change: impl FnOnce(&mut NamedArrays)) {
    let path = folder.join("model.safetensors");
    let mut tensors = read_safetensors(&path).unwrap();
    change(&mut tensors);
    write_safetensors(&path, tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
}
