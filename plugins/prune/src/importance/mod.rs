//! How much each element of a tensor matters.

pub mod channels;
pub mod magnitude;
pub mod taylor;
pub mod wanda;
pub mod weights;

use std::collections::HashMap;

/// A score for every element of some tensors, row-major, by the tensors' names. Scores are not negative.
pub type ElementScores = HashMap<String, Vec<f32>>;
