//! The operators, one file per family.
//!
//! A new operator is a function over a [`Call`] and a line in its family's `OPERATORS`; a new family is
//! a file and a line in [`families`].

mod activation;
mod arithmetic;
mod cast;
mod comparison;
mod constant;
mod control;
mod convolution;
mod einsum;
mod gather;
mod host;
mod layout;
mod matrix;
mod movement;
mod normalization;
mod order;
mod pieces;
mod pooling;
mod quantization;
mod reduction;
mod scatter;
mod sequence;
mod softmax;
mod strided;

use std::{collections::HashMap, sync::LazyLock};

use kmr_model::Node;

use crate::interpreter::{Call, Data, Outputs};

pub(crate) use cast::cast;
pub(crate) use convolution::{Fused, fused as fused_convolution};
pub(crate) use normalization::running_affine;

/// An operator that can be executed.
pub(crate) struct Operator {
    name: &'static str,
    /// `""` for ONNX's own.
    domain: &'static str,
    pub run: Run,
}

/// How an operator is executed.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// From tensors to tensors.
    Tensors(fn(&mut Call<'_>) -> Outputs),
    /// From values of any kind to values of any kind.
    Data(fn(&mut Call<'_>) -> Data),
}

/// An operator of ONNX's own domain.
const fn onnx(name: &'static str, run: fn(&mut Call<'_>) -> Outputs) -> Operator {
    Operator {
        name,
        domain: "",
        run: Run::Tensors(run),
    }
}

/// An operator of ONNX's own domain on more than tensors.
const fn data(name: &'static str, run: fn(&mut Call<'_>) -> Data) -> Operator {
    Operator {
        name,
        domain: "",
        run: Run::Data(run),
    }
}

fn families() -> [&'static [Operator]; 19] {
    [
        activation::OPERATORS,
        arithmetic::OPERATORS,
        cast::OPERATORS,
        comparison::OPERATORS,
        constant::OPERATORS,
        control::OPERATORS,
        convolution::OPERATORS,
        einsum::OPERATORS,
        gather::OPERATORS,
        layout::OPERATORS,
        matrix::OPERATORS,
        normalization::OPERATORS,
        order::OPERATORS,
        pooling::OPERATORS,
        quantization::OPERATORS,
        reduction::OPERATORS,
        scatter::OPERATORS,
        sequence::OPERATORS,
        softmax::OPERATORS,
    ]
}

/// The operator of `node`, if it can be executed.
pub(crate) fn find(node: &Node) -> Option<&'static Operator> {
    static REGISTRY: LazyLock<HashMap<(&str, &str), &Operator>> = LazyLock::new(|| {
        families()
            .into_iter()
            .flatten()
            .map(|operator| ((operator.domain, operator.name), operator))
            .collect()
    });
    REGISTRY.get(&(node.domain(), node.op_type())).copied()
}
