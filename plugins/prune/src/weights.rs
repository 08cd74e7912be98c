//! The values of weights.

use kmr_sdk::{
    Error, Result,
    model::{Graph, Tensor, codec},
};

#[cfg(test)]
pub use kmr_sdk::model::weights::weights_of;
pub use kmr_sdk::model::weights::{Reader, Weight, weights};

/// The values of initializer `name` as float32, all of them finite.
///
/// # Errors
/// If there is no such initializer, or it holds what is no finite number.
pub fn finite_values(graph: &Graph, name: &str) -> Result<Vec<f32>> {
    let tensor = stored(graph, name)?;
    finite(
        &tensor.ok_or_else(|| Error::not_found("does not exist").at(format!("tensor `{name}`")))?,
        name,
    )
}

/// The tensor that `name` is stored as, in an initializer or a Constant node.
///
/// # Errors
/// If a Constant node's tensor is malformed.
pub fn stored(graph: &Graph, name: &str) -> Result<Option<Tensor>> {
    if let Some(tensor) = graph.tensor(name) {
        return Ok(Some((**tensor).clone()));
    }
    let constant = graph.node(name).filter(|node| node.is("Constant"));
    let message = constant.and_then(|node| node.attribute("value")?.t.as_option());
    Ok(message.map(codec::tensor_from_message).transpose()?)
}

/// The values of `tensor`, called `name`, as float32, all of them finite.
///
/// # Errors
/// If it holds what is no finite number.
pub fn finite(tensor: &Tensor, name: &str) -> Result<Vec<f32>> {
    let place = || format!("tensor `{name}`");
    let values = tensor.to_f32().map_err(|error| Error::from(error).at(place()))?;
    let count = values.iter().filter(|value| !value.is_finite()).count();
    if count > 0 {
        let message = format!(
            "holds {count} values that are NaN or infinite, so that nothing can be ranked by it; \
             export the model again from a checkpoint whose weights are finite"
        );
        return Err(Error::unsupported(message).at(place()));
    }
    Ok(values.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_are_not_numbers_are_named() {
        let tensor = Tensor::from_vec(vec![3], vec![1.0, f32::NAN, f32::INFINITY]);
        let error = finite(&tensor, "conv1.weight").unwrap_err().to_string();
        assert!(
            error.starts_with("tensor `conv1.weight`: holds 2 values that are NaN or infinite"),
            "{error}"
        );
    }
}
