//! A `tokenizer.json` of Hugging Face as metadata of a GGUF file: the way back of [`pretokenizer`](crate::pretokenizer).

use std::path::Path;

use kmr_formats::gguf::GgufValue;
use kmr_formats::{ErrorKind, FormatError};
use serde_json::Value;

use crate::pretokenizer::{CONTROL, NORMAL, SPLITTINGS, UNUSED, USER_DEFINED, splitting};

/// Metadata of a tokenizer, in the order that it is written in: tokens, their kinds, merges, how text is split, and
/// which token stands at the beginning. `path` is the name of `bytes` in messages, `vocabulary` the rows of the model's
/// table of tokens; what the tokenizer has no token for is filled up.
///
/// # Errors
///
/// Bytes that describe no tokenizer, one that is not of merges over bytes or splits text in a way that has no name in
/// GGUF, and more tokens than the vocabulary has.
pub fn gguf_metadata(path: &Path, bytes: &[u8], vocabulary: usize) -> Result<Vec<(String, GgufValue)>, FormatError> {
    let malformed = |message: String| {
        FormatError::new(ErrorKind::Malformed, path, message).help("give the `tokenizer.json` of a Hugging Face folder")
    };
    let unsupported = |message: String| {
        FormatError::new(ErrorKind::Unsupported, path, message)
            .help("take the tokenizer from a GGUF file of this model")
    };
    let document: Value =
        serde_json::from_slice(bytes).map_err(|cause| malformed(format!("this is no tokenizer: {cause}")))?;
    let model = document
        .get("model")
        .ok_or_else(|| malformed("it has no `model`".into()))?;
    let kind = model.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind != "BPE" {
        return Err(unsupported(format!(
            "its model is of the kind `{}`; `BPE` is written to GGUF",
            kind.escape_debug()
        )));
    }
    let Some(name) = splitting_of(&document) else {
        return Err(unsupported("it splits text in a way that has no name in GGUF".into()));
    };
    let tokens = Tokens::of(&document, model, vocabulary).map_err(&malformed)?;
    let mut metadata: Vec<(String, GgufValue)> = vec![
        ("tokenizer.ggml.model".into(), "gpt2".into()),
        ("tokenizer.ggml.pre".into(), name.into()),
    ];
    let beginning = beginning(&document);
    let id = beginning.and_then(|token| tokens.names.iter().position(|name| name == token));
    metadata.push(("tokenizer.ggml.tokens".into(), tokens.names.into()));
    metadata.push(("tokenizer.ggml.token_type".into(), tokens.kinds.into()));
    let merges = merges(model).ok_or_else(|| malformed("its merges are no pairs".into()))?;
    metadata.push(("tokenizer.ggml.merges".into(), merges.into()));
    if let Some(id) = id.and_then(|id| u32::try_from(id).ok()) {
        metadata.push(("tokenizer.ggml.bos_token_id".into(), id.into()));
    }
    metadata.push(("tokenizer.ggml.add_bos_token".into(), id.is_some().into()));
    Ok(metadata)
}

/// Tokens by number, and the kind of each.
struct Tokens {
    names: Vec<String>,
    kinds: Vec<i32>,
}

impl Tokens {
    fn of(document: &Value, model: &Value, vocabulary: usize) -> Result<Self, String> {
        let mut names: Vec<Option<String>> = vec![None; vocabulary];
        let mut kinds = vec![UNUSED as i32; vocabulary];
        let mut put = |name: &str, id: Option<u64>, kind: i64| {
            let place = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < vocabulary);
            let Some(place) = place else {
                return Err(format!(
                    "token `{}` is none of the {vocabulary} that the model has",
                    name.escape_debug()
                ));
            };
            match &names[place] {
                Some(other) if other != name => {
                    return Err(format!(
                        "tokens `{}` and `{}` have one number",
                        other.escape_debug(),
                        name.escape_debug()
                    ));
                }
                _ => names[place] = Some(name.to_owned()),
            }
            kinds[place] = kind as i32;
            Ok(())
        };
        let known = model
            .get("vocab")
            .and_then(Value::as_object)
            .ok_or("it has no `vocab`")?;
        for (name, id) in known {
            put(name, id.as_u64(), NORMAL)?;
        }
        for token in document
            .get("added_tokens")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let name = token
                .get("content")
                .and_then(Value::as_str)
                .ok_or("an added token has no text")?;
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            let kind = if special { CONTROL } else { USER_DEFINED };
            put(name, token.get("id").and_then(Value::as_u64), kind)?;
        }
        let filled = names.into_iter().enumerate();
        Ok(Self {
            names: filled
                .map(|(id, name)| name.unwrap_or_else(|| format!("[PAD{id}]")))
                .collect(),
            kinds,
        })
    }
}

/// Merges as two pieces with a space between them.
fn merges(model: &Value) -> Option<Vec<String>> {
    let merge = |merge: &Value| match merge {
        Value::String(text) => Some(text.clone()),
        Value::Array(pair) => match &pair[..] {
            [Value::String(left), Value::String(right)] => Some(format!("{left} {right}")),
            _ => None,
        },
        _ => None,
    };
    model.get("merges")?.as_array()?.iter().map(merge).collect()
}

/// The name of the way in which a tokenizer splits text before merges.
fn splitting_of(document: &Value) -> Option<&'static str> {
    let part = |name: &str| document.get(name).cloned().unwrap_or_default();
    let found = (steps(&part("normalizer")), steps(&part("pre_tokenizer")));
    SPLITTINGS
        .into_iter()
        .find(|name| splitting(name).is_some_and(|(normalizer, split)| (steps(&normalizer), steps(&split)) == found))
}

/// A normalizer's or a pre-tokenizer's steps one after the other, without what changes no token.
fn steps(step: &Value) -> Vec<Value> {
    let inner = ["pretokenizers", "normalizers"].iter().find_map(|key| step.get(key));
    match (step, inner.and_then(Value::as_array)) {
        (Value::Null, _) => Vec::new(),
        (_, Some(inner)) => inner.iter().flat_map(steps).collect(),
        _ => {
            let mut step = step.clone();
            if let Some(map) = step.as_object_mut() {
                map.remove("trim_offsets");
                if map.get("type").and_then(Value::as_str) == Some("ByteLevel") {
                    map.entry("use_regex").or_insert(true.into());
                }
            }
            vec![step]
        }
    }
}

/// The token that the tokenizer puts before every text.
fn beginning(document: &Value) -> Option<&str> {
    let processor = document.get("post_processor")?;
    let own = [processor];
    let inner = processor.get("processors").and_then(Value::as_array);
    let steps: Vec<&Value> = match inner {
        Some(inner) => inner.iter().collect(),
        None => own.to_vec(),
    };
    let template = steps.into_iter().find_map(|step| step.get("single")?.as_array());
    template?.first()?.get("SpecialToken")?.get("id")?.as_str()
}

#[cfg(test)]
mod tests {
    use kmr_formats::gguf::Gguf;
    use serde_json::json;

    use super::*;
    use crate::Tokenizer;

    fn document(pre_tokenizer: &Value, normalizer: &Value) -> Value {
        json!({
            "version": "1.0",
            "added_tokens": [
                {"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
                {"id": 5, "content": "<user>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false},
            ],
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}},
            },
            "decoder": null,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": {"a": 0, "b": 1, "ab": 2, "abab": 3}, "merges": [["a", "b"], ["ab", "ab"]],
            },
        })
    }

    #[test]
    fn every_known_way_of_splitting_comes_back() {
        for name in SPLITTINGS {
            let (normalizer, pre_tokenizer) = splitting(name).unwrap();
            let mut document = document(&pre_tokenizer, &normalizer);
            if name == "smollm" {
                document["model"]["merges"] = json!(["a b", "ab ab"]);
            }
            let bytes = document.to_string();
            let path = Path::new("tokenizer.json");
            let metadata = gguf_metadata(path, bytes.as_bytes(), 8).unwrap();
            let gguf = Gguf {
                metadata: metadata.into_iter().collect(),
                ..Default::default()
            };
            assert_eq!(gguf.value("tokenizer.ggml.pre").unwrap().as_text(), Some(name));
            let tokens = gguf.value("tokenizer.ggml.tokens").unwrap().as_texts().unwrap();
            assert_eq!(tokens, ["a", "b", "ab", "abab", "<s>", "<user>", "[PAD6]", "[PAD7]"]);
            let kinds = gguf.value("tokenizer.ggml.token_type").unwrap().as_integers().unwrap();
            assert_eq!(kinds, [1, 1, 1, 1, 3, 4, 5, 5]);
            let (own, again) = (
                Tokenizer::from_json(path, bytes.as_bytes()).unwrap(),
                Tokenizer::from_gguf(path, &gguf).unwrap(),
            );
            for text in ["ababab", "<user>ba<s>ab", "ab"] {
                let tokens = own.encode(text, None).unwrap();
                assert_eq!(tokens.ids[0], 4);
                assert_eq!(again.encode(text, None).unwrap(), tokens, "{name}: {text}");
            }
        }
    }

    #[test]
    fn what_gguf_has_no_words_for_is_refused() {
        let refused = |change: &dyn Fn(&mut Value), vocabulary: usize| {
            let (normalizer, pre_tokenizer) = splitting("gpt-2").unwrap();
            let mut document = document(&pre_tokenizer, &normalizer);
            change(&mut document);
            let bytes = document.to_string();
            gguf_metadata(Path::new("t.json"), bytes.as_bytes(), vocabulary)
                .unwrap_err()
                .to_string()
        };
        let pieces = refused(&|document| document["model"]["type"] = "WordPiece".into(), 8);
        assert!(pieces.contains("`WordPiece`"), "{pieces}");
        let split = refused(&|document| document["pre_tokenizer"] = json!({"type": "Whitespace"}), 8);
        assert!(split.contains("has no name in GGUF"), "{split}");
        let many = refused(&|_| {}, 5);
        assert!(many.contains("`<user>` is none of the 5"), "{many}");
        let twice = refused(&|document| document["added_tokens"][0]["id"] = 1.into(), 8);
        assert!(twice.contains("`b` and `<s>` have one number"), "{twice}");
        let merges = refused(&|document| document["model"]["merges"] = json!([[1, 2]]), 8);
        assert!(merges.contains("merges are no pairs"), "{merges}");
    }
}
