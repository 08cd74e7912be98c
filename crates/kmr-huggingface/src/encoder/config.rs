//! What an encoder of the BERT kind is made of.

use kmr_model::experts::Activation;

use super::names::Names;
use crate::config::{activation, architecture, json::Object};
use crate::{HuggingFaceError, Tensors};

/// An encoder of the BERT kind: learned positions, every token sees all others, normalization after each part.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderConfig {
    /// Whose names its tensors have.
    pub family: EncoderFamily,
    /// The prefix of all names but those of a head: `bert.`, or nothing for a bare base model.
    pub prefix: String,
    /// Rows of the table of tokens.
    pub vocabulary: usize,
    /// Numbers for each token between layers.
    pub hidden: usize,
    /// Neurons of a feed-forward network.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Heads, a divisor of `hidden`.
    pub heads: usize,
    /// Rows of the table of positions: the longest sequence, for RoBERTa with the rows that come before the first.
    pub positions: usize,
    /// Rows of the table of token types; DistilBERT has none.
    pub token_types: Option<usize>,
    /// The token that fills up short sequences; RoBERTa's positions count from it.
    pub padding: usize,
    /// What is added to a variance.
    pub epsilon: f64,
    /// The function of the feed-forward network.
    pub activation: Activation,
    /// What the model gives.
    pub head: EncoderHead,
}

/// Encoders that differ in the names of their tensors, and in little else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderFamily {
    /// `bert`.
    Bert,
    /// `distilbert`.
    DistilBert,
    /// `roberta`, `xlm-roberta`: positions skip padding tokens.
    Roberta,
}

/// What an encoder gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderHead {
    /// `last_hidden_state`, float32 [batch, sequence, hidden].
    HiddenStates,
    /// `logits`, float32 [batch, sequence, vocabulary]: what could stand in each token's place.
    MaskedLanguageModel {
        /// Whether the last product is with the table of tokens.
        tied: bool,
    },
    /// `logits`, float32 [batch, labels], from the first token.
    Classification {
        /// How many labels.
        labels: usize,
    },
}

impl EncoderConfig {
    /// The names of its modules.
    pub(crate) fn names(&self) -> Names {
        Names::of(self.family)
    }

    /// The most tokens of a text: RoBERTa's count from the row after that of padding.
    pub(crate) fn longest(&self) -> usize {
        match self.family {
            EncoderFamily::Roberta => self.positions.saturating_sub(self.padding.saturating_add(1)),
            EncoderFamily::Bert | EncoderFamily::DistilBert => self.positions,
        }
    }

    /// The prefix of a layer's names.
    pub(crate) fn layer(&self, layer: usize) -> String {
        format!("{}{}{layer}.", self.prefix, self.names().layers)
    }

    pub(crate) fn read(config: &Object, model_type: &str, tensors: &dyn Tensors) -> Result<Self, HuggingFaceError> {
        let (family, name, base) = match model_type {
            "bert" => (EncoderFamily::Bert, "Bert", "bert."),
            "distilbert" => (EncoderFamily::DistilBert, "DistilBert", "distilbert."),
            "roberta" => (EncoderFamily::Roberta, "Roberta", "roberta."),
            _ => (EncoderFamily::Roberta, "XLMRoberta", "roberta."),
        };
        let classes = ["Model", "ForMaskedLM", "ForSequenceClassification"].map(|class| format!("{name}{class}"));
        let prefix = match tensors.contains(&format!("{base}embeddings.word_embeddings.weight")) {
            true => base,
            false => "",
        };
        let head = match architecture(config, &classes.each_ref().map(String::as_str))? {
            Some(name) if name == classes[1] => EncoderHead::MaskedLanguageModel {
                tied: config.flag("tie_word_embeddings")?.unwrap_or(true),
            },
            Some(name) if name == classes[2] => EncoderHead::Classification {
                labels: labels(config)?,
            },
            _ => EncoderHead::HiddenStates,
        };
        for key in ["is_decoder", "add_cross_attention"] {
            if config.flag(key)?.unwrap_or(false) {
                return Err(config.error(key, "is true; only encoders are known of this type"));
            }
        }
        if let Some(kind) = config.text("position_embedding_type")?
            && kind != "absolute"
        {
            return Err(config.unknown("position_embedding_type", kind, &["absolute"]));
        }
        let distil = family == EncoderFamily::DistilBert;
        let key = |own: &'static str, other: &'static str| if distil { own } else { other };
        let hidden = config.size(key("dim", "hidden_size"))?;
        let heads = config.size(key("n_heads", "num_attention_heads"))?;
        if !hidden.is_multiple_of(heads) {
            let message = format!("is {heads}, which does not divide the hidden size {hidden}");
            return Err(config.error(key("n_heads", "num_attention_heads"), message));
        }
        let padding = config.count("pad_token_id")?;
        Ok(Self {
            family,
            prefix: prefix.into(),
            vocabulary: config.size("vocab_size")?,
            hidden,
            intermediate: config.size(key("hidden_dim", "intermediate_size"))?,
            layers: config.size(key("n_layers", "num_hidden_layers"))?,
            heads,
            positions: config.size_or("max_position_embeddings", 512)?,
            token_types: match distil {
                true => None,
                false => Some(config.size_or("type_vocab_size", 2)?),
            },
            padding: padding.unwrap_or(usize::from(family == EncoderFamily::Roberta)),
            epsilon: match distil {
                true => 1e-12,
                false => config.number("layer_norm_eps")?.unwrap_or(1e-12),
            },
            activation: activation(config, key("activation", "hidden_act"), Activation::Gelu)?,
            head,
        })
    }
}

/// How many labels there are; 2 where nothing is said, as in `transformers`.
fn labels(config: &Object) -> Result<usize, HuggingFaceError> {
    match config.entries("id2label")? {
        Some(0) => Err(config.error("id2label", "names no label")),
        Some(labels) => Ok(labels),
        None => config.size_or("num_labels", 2),
    }
}
