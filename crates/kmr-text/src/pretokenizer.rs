//! The tokenizer in a GGUF file's metadata as Hugging Face's `tokenizer.json`.

use std::path::Path;

use kmr_formats::gguf::{Gguf, GgufValue};
use kmr_formats::{ErrorKind, FormatError};
use serde_json::{Map, Value, json};

/// Kinds of tokens in `tokenizer.ggml.token_type`.
pub(crate) const NORMAL: i64 = 1;
pub(crate) const CONTROL: i64 = 3;
pub(crate) const USER_DEFINED: i64 = 4;
pub(crate) const UNUSED: i64 = 5;

/// Ways of splitting that differ from each other, as [`splitting`] knows them.
pub(crate) const SPLITTINGS: [&str; 4] = ["gpt-2", "smollm", "llama-bpe", "qwen2"];

/// How text is split before merges, by `tokenizer.ggml.pre`: normalizer and pre-tokenizer.
pub(crate) fn splitting(name: &str) -> Option<(Value, Value)> {
    let bytes =
        |split: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": split});
    let sequence = |first: Value, split: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(split)]});
    let pattern = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let digits = json!({"type": "Digits", "individual_digits": true});
    Some(match name {
        "gpt-2" => (Value::Null, bytes(true)),
        "smollm" | "starcoder" | "refact" | "command-r" => (Value::Null, sequence(digits, true)),
        "llama-bpe" => (Value::Null, sequence(pattern(&words("{1,3}")), false)),
        "qwen2" => (json!({"type": "NFC"}), sequence(pattern(&words("")), false)),
        _ => return None,
    })
}

/// English contractions, words, numbers of so many digits, signs and space, one by one.
fn words(digits: &str) -> String {
    format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
}

pub(crate) fn tokenizer_json(path: &Path, gguf: &Gguf) -> Result<Value, FormatError> {
    let error = |kind, message: String| FormatError::new(kind, path, message);
    let text = |key: &str| gguf.value(key).and_then(GgufValue::as_text);
    let texts = |key: &str| {
        let found = gguf.value(key).and_then(GgufValue::as_texts);
        found.ok_or_else(|| error(ErrorKind::Malformed, format!("there are no texts under `{key}`")))
    };
    let way_out = "give the model's own `tokenizer.json`";
    match text("tokenizer.ggml.model") {
        Some("gpt2") => {}
        Some(other) => {
            let message = format!(
                "its tokenizer is of the kind `{}`; kmr knows `gpt2`",
                other.escape_debug()
            );
            return Err(error(ErrorKind::Unsupported, message).help(way_out));
        }
        None => return Err(error(ErrorKind::Malformed, "there is no tokenizer in its metadata".into()).help(way_out)),
    }
    let name = text("tokenizer.ggml.pre").unwrap_or("gpt-2");
    let Some((normalizer, pre_tokenizer)) = splitting(name) else {
        let message = format!(
            "its tokenizer splits text in the way `{}`, which is not known",
            name.escape_debug()
        );
        return Err(error(ErrorKind::Unsupported, message).help(way_out));
    };
    let tokens = texts("tokenizer.ggml.tokens")?;
    let mut vocabulary = Map::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(earlier) = vocabulary.insert(token.clone(), id.into()) {
            let message = format!("tokens {earlier} and {id} are both `{}`", token.escape_debug());
            return Err(error(ErrorKind::Malformed, message));
        }
    }
    let kinds = gguf
        .value("tokenizer.ggml.token_type")
        .and_then(GgufValue::as_integers)
        .unwrap_or_default();
    let added: Vec<Value> = tokens
        .iter()
        .zip(kinds)
        .enumerate()
        .filter_map(|(id, token)| added_token(id, token))
        .collect();
    let merges: Vec<Value> = texts("tokenizer.ggml.merges")?
        .iter()
        .map(|merge| json!(merge))
        .collect();
    let beginning = match gguf.value("tokenizer.ggml.add_bos_token").and_then(GgufValue::as_bool) {
        Some(true) => beginning(gguf, tokens),
        _ => Value::Null,
    };
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": beginning,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": name == "llama-bpe",
            "vocab": vocabulary, "merges": merges,
        },
    }))
}

/// A token that is found in text as it stands, before anything is split.
fn added_token(id: usize, (token, kind): (&String, i64)) -> Option<Value> {
    [CONTROL, USER_DEFINED].contains(&kind).then(|| {
        json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": kind == CONTROL,
        })
    })
}

/// Puts the token of the beginning before every text.
fn beginning(gguf: &Gguf, tokens: &[String]) -> Value {
    let id = gguf.value("tokenizer.ggml.bos_token_id").and_then(GgufValue::as_u64);
    let Some((id, token)) = id.and_then(|id| Some((id, tokens.get(usize::try_from(id).ok()?)?))) else {
        return Value::Null;
    };
    let special = |kind: u32| json!({"SpecialToken": {"id": token, "type_id": kind}});
    let sequence = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    })
}
