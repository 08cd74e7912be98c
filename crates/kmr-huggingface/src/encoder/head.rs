//! What an encoder gives.

use kmr_model::Tensor;
use kmr_model::experts::Activation;

use super::{EncoderConfig, EncoderFamily, EncoderHead};
use crate::HuggingFaceError;
use crate::network::Network;
use crate::pooling::Pooling;
use crate::tokens::Tokens;

const OPEN: [&str; 2] = ["batch", "sequence"];

/// Adds the output, of the rows of tokens behind the last layer.
pub(super) fn write(
    network: &mut Network,
    config: &EncoderConfig,
    pooling: Option<&Pooling>,
    tokens: &Tokens,
    rows: &str,
) -> Result<(), HuggingFaceError> {
    match (pooling, config.head) {
        (Some(pooling), _) => {
            let states = tokens.unfold(network, rows, "hidden_states");
            pooling.write(network, tokens, &states, config.hidden);
        }
        (None, EncoderHead::HiddenStates) => {
            tokens.unfold(network, rows, "last_hidden_state");
            network.output("last_hidden_state", &OPEN, config.hidden);
        }
        (None, EncoderHead::MaskedLanguageModel { tied }) => {
            let scores = words(network, config, rows, tied)?;
            tokens.unfold(network, &scores, "logits");
            network.output("logits", &OPEN, config.vocabulary);
        }
        (None, EncoderHead::Classification { labels }) => {
            let made = classes(network, config, tokens, rows, labels)?;
            network.op("Identity", &[&made], "logits");
            network.output("logits", &OPEN[..1], labels);
        }
    }
    Ok(())
}

/// Scores for all words of the vocabulary.
fn words(network: &mut Network, config: &EncoderConfig, rows: &str, tied: bool) -> Result<String, HuggingFaceError> {
    let [dense, norm, last, bias] = match config.family {
        EncoderFamily::Bert => [
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
            "cls.predictions.bias",
        ],
        EncoderFamily::DistilBert => [
            "vocab_transform",
            "vocab_layer_norm",
            "vocab_projector",
            "vocab_projector.bias",
        ],
        EncoderFamily::Roberta => ["lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"],
    };
    let activation = match config.family {
        EncoderFamily::Roberta => Activation::Gelu,
        EncoderFamily::Bert | EncoderFamily::DistilBert => config.activation,
    };
    let (hidden, vocabulary) = (config.hidden, config.vocabulary);
    let made = network.linear(rows, dense, (hidden, hidden), true)?;
    let made = network.activation(&made, activation, &format!("{dense}.activation"));
    let made = network.layer_norm(&made, norm, hidden, config.epsilon)?;
    if !tied {
        return network.linear(&made, last, (hidden, vocabulary), true);
    }
    let table = format!("{}embeddings.word_embeddings.weight", config.prefix);
    let table = network.parameter(&table, &[vocabulary, hidden])?;
    let bias = network.parameter(bias, &[vocabulary])?;
    Ok(network.with("Gemm", &[&made, &table, &bias], last, |node| node.with_int("transB", 1)))
}

/// Scores for the labels of whole texts.
fn classes(
    network: &mut Network,
    config: &EncoderConfig,
    tokens: &Tokens,
    rows: &str,
    labels: usize,
) -> Result<String, HuggingFaceError> {
    let states = tokens.unfold(network, rows, "hidden_states");
    let zero = network.constant("zero", Tensor::scalar(0_i64));
    let first = network.with("Gather", &[&states, &zero], "first_token", |node| {
        node.with_int("axis", 1)
    });
    let pooler = format!("{}pooler.dense", config.prefix);
    let [dense, function, last] = match config.family {
        EncoderFamily::Bert => [&pooler, "Tanh", "classifier"],
        EncoderFamily::DistilBert => ["pre_classifier", "Relu", "classifier"],
        EncoderFamily::Roberta => ["classifier.dense", "Tanh", "classifier.out_proj"],
    };
    let made = network.linear(&first, dense, (config.hidden, config.hidden), true)?;
    let made = network.op(function, &[&made], &format!("{dense}.activation"));
    network.linear(&made, last, (config.hidden, labels), true)
}
