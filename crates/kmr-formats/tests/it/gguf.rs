//! GGUF files against the package `gguf`; see `fixtures/gguf/make.py`.

use std::fs;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use kmr_formats::ErrorKind;
use kmr_formats::gguf::{Gguf, GgufKind, GgufTensor, GgufValue, from_hugging_face, to_hugging_face};
use proptest::prelude::*;
use serde_json::json;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/gguf")
        .join(name)
}

fn read(name: &str) -> Gguf {
    Gguf::read(&fixture(name)).unwrap()
}

fn numbers(tensor: &GgufTensor) -> Vec<u32> {
    let tensor = tensor.to_tensor();
    tensor.to_f32().unwrap().iter().map(|value| value.to_bits()).collect()
}

#[test]
fn metadata_of_every_type() {
    let gguf = read("blocks.gguf");
    let integers = ["u8", "i8", "u16", "i16", "u32", "i32", "i64"].map(|key| gguf.value(key).unwrap().as_i64());
    assert_eq!(
        integers,
        [200, -100, 60000, -30000, 4_000_000_000, -2_000_000_000, -(1 << 62)].map(Some)
    );
    assert_eq!(gguf.value("u64"), Some(&GgufValue::U64(1 << 63)));
    assert_eq!(gguf.value("u64").unwrap().as_i64(), None);
    assert_eq!(gguf.value("f32"), Some(&GgufValue::F32(0.1)));
    assert_eq!(gguf.value("f64").unwrap().as_f64(), Some(0.1));
    assert_eq!(gguf.value("bool").unwrap().as_bool(), Some(true));
    assert_eq!(gguf.value("text").unwrap().as_text(), Some("Grüße"));
    assert_eq!(gguf.value("texts").unwrap().as_texts().unwrap(), ["a", "", "ä"]);
    assert_eq!(gguf.value("integers").unwrap().as_integers(), Some(vec![1, -2, 3]));
    assert_eq!(gguf.value("floats").unwrap().as_integers(), None);
}

#[test]
fn blocks_are_decoded_to_the_last_bit() {
    let gguf = read("blocks.gguf");
    let mut kinds = 0;
    for (name, tensor) in &gguf.tensors {
        let Some(kind) = name.strip_suffix(".blocks") else {
            continue;
        };
        assert_eq!(tensor.kind().to_string(), kind);
        assert_eq!(
            numbers(tensor),
            numbers(&gguf.tensors[&format!("{kind}.numbers")]),
            "{kind}"
        );
        kinds += 1;
    }
    assert_eq!(kinds, 10);
}

#[test]
fn numbers_are_encoded_to_the_last_bit() {
    let gguf = read("blocks.gguf");
    let source = gguf.tensors["source"].to_tensor();
    let mut kinds = 0;
    for (name, expected) in &gguf.tensors {
        if name.ends_with(".encoded") {
            let encoded = GgufTensor::encode(expected.kind(), vec![4, 256], &source.to_f32().unwrap());
            assert_eq!(&encoded.unwrap(), expected, "{name}");
            kinds += 1;
        }
    }
    assert_eq!(kinds, 5);
}

/// Root of the mean squared error, relative to that of the numbers.
fn error(kind: GgufKind, values: &[f32]) -> f64 {
    let encoded = GgufTensor::encode(kind, vec![values.len()], values)
        .unwrap()
        .to_tensor();
    let back = encoded.to_f32().unwrap();
    let pairs = values.iter().zip(back.iter());
    let noise: f64 = pairs.map(|(value, back)| f64::from(value - back).powi(2)).sum();
    let signal: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
    (noise / signal).sqrt()
}

#[test]
fn parts_with_scales_of_their_own_are_fitted_well() {
    let source = read("blocks.gguf").tensors["source"].to_tensor();
    let values = source.to_f32().unwrap();
    let (four, six) = (error(GgufKind::Q4K, &values), error(GgufKind::Q6K, &values));
    assert!(four < error(GgufKind::Q4_0, &values), "{four}");
    assert!(four < 0.07, "{four}");
    assert!(six < 0.02, "{six}");
    for kind in [GgufKind::Q4K, GgufKind::Q6K] {
        let zeros = GgufTensor::encode(kind, vec![256], &[0.0; 256]).unwrap();
        assert!(zeros.to_tensor().to_f32().unwrap().iter().all(|value| *value == 0.0));
        let constant = error(kind, &[0.375; 256]);
        assert!(constant < 1e-3, "{kind}: {constant}");
        let constant = error(kind, &[-0.375; 256]);
        assert!(constant < 1e-3, "{kind}: {constant}");
    }
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("again.gguf");
    for name in ["blocks.gguf", "llama.gguf"] {
        let gguf = read(name);
        gguf.write(&path).unwrap();
        assert_eq!(Gguf::read(&path).unwrap(), gguf);
        let written = fs::read(&path).unwrap();
        assert_eq!(gguf.encoded_len().unwrap(), written.len() as u64);
        // The package writes the same bytes.
        assert_eq!(written, fs::read(fixture(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_llama_has_hugging_faces_names_and_rows() {
    let mut gguf = read("llama.gguf");
    let mut expected: IndexMap<String, GgufTensor> = IndexMap::new();
    gguf.tensors.retain(|name, tensor| match name.strip_prefix("hf/") {
        Some(name) => {
            expected.insert(name.to_owned(), tensor.clone());
            false
        }
        None => true,
    });
    let model = to_hugging_face(Path::new("llama.gguf"), &gguf).unwrap();
    assert_eq!(model.tensors, expected);
    let config = serde_json::Value::Object(model.config.clone());
    assert_eq!(
        config,
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2,
            "max_position_embeddings": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 11, "rms_norm_eps": 1e-5, "rope_theta": 100000.0,
            "tie_word_embeddings": false, "attention_bias": true, "mlp_bias": false, "hidden_act": "silu",
            "bos_token_id": 1, "eos_token_id": 2
        })
    );
    let back = from_hugging_face(Path::new("model"), &model, IndexMap::new()).unwrap();
    assert_eq!(back.tensors, gguf.tensors);
    for (key, value) in &gguf.metadata {
        assert_eq!(back.value(key), Some(value), "{key}");
    }
}

/// Llama's architecture with a window is Mistral: elsewhere the window would be passed over.
#[test]
fn a_window_is_kept() {
    let path = Path::new("model.gguf");
    let mut gguf = read("llama.gguf");
    gguf.tensors.retain(|name, _| !name.starts_with("hf/"));
    gguf.metadata
        .insert("llama.attention.sliding_window".into(), 16_u32.into());
    let model = to_hugging_face(path, &gguf).unwrap();
    assert_eq!(model.config["model_type"], "mistral");
    assert_eq!(model.config["sliding_window"], 16);
    let back = from_hugging_face(path, &model, IndexMap::new()).unwrap();
    assert_eq!(back.value("llama.attention.sliding_window"), Some(&GgufValue::U32(16)));
    assert_eq!(back.tensors, gguf.tensors);
}

#[test]
fn what_is_no_llama_is_refused_by_name() {
    let path = Path::new("model.gguf");
    let refused = |change: &dyn Fn(&mut Gguf)| {
        let mut gguf = read("llama.gguf");
        gguf.tensors.retain(|name, _| !name.starts_with("hf/"));
        change(&mut gguf);
        let error = to_hugging_face(path, &gguf).unwrap_err();
        format!("{error}; {}", error.way_out())
    };
    let message = refused(&|gguf| drop(gguf.metadata.insert("general.architecture".into(), "mamba".into())));
    assert_eq!(
        message,
        "model.gguf: the architecture `mamba` is not known; known are llama, qwen2, qwen3"
    );
    let message = refused(&|gguf| drop(gguf.metadata.shift_remove("llama.block_count")));
    assert!(message.contains("key `llama.block_count` is missing"), "{message}");
    let message = refused(&|gguf| drop(gguf.metadata.insert("llama.attention.head_count".into(), 3_u32.into())));
    assert!(
        message.contains("array `blk.0.attn_q.weight`: its 32 rows are no 3 heads"),
        "{message}"
    );
    let message = refused(&|gguf| drop(gguf.metadata.insert("llama.rope.scaling.type".into(), "yarn".into())));
    assert!(message.contains("`llama.rope.scaling.type` is `yarn`"), "{message}");
    let message = refused(&|gguf| {
        let weights = gguf.tensors["output.weight"].clone();
        gguf.tensors.insert("rope_freqs.weight".into(), weights);
    });
    assert!(
        message.contains("array `rope_freqs.weight`: architecture `llama` has no such tensor"),
        "{message}"
    );
}

fn refusal(bytes: &[u8]) -> (ErrorKind, String) {
    let error = Gguf::read_from(Path::new("bad.gguf"), bytes.to_vec().into()).unwrap_err();
    (error.kind(), error.to_string())
}

#[test]
fn bad_files_are_refused_with_the_place() {
    assert_eq!(
        refusal(b"GGML1234"),
        (
            ErrorKind::Malformed,
            "bad.gguf: this is no GGUF file (at byte 0)".into()
        )
    );
    let (kind, message) = refusal(&[b"GGUF".as_slice(), &[1, 0, 0, 0], &[0; 16]].concat());
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("version 1 is not supported"), "{message}");
    let (_, message) = refusal(&[b"GGUF".as_slice(), &[0, 0, 0, 3], &[0; 16]].concat());
    assert!(message.contains("big-endian"), "{message}");
    let (_, message) = refusal(b"");
    assert!(
        message.contains("the magic number takes 4 bytes; 0 are left"),
        "{message}"
    );
    // A text of 2^60 bytes.
    let start = [b"GGUF".as_slice(), &[3, 0, 0, 0], &[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
    let (_, message) = refusal(&[&start[..], &(1_u64 << 60).to_le_bytes()].concat());
    assert!(
        message.contains("the length of a key is 1152921504606846976; 0 bytes are left (at byte 24)"),
        "{message}"
    );
    // A key that is not UTF-8.
    let (_, message) = refusal(&[&start[..], &2_u64.to_le_bytes(), b"a\xff"].concat());
    assert!(message.ends_with("a key is not UTF-8 (at byte 33)"), "{message}");
    // Tensors without bytes, without number, in a type that is not read.
    let tensor = |kind: u32, size: u64, count: u64| {
        let one = [
            &1_u64.to_le_bytes()[..],
            b"w",
            &1_u32.to_le_bytes(),
            &size.to_le_bytes(),
            &kind.to_le_bytes(),
            &0_u64.to_le_bytes(),
        ]
        .concat();
        [b"GGUF".as_slice(), &[3, 0, 0, 0], &count.to_le_bytes(), &[0; 8], &one].concat()
    };
    let (_, message) = refusal(&tensor(0, 1 << 40, 1));
    assert!(
        message.contains("array `w`: its 4398046511104 bytes at 0 lie outside the file of 57"),
        "{message}"
    );
    let (_, message) = refusal(&tensor(0, 1, u64::MAX));
    assert!(message.contains("the length of a tensor's name"), "{message}");
    let (kind, message) = refusal(&tensor(20, 32, 1));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(
        message.contains("it is stored as IQ4_NL, which is not supported"),
        "{message}"
    );
    let (_, message) = refusal(&tensor(2, 33, 1));
    assert!(
        message.contains("rows of shape [33] are no blocks of 32 numbers, as Q4_0 has them"),
        "{message}"
    );
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let refuse = |kind, shape: &[usize], values: &[f32]| {
        GgufTensor::encode(kind, shape.to_vec(), values)
            .unwrap_err()
            .to_string()
    };
    assert!(refuse(GgufKind::Q4K, &[2, 576], &[0.0; 1152]).contains("no blocks of 256 numbers, as Q4_K"));
    assert!(refuse(GgufKind::Q5_0, &[32], &[0.0; 32]).contains("Q5_0 is read, not written"));
    assert!(refuse(GgufKind::F16, &[2], &[0.0, f32::NAN]).contains("number 1 is NaN"));
    assert!(refuse(GgufKind::F16, &[3], &[0.0]).contains("1 numbers do not fill the shape [3]"));
    assert!(refuse(GgufKind::F32, &[usize::MAX, 2], &[0.0]).contains("[18446744073709551615, 2]"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The error of every number is at most what its block's step allows.
    #[test]
    fn encoding_loses_no_more_than_a_step(
        values in prop::collection::vec(-10_f32..10.0, 256), exponent in -8_i32..8,
    ) {
        let values: Vec<f32> = values.iter().map(|value| value * 2_f32.powi(exponent)).collect();
        for (kind, levels, part) in [
            (GgufKind::Q8_0, 200.0, 32), (GgufKind::Q4_0, 8.0, 32), (GgufKind::Q4_1, 15.0, 32),
            (GgufKind::Q4K, 6.0, 256), (GgufKind::Q6K, 24.0, 256),
        ] {
            let back = GgufTensor::encode(kind, vec![256], &values).unwrap().to_tensor();
            let back = back.to_f32().unwrap();
            for (values, back) in values.chunks(part).zip(back.chunks(part)) {
                let least = values.iter().copied().fold(0.0, f32::min);
                let greatest = values.iter().copied().fold(0.0, f32::max);
                let step = (greatest - least) / levels;
                for (value, back) in values.iter().zip(back) {
                    prop_assert!((value - back).abs() <= step * 1.01, "{} {} {} {}", kind, value, back, step);
                }
            }
        }
    }

    #[test]
    fn damage_is_an_error_or_another_file(place in 0_usize..60_000, bits in 1_u8..=255) {
        let mut bytes = fs::read(fixture("llama.gguf")).unwrap();
        let place = place % bytes.len();
        bytes[place] ^= bits;
        if let Ok(gguf) = Gguf::read_from(Path::new("damaged"), bytes.into()) {
            let _ = to_hugging_face(Path::new("damaged"), &gguf);
        }
    }
}
