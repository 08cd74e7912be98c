//! Tokens against the package `tokenizers`; see `fixtures/make.py`.

use std::path::Path;

use kmr_formats::gguf::{Gguf, GgufValue};
use kmr_text::{Encoded, Tokenizer};
use serde_json::Value;

use crate::{fixture, words};

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_u64().unwrap() as u32)
        .collect()
}

/// Compares what `encode` makes of every text with what the package made of it.
fn compare(kind: &str, encode: impl Fn(&str, &str) -> Encoded) {
    let expected = expected();
    let texts = expected["texts"].as_array().unwrap();
    let first = texts[0].as_str().unwrap();
    for (text, wanted) in texts.iter().zip(expected[kind].as_array().unwrap()) {
        let text = text.as_str().unwrap();
        let wanted = Encoded {
            ids: numbers(&wanted[0]),
            kinds: numbers(&wanted[1]),
        };
        assert_eq!(encode(text, first), wanted, "{kind}: {text:?}");
    }
}

#[test]
fn a_tokenizer_of_hugging_face() {
    let words = words();
    compare("words", |text, _| words.encode(text, None).unwrap());
    compare("pairs", |text, first| words.encode(text, Some(first)).unwrap());
    let cut = words.clone().cut(9, true).unwrap();
    compare("cut", |text, first| cut.encode(text, Some(first)).unwrap());
    assert_eq!(words.padding(), 0);
}

#[test]
fn a_tokenizer_in_gguf() {
    let bytes = Tokenizer::read(&fixture("bytes.gguf")).unwrap();
    compare("bytes", |text, _| bytes.encode(text, None).unwrap());
    assert_eq!(bytes.padding(), 1);
    // What it says of itself is the same tokenizer again.
    let again = Tokenizer::from_json(Path::new("again"), bytes.to_json().unwrap().as_bytes()).unwrap();
    compare("bytes", |text, _| again.encode(text, None).unwrap());
    assert_eq!(again.vocabulary(), bytes.vocabulary());
}

#[test]
fn the_beginning_is_marked_where_metadata_say_so() {
    let mut gguf = Gguf::read(&fixture("bytes.gguf")).unwrap();
    gguf.metadata.insert("tokenizer.ggml.add_bos_token".into(), true.into());
    gguf.metadata.insert("tokenizer.ggml.bos_token_id".into(), 1_u32.into());
    let marked = Tokenizer::from_gguf(Path::new("m.gguf"), &gguf).unwrap();
    let plain = Tokenizer::read(&fixture("bytes.gguf")).unwrap();
    let ids = plain.encode("year", None).unwrap().ids;
    assert_eq!(marked.encode("year", None).unwrap().ids, [&[1], &ids[..]].concat());
    assert_eq!(marked.encode_running("year").unwrap(), ids);
}

#[test]
fn metadata_that_describe_no_known_tokenizer() {
    let refused = |key: &str, value: Option<GgufValue>| {
        let mut gguf = Gguf::read(&fixture("bytes.gguf")).unwrap();
        match value {
            Some(value) => drop(gguf.metadata.insert(key.into(), value)),
            None => drop(gguf.metadata.shift_remove(key)),
        }
        let error = Tokenizer::from_gguf(Path::new("m.gguf"), &gguf).unwrap_err();
        format!("{error}; {}", error.way_out())
    };
    assert_eq!(
        refused("tokenizer.ggml.model", Some("llama".into())),
        "m.gguf: its tokenizer is of the kind `llama`; kmr knows `gpt2`; give the model's own `tokenizer.json`"
    );
    assert!(refused("tokenizer.ggml.model", None).contains("there is no tokenizer in its metadata"));
    assert!(refused("tokenizer.ggml.pre", Some("dbrx".into())).contains("splits text in the way `dbrx`"));
    assert!(refused("tokenizer.ggml.tokens", None).contains("there are no texts under `tokenizer.ggml.tokens`"));
    let twice = refused(
        "tokenizer.ggml.tokens",
        Some(vec!["a".to_owned(), "a".to_owned()].into()),
    );
    assert!(twice.contains("tokens 0 and 1 are both `a`"), "{twice}");
    let merges = refused(
        "tokenizer.ggml.merges",
        Some(vec!["q r".to_owned(), "zz y".to_owned()].into()),
    );
    assert!(merges.contains("its tokenizer contradicts itself"), "{merges}");
}
