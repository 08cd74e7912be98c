//! What `config.json` says.

mod activation;
pub(crate) mod json;
mod rotary;

use serde_json::{Map, Value};

pub(crate) use activation::activation;
pub use rotary::{Rotary, RotaryScaling};

use crate::{HuggingFaceError, Tensors, decoder::DecoderConfig, encoder::EncoderConfig};
use json::Object;

/// The values of `model_type` that are known.
pub const MODEL_TYPES: [&str; 11] = [
    "bert",
    "distilbert",
    "roberta",
    "xlm-roberta",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
];

/// A configuration of a family that is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// BERT and what is like it.
    Encoder(EncoderConfig),
    /// Llama and what is like it.
    Decoder(DecoderConfig),
}

impl Config {
    /// Reads a configuration; `tensors` decide what two spellings of a folder leave open: the prefix of their names.
    pub(crate) fn read(map: &Map<String, Value>, tensors: &dyn Tensors) -> Result<Self, HuggingFaceError> {
        let config = Object::new(map);
        let model_type = config
            .text("model_type")?
            .ok_or_else(|| config.error("model_type", "is missing"))?;
        match model_type {
            "bert" | "distilbert" | "roberta" | "xlm-roberta" => {
                EncoderConfig::read(&config, model_type, tensors).map(Self::Encoder)
            }
            "llama" | "mistral" | "qwen2" | "qwen3" | "mixtral" | "qwen2_moe" | "qwen3_moe" => {
                DecoderConfig::read(&config, model_type, tensors).map(Self::Decoder)
            }
            other => Err(config.unknown("model_type", other, &MODEL_TYPES)),
        }
    }
}

impl Config {
    /// Rows of the table of tokens.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Encoder(config) => config.vocabulary,
            Self::Decoder(config) => config.vocabulary,
        }
    }

    /// The most tokens of a text, where a table of positions says it; a decoder's positions are angles, of which there is
    /// no last one.
    pub fn positions(&self) -> Option<usize> {
        match self {
            Self::Encoder(config) => Some(config.longest()),
            Self::Decoder(_) => None,
        }
    }

    /// Numbers for each token between layers.
    pub fn hidden(&self) -> usize {
        match self {
            Self::Encoder(config) => config.hidden,
            Self::Decoder(config) => config.hidden,
        }
    }

    /// What stands before the number of a layer in the names of its tensors.
    pub(crate) fn before_layers(&self) -> String {
        match self {
            Self::Encoder(config) => format!("{}{}", config.prefix, config.names().layers),
            Self::Decoder(config) => format!("{}layers.", config.prefix),
        }
    }

    /// The layer that a tensor of this name belongs to.
    pub(crate) fn layer_of(&self, name: &str) -> Option<usize> {
        let rest = name.strip_prefix(&self.before_layers())?;
        rest.split_once('.')?.0.parse().ok()
    }

    /// The name of a tensor of layer `from` in layer `to`.
    pub(crate) fn in_layer(&self, name: &str, from: usize, to: usize) -> String {
        let before = self.before_layers();
        let rest = name.strip_prefix(&format!("{before}{from}."));
        rest.map_or_else(|| name.to_owned(), |rest| format!("{before}{to}.{rest}"))
    }

    /// The routed expert that a tensor of this name belongs to, and what stands before and after its number.
    pub(crate) fn expert_of<'n>(&self, name: &'n str) -> Option<(&'n str, usize, &'n str)> {
        let Self::Decoder(DecoderConfig { experts: Some(_), .. }) = self else {
            return None;
        };
        let start = name.find(".experts.")? + ".experts.".len();
        let (number, after) = name[start..].split_once('.')?;
        Some((&name[..start], number.parse().ok()?, after))
    }
}

/// The architecture that the folder was saved with, one of those that are known for its type.
pub(crate) fn architecture<'c>(config: &Object<'c>, known: &[&str]) -> Result<Option<&'c str>, HuggingFaceError> {
    let Some(name) = config
        .texts("architectures")?
        .and_then(|names| names.into_iter().next())
    else {
        return Ok(None);
    };
    match known.contains(&name) {
        true => Ok(Some(name)),
        false => Err(config.unknown("architectures", name, known)),
    }
}
