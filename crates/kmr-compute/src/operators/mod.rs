//! The operators, one file per family.
//!
//! A new operator is a function over a [`Call`] and a line in its family's `OPERATORS`; a new family is
//! a file and a line in [`families`].

mod activation;
mod arithmetic;
mod attention;
mod cast;
mod comparison;
mod constant;
mod control;
mod convolution;
mod deformation;
mod detection;
mod einsum;
mod gather;
mod grid;
mod host;
mod layout;
mod loss;
mod matrix;
mod movement;
mod normalization;
mod order;
mod pieces;
mod pooling;
mod quantization;
mod quantized_products;
mod reals;
mod recurrent;
mod reduction;
mod resize;
mod scatter;
mod sequence;
mod signal;
mod softmax;
mod strided;
mod training;
mod windows;

use std::{collections::HashMap, sync::LazyLock};

use kmr_model::Node;

use crate::{
    ComputeError,
    interpreter::{Call, Data, Outputs, Recorded},
};

pub(crate) use cast::cast;
pub(crate) use convolution::{Fused, fused as fused_convolution};
pub(crate) use normalization::running_affine;

/// An operator that can be executed.
pub(crate) struct Operator {
    name: &'static str,
    /// `""` for ONNX's own.
    domain: &'static str,
    pub run: Run,
    /// How it is executed where its derivative is asked for, given which inputs it is asked by; `None` is left to
    /// Burn's tape.
    pub record: Option<Record>,
}

/// Executes an operator and keeps its derivative, or leaves it to Burn's tape.
pub(crate) type Record = fn(&mut Call<'_>, &[bool]) -> Result<Option<Recorded>, ComputeError>;

impl Operator {
    /// The operator with a derivative of its own.
    const fn recorded(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }
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
        record: None,
    }
}

/// An operator of ONNX's own domain on more than tensors.
const fn data(name: &'static str, run: fn(&mut Call<'_>) -> Data) -> Operator {
    Operator {
        name,
        domain: "",
        run: Run::Data(run),
        record: None,
    }
}

fn families() -> [&'static [Operator]; 29] {
    [
        activation::OPERATORS,
        arithmetic::OPERATORS,
        attention::OPERATORS,
        cast::OPERATORS,
        comparison::OPERATORS,
        constant::OPERATORS,
        control::OPERATORS,
        convolution::OPERATORS,
        deformation::OPERATORS,
        detection::OPERATORS,
        einsum::OPERATORS,
        gather::OPERATORS,
        grid::OPERATORS,
        layout::OPERATORS,
        loss::OPERATORS,
        matrix::OPERATORS,
        normalization::OPERATORS,
        order::OPERATORS,
        pooling::OPERATORS,
        quantization::OPERATORS,
        quantized_products::OPERATORS,
        recurrent::OPERATORS,
        reduction::OPERATORS,
        resize::OPERATORS,
        scatter::OPERATORS,
        sequence::OPERATORS,
        signal::OPERATORS,
        softmax::OPERATORS,
        training::OPERATORS,
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
