//! The functions between the products of a feed-forward network.

use super::json::Object;
use crate::HuggingFaceError;

/// An activation, by what `transformers` calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: x · Φ(x).
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`, `gelu_fast`: its approximation by a hyperbolic tangent.
    GeluTanh,
    /// `relu`.
    Relu,
    /// `silu`, `swish`: x · σ(x).
    Silu,
}

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
