//! A changed model as a GGUF file.

use std::path::Path;

use indexmap::IndexMap;
use kmr_formats::gguf::{Gguf, GgufKind, GgufValue, LlamaWeights, from_hugging_face, to_hugging_face};
use kmr_formats::{FormatError, NamedArrays};
use kmr_model::Model;
use serde_json::{Map, Value, json};

use super::blocks::Encoder;
use super::{Expressed, Written, refuse_source};
use crate::config::{Config, RotaryScaling};
use crate::decoder::{DecoderConfig, DecoderHead};
use crate::error::shown;
use crate::source::Source;
use crate::{ErrorKind, HuggingFaceError};

/// What matrices can be stored as in GGUF.
pub static GGUF_KINDS: [GgufKind; 7] = [
    GgufKind::F32,
    GgufKind::F16,
    GgufKind::Q8_0,
    GgufKind::Q4_0,
    GgufKind::Q4_1,
    GgufKind::Q4K,
    GgufKind::Q6K,
];

/// The number that llama.cpp has for files that are mostly of a kind.
fn file_type(kind: GgufKind) -> Option<u32> {
    Some(match kind {
        GgufKind::F32 => 0,
        GgufKind::F16 => 1,
        GgufKind::Q4_0 => 2,
        GgufKind::Q4_1 => 3,
        GgufKind::Q8_0 => 7,
        GgufKind::Q4K => 14,
        GgufKind::Q6K => 18,
        _ => return None,
    })
}

impl Source {
    /// Writes `model`, which is what became of this source, into the GGUF file `target`. Matrices are stored as `kind`,
    /// vectors as float32; weights of integers keep their codes where a block says them exactly but for scales, which are
    /// rounded to float16: symmetric ones of 4 and 8 bits and others of 4 bits, whose scales reach over a multiple of 32
    /// neighbors. `tokenizer` is the metadata of a tokenizer, for a source that has none of its own.
    ///
    /// The model is compared with its architecture as in [`write_folder`](Self::write_folder), and the file is read again.
    ///
    /// # Errors
    /// [`ErrorKind::Inexpressible`] for a model that is no plain decoder of the Llama kind, and for what the metadata
    /// cannot say, by name. Files that cannot be written, and [`ErrorKind::Damaged`] if the file is not what was written.
    pub fn write_gguf(
        &self,
        model: &Model,
        target: &Path,
        kind: GgufKind,
        tokenizer: IndexMap<String, GgufValue>,
    ) -> Result<Written, HuggingFaceError> {
        refuse_source(&self.path, target)?;
        let Expressed {
            gathered,
            map,
            config,
            mut written,
            ..
        } = Expressed::of(model, self)?;
        let Config::Decoder(config) = config else {
            return Err(refuse("an encoder is not written to GGUF".into()));
        };
        let mut encoder = Encoder::new(kind);
        let mut tensors = IndexMap::new();
        for (name, tensor) in &gathered.tensors {
            if gathered.is_unused(name) {
                written
                    .warnings
                    .push(format!("left out `{}`: it is no part of the model", shown(name)));
                continue;
            }
            let encoded = encoder.encode(name, tensor, gathered.made.get(name))?;
            tensors.insert(name.clone(), encoded);
        }
        written.changes.extend(encoder.changes());
        written.warnings.extend(encoder.warnings());
        let weights = LlamaWeights {
            config: said(&map, &config)?,
            tensors,
        };
        let metadata = self.metadata(kind, tokenizer, &config, &mut written)?;
        let gguf = from_hugging_face(&self.path, &weights, metadata).map_err(inexpressible)?;
        check_config(&gguf, &config)?;
        gguf.write(target)
            .map_err(|error| HuggingFaceError::unwritten(&error, target))?;
        match Gguf::read(target)? == gguf {
            true => Ok(written),
            false => Err(HuggingFaceError::damaged("the file").file(target)),
        }
    }

    fn metadata(
        &self,
        kind: GgufKind,
        tokenizer: IndexMap<String, GgufValue>,
        config: &DecoderConfig,
        written: &mut Written,
    ) -> Result<IndexMap<String, GgufValue>, HuggingFaceError> {
        let mut metadata = self.described();
        metadata.shift_remove("general.alignment");
        let name = self.path.file_stem().unwrap_or_default().to_string_lossy();
        metadata
            .entry("general.name".into())
            .or_insert_with(|| name.as_ref().into());
        let number = file_type(kind).ok_or_else(|| refuse(format!("{kind} is read, not written")))?;
        metadata.insert("general.file_type".into(), number.into());
        metadata.insert("general.quantization_version".into(), 2_u32.into());
        metadata.extend(tokenizer);
        if let Some(window) = config.windows.iter().flatten().next() {
            written.warnings.push(format!(
                "attention sees {window} tokens back, and `transformers` does not read that from this file: longer texts \
                 come out otherwise there"
            ));
        }
        let tokens = metadata.get("tokenizer.ggml.tokens").and_then(GgufValue::as_texts);
        match tokens.map(<[String]>::len) {
            None => written
                .warnings
                .push("the file has no tokenizer; llama.cpp does not load it".into()),
            Some(count) if count != config.vocabulary => written.warnings.push(format!(
                "the tokenizer has {count} tokens, and the model {}",
                config.vocabulary
            )),
            Some(_) => {}
        }
        Ok(metadata)
    }
}

/// The configuration in the words that GGUF has.
fn said(map: &Map<String, Value>, config: &DecoderConfig) -> Result<Map<String, Value>, HuggingFaceError> {
    if config.head == DecoderHead::HiddenStates {
        return Err(refuse(
            "a decoder without a head that gives tokens is not written to GGUF".into(),
        ));
    }
    if config.experts.is_some() {
        return Err(refuse("routed experts are not written to GGUF".into()));
    }
    if config.rotary.scaling != RotaryScaling::None {
        return Err(refuse(
            "rotary positions that are scaled (`rope_scaling`) are not written to GGUF".into(),
        ));
    }
    let mut said = map.clone();
    for key in ["rope_parameters", "rope_scaling", "sliding_window"] {
        said.remove(key);
    }
    said.insert("rope_theta".into(), json!(config.rotary.base));
    said.insert("rms_norm_eps".into(), json!(config.epsilon));
    said.insert("head_dim".into(), config.head_size.into());
    said.insert("num_key_value_heads".into(), config.key_value_heads.into());
    if let Some(Some(window)) = config.windows.first() {
        said.insert("sliding_window".into(), (*window).into());
    }
    Ok(said)
}

/// Checks that whoever reads the file finds the configuration.
fn check_config(gguf: &Gguf, config: &DecoderConfig) -> Result<(), HuggingFaceError> {
    let weights = to_hugging_face(Path::new("GGUF"), gguf).map_err(inexpressible)?;
    // Only the names of tensors matter to the configuration.
    let names: NamedArrays = weights
        .tensors
        .keys()
        .map(|name| (name.clone(), kmr_model::Tensor::scalar(0.0_f32)))
        .collect();
    let Config::Decoder(read) = Config::read(&weights.config, &names)? else {
        return Err(refuse("it would be read as an encoder".into()));
    };
    let same_number = |one: f64, other: f64| one as f32 == other as f32;
    let same = [
        ("vocabulary", read.vocabulary == config.vocabulary),
        ("hidden size", read.hidden == config.hidden),
        ("neurons", read.intermediate == config.intermediate),
        ("windows of attention", read.windows == config.windows),
        (
            "heads",
            (read.heads, read.key_value_heads, read.head_size)
                == (config.heads, config.key_value_heads, config.head_size),
        ),
        ("activation", read.activation == config.activation),
        ("epsilon", same_number(read.epsilon, config.epsilon)),
        ("rotary base", same_number(read.rotary.base, config.rotary.base)),
        (
            "biases",
            (read.query_key_value_bias, read.output_bias, read.feed_forward_bias)
                == (
                    config.query_key_value_bias,
                    config.output_bias,
                    config.feed_forward_bias,
                ),
        ),
        ("norms of heads", read.head_norms == config.head_norms),
        ("head", read.head == config.head),
    ];
    match same.iter().find(|(_, same)| !same) {
        None => Ok(()),
        Some((what, _)) => Err(refuse(format!("GGUF does not say the {what} of this model"))),
    }
}

fn refuse(message: String) -> HuggingFaceError {
    HuggingFaceError::new(ErrorKind::Inexpressible, message).help("write a folder or ONNX instead")
}

fn inexpressible(error: FormatError) -> HuggingFaceError {
    let own = HuggingFaceError::from(error);
    refuse(own.message().to_owned())
}
