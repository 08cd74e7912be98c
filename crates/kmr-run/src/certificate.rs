//! `certificate.json`: what a result was made of and what it reached, by digests, for whoever wants to make it again.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ArtifactReport, BudgetReport, FileReport, Outcome, PluginReport, QualityReport, Report, Sha256, StepReport,
};

/// The version of the certificate's schema. Fields may be added under one version; none changes its meaning.
pub const CERTIFICATE_SCHEMA: u32 = 1;

/// The JSON Schema of [`Certificate`].
pub fn certificate_schema() -> serde_json::Value {
    schemars::schema_for!(Certificate).to_value()
}

/// What a result was made of and what it reached. It holds no times, and paths as they were given: the same run, started
/// in the same way, has the same certificate.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kmr certificate")]
pub struct Certificate {
    /// The version of this schema.
    pub schema: u32,
    /// The version of kmr that made the result.
    pub kmr: String,
    /// How the run ended.
    pub outcome: Outcome,
    /// The manifest.
    pub manifest: FileReport,
    /// The model that the run started from.
    pub model: FileReport,
    /// The further models that rules could look at, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, FileReport>,
    /// The samples of each split.
    pub data: BTreeMap<String, DataDigest>,
    /// The plugins whose code ran.
    pub plugins: Vec<PluginReport>,
    /// The engine of the search: name, version, instruction set. The engines of the holdout are with its readings.
    pub engine: String,
    /// The seed of everything random.
    pub seed: u64,
    /// The steps that were accepted, in order, with their costs and quality.
    pub steps: Vec<StepReport>,
    /// Every limit of the budget, and what was reached.
    pub limits: Vec<BudgetReport>,
    /// Quality on the split that chose and on the split that judges, with the test of the floor.
    pub quality: QualityReport,
    /// The written model: its length and its digest.
    pub artifact: ArtifactReport,
}

/// The samples of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataDigest {
    /// How many they are.
    pub samples: usize,
    /// The SHA-256 of their digests in order.
    pub sha256: Sha256,
}

impl Certificate {
    /// The certificate of what `report` tells, on samples of these digests.
    pub fn of(report: &Report, data: BTreeMap<String, DataDigest>) -> Self {
        Self {
            schema: CERTIFICATE_SCHEMA,
            kmr: report.kmr.clone(),
            outcome: report.outcome,
            manifest: report.manifest.clone(),
            model: report.model.clone(),
            models: report.models.clone(),
            data,
            plugins: report.plugins.clone(),
            engine: report.engine.clone(),
            seed: report.seed,
            steps: report.steps.iter().filter(|step| step.accepted).cloned().collect(),
            limits: report.limits.clone(),
            quality: report.quality.clone(),
            artifact: report.artifact.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_the_one_that_is_written() {
        crate::report::published("certificate.schema.json", &certificate_schema());
    }
}
