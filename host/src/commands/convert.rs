//! `kmr convert`: reads a model and writes it again, changed as far as it is asked to be.

use std::path::Path;

use kmr_model::{Model, ModelError, codec::ModelFiles};

use crate::{
    arguments::{Common, Convert},
    exit,
    failure::Failure,
    files,
};

/// A change of a whole model: what it gives, and what it did.
type Change = fn(&Model) -> Result<(Model, Vec<String>), ModelError>;

pub fn execute(arguments: &Convert, common: &Common) -> Result<u8, Failure> {
    files::destination(&arguments.output)?;
    let mut model = files::read_model(&arguments.input)?;
    let mut changes = Vec::new();
    let steps: [(bool, Change); 2] = [
        (arguments.inline_functions, Model::inline_functions),
        (arguments.lift_constants, Model::lift_constants),
    ];
    for (_, change) in steps.iter().filter(|(wanted, _)| *wanted) {
        let (changed, what) = change(&model).map_err(|error| Failure::model(&arguments.input, &error))?;
        model = changed;
        changes.extend(what);
    }
    let files = layout(&model, arguments)?;
    files::write_model(&arguments.output, &files)?;
    verify(&arguments.output, &files)?;
    if let Some(data) = files.data() {
        changes.push(format!(
            "moved weights of {} bytes to `{}`",
            data.len(),
            data.location()
        ));
    }
    report(arguments, common, &files, &changes)
}

/// The files to write: the weights in a file of their own if that is asked for, or if one cannot hold all.
fn layout(model: &Model, arguments: &Convert) -> Result<ModelFiles, Failure> {
    let apart = || -> Result<ModelFiles, ModelError> {
        if !arguments.external_data {
            let files = model.files()?;
            if files.data().is_none() {
                return Ok(files);
            }
        }
        let name = arguments.output.file_name().unwrap_or_default().to_string_lossy();
        model.with_external_data(Some(&format!("{name}.data"))).files()
    };
    apart().map_err(|error| Failure::model(&arguments.input, &error))
}

/// Proves that what was written is there.
fn verify(path: &Path, files: &ModelFiles) -> Result<(), Failure> {
    let damaged = |path: &Path| {
        Failure::new(exit::VERIFICATION, "the file is not what was written to it")
            .at(path.display().to_string())
            .help("this is a defect of kmr or of the disk")
    };
    if !files.is_model(&files::read(path)?) {
        return Err(damaged(path));
    }
    if let Some(data) = files.data() {
        let path = files::data_path(path, data);
        if !data.is(&files::read(&path)?) {
            return Err(damaged(&path));
        }
    }
    Ok(())
}

fn report(arguments: &Convert, common: &Common, files: &ModelFiles, changes: &[String]) -> Result<u8, Failure> {
    if common.json {
        let described = |path: &Path| -> Result<serde_json::Value, Failure> {
            let bytes = files::read(path)?;
            Ok(serde_json::json!({"path": path, "bytes": bytes.len(), "sha256": kmr_run::sha256(&bytes)}))
        };
        let mut written = described(&arguments.output)?;
        written["schema"] = 1.into();
        written["changes"] = changes.into();
        if let Some(data) = files.data() {
            written["data"] = described(&files::data_path(&arguments.output, data))?;
        }
        crate::terminal::line!("{written:#}");
    }
    if !common.quiet {
        changes.iter().for_each(|change| eprintln!("{change}"));
        eprintln!("wrote {} ({} bytes)", arguments.output.display(), files.model_len());
        if let Some(data) = files.data() {
            let path = files::data_path(&arguments.output, data);
            eprintln!("wrote {} ({} bytes)", path.display(), data.len());
        }
    }
    Ok(exit::SUCCESS)
}
