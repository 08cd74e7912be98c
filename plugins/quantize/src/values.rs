//! The numbers in initializers.

use kmr_sdk::{
    Error, Result,
    model::{
        DType, Edit, Graph, GraphIndex, Node, Tensor,
        stored::{is_only_cast, own_initializer_of},
    },
};

/// The float32 initializer `name`, if one node alone reads it.
pub fn own<'g>(graph: &'g Graph, index: &GraphIndex<'_>, name: &str) -> Option<&'g Tensor> {
    let tensor = graph.tensor(name).filter(|tensor| tensor.dtype() == DType::FLOAT)?;
    index.sole_consumer(name).map(|_| &**tensor)
}

/// The initializer that `value` is, or is a Cast to float32 of, if nothing else reads either; with its name.
pub fn own_stored<'g>(graph: &'g Graph, index: &GraphIndex<'_>, value: &str) -> Option<(&'g str, &'g Tensor)> {
    own_initializer_of(graph, index, value).filter(|(name, _)| stored_bits(graph, index, name).is_some())
}

/// The bits of a number of initializer `name`, if it is float32, or of 16 bits and only ever cast to float32.
pub fn stored_bits(graph: &Graph, index: &GraphIndex<'_>, name: &str) -> Option<usize> {
    match graph.tensor(name)?.dtype() {
        DType::FLOAT => Some(32),
        _ => is_only_cast(graph, index, name).then_some(16),
    }
}

/// The edit that gives initializer `name` other values of the same shape, as float32 whatever it was.
pub fn with_exact_values(graph: &Graph, name: &str, values: Vec<f32>) -> Edit {
    let shape = graph
        .tensor(name)
        .map_or_else(|| vec![values.len()], |tensor| tensor.shape().to_vec());
    Edit::StoreTensor {
        name: name.to_owned(),
        tensor: Tensor::from_vec(shape, values),
    }
}

/// The edit that gives initializer `name` other values of the same type and shape.
///
/// # Errors
/// If there is no such initializer, or it holds no floating-point numbers.
pub fn with_values(graph: &Graph, name: &str, values: Vec<f32>) -> Result<Edit> {
    let tensor = graph
        .tensor(name)
        .ok_or_else(|| Error::not_found("does not exist").at(place(name)))?;
    Ok(Edit::StoreTensor {
        name: name.to_owned(),
        tensor: tensor
            .with_f32(values)
            .map_err(|error| Error::from(error).at(place(name)))?,
    })
}

/// Elements of initializer `name` behind `axis`: so many with one position on it lie next to each other.
pub fn inner(graph: &Graph, name: &str, axis: usize) -> usize {
    graph
        .tensor(name)
        .map_or(1, |tensor| tensor.shape()[axis + 1..].iter().product::<usize>().max(1))
}

/// Raises `most` to the largest magnitude of `values` at each position on an axis with `inner` elements behind it.
pub fn raise_to_magnitudes(most: &mut [f32], values: &[f32], inner: usize) {
    let positions = most.len();
    for (at, value) in values.iter().enumerate() {
        let most = &mut most[at / inner % positions];
        *most = most.max(value.abs());
    }
}

/// Whether a Gemm scales neither its product nor its bias.
pub fn is_unscaled(gemm: &Node) -> bool {
    gemm.float("alpha").unwrap_or(1.0) == 1.0 && gemm.float("beta").unwrap_or(1.0) == 1.0
}

/// The values of initializer `name` as float32, all of them finite.
///
/// # Errors
/// As [`check_finite`].
pub fn finite(graph: &Graph, name: &str) -> Result<Vec<f32>> {
    let tensor = check_finite(graph, name)?;
    let values = tensor.to_f32().map_err(|error| Error::from(error).at(place(name)))?;
    Ok(values.into_owned())
}

fn place(name: &str) -> String {
    format!("tensor `{name}`")
}

/// The initializer `name`, whose values are all finite.
///
/// # Errors
/// If there is no such initializer, or it holds what is no finite number.
pub fn check_finite<'g>(graph: &'g Graph, name: &str) -> Result<&'g Tensor> {
    let tensor = graph
        .tensor(name)
        .ok_or_else(|| Error::not_found("does not exist").at(place(name)))?;
    let mut count = 0;
    let counted = tensor.visit_f32(|_, values| {
        count += values.iter().filter(|value| !value.is_finite()).count();
        None::<()>
    });
    counted.map_err(|error| Error::from(error).at(place(name)))?;
    if count > 0 {
        let message = format!(
            "holds {count} values that are NaN or infinite, which no scale can reach; \
             export the model again from a checkpoint whose weights are finite, or name it in `config.ignore`"
        );
        return Err(Error::unsupported(message).at(place(name)));
    }
    Ok(tensor)
}
