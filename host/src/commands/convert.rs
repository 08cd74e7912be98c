//! `kmr convert`: reads a model and writes it again, changed as far as it is asked to be.

pub mod like;

use std::path::Path;

use kmr_model::{Model, ModelError, codec::ModelFiles, compact, upgrade::upgrade};

use crate::{
    arguments::{Common, Convert},
    exit,
    failure::Failure,
    files::{self, ReadBack},
};
use like::Form;

/// A change of a whole model: what it gives, and what it did.
type Change = dyn Fn(&Model) -> Result<(Model, Vec<String>), ModelError>;

pub fn execute(arguments: &Convert, common: &Common) -> Result<u8, Failure> {
    let form = Form::of(arguments);
    like::check(arguments, form)?;
    let mut model = files::read_model(&arguments.input)?;
    let mut changes = Vec::new();
    // Upgrading brings Constant nodes, which lifting takes away again.
    let steps: [Option<Box<Change>>; 4] = [
        arguments
            .inline_functions
            .then(|| Box::new(Model::inline_functions) as _),
        arguments
            .opset
            .map(|opset| Box::new(move |model: &Model| upgraded(model, opset)) as _),
        arguments.lift_constants.then(|| Box::new(Model::lift_constants) as _),
        arguments.short_names.then(|| Box::new(shortened) as _),
    ];
    for change in steps.iter().flatten() {
        let (changed, what) = change(&model).map_err(|error| Failure::model(&arguments.input, &error))?;
        model = changed;
        changes.extend(what);
    }
    if form != Form::Onnx {
        return like::write(&model, form, arguments, common, changes);
    }
    let files = layout(&model, arguments)?;
    files::write_model(&arguments.output, &files)?;
    let written = verified(&arguments.output, &files)?;
    if let Some(data) = files.data() {
        changes.push(format!(
            "moved weights of {} bytes to `{}`",
            data.len(),
            data.location()
        ));
    }
    report(arguments, common, &files, &written, &changes);
    Ok(exit::SUCCESS)
}

fn upgraded(model: &Model, opset: i64) -> Result<(Model, Vec<String>), ModelError> {
    let (upgraded, changes) = upgrade(model, opset)?;
    let mut changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    if upgraded.opset() != model.opset() {
        changes.push(format!("upgraded from operator set {} to {opset}", model.opset()));
    }
    Ok((upgraded, changes))
}

fn shortened(model: &Model) -> Result<(Model, Vec<String>), ModelError> {
    let short = compact::short_names(&compact::shared_initializers(model)?)?;
    let saved = model.encoded_len().saturating_sub(short.encoded_len());
    let change = format!("saved {saved} bytes of names, descriptions and repeated tensors");
    Ok((short, vec![change]))
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

/// What was written, as it lies on the disk.
fn verified(path: &Path, files: &ModelFiles) -> Result<ReadBack, Failure> {
    files::read_back(path, files, |damaged| {
        Failure::new(exit::VERIFICATION, "the file is not what was written to it")
            .at(damaged.display().to_string())
            .help("this is a defect of kmr or of the disk")
    })
}

fn report(arguments: &Convert, common: &Common, files: &ModelFiles, written: &ReadBack, changes: &[String]) {
    if common.json {
        let described = |path: &Path, bytes: &[u8]| serde_json::json!({"path": path, "bytes": bytes.len(), "sha256": kmr_run::sha256(bytes)});
        let mut result = described(&arguments.output, &written.model);
        result["schema"] = 1.into();
        result["changes"] = changes.into();
        if let (Some(data), Some(bytes)) = (files.data(), &written.data) {
            result["data"] = described(&files::data_path(&arguments.output, data), bytes);
        }
        crate::terminal::line!("{result:#}");
    }
    if !common.quiet {
        changes.iter().for_each(|change| eprintln!("{change}"));
        eprintln!("wrote {} ({} bytes)", arguments.output.display(), files.model_len());
        if let Some(data) = files.data() {
            let path = files::data_path(&arguments.output, data);
            eprintln!("wrote {} ({} bytes)", path.display(), data.len());
        }
    }
}
