//! Operators that write into a copy of their first input.

use super::{
    Dim,
    context::{Context, Outputs, Rule, Types::*, axis, contradiction, rule, show, single},
    elementwise::same,
};

pub(super) fn operator(op: &str) -> Option<Rule> {
    match op {
        "ScatterND" => rule(Same(&[0, 2]), scatter_nd),
        "ScatterElements" | "Scatter" => rule(Same(&[0, 2]), elements),
        "TensorScatter" => rule(Same(&[0, 1]), same),
        _ => None,
    }
}

fn elements(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    axis(context.int("axis", 0), input.len())?;
    if let (Some(indices), Some(updates)) = (context.optional_shape(1), context.optional_shape(2)) {
        let fits = indices.len() == input.len()
            && updates.len() == input.len()
            && indices.iter().zip(updates).all(|(a, b)| a.unify(b).is_some());
        if !fits {
            return contradiction(format!(
                "indices of shape {} and updates of shape {} do not fit shape {}",
                show(indices),
                show(updates),
                show(input)
            ));
        }
    }
    single(input.to_vec())
}

fn scatter_nd(context: &Context) -> Outputs {
    let input = context.shape(0)?;
    if let Some([.., Dim::Fixed(depth)]) = context.optional_shape(1)
        && usize::try_from(*depth).is_ok_and(|depth| depth > input.len())
    {
        return contradiction(format!("indices of {depth} axes do not fit shape {}", show(input)));
    }
    single(input.to_vec())
}
