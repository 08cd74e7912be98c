//! `frontier.json`: what one search found for many budgets, for programs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{FileReport, SettingReport};

/// The version of the frontier's schema. Fields may be added under one version; none changes its meaning.
pub const FRONTIER_SCHEMA: u32 = 1;

/// The JSON Schema of [`Frontier`].
pub fn frontier_schema() -> serde_json::Value {
    schemars::schema_for!(Frontier).to_value()
}

/// What one search found for many budgets.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kmr frontier")]
pub struct Frontier {
    /// The version of this schema.
    pub schema: u32,
    /// The cost meter that the budgets limit.
    pub meter: String,
    /// What it reads on the original.
    pub original: Option<f64>,
    /// The quality meter.
    pub quality_meter: String,
    /// The model that the search started from.
    pub model: FileReport,
    /// The solutions.
    pub points: Vec<FrontierPoint>,
    /// The budgets, as they were asked for, that nothing reaches.
    pub out_of_reach: Vec<String>,
}

/// The solution of one budget, or of several that have it in common.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FrontierPoint {
    /// The budgets, as they were asked for.
    pub budgets: Vec<String>,
    /// The written model: a file name beside this document.
    pub file: String,
    /// Every cost meter's reading.
    pub costs: BTreeMap<String, f64>,
    /// Quality on the search split.
    pub quality: Option<f64>,
    /// How many of its samples were looked at.
    pub samples: Option<usize>,
    /// Quality on the holdout, where there is one.
    pub holdout: Option<f64>,
    /// The values of the knobs that are not off.
    pub assignment: Vec<SettingReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_the_one_that_is_written() {
        crate::report::published("frontier.schema.json", &frontier_schema());
    }
}
