//! Strings and bags of words.

use super::{
    Dim,
    arithmetic::broadcast,
    context::{Context, Outputs, Rule, Types::*, contradiction, rule, several, show, single},
};
use crate::DType;

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "StringConcat" => rule(Always(DType::STRING), |context| {
            single(broadcast(&[context.shape(0)?, context.shape(1)?])?)
        }),
        "StringSplit" => rule(Then(&[0], DType::INT64), |context| {
            let shape = context.shape(0)?;
            several([[shape, &[Dim::Unknown]].concat(), shape.to_vec()])
        }),
        "StringNormalizer" => rule(Always(DType::STRING), normalized),
        "TfIdfVectorizer" => rule(Always(DType::FLOAT), counted),
        _ => None,
    }
}

fn normalized(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let stops = context.node.attribute("stopwords").map_or(0, |a| a.strings.len());
    match input {
        [] => contradiction("takes rank 1 or 2; got a scalar"),
        // Nothing is left out; an empty result has one empty string all the same.
        [.., size] if stops == 0 && size.minimum().is_some_and(|least| least > 0) => single(input.to_vec()),
        [_] => single(vec![Dim::Unknown]),
        [Dim::Fixed(1), _] => single(vec![Dim::Fixed(1), Dim::Unknown]),
        [_, _] => single(vec![Dim::Unknown, Dim::Unknown]),
        _ => contradiction(format!("takes rank 1 or 2; got shape {}", show(input))),
    }
}

fn counted(context: &Context) -> Outputs {
    let largest = context
        .node
        .ints("ngram_indexes")
        .and_then(|places| places.iter().max());
    let Some(&largest) = largest else {
        return contradiction("has no attribute `ngram_indexes`");
    };
    let width = Dim::from(largest).plus(1);
    match context.shape(0)? {
        [] | [_] => single(vec![width]),
        [batch, _] => single(vec![batch.clone(), width]),
        other => contradiction(format!("takes rank 1 or 2; got shape {}", show(other))),
    }
}
