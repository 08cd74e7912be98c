//! Encoders of the BERT kind (arXiv 1810.04805, 1910.01108, 1907.11692).

mod config;
mod head;
mod names;

use kmr_model::{DType, Model, Tensor};

pub use config::{EncoderConfig, EncoderFamily, EncoderHead};

use crate::attention::Heads;
use crate::network::Network;
use crate::pooling::Pooling;
use crate::tokens::{Tokens, additive};
use crate::{HuggingFaceError, Tensors};
use names::Names;

/// The model of an encoder.
///
/// Inputs are `input_ids`, `attention_mask` and, but for DistilBERT, `token_type_ids`, each int64 [batch, sequence].
/// The one output is what the configuration's head gives or, with a `pooling`, `sentence_embedding`, float32
/// [batch, width].
///
/// # Errors
/// A tensor that is missing, or has another shape than the configuration asks for.
pub fn encoder(
    config: &EncoderConfig,
    pooling: Option<&Pooling>,
    tensors: &dyn Tensors,
) -> Result<Model, HuggingFaceError> {
    let mut network = Network::new("encoder", tensors);
    let tokens = Tokens::new(&mut network);
    let names = config.names();
    let heads = Heads {
        shared: 1,
        size: config.hidden / config.heads,
    };
    let embedded = embeddings(&mut network, config, &tokens)?;
    let mut rows = network.with("Flatten", &[&embedded], "tokens", |node| node.with_int("axis", 2));
    let visible = tokens.visible(&mut network, false);
    let mask = additive(&mut network, &visible, "mask");
    for layer in 0..config.layers {
        rows = block(
            &mut network,
            config,
            &names,
            (&tokens, heads),
            (&rows, &mask),
            &config.layer(layer),
        )?;
    }
    head::write(&mut network, config, pooling, &tokens, &rows)?;
    network.finish()
}

fn embeddings(network: &mut Network, config: &EncoderConfig, tokens: &Tokens) -> Result<String, HuggingFaceError> {
    let module = format!("{}embeddings", config.prefix);
    let mut table =
        |name: &str, rows: usize| network.parameter(&format!("{module}.{name}.weight"), &[rows, config.hidden]);
    let words = table("word_embeddings", config.vocabulary)?;
    let places = table("position_embeddings", config.positions)?;
    let types = match config.token_types {
        Some(types) => Some(table("token_type_embeddings", types)?),
        None => None,
    };
    let mut sum = network.op("Gather", &[&words, &tokens.ids], &format!("{module}.word_embeddings"));
    if let Some(types) = types {
        let ids = network.input("token_type_ids");
        let types = network.op("Gather", &[&types, &ids], &format!("{module}.token_type_embeddings"));
        sum = network.op("Add", &[&sum, &types], &format!("{module}.typed"));
    }
    let positions = match config.family {
        EncoderFamily::Roberta => counted_positions(network, tokens, config.padding),
        EncoderFamily::Bert | EncoderFamily::DistilBert => tokens.positions(network),
    };
    let places = network.op(
        "Gather",
        &[&places, &positions],
        &format!("{module}.position_embeddings"),
    );
    let sum = network.op("Add", &[&sum, &places], &format!("{module}.sum"));
    network.layer_norm(&sum, &format!("{module}.LayerNorm"), config.hidden, config.epsilon)
}

/// RoBERTa's positions: tokens are counted from `padding` + 1, padding tokens all have `padding`. int64
/// [batch, sequence].
fn counted_positions(network: &mut Network, tokens: &Tokens, padding: usize) -> String {
    let padding = network.constant("padding", Tensor::scalar(padding as i64));
    let axis = network.constant("one", Tensor::scalar(1_i64));
    let to_integers = |network: &mut Network, x: &str, name: &str| {
        network.with("Cast", &[x], name, |node| {
            node.with_int("to", DType::INT64.number().into())
        })
    };
    let equal = network.op("Equal", &[&tokens.ids, &padding], "positions.padding");
    let token = network.op("Not", &[&equal], "positions.tokens");
    let token = to_integers(network, &token, "positions.counts");
    let count = network.op("CumSum", &[&token, &axis], "positions.counted");
    let count = network.op("Mul", &[&count, &token], "positions.numbers");
    network.op("Add", &[&count, &padding], "positions")
}

fn block(
    network: &mut Network,
    config: &EncoderConfig,
    names: &Names,
    (tokens, heads): (&Tokens, Heads),
    (rows, mask): (&str, &str),
    prefix: &str,
) -> Result<String, HuggingFaceError> {
    let (hidden, inner) = (config.hidden, config.intermediate);
    let name = |part: &str| format!("{prefix}{part}");
    let mut projected = |part: &str| -> Result<String, HuggingFaceError> {
        let made = network.linear(rows, &name(part), (hidden, hidden), true)?;
        Ok(heads.split(network, tokens, &made, &format!("{}.heads", name(part)), true))
    };
    let (query, key, value) = (projected(names.query)?, projected(names.key)?, projected(names.value)?);
    let mixed = heads.attend(network, [&query, &key, &value], mask, &name(names.attention));
    let mixed = network.linear(&mixed, &name(names.output), (hidden, hidden), true)?;
    let sum = network.op("Add", &[&mixed, rows], &format!("{}.sum", name(names.output)));
    let rows = network.layer_norm(&sum, &name(names.output_norm), hidden, config.epsilon)?;
    let inside = network.linear(&rows, &name(names.expand), (hidden, inner), true)?;
    let inside = network.activation(
        &inside,
        config.activation,
        &format!("{}.activation", name(names.expand)),
    );
    let inside = network.linear(&inside, &name(names.contract), (inner, hidden), true)?;
    let sum = network.op("Add", &[&inside, &rows], &format!("{}.sum", name(names.contract)));
    network.layer_norm(&sum, &name(names.contract_norm), hidden, config.epsilon)
}
