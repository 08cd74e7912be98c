//! GGUF files as models: the fixtures' decoders, written as GGUF and opened again.

use std::path::Path;

use indexmap::IndexMap;
use kmr_formats::gguf::{Gguf, GgufKind, GgufTensor, LlamaWeights, from_hugging_face};
use kmr_formats::read_safetensors;
use kmr_huggingface::{ErrorKind, open, open_gguf};
use serde_json::{Map, Value};

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The GGUF file of a folder.
fn written(name: &str) -> Gguf {
    let folder = folder(name);
    let mut config: Map<String, Value> =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    // Newer configurations keep the base of the rotation apart.
    let base = config
        .get("rope_parameters")
        .and_then(|rotation| rotation.get("rope_theta"))
        .cloned();
    if let Some(base) = base {
        config.entry("rope_theta").or_insert(base);
    }
    let tensors = read_safetensors(&folder.join("model.safetensors")).unwrap();
    let tensors = tensors.iter().map(|(name, tensor)| {
        let values = tensor.to_f32().unwrap();
        (
            name.clone(),
            GgufTensor::encode(GgufKind::F32, tensor.shape().to_vec(), &values).unwrap(),
        )
    });
    let model = LlamaWeights {
        config,
        tensors: tensors.collect(),
    };
    from_hugging_face(&folder, &model, IndexMap::new()).unwrap()
}

#[test]
fn a_llama_in_gguf_is_the_model_of_its_folder() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    for name in ["llama", "qwen3"] {
        written(name).write(&path).unwrap();
        let (from_folder, from_gguf) = (open(&folder(name)).unwrap(), open_gguf(&path).unwrap());
        assert!(from_gguf.unused.is_empty());
        let (folder, gguf) = (&from_folder.model.graph, &from_gguf.model.graph);
        assert_eq!(folder.nodes, gguf.nodes, "{name}");
        for (name, initializer) in &gguf.initializers {
            let other = folder.initializers.get(name).unwrap();
            assert_eq!(initializer.tensor.to_f32().ok(), other.tensor.to_f32().ok(), "{name}");
        }
        assert_eq!(folder.initializers.len(), gguf.initializers.len());
    }
}

#[test]
fn a_file_that_is_no_llama() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let mut gguf = written("llama");
    gguf.tensors.shift_remove("blk.0.ffn_up.weight");
    gguf.write(&path).unwrap();
    let error = open_gguf(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tensor);
    assert!(
        error.to_string().contains("model.layers.0.mlp.up_proj.weight"),
        "{error}"
    );
    std::fs::write(&path, "GGML").unwrap();
    assert!(
        open_gguf(&path)
            .unwrap_err()
            .to_string()
            .contains("this is no GGUF file")
    );
}
