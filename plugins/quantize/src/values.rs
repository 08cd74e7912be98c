//! The numbers in initializers.

use kmr_sdk::{Error, Result, model::Graph};

/// The values of initializer `name` as float32, all of them finite.
///
/// # Errors
/// If there is no such initializer, or it holds what is no finite number.
pub fn finite(graph: &Graph, name: &str) -> Result<Vec<f32>> {
    let place = || format!("tensor `{name}`");
    let tensor = graph
        .tensor(name)
        .ok_or_else(|| Error::not_found("does not exist").at(place()))?;
    let values = tensor.to_f32().map_err(|error| Error::from(error).at(place()))?;
    let count = values.iter().filter(|value| !value.is_finite()).count();
    if count > 0 {
        let message = format!(
            "holds {count} values that are NaN or infinite, which no scale can reach; \
             export the model again from a checkpoint whose weights are finite, or name it in `config.ignore`"
        );
        return Err(Error::unsupported(message).at(place()));
    }
    Ok(values.into_owned())
}
