//! Recurrent layers.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Types::*, contradiction, rule, several, show},
};

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "RNN" | "GRU" => rule(Same(&[0, 1, 2, 3, 5]), recurrent),
        "LSTM" => rule(Same(&[0, 1, 2, 3, 5, 6, 7]), recurrent),
        _ => None,
    }
}

/// Every state, then the last one; that of an LSTM's cells has the same shape.
fn recurrent(context: &Context) -> Outputs {
    let directions: i64 = match context.node.string("direction").unwrap_or("forward") {
        "forward" | "reverse" => 1,
        "bidirectional" => 2,
        other => return contradiction(format!("has no direction `{other}`")),
    };
    let hidden = match (context.node.int("hidden_size"), context.optional_shape(2)) {
        (Some(hidden), _) => hidden.into(),
        (None, Some([_, _, hidden])) => hidden.clone(),
        _ => Dim::Unknown,
    };
    let batch_first = context.int("layout", 0) != 0;
    let (length, batch) = match context.optional_shape(0) {
        Some([batch, length, _]) if batch_first => (length.clone(), batch.clone()),
        Some([length, batch, _]) => (length.clone(), batch.clone()),
        Some(other) => return contradiction(format!("takes rank 3; got shape {}", show(other))),
        None => (Dim::Unknown, Dim::Unknown),
    };
    if let (Some([.., inputs]), Some(weight)) = (context.optional_shape(0), context.optional_shape(1)) {
        let fits =
            matches!(weight, [of, _, width] if of.unify(&directions.into()).is_some() && width.unify(inputs).is_some());
        if !fits {
            return contradiction(format!(
                "a weight of shape {} does not fit {inputs} inputs in {directions} direction(s)",
                show(weight)
            ));
        }
    }
    let (all, last) = if batch_first {
        (
            vec![batch.clone(), length, directions.into(), hidden.clone()],
            vec![batch, directions.into(), hidden],
        )
    } else {
        (
            vec![length, directions.into(), batch.clone(), hidden.clone()],
            vec![directions.into(), batch, hidden],
        )
    };
    several([all, last.clone(), last])
}
