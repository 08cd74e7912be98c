//! How much each element of a tensor matters.

pub mod channels;
pub mod magnitude;
pub mod taylor;
pub mod wanda;
pub mod weights;

use std::collections::HashMap;

use kmr_sdk::{Error, ErrorCode};

/// A score for every element of some tensors, row-major, by the tensors' names. Scores are not negative.
pub type ElementScores = HashMap<String, Vec<f32>>;

/// `error` as one of the configuration, where it says that there is no calibration data for `importance`.
pub fn needs_data(error: Error, importance: &str, instead: &str) -> Error {
    if error.code != ErrorCode::NOT_FOUND || !error.message.contains("calibration") {
        return error;
    }
    let message = format!("`{importance}` needs calibration data: {error}; `{instead}` needs none");
    Error::invalid_configuration(message).at("config.importance")
}
