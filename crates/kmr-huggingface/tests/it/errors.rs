//! Bad folders, each with an error of its own.

use std::fs;
use std::path::Path;

use kmr_huggingface::{ErrorKind, HuggingFaceError, open};
use kmr_model::Tensor;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::folders;

fn damaged(name: &str, damage: impl FnOnce(&Path)) -> HuggingFaceError {
    let folder = folders::copy(name);
    damage(folder.path());
    let error = open(folder.path()).unwrap_err();
    assert!(error.way_out().is_some(), "no way out of: {error}");
    error
}

/// The error of a folder whose configuration has another value for `key`.
fn with(name: &str, key: &str, value: Value) -> HuggingFaceError {
    damaged(name, |folder| {
        folders::edit(&folder.join("config.json"), |config| {
            config.insert(key.into(), value);
        });
    })
}

fn assert_says(error: &HuggingFaceError, kind: ErrorKind, parts: &[&str]) {
    let text = format!("{error}; {}", error.way_out().unwrap_or_default());
    assert_eq!(error.kind(), kind, "{text}");
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn architectures_that_are_not_known_are_named_with_those_that_are() {
    let error = with("bert", "model_type", json!("gpt2"));
    assert_says(
        &error,
        ErrorKind::Unknown,
        &["config.json", "`model_type` is `gpt2`", "bert, distilbert", "llama"],
    );
    let error = with("bert", "architectures", json!(["BertForQuestionAnswering"]));
    let parts = [
        "`BertForQuestionAnswering`",
        "BertModel, BertForMaskedLM, BertForSequenceClassification",
    ];
    assert_says(&error, ErrorKind::Unknown, &parts);
    let error = with("llama", "hidden_act", json!("laplace"));
    assert_says(&error, ErrorKind::Unknown, &["`hidden_act` is `laplace`", "gelu_new"]);
    let error = with("llama", "rope_parameters", json!({"rope_type": "longrope"}));
    assert_says(
        &error,
        ErrorKind::Unknown,
        &["`rope_parameters.rope_type` is `longrope`", "llama3, yarn"],
    );
}

#[test]
fn files_that_are_missing_or_damaged() {
    let remove = |file: &'static str| move |folder: &Path| fs::remove_file(folder.join(file)).unwrap();
    let error = damaged("bert", remove("config.json"));
    assert_says(&error, ErrorKind::Io, &["has no `config.json`", "save_pretrained"]);
    let error = damaged("bert", remove("model.safetensors"));
    assert_says(
        &error,
        ErrorKind::Io,
        &["neither `model.safetensors` nor", "save_pretrained"],
    );
    let error = damaged("llama_rope3", remove("model-00003-of-00003.safetensors"));
    assert_says(
        &error,
        ErrorKind::Io,
        &["shard `model-00003-of-00003.safetensors` is missing"],
    );
    let shorten = |file: &'static str| {
        move |folder: &Path| {
            let bytes = fs::read(folder.join(file)).unwrap();
            fs::write(folder.join(file), &bytes[..bytes.len() - 5]).unwrap();
        }
    };
    let error = damaged("bert", shorten("config.json"));
    assert_says(
        &error,
        ErrorKind::Malformed,
        &["config.json", "is no JSON object", "line"],
    );
    let error = damaged("bert", shorten("model.safetensors"));
    assert_says(&error, ErrorKind::Malformed, &["model.safetensors", "do not lie in"]);
    let error = damaged("bert", |folder| fs::write(folder.join("config.json"), "[1]").unwrap());
    assert_says(&error, ErrorKind::Malformed, &["is no JSON object"]);
    let error = damaged("sentences", |folder| {
        fs::write(folder.join("modules.json"), "{}").unwrap()
    });
    assert_says(&error, ErrorKind::Malformed, &["modules.json", "is no list of modules"]);
}

#[test]
fn shards_and_their_index_agree() {
    let index = "model.safetensors.index.json";
    let place = |tensor: &'static str, file: &'static str| {
        damaged("llama_rope3", move |folder| {
            folders::edit(&folder.join(index), |index| {
                index["weight_map"][tensor] = file.into();
            });
        })
    };
    let error = place("nothing", "model-00001-of-00003.safetensors");
    assert_says(
        &error,
        ErrorKind::Tensor,
        &["model-00001-of-00003.safetensors", "tensor `nothing` is missing"],
    );
    let error = place("model.norm.weight", "../model.safetensors");
    assert_says(&error, ErrorKind::Malformed, &["`model.norm.weight`", "no file here"]);
    let error = place("model.norm.weight", "model-00001-of-00003.safetensors");
    assert_says(&error, ErrorKind::Malformed, &["`model.norm.weight`"]);
    let error = damaged("llama_rope3", |folder| fs::write(folder.join(index), "{}").unwrap());
    assert_says(&error, ErrorKind::Malformed, &["has no object `weight_map`"]);
}

#[test]
fn tensors_that_are_missing_or_do_not_fit() {
    let error = damaged("llama", |folder| {
        folders::edit_tensors(folder, |tensors| {
            tensors.shift_remove("model.layers.1.mlp.up_proj.weight").unwrap();
        });
    });
    assert_says(
        &error,
        ErrorKind::Tensor,
        &["tensor `model.layers.1.mlp.up_proj.weight` is missing"],
    );
    let error = with("llama", "intermediate_size", json!(21));
    let parts = [
        "`model.layers.0.mlp.gate_proj.weight` has the shape [15, 18]",
        "asks for [21, 18]",
    ];
    assert_says(&error, ErrorKind::Tensor, &parts);
    let error = damaged("bert", |folder| {
        folders::edit_tensors(folder, |tensors| {
            let name = "encoder.layer.0.output.dense.bias";
            tensors.insert(name.into(), Tensor::from_vec(vec![18], vec![1_i8; 18]));
        });
    });
    assert_says(
        &error,
        ErrorKind::Tensor,
        &["`encoder.layer.0.output.dense.bias` is int8", "before it was quantized"],
    );
}

#[test]
fn tensors_that_nobody_expects_are_listed() {
    let folder = folders::copy("llama");
    folders::edit_tensors(folder.path(), |tensors| {
        tensors.insert("model.extra".into(), Tensor::scalar(1.0_f32));
    });
    let opened = open(folder.path()).unwrap();
    assert_eq!(opened.unused, ["model.extra"]);
    assert!(opened.uncounted.is_empty());
    let classifier = open(&folders::path("bert_classifier")).unwrap();
    assert_eq!(classifier.unused, ["bert.embeddings.position_ids"]);
    // A layer that the configuration does not count.
    folders::edit(&folder.path().join("config.json"), |config| {
        config.insert("num_hidden_layers".into(), json!(1));
    });
    let opened = open(folder.path()).unwrap();
    assert!(
        opened
            .uncounted
            .contains(&"model.layers.1.mlp.up_proj.weight".to_owned())
    );
    assert_eq!(opened.uncounted.len(), opened.unused.len() - 1);
}

#[test]
fn keys_of_the_wrong_type_or_without_sense() {
    let config = |name: &str, key: &str, value: Value, parts: &[&str]| {
        assert_says(&with(name, key, value), ErrorKind::Config, parts);
    };
    config(
        "llama",
        "hidden_size",
        json!("24"),
        &["`hidden_size` must be a whole number; it is a text"],
    );
    config(
        "llama",
        "hidden_size",
        json!(24.5),
        &["`hidden_size` must be a whole number; it is 24.5"],
    );
    config("llama", "hidden_size", json!(-24), &["it is -24"]);
    config("llama", "hidden_size", json!(0), &["must not be 0"]);
    config("llama", "hidden_size", Value::Null, &["`hidden_size` is missing"]);
    config("llama", "num_hidden_layers", json!(1e30), &["num_hidden_layers"]);
    config(
        "llama",
        "num_hidden_layers",
        json!(1_000_000_000),
        &["more than any model has"],
    );
    config("llama", "num_key_value_heads", json!(4), &["does not divide the 6"]);
    config("llama", "head_dim", json!(9), &["`head_dim` is 9", "in pairs"]);
    config(
        "llama",
        "head_dim",
        json!(1_u64 << 40),
        &["`head_dim` is 1099511627776, more than any model has"],
    );
    config("llama", "tie_word_embeddings", json!("no"), &["must be true or false"]);
    config(
        "llama",
        "architectures",
        json!("LlamaForCausalLM"),
        &["must be a list of texts"],
    );
    config(
        "llama",
        "rope_parameters",
        json!({"rope_type": "linear"}),
        &["`rope_parameters.factor` is missing"],
    );
    config(
        "llama",
        "rope_parameters",
        json!({"rope_theta": 0}),
        &["must be above 1"],
    );
    config(
        "llama",
        "rope_parameters",
        json!([]),
        &["`rope_parameters` must be an object; it is a list"],
    );
    config("llama", "partial_rotary_factor", json!(0.5), &["turned in part"]);
    config("mistral", "sliding_window", json!(0), &["must not be 0"]);
    config(
        "qwen3_kinds",
        "layer_types",
        json!(["full_attention"]),
        &["names 1 layers"],
    );
    config(
        "qwen3_kinds",
        "use_sliding_window",
        json!(false),
        &["no `sliding_window` is in use"],
    );
    config(
        "bert",
        "num_attention_heads",
        json!(5),
        &["does not divide the hidden size 18"],
    );
    config("bert", "is_decoder", json!(true), &["only encoders"]);
    config("bert_classifier", "id2label", json!({}), &["names no label"]);
}

#[test]
fn poolings_that_are_not_known() {
    let settings = |value: Value| {
        damaged("sentences", move |folder| {
            let path = folder.join("1_Pooling/config.json");
            fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
        })
    };
    let error = settings(json!({"pooling_mode_lasttoken": true}));
    assert_says(
        &error,
        ErrorKind::Unknown,
        &["1_Pooling", "`pooling_mode_lasttoken`", "pooling_mode_mean_tokens"],
    );
    let error = settings(json!({"pooling_mode_mean_tokens": false}));
    assert_says(&error, ErrorKind::Config, &["names no way to pool"]);
    let modules = |kind: &'static str, path: &'static str| {
        damaged("sentences", move |folder| {
            let file = folder.join("modules.json");
            let mut list: Vec<Value> = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            list[1]["type"] = kind.into();
            list[1]["path"] = path.into();
            fs::write(file, serde_json::to_vec(&list).unwrap()).unwrap();
        })
    };
    let error = modules("sentence_transformers.models.Dense", "2_Dense");
    assert_says(
        &error,
        ErrorKind::Unknown,
        &["`sentence_transformers.models.Dense`", "a Pooling"],
    );
    let error = modules("sentence_transformers.models.Pooling", "../1_Pooling");
    assert_says(&error, ErrorKind::Unknown, &["outside of the folder"]);
    let error = damaged("llama", |folder| {
        for (name, bytes) in folders::files(&folders::path("sentences")) {
            if !name.ends_with(".safetensors") && name != "config.json" {
                fs::create_dir_all(folder.join("1_Pooling")).unwrap();
                fs::write(folder.join(name), bytes).unwrap();
            }
        }
    });
    assert_says(&error, ErrorKind::Unknown, &["a decoder with a pooling"]);
}

fn any_value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0_u64..70).prop_map(Value::from)
    ];
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number.clone(),
        "[a-z_0-9]{0,12}".prop_map(Value::from),
        prop::collection::vec(number, 0..3).prop_map(Value::from),
        Just(json!({"rope_type": "yarn", "factor": 0.0})),
        Just(json!({"rope_type": "llama3", "factor": 1e308, "low_freq_factor": 1e-308, "high_freq_factor": 1})),
        Just(json!({})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_value_of_any_key_is_a_panic(name in prop::sample::select(&folders::NAMES[..]), key in any::<prop::sample::Index>(), value in any_value()) {
        let folder = folders::copy(name);
        folders::edit(&folder.path().join("config.json"), |config| {
            let key = config.keys().nth(key.index(config.len())).unwrap().clone();
            config.insert(key, value);
        });
        let _ = open(folder.path());
    }
}
