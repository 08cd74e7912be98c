//! `report.json`: what a run did and reached, for people and programs.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::Sha256;

/// The version of the report's schema. Fields may be added under one version; none changes its meaning.
pub const REPORT_SCHEMA: u32 = 1;

/// The JSON Schema of [`Report`].
pub fn report_schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

/// What a run did and reached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(title = "kmr run report")]
pub struct Report {
    /// The version of this schema.
    pub schema: u32,
    /// The version of kmr that wrote the report.
    pub kmr: String,
    /// How the run ended.
    pub outcome: Outcome,
    /// The exit code of the process.
    pub exit_code: u8,
    /// The outcome in words: what was reached, and what blocked.
    pub message: String,
    /// The manifest.
    pub manifest: FileReport,
    /// The model that the run started from.
    pub model: FileReport,
    /// The further models that rules could look at, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, FileReport>,
    /// The engine that ran the models: name, version, instruction set.
    pub engine: String,
    /// The seed of everything random.
    pub seed: u64,
    /// The budget's first limit.
    pub budget: BudgetReport,
    /// Every limit of the budget.
    pub limits: Vec<BudgetReport>,
    /// The written model.
    pub artifact: ArtifactReport,
    /// Every meter before and after; quality meters on the search split.
    pub meters: BTreeMap<String, BeforeAfter>,
    /// Quality on the split that chose and on the split that judges.
    pub quality: QualityReport,
    /// How long inference takes in ONNX Runtime; empty where that is not there or not asked.
    #[serde(default)]
    pub latency: Vec<LatencyReport>,
    /// Every step that was tried, in order.
    pub steps: Vec<StepReport>,
    /// The candidates that the policy chose from, where it names them.
    #[serde(default)]
    pub contenders: Vec<ContenderReport>,
    /// What was done to which layer.
    pub layers: Vec<LayerReport>,
    /// The plugins whose code ran.
    pub plugins: Vec<PluginReport>,
    /// Wall-clock seconds from start to report.
    pub seconds: f64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The budget is met with quality kept.
    Feasible,
    /// No action was left before the budget was met.
    Exhausted,
    /// An action did not lower the cost, and the manifest says to stop then.
    NoProgress,
    /// The quality floor stands in the way of the budget, or the holdout does not prove it kept.
    QualityFloor,
    /// Somebody stopped the run.
    Interrupted,
}

/// A file that the run read or wrote.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FileReport {
    /// Its path as it was given.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Sha256,
}

/// A limit and what was reached.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BudgetReport {
    /// The cost meter.
    pub meter: String,
    /// The most it may read.
    pub limit: f64,
    /// What it reads on the written model.
    pub reached: f64,
    /// Whether the limit holds.
    pub met: bool,
}

/// The written model.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ArtifactReport {
    /// Its file name within the run's folder.
    pub path: String,
    /// Its length in bytes, that of its weights' file included.
    pub bytes: u64,
    /// The SHA-256 of the file at `path`.
    pub sha256: Sha256,
    /// The file of its weights, where they have one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<FileReport>,
}

/// A meter's reading of the original and of the written model. What cannot be told is NaN, and `null` in the file.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BeforeAfter {
    /// Of the original.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "f64", extend("type" = ["number", "null"]))]
    pub before: f64,
    /// Of the written model.
    #[serde(deserialize_with = "number_or_null")]
    #[schemars(with = "f64", extend("type" = ["number", "null"]))]
    pub after: f64,
    /// The unit; empty when there is none.
    pub unit: String,
}

fn number_or_null<'d, D: Deserializer<'d>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// Quality on the split that chose and on the split that judges.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct QualityReport {
    /// The quality meter.
    pub meter: String,
    /// The floor in words.
    pub floor: String,
    /// The split that the search chose by.
    pub search: SearchReport,
    /// The split that nothing was chosen by; absent when the manifest gives none.
    pub holdout: Option<HoldoutReport>,
}

/// Quality on the search split.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SearchReport {
    /// Of the original.
    pub before: f64,
    /// Of the written model.
    pub after: f64,
    /// How many samples were judged.
    pub samples: usize,
}

/// Quality on the holdout.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct HoldoutReport {
    /// Of the original.
    pub before: f64,
    /// Of the written model.
    pub after: f64,
    /// How many samples were judged.
    pub samples: usize,
    /// Samples that score lower than before; for scores of 0 and 1: right before, wrong now.
    pub lost: usize,
    /// Samples that score higher than before.
    pub gained: usize,
    /// The test of the floor; absent for meters without a score per sample.
    pub test: Option<FloorTest>,
    /// Whether the floor holds here.
    pub passed: bool,
    /// The name of the engine that all this was read in: ONNX Runtime where it is there.
    #[serde(default)]
    pub engine: String,
    /// The same in every engine that is there, the built-in one first.
    #[serde(default)]
    pub engines: Vec<EngineReading>,
}

/// Quality on the holdout in one engine.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EngineReading {
    /// The engine's name.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// The instruction sets that it computed with.
    pub instruction_set: String,
    /// Of the original.
    pub before: f64,
    /// Of the written model.
    pub after: f64,
    /// Samples that score lower than before.
    pub lost: usize,
    /// Samples that score higher than before.
    pub gained: usize,
    /// Whether every score is 0 or 1, so that samples lost and gained are flips between right and wrong.
    pub binary: bool,
}

/// How long one inference takes in ONNX Runtime, of the original and of the written model in turn.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LatencyReport {
    /// Samples to a batch.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
    /// The original's median, in milliseconds of wall-clock time.
    pub before: f64,
    /// The written model's median, in milliseconds of wall-clock time.
    pub after: f64,
    /// The median over rounds of the written model's time by the original's in the same round.
    pub ratio: f64,
}

/// A one-sided paired non-inferiority test.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FloorTest {
    /// The drop that is allowed.
    pub margin: f64,
    /// The confidence asked for.
    pub confidence: f64,
    /// The greatest drop that the samples cannot exclude at this confidence.
    pub upper_bound: f64,
}

/// A step that was tried.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StepReport {
    /// The stage.
    pub stage: String,
    /// The rule; several are joined by `+`.
    pub rule: String,
    /// The knob; several are joined by `+`.
    pub knob: String,
    /// The target; several are joined by `+`.
    pub target: String,
    /// The value; a list in the order of `target` where a step sets several.
    pub value: serde_json::Value,
    /// Whether it was kept.
    pub accepted: bool,
    /// Why, in words.
    pub reason: String,
    /// What the budget's first meter read; absent if it could not be measured.
    pub cost: Option<f64>,
    /// The quality on the search split; absent if the cost had decided already.
    pub quality: Option<f64>,
    /// How many search samples stand behind the quality.
    pub samples: Option<usize>,
    /// Every cost that was measured.
    pub costs: BTreeMap<String, f64>,
}

/// A candidate that the policy had a name for, as `uniform` or `knapsack`, and had measured.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ContenderReport {
    /// The stage.
    pub stage: String,
    /// What the policy calls it.
    pub label: String,
    /// The knobs that are not off.
    pub assignment: Vec<SettingReport>,
    /// Every cost that was measured.
    pub costs: BTreeMap<String, f64>,
    /// The quality on the search split; absent if it could not be measured.
    pub quality: Option<f64>,
    /// How many search samples stand behind it: not all of them where it was clearly too low before.
    pub samples: Option<usize>,
    /// The quality on the holdout, read after the choice was made; absent without a holdout, and for
    /// candidates of stages before the last.
    pub holdout: Option<f64>,
}

/// A knob and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SettingReport {
    /// The rule.
    pub rule: String,
    /// The knob.
    pub knob: String,
    /// The target.
    pub target: String,
    /// The value.
    pub value: serde_json::Value,
}

/// A layer before and after.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LayerReport {
    /// The layer's node, or what else was changed, as `the whole model`.
    pub layer: String,
    /// Its operator; empty where it is no node.
    pub operator: String,
    /// What rules did to it, and to the layers that are new under its name.
    pub changes: Vec<ChangeReport>,
    /// Its parameters, with those of the layers that are new under its name.
    pub params: BeforeAfter,
    /// Its and their multiply–accumulates.
    pub macs: BeforeAfter,
}

/// A change that a rule made to a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChangeReport {
    /// The rule.
    pub rule: String,
    /// What changed, as `channels`.
    pub what: String,
    /// Before.
    pub before: String,
    /// After.
    pub after: String,
}

/// A plugin whose code ran.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PluginReport {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its file.
    pub sha256: Sha256,
}

/// Holds `schema` to the file of this name under `docs/`.
#[cfg(test)]
pub(crate) fn published(name: &str, schema: &serde_json::Value) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs")
        .join(name);
    let schema = format!("{schema:#}\n");
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let published = std::fs::read_to_string(&path).unwrap();
    assert!(
        published == schema,
        "run this test with UPDATE_SCHEMA=1, and count the schema's version up if meaning changed"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_the_one_that_is_written() {
        published("report.schema.json", &report_schema());
    }

    #[test]
    fn what_cannot_be_told_is_null() {
        let reading = BeforeAfter {
            before: 2.0,
            after: f64::NAN,
            unit: "bytes".into(),
        };
        let text = serde_json::to_string(&reading).unwrap();
        assert_eq!(text, r#"{"before":2.0,"after":null,"unit":"bytes"}"#);
        let back: BeforeAfter = serde_json::from_str(&text).unwrap();
        assert!(back.before == 2.0 && back.after.is_nan());
    }
}
