//! GGUF files.

use std::path::Path;

use bytes::Bytes;
use kmr_formats::{
    FormatError,
    gguf::{Gguf, GgufKind, GgufTensor, GgufValue, from_hugging_face, to_hugging_face},
};

use crate::{Outcome, message};

/// The name of the bytes in messages.
const NAME: &str = "model.gguf";

/// Reads a file, decodes what it holds, takes it for a Llama and back, and writes it into bytes that are read again.
///
/// # Panics
/// If a rule is broken.
pub fn exercise(bytes: &[u8]) -> Outcome {
    let path = Path::new(NAME);
    let gguf = match Gguf::read_from(path, Bytes::copy_from_slice(bytes)) {
        Ok(gguf) => gguf,
        Err(error) => return refused(&error),
    };
    for tensor in gguf.tensors.values() {
        let numbers = tensor.to_tensor();
        assert_eq!(numbers.shape(), tensor.shape());
    }
    match to_hugging_face(path, &gguf) {
        Ok(model) => {
            let back = from_hugging_face(path, &model, gguf.metadata.clone());
            match back {
                Ok(back) => assert_eq!(back.tensors, gguf.tensors),
                Err(error) => drop(refused(&error)),
            }
        }
        Err(error) => drop(refused(&error)),
    }
    let length = gguf.encoded_len();
    match length.and_then(|length| Ok((length, gguf.to_bytes()?))) {
        Ok((length, written)) => {
            assert_eq!(length, written.len() as u64);
            let again = Gguf::read_from(path, written.into()).expect("what is written is read");
            // NaN is no other NaN.
            assert_eq!(format!("{:?}", again.metadata), format!("{:?}", gguf.metadata));
            assert_eq!(again.tensors, gguf.tensors);
        }
        Err(error) => drop(refused(&error)),
    }
    Outcome::Read
}

fn refused(error: &FormatError) -> Outcome {
    message::check(&error.to_string());
    message::check(error.way_out());
    assert!(error.to_string().starts_with(NAME));
    Outcome::Refused
}

/// A small Llama with a tokenizer, a value of every type and tensors of several kinds.
pub fn specimen() -> Vec<u8> {
    let mut gguf = Gguf::default();
    let mut key = |name: &str, value: GgufValue| drop(gguf.metadata.insert(name.to_owned(), value));
    key("general.architecture", "llama".into());
    for (name, value) in [
        ("block_count", 1_u32),
        ("context_length", 8),
        ("embedding_length", 32),
        ("feed_forward_length", 32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        key(&format!("llama.{name}"), value.into());
    }
    key("llama.attention.layer_norm_rms_epsilon", 1e-5_f32.into());
    key("tokenizer.ggml.model", "gpt2".into());
    key(
        "tokenizer.ggml.tokens",
        vec!["a".to_owned(), "b".to_owned(), "ab".to_owned()].into(),
    );
    key("tokenizer.ggml.token_type", vec![1_i32, 1, 1].into());
    key("tokenizer.ggml.merges", vec!["a b".to_owned()].into());
    key("flag", true.into());
    key("large", u64::MAX.into());
    let mut tensor = |name: &str, kind: GgufKind, shape: &[usize]| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|at| at as f32 / 64.0 - 1.0)
            .collect();
        let tensor = GgufTensor::encode(kind, shape.to_vec(), &values).expect("these shapes are whole blocks");
        gguf.tensors.insert(name.to_owned(), tensor);
    };
    tensor("token_embd.weight", GgufKind::Q8_0, &[3, 32]);
    tensor("blk.0.attn_norm.weight", GgufKind::F32, &[32]);
    tensor("blk.0.attn_q.weight", GgufKind::Q4_0, &[32, 32]);
    tensor("blk.0.attn_k.weight", GgufKind::Q4_1, &[16, 32]);
    tensor("blk.0.attn_v.weight", GgufKind::F16, &[16, 32]);
    gguf.to_bytes().expect("the specimen can be written")
}
