//! Models that lost something, on their way back.

use std::sync::Arc;

use kmr_formats::read_npz;
use kmr_huggingface::{ErrorKind, HuggingFaceError, Written, open, write_back};
use kmr_model::{Model, Node, Tensor};

use crate::{folders, outputs::output};

/// The entries of `tensor` that lie at `kept` on `axis`.
fn cut(tensor: &Tensor, axis: usize, kept: &[usize]) -> Tensor {
    let shape = tensor.shape();
    let after: usize = shape[axis + 1..].iter().product();
    let values = tensor.to_f32().unwrap();
    let mut made = Vec::new();
    for before in 0..shape[..axis].iter().product() {
        for &index in kept {
            let start = (before * shape[axis] + index) * after;
            made.extend_from_slice(&values[start..start + after]);
        }
    }
    let mut shape = shape.to_vec();
    shape[axis] = kept.len();
    Tensor::from_vec(shape, made)
}

fn cut_in(model: &mut Model, name: &str, axis: usize, kept: &[usize]) {
    let tensor = cut(model.graph.tensor(name).unwrap(), axis, kept);
    model.graph.initializers.insert(name.to_owned(), tensor.into());
}

/// The folder of a changed model: that it loads, computes the same, and what was said.
fn accepted(model: &Model, fixture: &str) -> (tempfile::TempDir, Written) {
    let source = folders::path(fixture);
    let target = tempfile::tempdir().unwrap();
    let written = write_back(model, &source, target.path()).unwrap();
    let again = open(target.path()).unwrap().model;
    let stored = read_npz(&source.join("expected.npz")).unwrap();
    assert_eq!(output(&again, &stored, "b"), output(model, &stored, "b"));
    (target, written)
}

fn refused(model: &Model, fixture: &str) -> HuggingFaceError {
    let target = tempfile::tempdir().unwrap();
    let inner = target.path().join("new");
    let error = write_back(model, &folders::path(fixture), &inner).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inexpressible, "{error}");
    assert!(!inner.exists(), "nothing is written");
    assert!(error.way_out().is_some());
    error
}

fn model(fixture: &str) -> Model {
    open(&folders::path(fixture)).unwrap().model
}

fn cut_neurons(model: &mut Model, layer: usize, kept: &[usize]) {
    let prefix = format!("encoder.layer.{layer}");
    cut_in(model, &format!("{prefix}.intermediate.dense.weight"), 0, kept);
    cut_in(model, &format!("{prefix}.intermediate.dense.bias"), 0, kept);
    cut_in(model, &format!("{prefix}.output.dense.weight"), 1, kept);
}

#[test]
fn neurons_of_all_layers() {
    let mut model = model("bert");
    cut_neurons(&mut model, 0, &[0, 2, 3, 7, 19]);
    cut_neurons(&mut model, 1, &[1, 2, 4, 8, 16]);
    let (folder, written) = accepted(&model, "bert");
    assert_eq!(written.changes, ["intermediate_size 20 -> 5"]);
    assert_eq!(
        folders::object(&folder.path().join("config.json"))["intermediate_size"],
        5
    );
}

#[test]
fn neurons_of_one_layer_cannot_be_said() {
    let mut model = model("bert");
    cut_neurons(&mut model, 1, &[1, 2, 4]);
    let error = refused(&model, "bert").to_string();
    let expected = "`encoder.layer.0.intermediate.dense.weight` has 20 neurons, and \
                    `encoder.layer.1.intermediate.dense.weight` has 3; `intermediate_size` is one number for all layers";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_group_of_heads() {
    let mut model = model("llama");
    let (queries, keys): (Vec<usize>, Vec<usize>) = ((30..60).collect(), (10..20).collect());
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.self_attn.{part}_proj.weight");
        cut_in(&mut model, &name("q"), 0, &queries);
        cut_in(&mut model, &name("k"), 0, &keys);
        cut_in(&mut model, &name("v"), 0, &keys);
        cut_in(&mut model, &name("o"), 1, &queries);
    }
    let (folder, written) = accepted(&model, "llama");
    assert_eq!(
        written.changes,
        ["num_attention_heads 6 -> 3", "num_key_value_heads 2 -> 1"]
    );
    assert_eq!(folders::object(&folder.path().join("config.json"))["head_dim"], 10);
}

#[test]
fn heads_of_an_encoder_cannot_be_said() {
    let mut model = model("bert");
    let kept: Vec<usize> = (0..12).collect();
    for layer in 0..2 {
        let name = |part: &str| format!("encoder.layer.{layer}.attention.{part}");
        for part in ["query", "key", "value"] {
            cut_in(&mut model, &name(&format!("self.{part}.weight")), 0, &kept);
            cut_in(&mut model, &name(&format!("self.{part}.bias")), 0, &kept);
        }
        cut_in(&mut model, &name("output.dense.weight"), 1, &kept);
    }
    let error = refused(&model, "bert").to_string();
    assert!(error.contains("2 of 3 heads are left"), "{error}");
}

/// Takes the nodes and tensors of a layer away; what read its result reads what it read.
fn without_layer(model: &mut Model, prefix: &str, result: &str, source: &str) {
    let graph = &mut model.graph;
    graph.nodes.retain(|node| !node.name().starts_with(prefix));
    graph.initializers.retain(|name, _| !name.starts_with(prefix));
    for node in &mut graph.nodes {
        let inputs: Vec<&str> = node
            .inputs()
            .iter()
            .map(|name| if name == result { source } else { name })
            .collect();
        if inputs.iter().zip(node.inputs()).any(|(new, old)| new != old) {
            let mut proto = node.proto().clone();
            proto.input = inputs.iter().map(|&input| input.into()).collect();
            *node = Arc::new(Node::from_proto(proto).unwrap());
        }
    }
    graph.check().unwrap();
}

#[test]
fn a_layer_goes_and_the_next_takes_its_number() {
    let mut model = model("qwen3_kinds");
    without_layer(&mut model, "layers.0.", "layers.0.mlp.sum", "tokens");
    let (folder, written) = accepted(&model, "qwen3_kinds");
    assert_eq!(written.changes, ["num_hidden_layers 2 -> 1"]);
    let config = folders::object(&folder.path().join("config.json"));
    assert_eq!(config["layer_types"], serde_json::json!(["full_attention"]));
    let tensors = kmr_formats::read_safetensors(&folder.path().join("model.safetensors")).unwrap();
    assert!(tensors.contains_key("layers.0.mlp.up_proj.weight"));
    assert!(!tensors.keys().any(|name| name.starts_with("layers.1.")));
}

#[test]
fn half_a_layer_cannot_be_said() {
    let mut model = model("qwen3_kinds");
    let read = "layers.0.self_attn.sum";
    without_layer(&mut model, "layers.0.mlp.", "layers.0.mlp.sum", read);
    let error = refused(&model, "qwen3_kinds").to_string();
    assert!(
        error.contains("layer 0 is there in part: tensor `layers.0.mlp.down_proj.weight` is gone"),
        "{error}"
    );
}

#[test]
fn rows_of_the_vocabulary() {
    let mut model = model("qwen3");
    let kept: Vec<usize> = (0..WORDS_LEFT).collect();
    cut_in(&mut model, "model.embed_tokens.weight", 0, &kept);
    let source = folders::path("qwen3");
    let target = tempfile::tempdir().unwrap();
    let written = write_back(&model, &source, target.path()).unwrap();
    assert_eq!(written.changes, ["vocab_size 61 -> 50"]);
    let again = open(target.path()).unwrap().model;
    assert_eq!(
        again.graph.tensor("model.embed_tokens.weight").unwrap().shape(),
        [50, 18]
    );
}
const WORDS_LEFT: usize = 50;

#[test]
fn what_has_the_old_size_is_left_out() {
    let folder = folders::copy("bert");
    folders::edit_tensors(folder.path(), |tensors| {
        tensors.insert(
            "cls.predictions.bias".into(),
            Tensor::from_vec(vec![61], vec![0.0_f32; 61]),
        );
        tensors.insert("other".into(), Tensor::from_vec(vec![3], vec![0.0_f32; 3]));
    });
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let mut model = open(folder.path()).unwrap().model;
    let kept: Vec<usize> = (0..WORDS_LEFT).collect();
    cut_in(&mut model, "embeddings.word_embeddings.weight", 0, &kept);
    let target = tempfile::tempdir().unwrap();
    let written = write_back(&model, folder.path(), target.path()).unwrap();
    let [left_out, tokenizer] = &written.warnings[..] else {
        panic!("{written:?}")
    };
    assert!(left_out.contains("`cls.predictions.bias`") && tokenizer.contains("`tokenizer.json`"));
    let unused = open(target.path()).unwrap().unused;
    assert_eq!(
        unused,
        ["pooler.dense.bias", "pooler.dense.weight", "other"].map(String::from)
    );
}

/// The model of a folder that is like `fixture` but for its configuration and some of its tensors.
fn changed(
    fixture: &str,
    config: impl FnOnce(&mut serde_json::Map<String, serde_json::Value>),
    tensors: impl FnOnce(&mut kmr_formats::NamedArrays),
) -> Model {
    let folder = folders::copy(fixture);
    folders::edit(&folder.path().join("config.json"), config);
    folders::edit_tensors(folder.path(), tensors);
    open(folder.path()).unwrap().model
}

#[test]
fn an_expert_goes_and_the_next_take_its_number() {
    // As a rule leaves it: what it built is the network of three experts, its tensors keep their old numbers.
    let expert = |layer: usize, number: usize, part: &str| {
        format!("model.layers.{layer}.mlp.experts.{number}.{part}_proj.weight")
    };
    let mut model = changed(
        "qwen3_moe",
        |config| {
            config.insert("num_local_experts".into(), 3.into());
            config.insert("num_experts_per_tok".into(), 1.into());
        },
        |tensors| {
            for layer in 0..2 {
                let router = format!("model.layers.{layer}.mlp.gate.weight");
                let shrunk = cut(&tensors[&router], 0, &[0, 2, 3]);
                tensors.insert(router, shrunk);
                for part in ["gate", "up", "down"] {
                    for (to, from) in [(1, 2), (2, 3)] {
                        let moved = tensors[&expert(layer, from, part)].clone();
                        tensors.insert(expert(layer, to, part), moved);
                    }
                    tensors.shift_remove(&expert(layer, 3, part));
                }
            }
        },
    );
    let renamed = |name: &str| {
        let name = name.replace(".experts.2.", ".experts.3.");
        name.replace(".experts.1.", ".experts.2.")
    };
    let graph = &mut model.graph;
    graph.initializers = graph
        .initializers
        .drain(..)
        .map(|(name, stored)| (renamed(&name), stored))
        .collect();
    for node in &mut graph.nodes {
        let mut proto = node.proto().clone();
        proto.input = proto
            .input
            .iter()
            .map(|input| {
                if input.ends_with(".weight") {
                    renamed(input)
                } else {
                    input.clone()
                }
            })
            .collect();
        *node = Arc::new(Node::from_proto(proto).unwrap());
    }
    graph.check().unwrap();
    let (folder, written) = accepted(&model, "qwen3_moe");
    assert_eq!(
        written.changes,
        ["num_local_experts 4 -> 3", "num_experts_per_tok 2 -> 1"]
    );
    let tensors = kmr_formats::read_safetensors(&folder.path().join("model.safetensors")).unwrap();
    let numbers = |number: usize| tensors.contains_key(&expert(1, number, "up"));
    assert_eq!([0, 1, 2, 3].map(numbers), [true, true, true, false]);
}

#[test]
fn nodes_that_the_architecture_has_not_cannot_be_said() {
    let mut model = model("bert");
    let tensor = Tensor::from_vec(vec![18], vec![0.5_f32; 18]);
    model.graph.initializers.insert("shift".into(), tensor.into());
    let last = model.graph.nodes.len() - 1;
    let rows = model.graph.nodes[last].inputs()[0].clone();
    let shifted = Node::new("Add", "shifted", &[&rows, "shift"], &["shifted_rows"]);
    let mut reader = model.graph.nodes[last].proto().clone();
    reader.input[0] = "shifted_rows".into();
    model.graph.nodes[last] = Arc::new(Node::from_proto(reader).unwrap());
    model.graph.nodes.insert(last, Arc::new(shifted));
    model.graph.check().unwrap();
    let error = refused(&model, "bert").to_string();
    assert!(
        error.contains("node `shifted` (Add) has no place in the architecture"),
        "{error}"
    );
}

#[test]
fn a_changed_constant_cannot_be_said() {
    let mut model = model("llama");
    model
        .graph
        .initializers
        .insert("rms_norm_eps".into(), Tensor::scalar(1e-3_f32).into());
    let error = refused(&model, "llama").to_string();
    assert!(error.contains("constant `rms_norm_eps`"), "{error}");
}

#[test]
fn weights_that_nodes_make_cannot_be_said() {
    let mut model = model("llama");
    let name = "model.layers.1.mlp.up_proj.weight";
    let stored = model.graph.initializers.shift_remove(name).unwrap();
    model.graph.initializers.insert("other".into(), stored);
    model
        .graph
        .nodes
        .insert(0, Arc::new(Node::new("Neg", "made", &["other"], &[name])));
    model.graph.check().unwrap();
    let error = refused(&model, "llama").to_string();
    assert!(
        error.contains(name) && error.contains("is made by nodes (Neg)"),
        "{error}"
    );
}

#[test]
fn weights_of_16_bits_that_a_rule_stored_are_written_so() {
    let mut model = model("bert");
    for (name, initializer) in model.graph.initializers.clone() {
        if name.ends_with(".weight") || name.ends_with(".bias") {
            let values = initializer.tensor.to_f32().unwrap();
            let half: Vec<half::f16> = values.iter().map(|&value| half::f16::from_f32(value)).collect();
            let half = Tensor::from_vec(initializer.tensor.shape().to_vec(), half);
            let mut build = kmr_model::Build::on(&model.graph);
            build.place(Some(model.graph.nodes[0].id()));
            kmr_model::stored::store_half(&mut build, &name, half);
            model = model.with_graph(build.finish().apply(&model.graph).unwrap());
        }
    }
    let (folder, written) = accepted(&model, "bert");
    assert_eq!(written.changes, ["dtype float32 -> float16"]);
    assert_eq!(folders::object(&folder.path().join("config.json"))["dtype"], "float16");
}
