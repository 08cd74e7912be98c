//! The files of a folder beside its tensors.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value};

use crate::HuggingFaceError;
use crate::folder::{CONFIG, INDEX};

/// Endings of files that hold weights: they would no longer be those of the model.
const WEIGHTS: [&str; 11] = [
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".h5",
    ".msgpack",
    ".onnx",
    ".onnx.data",
    ".gguf",
    ".ot",
    ".index.json",
];
/// Files of what reads and writes texts.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// Copies what is no weight and no configuration of the model: texts, tokenizers, the settings of poolings.
pub(super) fn copy(
    source: &Path,
    target: &Path,
    warnings: &mut Vec<String>,
    same_vocabulary: bool,
) -> Result<(), HuggingFaceError> {
    copy_folder(source, target, 0)?;
    if !same_vocabulary && source.join(TOKENIZER).exists() {
        warnings.push(format!(
            "`{TOKENIZER}` was copied as it is, and the vocabulary has another size now"
        ));
    }
    Ok(())
}

fn copy_folder(source: &Path, target: &Path, depth: usize) -> Result<(), HuggingFaceError> {
    let io = |cause| HuggingFaceError::io(source, "read the folder", &cause);
    let mut entries = fs::read_dir(source)
        .map_err(io)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(io)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let path = entry.path();
        let hidden = text.starts_with('.');
        if path.is_dir() && depth == 0 && !hidden && path.join(CONFIG).is_file() {
            let inner = target.join(&name);
            fs::create_dir_all(&inner).map_err(|cause| HuggingFaceError::unwritable(&inner, &cause))?;
            copy_folder(&path, &inner, depth + 1)?;
        }
        let own = depth == 0 && (text == CONFIG || text == INDEX);
        let weights = WEIGHTS.iter().any(|ending| text.ends_with(ending));
        if path.is_file() && !own && !weights {
            copy_file(&path, &target.join(&name))?;
        }
    }
    Ok(())
}

/// Copies a file, so that the copy is there as a whole or not at all.
pub(super) fn copy_file(from: &Path, to: &Path) -> Result<(), HuggingFaceError> {
    let bytes = kmr_platform::map_file(from).map_err(|cause| HuggingFaceError::io(from, "read the file", &cause))?;
    write(to, &bytes)
}

/// Writes an object as `transformers` writes its configurations.
pub(super) fn write_object(path: &Path, map: &Map<String, Value>) -> Result<(), HuggingFaceError> {
    write(path, format!("{:#}\n", Value::Object(map.clone())).as_bytes())
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), HuggingFaceError> {
    let written = kmr_platform::replace_file(path, &mut |file| file.write_all(bytes));
    written.map_err(|cause| HuggingFaceError::unwritable(path, &cause))
}
