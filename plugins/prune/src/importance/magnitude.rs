//! The size of a weight itself.

use kmr_sdk::{Result, model::Graph};

use super::ElementScores;
use crate::weights::finite_values;

/// Absolute values of the initializers `names`.
///
/// # Errors
/// If one does not exist, or holds what is no finite number.
pub fn scores<'a>(graph: &Graph, names: impl IntoIterator<Item = &'a str>) -> Result<ElementScores> {
    let scores = names.into_iter().map(|name| {
        let mut values = finite_values(graph, name)?;
        values.iter_mut().for_each(|value| *value = value.abs());
        Ok((name.to_owned(), values))
    });
    scores.collect()
}
