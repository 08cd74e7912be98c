//! `kmr manifest`: checks manifests and describes them.

use crate::{
    arguments::{Common, Manifest},
    exit,
    failure::Failure,
    pipeline,
};

pub fn execute(arguments: &Manifest, common: &Common) -> Result<u8, Failure> {
    match arguments {
        Manifest::Schema => crate::terminal::line!("{:#}", kmr_manifest::schema()),
        Manifest::Check { manifest } => {
            pipeline::Plan::read(manifest, &[], &common.plugin_paths)?;
            if common.json {
                crate::terminal::line!("{:#}", serde_json::json!({"schema": 1, "valid": true}));
            } else {
                crate::terminal::line!("{} is valid", manifest.display());
            }
        }
    }
    Ok(exit::SUCCESS)
}
