//! The names of an encoder's modules.

use super::EncoderFamily;

/// Names within a layer, and of the layers.
pub(crate) struct Names {
    pub layers: &'static str,
    pub attention: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub output: &'static str,
    pub output_norm: &'static str,
    pub expand: &'static str,
    pub contract: &'static str,
    pub contract_norm: &'static str,
}

impl Names {
    pub fn of(family: EncoderFamily) -> Self {
        match family {
            EncoderFamily::Bert | EncoderFamily::Roberta => Self {
                layers: "encoder.layer.",
                attention: "attention.self",
                query: "attention.self.query",
                key: "attention.self.key",
                value: "attention.self.value",
                output: "attention.output.dense",
                output_norm: "attention.output.LayerNorm",
                expand: "intermediate.dense",
                contract: "output.dense",
                contract_norm: "output.LayerNorm",
            },
            EncoderFamily::DistilBert => Self {
                layers: "transformer.layer.",
                attention: "attention",
                query: "attention.q_lin",
                key: "attention.k_lin",
                value: "attention.v_lin",
                output: "attention.out_lin",
                output_norm: "sa_layer_norm",
                expand: "ffn.lin1",
                contract: "ffn.lin2",
                contract_norm: "output_layer_norm",
            },
        }
    }
}
