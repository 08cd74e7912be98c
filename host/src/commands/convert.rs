//! `kmr convert`: reads a model and writes it again.

use crate::{
    arguments::{Common, Convert},
    exit,
    failure::Failure,
    files,
};

pub fn execute(arguments: &Convert, common: &Common) -> Result<u8, Failure> {
    let model = files::read_model(&arguments.input)?;
    let bytes = model.encode_to_vec();
    kmr_run::replace_file(&files::destination(&arguments.output)?, &bytes)?;
    if common.json {
        let written = serde_json::json!({
            "schema": 1,
            "path": arguments.output,
            "bytes": bytes.len(),
            "sha256": kmr_run::sha256(&bytes),
        });
        crate::terminal::line!("{written:#}");
    } else if !common.quiet {
        eprintln!("wrote {} ({} bytes)", arguments.output.display(), bytes.len());
    }
    Ok(exit::SUCCESS)
}
