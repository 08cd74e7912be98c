//! Decoders of the Llama kind (arXiv 2302.13971).

mod config;
mod experts;
mod rotation;
mod windows;

use std::collections::BTreeMap;

use kmr_model::{Model, Tensor};

pub use config::{DecoderConfig, DecoderHead};
pub use experts::{ExpertNames, ExpertsConfig};

use crate::attention::Heads;
use crate::network::Network;
use crate::tokens::{Tokens, additive};
use crate::{HuggingFaceError, Tensors};
use rotation::Rotation;

/// The model of a decoder.
///
/// Inputs are `input_ids` and `attention_mask`, each int64 [batch, sequence]; positions count from the first column, padding or
/// not, as `transformers` counts them where it is told no others. The one output is what the configuration's head gives.
///
/// # Errors
/// A tensor that is missing, or has another shape than the configuration asks for.
pub fn decoder(config: &DecoderConfig, tensors: &dyn Tensors) -> Result<Model, HuggingFaceError> {
    let mut network = Network::new("decoder", tensors);
    let tokens = Tokens::new(&mut network);
    let heads = Heads {
        shared: config.heads / config.key_value_heads.max(1),
        size: config.head_size,
    };
    let positions = tokens.positions(&mut network);
    let rotation = Rotation::new(&mut network, &config.rotary, heads, &positions);
    let masks = masks(&mut network, config, (&tokens, heads), &positions);
    let module = format!("{}embed_tokens", config.prefix);
    let table = network.parameter(&format!("{module}.weight"), &[config.vocabulary, config.hidden])?;
    let embedded = network.op("Gather", &[&table, &tokens.ids], &module);
    let mut rows = network.with("Flatten", &[&embedded], "tokens", |node| node.with_int("axis", 2));
    for (layer, window) in config.windows.iter().enumerate() {
        let prefix = config.layer(layer);
        let mask = masks.get(window).map_or("", String::as_str);
        let attention = Attention {
            config,
            tokens: &tokens,
            heads,
            rotation: &rotation,
            mask,
        };
        rows = attention.write(&mut network, &rows, &prefix)?;
        rows = feed_forward(&mut network, config, &rows, layer)?;
    }
    let rows = network.root_norm(&rows, &format!("{}norm", config.prefix), config.hidden, config.epsilon)?;
    let open = ["batch", "sequence"];
    match config.head {
        DecoderHead::HiddenStates => {
            tokens.unfold(&mut network, &rows, "last_hidden_state");
            network.output("last_hidden_state", &open, config.hidden);
        }
        DecoderHead::LanguageModel { tied } => {
            let scores = match tied {
                true => network.with("Gemm", &[&rows, &table], "lm_head", |node| node.with_int("transB", 1)),
                false => network.linear(&rows, "lm_head", (config.hidden, config.vocabulary), false)?,
            };
            tokens.unfold(&mut network, &scores, "logits");
            network.output("logits", &open, config.vocabulary);
        }
    }
    network.finish()
}

/// What is added to scores, for every window that is in use: [batch, 1, sequence, sequence], with one more axis of 1 for
/// grouped heads.
fn masks(
    network: &mut Network,
    config: &DecoderConfig,
    (tokens, heads): (&Tokens, Heads),
    positions: &str,
) -> BTreeMap<Option<usize>, String> {
    let last = network.integers("last_axis", &[-1]);
    let queries = network.op("Unsqueeze", &[positions, &last], "mask.queries");
    let visible = tokens.visible(network, heads.are_grouped());
    let past = network.op("LessOrEqual", &[positions, &queries], "mask.past");
    let past = network.op("And", &[&past, &visible], "mask.causal");
    let mut masks = BTreeMap::new();
    for &window in &config.windows {
        masks.entry(window).or_insert_with(|| match window {
            None => additive(network, &past, "mask"),
            Some(window) => {
                let name = |part: &str| format!("mask.window_{window}{part}");
                let size = network.constant(&name(".size"), Tensor::scalar(window as i64));
                let first = network.op("Sub", &[&queries, &size], &name(".before"));
                let near = network.op("Greater", &[positions, &first], &name(".near"));
                let allowed = network.op("And", &[&past, &near], &name(".allowed"));
                additive(network, &allowed, &name(""))
            }
        });
    }
    masks
}

/// What the attention of one layer needs beside its rows.
struct Attention<'a> {
    config: &'a DecoderConfig,
    tokens: &'a Tokens,
    heads: Heads,
    rotation: &'a Rotation,
    mask: &'a str,
}

impl Attention<'_> {
    /// The first half of a layer: rows plus what attention makes of them.
    fn write(&self, network: &mut Network, rows: &str, prefix: &str) -> Result<String, HuggingFaceError> {
        let config = self.config;
        let normal = network.root_norm(rows, &format!("{prefix}input_layernorm"), config.hidden, config.epsilon)?;
        let module = format!("{prefix}self_attn");
        let query = self.project(network, &normal, &module, "q", config.heads)?;
        let key = self.project(network, &normal, &module, "k", config.key_value_heads)?;
        let value = self.project(network, &normal, &module, "v", config.key_value_heads)?;
        let mixed = self.heads.attend(network, [&query, &key, &value], self.mask, &module);
        let width = config.heads * config.head_size;
        let mixed = network.linear(
            &mixed,
            &format!("{module}.o_proj"),
            (width, config.hidden),
            config.output_bias,
        )?;
        Ok(network.op("Add", &[rows, &mixed], &format!("{module}.sum")))
    }

    /// Queries, keys or values, split into heads; normalized where the family does that, and turned but for values.
    fn project(
        &self,
        network: &mut Network,
        rows: &str,
        module: &str,
        kind: &str,
        heads: usize,
    ) -> Result<String, HuggingFaceError> {
        let config = self.config;
        let own = format!("{module}.{kind}_proj");
        let sizes = (config.hidden, heads * config.head_size);
        let made = network.linear(rows, &own, sizes, config.query_key_value_bias)?;
        let mut made = self
            .heads
            .split(network, self.tokens, &made, &format!("{own}.heads"), kind == "q");
        if kind == "v" {
            return Ok(made);
        }
        if config.head_norms {
            made = network.root_norm(
                &made,
                &format!("{module}.{kind}_norm"),
                config.head_size,
                config.epsilon,
            )?;
        }
        Ok(self.rotation.turn(network, &made, &own))
    }
}

/// The second half of a layer: rows plus what the gated network (arXiv 2002.05202) or the experts make of them.
fn feed_forward(
    network: &mut Network,
    config: &DecoderConfig,
    rows: &str,
    layer: usize,
) -> Result<String, HuggingFaceError> {
    let (hidden, inner, bias) = (config.hidden, config.intermediate, config.feed_forward_bias);
    let prefix = config.layer(layer);
    let norm = format!("{prefix}post_attention_layernorm");
    let normal = network.root_norm(rows, &norm, hidden, config.epsilon)?;
    let name = |part: &str| format!("{prefix}mlp.{part}");
    let made = match &config.experts {
        Some(experts) if experts.in_layer(layer) => experts.write(network, config, &normal, &prefix)?,
        _ => {
            let gate = network.linear(&normal, &name("gate_proj"), (hidden, inner), bias)?;
            let gate = network.activation(&gate, config.activation, &name("gate_proj.activation"));
            let up = network.linear(&normal, &name("up_proj"), (hidden, inner), bias)?;
            let inside = network.op("Mul", &[&gate, &up], &name("gated"));
            network.linear(&inside, &name("down_proj"), (inner, hidden), bias)?
        }
    };
    Ok(network.op("Add", &[rows, &made], &name("sum")))
}
