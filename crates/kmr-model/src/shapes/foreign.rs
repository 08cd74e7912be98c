//! The other domains of ONNX: training and classical machine learning.

use super::{
    Dim, attention,
    context::{Context, Outputs, Rule, Stop, Types::*, contradiction, rule, single},
    elementwise::same,
    fact::Fact,
    operators::WholeFunction,
};
use crate::DType;

pub(super) fn operator(domain: &str, op: &str) -> Option<Rule> {
    match (domain, op) {
        ("ai.onnx.preview", "FlexAttention") => rule(Same(&[0, 1, 2]), attention::flexible),
        ("ai.onnx.ml", "Binarizer") => rule(Same(&[0]), same),
        ("ai.onnx.ml", "LabelEncoder") => rule(By(label_type), same),
        ("ai.onnx.ml", "ArrayFeatureExtractor") => rule(Same(&[0]), extract),
        ("ai.onnx.ml", "TreeEnsemble") => rule(Same(&[0]), |context| {
            let targets = context.required("n_targets")?.into();
            let samples = match context.optional_shape(0) {
                Some([samples, ..]) => samples.clone(),
                _ => Dim::Unknown,
            };
            single(vec![samples, targets])
        }),
        _ => None,
    }
}

pub(super) fn whole(domain: &str, op: &str) -> Option<WholeFunction> {
    match (domain, op) {
        // Rate and count, then values, gradients and the states: values and states come out updated.
        ("ai.onnx.preview.training", "Adagrad" | "Momentum") => Some(|context| updated(context, 3)),
        ("ai.onnx.preview.training", "Adam") => Some(|context| updated(context, 4)),
        _ => None,
    }
}

fn updated(context: &Context, groups: usize) -> Result<Vec<Option<Fact>>, Stop> {
    let inputs = context.node.inputs().len().saturating_sub(2);
    if inputs == 0 || !inputs.is_multiple_of(groups) {
        return contradiction(format!("takes {groups} groups of tensors; got {inputs} tensors"));
    }
    let count = inputs / groups;
    // The gradients, the second group, do not come out.
    let outputs = (0..count).chain(2 * count..groups * count);
    let facts = outputs.map(|position| {
        let fact = context.any(2 + position).ok()?;
        Some(Fact::tensor(fact.dtype, fact.shape.clone()))
    });
    Ok(facts.collect())
}

/// Labels become what the values are given as.
fn label_type(context: &Context) -> Vec<Option<DType>> {
    let kinds = [
        ("values_strings", DType::STRING),
        ("values_int64s", DType::INT64),
        ("values_floats", DType::FLOAT),
    ];
    let given = kinds.iter().find(|(name, _)| context.node.attribute(name).is_some());
    let tensor = || context.tensor("values_tensor").and_then(|tensor| tensor.data_type);
    vec![
        given
            .map(|(_, dtype)| *dtype)
            .or_else(|| tensor().map(DType::from_number)),
    ]
}

fn extract(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    let count = match context.optional_shape(1) {
        Some([count]) => count.clone(),
        Some([_, count]) => count.clone(),
        _ => Dim::Unknown,
    };
    match input {
        [] => contradiction("takes rank 1 or more; got a scalar"),
        [_] => single(vec![Dim::Fixed(1), count]),
        [outer @ .., _] => single([outer, &[count]].concat()),
    }
}
