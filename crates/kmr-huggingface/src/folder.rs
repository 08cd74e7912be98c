//! A folder: its configuration and its tensors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use kmr_formats::{NamedArrays, read_safetensors};
use serde_json::{Map, Value};

use crate::error::shown;
use crate::{ErrorKind, HuggingFaceError};

/// The file of a model's configuration.
pub(crate) const CONFIG: &str = "config.json";
/// The file of a model's tensors.
pub(crate) const TENSORS: &str = "model.safetensors";
/// The file that says in which shard each tensor lies.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The longest JSON file that is read.
const LONGEST: u64 = 256 << 20;

/// The bytes of a JSON file, which is a regular one of bounded length.
pub(crate) fn read_json(path: &Path) -> Result<Vec<u8>, HuggingFaceError> {
    let io = |cause| HuggingFaceError::io(path, "read the file", &cause);
    let metadata = fs::metadata(path).map_err(io)?;
    if !metadata.is_file() || metadata.len() > LONGEST {
        return Err(
            HuggingFaceError::new(ErrorKind::Malformed, "is no JSON file of a model")
                .file(path)
                .help("give a folder that `save_pretrained` wrote"),
        );
    }
    fs::read(path).map_err(io)
}

/// The JSON object in a file.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Value>, HuggingFaceError> {
    serde_json::from_slice(&read_json(path)?).map_err(|cause| {
        HuggingFaceError::new(ErrorKind::Malformed, format!("is no JSON object: {cause}"))
            .file(path)
            .help("the file is cut short or damaged: download it again")
    })
}

/// All tensors of a folder, in the order of its files: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names.
pub(crate) fn read_tensors(folder: &Path) -> Result<NamedArrays, HuggingFaceError> {
    let single = folder.join(TENSORS);
    let index_path = folder.join(INDEX);
    match (single.exists(), index_path.exists()) {
        (true, _) => Ok(read_safetensors(&single)?),
        (false, true) => read_shards(folder, &index_path),
        (false, false) => {
            let message = format!("has neither `{TENSORS}` nor `{INDEX}`");
            Err(HuggingFaceError::new(ErrorKind::Io, message)
                .file(folder)
                .help("save the model with `save_pretrained`, which writes safetensors"))
        }
    }
}

fn read_shards(folder: &Path, index_path: &Path) -> Result<NamedArrays, HuggingFaceError> {
    let malformed = |message: String| {
        HuggingFaceError::new(ErrorKind::Malformed, message)
            .file(index_path)
            .help("the index does not belong to these files: download it again")
    };
    let index = read_object(index_path)?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| malformed("has no object `weight_map`".into()))?;
    let mut files = BTreeSet::new();
    for (name, file) in map {
        let plain = file.as_str().filter(|file| is_plain(file));
        let file = plain.ok_or_else(|| {
            malformed(format!(
                "tensor `{}` lies in {file}, which is no file here",
                shown(name)
            ))
        })?;
        files.insert(file);
    }
    let mut all = NamedArrays::new();
    for file in files {
        let path = folder.join(file);
        if !path.exists() {
            let message = format!("shard `{}` is missing", shown(file));
            return Err(HuggingFaceError::new(ErrorKind::Io, message)
                .file(index_path)
                .help("download the folder again, with all of its files"));
        }
        for (name, tensor) in read_safetensors(&path)? {
            if map.get(&name).and_then(Value::as_str) != Some(file) {
                let message = format!(
                    "tensor `{}` lies in `{}` and is placed elsewhere",
                    shown(&name),
                    shown(file)
                );
                return Err(malformed(message));
            }
            all.insert(name, tensor);
        }
    }
    match map.keys().find(|name| !all.contains_key(*name)) {
        None => Ok(all),
        Some(name) => {
            let file = map.get(name).and_then(Value::as_str).unwrap_or_default();
            let message = format!("tensor `{}` is missing; `{INDEX}` places it here", shown(name));
            Err(HuggingFaceError::new(ErrorKind::Tensor, message)
                .file(&folder.join(file))
                .help("download this shard again"))
        }
    }
}

/// Whether this is the name of a file in the folder itself.
fn is_plain(file: &str) -> bool {
    let mut parts = Path::new(file).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// A path inside of `folder` that its own files name; none where it leads out of it.
pub(crate) fn inside(folder: &Path, relative: &str) -> Option<PathBuf> {
    let path = Path::new(relative);
    let inner = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    path.components().all(inner).then(|| folder.join(path))
}
