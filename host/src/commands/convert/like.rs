//! A model in the form that it came from: a folder of `transformers`, or a GGUF file.

use std::path::Path;

use kmr_formats::gguf::{GgufKind, GgufValue};
use kmr_huggingface::{GGUF_KINDS, HuggingFaceError, Source, Written};
use kmr_model::Model;
use kmr_text::{Tokenizer, gguf_metadata};

use crate::{
    arguments::{Common, Convert},
    exit,
    failure::Failure,
    files,
};

/// The file of a tokenizer in a folder.
const TOKENIZER: &str = "tokenizer.json";

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Onnx,
    Folder,
    Gguf,
}

impl Form {
    /// The form of the output, by its name and by whether there is a source to be like.
    pub fn of(arguments: &Convert) -> Self {
        let ending = arguments.output.extension().unwrap_or_default();
        if ending == "gguf" {
            Self::Gguf
        } else if ending == "onnx" || arguments.like.is_none() {
            Self::Onnx
        } else {
            Self::Folder
        }
    }
}

/// The kind of GGUF's tensors that this text names.
pub fn gguf_kind(text: &str) -> Result<GgufKind, String> {
    let name = |kind: &GgufKind| kind.to_string().to_lowercase();
    let found = GGUF_KINDS.iter().find(|kind| name(kind) == text.to_lowercase());
    found.copied().ok_or_else(|| {
        let known: Vec<String> = GGUF_KINDS.iter().map(name).collect();
        format!("takes one of {}", known.join(", "))
    })
}

/// Refuses what does not go together, before anything is read.
pub fn check(arguments: &Convert, form: Form) -> Result<(), Failure> {
    let usage = |message: &str, help: &str| Err(Failure::new(exit::USAGE, message).help(help));
    if arguments.gguf_type.is_some() && form != Form::Gguf {
        return usage(
            "`--gguf-type` is for an output that ends in `.gguf`",
            "leave it out, or name the output so",
        );
    }
    if form != Form::Onnx && (arguments.external_data || arguments.short_names) {
        let message = "`--external-data` and `--short-names` are for ONNX files";
        return usage(message, "leave them out, or let the output end in `.onnx`");
    }
    match form {
        Form::Onnx => files::destination(&arguments.output).map(drop),
        Form::Gguf => {
            if arguments.like.is_none() && !files::is_transformer(&arguments.input) {
                let message = "a GGUF file needs to know what the model came from";
                return usage(message, "add `--like` with the folder or the GGUF file");
            }
            files::destination(&arguments.output).map(drop)
        }
        Form::Folder => kmr_huggingface::check_folder(&arguments.output)
            .map_err(|error| files::transformer_failure(&arguments.output, &error)),
    }
}

/// Writes `model` as a folder or a GGUF file, and says what was written.
pub fn write(
    model: &Model,
    form: Form,
    arguments: &Convert,
    common: &Common,
    mut changes: Vec<String>,
) -> Result<u8, Failure> {
    let like = arguments.like.as_deref().unwrap_or(&arguments.input);
    let refused = |error: HuggingFaceError| files::transformer_failure(&arguments.input, &error);
    let source = Source::read(like).map_err(refused)?;
    let output = &arguments.output;
    let mut unsaid = Vec::new();
    let written = match form {
        Form::Gguf => {
            let tokenizer = to_gguf(&source, &mut unsaid);
            let kind = arguments.gguf_type.unwrap_or(GgufKind::F16);
            source.write_gguf(model, output, kind, tokenizer.into_iter().collect())
        }
        _ => {
            let tokenizer = to_folder(&source, like, &mut unsaid);
            source.write_folder(model, output, tokenizer.as_deref())
        }
    };
    let written = written.map_err(refused)?;
    changes.extend(written.changes);
    let warnings = [unsaid, written.warnings].concat();
    report(arguments, common, &Written { changes, warnings })
}

/// The tokenizer of a folder in GGUF's words; a GGUF file has its own.
fn to_gguf(source: &Source, warnings: &mut Vec<String>) -> Vec<(String, GgufValue)> {
    let Some(path) = source
        .folder()
        .map(|folder| folder.join(TOKENIZER))
        .filter(|path| path.exists())
    else {
        return Vec::new();
    };
    let read = files::read(&path).map_err(|failure| failure.render(false));
    let made =
        read.and_then(|bytes| gguf_metadata(&path, &bytes, source.vocabulary()).map_err(|error| error.to_string()));
    made.unwrap_or_else(|message| {
        warnings.push(format!("the tokenizer is left out: {}", message.trim_end()));
        Vec::new()
    })
}

/// The `tokenizer.json` of a GGUF file; a folder has its own.
fn to_folder(source: &Source, path: &Path, warnings: &mut Vec<String>) -> Option<Vec<u8>> {
    if source.folder().is_some() {
        return None;
    }
    match Tokenizer::read(path).and_then(|tokenizer| tokenizer.to_json()) {
        Ok(json) => Some(json.into_bytes()),
        Err(error) => {
            warnings.push(format!("the tokenizer is left out: {error}"));
            None
        }
    }
}

fn report(arguments: &Convert, common: &Common, written: &Written) -> Result<u8, Failure> {
    let output = &arguments.output;
    let mut paths = Vec::new();
    list(output, &mut paths).map_err(|error| files::unwritable(output, &error))?;
    let reports = paths
        .iter()
        .map(|path| Ok(files::file_report(path, &files::read(path)?)));
    let reports: Vec<kmr_run::FileReport> = reports.collect::<Result<_, Failure>>()?;
    let bytes: u64 = reports.iter().map(|report| report.bytes).sum();
    if common.json {
        let result = serde_json::json!({
            "schema": 1, "path": output, "bytes": bytes, "files": reports, "changes": written.changes,
            "warnings": written.warnings,
        });
        crate::terminal::line!("{result:#}");
    }
    if !common.quiet {
        written.changes.iter().for_each(|change| eprintln!("{change}"));
        written
            .warnings
            .iter()
            .for_each(|warning| eprintln!("warning: {warning}"));
        eprintln!("wrote {} ({bytes} bytes)", output.display());
    }
    Ok(exit::SUCCESS)
}

/// The files at `path`, which is one itself or a folder.
fn list(path: &Path, found: &mut Vec<std::path::PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        found.push(path.to_owned());
        return Ok(());
    }
    let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    entries.iter().try_for_each(|entry| list(&entry.path(), found))
}
