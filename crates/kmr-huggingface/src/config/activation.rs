//! The functions between the products of a feed-forward network.

use kmr_model::experts::Activation;

use super::json::Object;
use crate::HuggingFaceError;

/// Activations by what `transformers` calls them.
const NAMES: [(&str, Activation); 7] = [
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
];

/// The activation that `key` names, or `otherwise`.
pub(crate) fn activation(object: &Object, key: &str, otherwise: Activation) -> Result<Activation, HuggingFaceError> {
    let Some(name) = object.text(key)? else {
        return Ok(otherwise);
    };
    match NAMES.iter().find(|(known, _)| *known == name) {
        Some(&(_, activation)) => Ok(activation),
        None => Err(object.unknown(key, name, &NAMES.map(|(name, _)| name))),
    }
}
