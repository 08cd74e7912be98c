//! The folder of a run: journal, report and artifact, each written so that an interruption loses nothing.

mod certificate;
mod digest;
mod folder;
mod frontier;
mod journal;
mod report;

pub use certificate::{CERTIFICATE_SCHEMA, Certificate, DataDigest, certificate_schema};
pub use digest::{Sha256, sha256, sha256_of};
pub use folder::{RunError, RunFolder, replace_file};
pub use frontier::{FRONTIER_SCHEMA, Frontier, FrontierPoint, frontier_schema};
pub use journal::Journal;
pub use report::{
    ArtifactReport, BeforeAfter, BudgetReport, ChangeReport, ContenderReport, EngineReading, FileReport, FloorTest,
    HoldoutReport, LatencyReport, LayerReport, Outcome, PluginReport, QualityReport, REPORT_SCHEMA, Report,
    SearchReport, SettingReport, StepReport, report_schema,
};
