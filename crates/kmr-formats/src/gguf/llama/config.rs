//! The configuration on both sides.

use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::Architecture;
use crate::error::shown;
use crate::gguf::{Gguf, GgufValue};
use crate::{ErrorKind, FormatError};

/// Whole numbers that both sides have, behind the architecture's name and in `config.json`.
const NUMBERS: [(&str, &str); 6] = [
    ("block_count", "num_hidden_layers"),
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.head_count_kv", "num_key_value_heads"),
];

/// Tokens that both sides have.
const TOKENS: [(&str, &str); 3] = [
    ("tokenizer.ggml.bos_token_id", "bos_token_id"),
    ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ("tokenizer.ggml.padding_token_id", "pad_token_id"),
];

const EPSILON: &str = "attention.layer_norm_rms_epsilon";
const BASE: &str = "rope.freq_base";
/// transformers' base where `config.json` is silent.
const DEFAULT_BASE: f64 = 10_000.0;

pub(super) fn read(path: &Path, gguf: &Gguf, architecture: &Architecture) -> Result<Map<String, Value>, FormatError> {
    let key = |name: &str| format!("{}.{name}", architecture.gguf);
    let error = |kind, message: String| FormatError::new(kind, path, message);
    let mut config = Map::new();
    config.insert("architectures".into(), json!([architecture.class]));
    config.insert("model_type".into(), json!(architecture.model_type));
    for (name, wanted) in NUMBERS {
        let number = match (gguf.value(&key(name)), name) {
            (Some(value), _) => value.as_u64(),
            // Every query head has its own keys.
            (None, "attention.head_count_kv") => config.get("num_attention_heads").and_then(Value::as_u64),
            (None, _) => return Err(error(ErrorKind::Malformed, format!("key `{}` is missing", key(name)))),
        };
        let Some(number) = number else {
            let message = format!("key `{}` is no whole number", key(name));
            return Err(
                error(ErrorKind::Unsupported, message).help("layers that differ in size are not read from GGUF")
            );
        };
        config.insert(wanted.into(), number.into());
    }
    let heads = config["num_attention_heads"].as_u64().filter(|heads| *heads > 0);
    let width = config["hidden_size"]
        .as_u64()
        .zip(heads)
        .map(|(size, heads)| size / heads);
    let head = gguf
        .value(&key("attention.key_length"))
        .or(gguf.value(&key("rope.dimension_count")));
    let Some(head) = head.and_then(GgufValue::as_u64).or(width) else {
        return Err(error(
            ErrorKind::Malformed,
            format!("`{}` is 0", key("attention.head_count")),
        ));
    };
    config.insert("head_dim".into(), head.into());
    let Some(embedding) = gguf
        .tensors
        .get("token_embd.weight")
        .filter(|tensor| tensor.shape().len() == 2)
    else {
        return Err(error(
            ErrorKind::Malformed,
            "there is no matrix `token_embd.weight`".into(),
        ));
    };
    config.insert("vocab_size".into(), embedding.shape()[0].into());
    let Some(epsilon) = gguf.value(&key(EPSILON)).and_then(decimal) else {
        return Err(error(
            ErrorKind::Malformed,
            format!("key `{}` is missing", key(EPSILON)),
        ));
    };
    config.insert("rms_norm_eps".into(), json!(epsilon));
    let base = gguf.value(&key(BASE)).and_then(decimal).unwrap_or(DEFAULT_BASE);
    config.insert("rope_theta".into(), json!(base));
    let scaling = gguf
        .value(&key("rope.scaling.type"))
        .and_then(GgufValue::as_text)
        .unwrap_or("none");
    if scaling != "none" {
        let message = format!("`{}` is `{}`", key("rope.scaling.type"), shown(scaling));
        return Err(error(ErrorKind::Unsupported, message).help("give the Hugging Face folder instead"));
    }
    if let Some(window) = gguf.value(&key("attention.sliding_window")).and_then(GgufValue::as_u64) {
        config.insert("sliding_window".into(), window.into());
    }
    let has = |name: &str| gguf.tensors.contains_key(name);
    config.insert("tie_word_embeddings".into(), (!has("output.weight")).into());
    config.insert("attention_bias".into(), has("blk.0.attn_q.bias").into());
    config.insert("mlp_bias".into(), has("blk.0.ffn_down.bias").into());
    config.insert("hidden_act".into(), "silu".into());
    for (name, wanted) in TOKENS {
        if let Some(token) = gguf.value(name).and_then(GgufValue::as_u64) {
            config.insert(wanted.into(), token.into());
        }
    }
    Ok(config)
}

pub(super) fn write(
    path: &Path,
    config: &Map<String, Value>,
    architecture: &Architecture,
    metadata: &mut IndexMap<String, GgufValue>,
) -> Result<(), FormatError> {
    let key = |name: &str| format!("{}.{name}", architecture.gguf);
    let number = |name: &str| {
        config
            .get(name)
            .and_then(Value::as_u64)
            .and_then(|number| u32::try_from(number).ok())
    };
    let missing = |name: &str| {
        let message = format!("the configuration has no whole number `{name}`");
        FormatError::new(ErrorKind::Malformed, path, message)
    };
    metadata.insert("general.architecture".into(), architecture.gguf.into());
    for (wanted, name) in NUMBERS {
        let found = number(name).or_else(|| match name {
            "num_key_value_heads" => number("num_attention_heads"),
            _ => None,
        });
        metadata.insert(key(wanted), found.ok_or_else(|| missing(name))?.into());
    }
    let vocabulary = number("vocab_size").ok_or_else(|| missing("vocab_size"))?;
    metadata.insert(key("vocab_size"), vocabulary.into());
    let whole = number("hidden_size").zip(number("num_attention_heads").filter(|heads| *heads > 0));
    let head = number("head_dim").or(whole.map(|(size, heads)| size / heads));
    let head = head.ok_or_else(|| missing("head_dim"))?;
    for name in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
        metadata.insert(key(name), head.into());
    }
    let epsilon = config
        .get("rms_norm_eps")
        .and_then(Value::as_f64)
        .ok_or_else(|| missing("rms_norm_eps"))?;
    metadata.insert(key(EPSILON), (epsilon as f32).into());
    if config.get("rope_scaling").is_some_and(|scaling| !scaling.is_null()) {
        let message = "the configuration scales the rotation (`rope_scaling`), which is not written to GGUF";
        return Err(FormatError::new(ErrorKind::Unsupported, path, message).help("write another format"));
    }
    let base = config.get("rope_theta").and_then(Value::as_f64).unwrap_or(DEFAULT_BASE);
    metadata.insert(key(BASE), (base as f32).into());
    if let Some(window) = number("sliding_window") {
        metadata.insert(key("attention.sliding_window"), window.into());
    }
    for (wanted, name) in TOKENS {
        if let Some(token) = number(name) {
            metadata.insert(wanted.into(), token.into());
        }
    }
    Ok(())
}

/// A floating-point number as the decimal that was meant: float32's 1e-5 is not 9.999999747378752e-6.
fn decimal(value: &GgufValue) -> Option<f64> {
    match value {
        GgufValue::F32(value) => value.to_string().parse().ok(),
        other => other.as_f64(),
    }
    .filter(|value: &f64| value.is_finite())
}
