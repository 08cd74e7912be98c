//! What a decoder of the Llama kind is made of.

use crate::config::{Activation, Rotary, activation, architecture, json::Object};
use crate::{HuggingFaceError, Tensors};

/// A decoder of the Llama kind: rotary positions, queries in groups that share a key and a value, a gated feed-forward
/// network, root-mean-square normalization before each part.
///
/// Its tensors have the names of `transformers`: `model.embed_tokens.weight`, `model.layers.0.self_attn.q_proj.weight`
/// and so on, `lm_head.weight`.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// The prefix of all names but that of the head: `model.`, or nothing for a bare base model.
    pub prefix: String,
    /// Rows of the table of tokens.
    pub vocabulary: usize,
    /// Numbers for each token between layers.
    pub hidden: usize,
    /// Neurons of a feed-forward network.
    pub intermediate: usize,
    /// Layers, and for each how many tokens back it sees, its own included; all of them for `None`.
    pub windows: Vec<Option<usize>>,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values, a divisor of `heads`.
    pub key_value_heads: usize,
    /// Numbers of a head: an even count.
    pub head_size: usize,
    /// The function of the gate.
    pub activation: Activation,
    /// What is added to the mean of squares.
    pub epsilon: f64,
    /// The most positions that it was made for; nothing is cut to it.
    pub positions: usize,
    /// How positions turn queries and keys.
    pub rotary: Rotary,
    /// Whether the products that make queries, keys and values have biases.
    pub query_key_value_bias: bool,
    /// Whether the product after attention has a bias.
    pub output_bias: bool,
    /// Whether the products of the feed-forward network have biases.
    pub feed_forward_bias: bool,
    /// Whether each head's queries and keys are normalized (Qwen 3).
    pub head_norms: bool,
    /// What the model gives.
    pub head: DecoderHead,
}

/// What a decoder gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderHead {
    /// `last_hidden_state`, float32 [batch, sequence, hidden].
    HiddenStates,
    /// `logits`, float32 [batch, sequence, vocabulary], by `lm_head.weight`; by the table of tokens if that is `tied`.
    LanguageModel {
        /// Whether there is no `lm_head.weight`.
        tied: bool,
    },
}

/// What differs between the families beside what their configurations say.
struct Family {
    model: &'static str,
    language_model: &'static str,
}

impl DecoderConfig {
    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.windows.len()
    }

    /// The prefix of a layer's names.
    pub(crate) fn layer(&self, layer: usize) -> String {
        format!("{}layers.{layer}.", self.prefix)
    }

    pub(crate) fn read(config: &Object, model_type: &str, tensors: &dyn Tensors) -> Result<Self, HuggingFaceError> {
        let family = match model_type {
            "llama" => Family {
                model: "LlamaModel",
                language_model: "LlamaForCausalLM",
            },
            "mistral" => Family {
                model: "MistralModel",
                language_model: "MistralForCausalLM",
            },
            "qwen2" => Family {
                model: "Qwen2Model",
                language_model: "Qwen2ForCausalLM",
            },
            _ => Family {
                model: "Qwen3Model",
                language_model: "Qwen3ForCausalLM",
            },
        };
        let architecture = architecture(config, &[family.model, family.language_model])?;
        let hidden = config.size("hidden_size")?;
        let layers = config.size("num_hidden_layers")?;
        let heads = config.size("num_attention_heads")?;
        let key_value_heads = config.size_or("num_key_value_heads", heads)?;
        let positions = config.size("max_position_embeddings")?;
        let head_size = match config.count("head_dim")? {
            Some(_) => config.size("head_dim")?,
            None if model_type == "qwen3" => 128,
            None => hidden / heads,
        };
        if !heads.is_multiple_of(key_value_heads) {
            let message = format!("is {key_value_heads}, which does not divide the {heads} of `num_attention_heads`");
            return Err(config.error("num_key_value_heads", message));
        }
        if head_size == 0 || head_size % 2 != 0 {
            return Err(config.error("head_dim", format!("is {head_size}; heads are turned in pairs")));
        }
        let tied = config.flag("tie_word_embeddings")?.unwrap_or(false);
        let bias = config.flag("attention_bias")?.unwrap_or(false);
        let prefix = match tensors.contains("embed_tokens.weight") {
            true => "",
            false => "model.",
        };
        Ok(Self {
            prefix: prefix.into(),
            vocabulary: config.size("vocab_size")?,
            hidden,
            intermediate: config.size("intermediate_size")?,
            windows: windows(config, model_type, layers)?,
            heads,
            key_value_heads,
            head_size,
            activation: activation(config, "hidden_act", Activation::Silu)?,
            epsilon: config.number("rms_norm_eps")?.unwrap_or(1e-6),
            positions,
            rotary: Rotary::read(config, positions, None)?,
            query_key_value_bias: match model_type {
                "qwen2" => true,
                "mistral" => false,
                _ => bias,
            },
            output_bias: matches!(model_type, "llama" | "qwen3") && bias,
            feed_forward_bias: model_type == "llama" && config.flag("mlp_bias")?.unwrap_or(false),
            head_norms: model_type == "qwen3",
            head: match architecture {
                Some(name) if name == family.model => DecoderHead::HiddenStates,
                _ => DecoderHead::LanguageModel { tied },
            },
        })
    }
}

/// How far each layer sees.
fn windows(config: &Object, model_type: &str, layers: usize) -> Result<Vec<Option<usize>>, HuggingFaceError> {
    const FULL: &str = "full_attention";
    const SLIDING: &str = "sliding_attention";
    let window = match model_type {
        "mistral" => config.count("sliding_window")?,
        "qwen2" | "qwen3" if config.flag("use_sliding_window")?.unwrap_or(false) => {
            Some(config.size_or("sliding_window", 4096)?)
        }
        _ => None,
    };
    if window == Some(0) {
        return Err(config.error("sliding_window", "must not be 0"));
    }
    // More layers than any tensor file has names for would only take memory.
    if layers > 100_000 {
        return Err(config.error("num_hidden_layers", format!("is {layers}, more than any model has")));
    }
    let grouped = matches!(model_type, "qwen2" | "qwen3");
    let kinds = if grouped { config.texts("layer_types")? } else { None };
    let Some(kinds) = kinds else {
        let first = match grouped {
            true => config.count("max_window_layers")?.unwrap_or(28),
            false => 0,
        };
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    if kinds.len() != layers {
        let message = format!("names {} layers; `num_hidden_layers` is {layers}", kinds.len());
        return Err(config.error("layer_types", message));
    }
    let windows = kinds.into_iter().map(|kind| match (kind, window) {
        (FULL, _) => Ok(None),
        (SLIDING, Some(window)) => Ok(Some(window)),
        (SLIDING, None) => Err(config.error("layer_types", "has sliding layers, and no `sliding_window` is in use")),
        (other, _) => Err(config.unknown("layer_types", other, &[FULL, SLIDING])),
    });
    windows.collect()
}
