//! Quantization.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Stop, Types::*, axis, contradiction, rule, several, show, single},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "QuantizeLinear" => rule(By(quantized_type), linear),
        "DequantizeLinear" => rule(By(dequantized_type), linear),
        "DynamicQuantizeLinear" => rule(
            By(|_| vec![Some(DType::UINT8), Some(DType::FLOAT), Some(DType::UINT8)]),
            |context| several([context.shape(0)?.to_vec(), Vec::new(), Vec::new()]),
        ),
        _ => None,
    }
}

fn declared(context: &Context) -> Option<DType> {
    let number = context.int("output_dtype", 0);
    i32::try_from(number)
        .ok()
        .filter(|&number| number != 0)
        .map(DType::from_number)
}

fn quantized_type(context: &Context) -> Vec<Option<DType>> {
    vec![match context.has(2) {
        true => context.dtype(2).or(declared(context)),
        false => declared(context).or(Some(DType::UINT8)),
    }]
}

fn dequantized_type(context: &Context) -> Vec<Option<DType>> {
    vec![declared(context).or(context.dtype(1))]
}

fn linear(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    if let Some(scale) = context.optional_shape(1) {
        check_scale(context, input, scale)?;
    }
    single(input.to_vec())
}

/// One scale, one per index of an axis, or one per block along it.
fn check_scale(context: &Context, input: &[Dim], scale: &[Dim]) -> Result<(), Stop> {
    let block = i128::from(context.int("block_size", 0));
    let unfit = || {
        contradiction(format!(
            "scales of shape {} do not fit an input of shape {}",
            show(scale),
            show(input)
        ))
    };
    if block < 0 {
        return contradiction("`block_size` must not be negative");
    }
    if block > 0 {
        let along = axis(context.int("axis", 1), input.len())?;
        if scale.len() != input.len() {
            return unfit();
        }
        for (position, (scale, size)) in scale.iter().zip(input).enumerate() {
            let wanted = if position == along {
                size.ceil_div(block)
            } else {
                size.clone()
            };
            if scale.unify(&wanted).is_none() {
                return unfit();
            }
        }
        return Ok(());
    }
    if let [count] = scale
        && count.equals(&Dim::Fixed(1)) == Some(false)
        && !input.is_empty()
    {
        let along = axis(context.int("axis", 1), input.len())?;
        if input[along].unify(count).is_none() {
            return contradiction(format!(
                "{count} scales do not fit axis {along} of shape {}",
                show(input)
            ));
        }
    }
    Ok(())
}
