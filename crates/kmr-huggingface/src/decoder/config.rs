//! What a decoder of the Llama kind is made of.

use kmr_model::experts::Activation;

use super::experts::ExpertsConfig;
use super::windows::windows;
use crate::config::{Rotary, activation, architecture, json::Object};
use crate::{HuggingFaceError, Tensors};

/// Larger heads than any model has would only take memory: their angles are made before a tensor is looked at.
const MOST_HEAD: usize = 1 << 16;

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
    /// What takes the place of feed-forward networks, in some layers or all.
    pub experts: Option<ExpertsConfig>,
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
            "llama" => "Llama",
            "mistral" => "Mistral",
            "mixtral" => "Mixtral",
            "qwen2" => "Qwen2",
            "qwen2_moe" => "Qwen2Moe",
            "qwen3" => "Qwen3",
            _ => "Qwen3Moe",
        };
        let (base, language_model) = (format!("{family}Model"), format!("{family}ForCausalLM"));
        let architecture = architecture(config, &[&base, &language_model])?;
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
        if head_size > MOST_HEAD {
            return Err(config.error("head_dim", format!("is {head_size}, more than any model has")));
        }
        if head_size == 0 || !head_size.is_multiple_of(2) {
            return Err(config.error("head_dim", format!("is {head_size}; heads are turned in pairs")));
        }
        let mixtral = model_type == "mixtral";
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
            epsilon: config
                .number("rms_norm_eps")?
                .unwrap_or(if mixtral { 1e-5 } else { 1e-6 }),
            positions,
            rotary: Rotary::read(config, positions, mixtral.then_some(1e6))?,
            query_key_value_bias: match model_type {
                "qwen2" => true,
                "qwen2_moe" => config.flag("qkv_bias")?.unwrap_or(true),
                "mistral" | "mixtral" => false,
                _ => bias,
            },
            output_bias: matches!(model_type, "llama" | "qwen3" | "qwen3_moe") && bias,
            feed_forward_bias: model_type == "llama" && config.flag("mlp_bias")?.unwrap_or(false),
            head_norms: matches!(model_type, "qwen3" | "qwen3_moe"),
            experts: ExpertsConfig::read(config, model_type, layers)?,
            head: match architecture {
                Some(name) if name == base => DecoderHead::HiddenStates,
                _ => DecoderHead::LanguageModel { tied },
            },
        })
    }
}
