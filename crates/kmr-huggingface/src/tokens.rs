//! What every network starts from: the tokens, their positions, and which of them may see which.

use kmr_model::{DType, Tensor};

use crate::network::Network;

/// What is added to the score of a key that a query must not see: the least of float32, so that a query that sees
/// nothing still has finite results.
const MASKED: f32 = f32::MIN;

/// The fed values that all networks have.
pub(crate) struct Tokens {
    /// `input_ids`, int64 [batch, sequence].
    pub ids: String,
    /// `attention_mask`, int64 [batch, sequence]: 1 for a token, 0 for padding.
    pub mask: String,
    /// The sizes [batch, sequence].
    pub sizes: String,
}

impl Tokens {
    pub fn new(network: &mut Network) -> Self {
        let (ids, mask) = (network.input("input_ids"), network.input("attention_mask"));
        let sizes = network.op("Shape", &[&ids], "sizes");
        Self { ids, mask, sizes }
    }

    /// 0, 1, 2 … for each place of the sequence: int64 [sequence].
    pub fn positions(&self, network: &mut Network) -> String {
        let length = network.with("Shape", &[&self.ids], "positions.sizes", |node| {
            node.with_int("start", 1)
        });
        let length = network.op("Squeeze", &[&length], "positions.length");
        let (zero, one) = (
            network.constant("zero", Tensor::scalar(0_i64)),
            network.constant("one", Tensor::scalar(1_i64)),
        );
        network.op("Range", &[&zero, &length, &one], "positions")
    }

    /// Rows of tokens, [batch · sequence, width], as [batch, sequence, width].
    pub fn unfold(&self, network: &mut Network, rows: &str, name: &str) -> String {
        let rest = network.integers("rest", &[-1]);
        let shape = network.with("Concat", &[&self.sizes, &rest], &format!("{name}.shape"), |node| {
            node.with_int("axis", 0)
        });
        network.op("Reshape", &[rows, &shape], name)
    }

    /// Which tokens are no padding: bool [batch, 1, 1, sequence], or with one more axis of 1 for `grouped` heads.
    pub fn visible(&self, network: &mut Network, grouped: bool) -> String {
        let visible = network.with("Cast", &[&self.mask], "mask.tokens", |node| {
            node.with_int("to", DType::BOOL.number().into())
        });
        let axes: &[i64] = if grouped { &[1, 2, 3] } else { &[1, 2] };
        let axes = network.integers("mask.axes", axes);
        network.op("Unsqueeze", &[&visible, &axes], "mask.visible")
    }
}

/// What is added to scores: 0 where `allowed`, the least number elsewhere.
pub(crate) fn additive(network: &mut Network, allowed: &str, name: &str) -> String {
    let (seen, unseen) = (network.scalar("mask.seen", 0.0), network.scalar("mask.unseen", MASKED));
    network.op("Where", &[allowed, &seen, &unseen], name)
}
