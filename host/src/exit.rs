//! Exit codes: documented, constant, and all there are.

/// The budget is met with quality kept; other commands: done.
pub const SUCCESS: u8 = 0;
/// kmr itself went wrong.
pub const INTERNAL: u8 = 1;
/// The command line is wrong, or a file that it names cannot be written.
pub const USAGE: u8 = 2;
/// The manifest is invalid, or its splits overlap.
pub const MANIFEST: u8 = 20;
/// A plugin file or folder, or an extension that no plugin offers, is missing.
pub const PLUGIN_MISSING: u8 = 21;
/// A plugin is for another ABI, another machine, or is damaged.
pub const PLUGIN_INCOMPATIBLE: u8 = 22;
/// A plugin failed while it worked.
pub const PLUGIN_FAILED: u8 = 24;
/// A model or data file is unreadable or unsupported.
pub const INPUT: u8 = 25;
/// The budget cannot be reached; the best model found is written.
pub const BUDGET: u8 = 30;
/// The quality floor stands in the way of the budget; the best model found is written.
pub const QUALITY: u8 = 31;
/// The artifact on disk is not what it should be.
pub const VERIFICATION: u8 = 40;
/// Somebody stopped the run; the best model found until then is written.
pub const INTERRUPTED: u8 = 130;

/// The name of an exit code in JSON output.
pub fn name(code: u8) -> &'static str {
    match code {
        SUCCESS => "success",
        USAGE => "usage",
        MANIFEST => "manifest_invalid",
        PLUGIN_MISSING => "plugin_missing",
        PLUGIN_INCOMPATIBLE => "plugin_incompatible",
        PLUGIN_FAILED => "plugin_failed",
        INPUT => "input_unsupported",
        BUDGET => "budget_not_reachable",
        QUALITY => "quality_floor",
        VERIFICATION => "verification_failed",
        INTERRUPTED => "interrupted",
        _ => "internal",
    }
}
