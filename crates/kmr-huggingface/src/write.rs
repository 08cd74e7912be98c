//! The way back: a changed model as a folder that `transformers` loads.

mod files;
mod gathered;
mod same;
mod sizes;

use std::path::Path;

use kmr_model::Model;

use crate::config::Config;
use crate::folder::{CONFIG, TENSORS, read_object, read_tensors};
use crate::open::build;
use crate::pooling::Pooling;
use crate::{ErrorKind, HuggingFaceError};
use gathered::Gathered;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// What changed in the configuration: `intermediate_size 1536 -> 1024`.
    pub changes: Vec<String>,
    /// What whoever uses the folder had better know: tensors that had to be left out, files that may not fit any more.
    pub warnings: Vec<String>,
}

/// Writes `model`, which is what became of the folder `source` as [`open`](crate::open) opened it, into the folder
/// `target`: `model.safetensors` in one file, `config.json` with the sizes that the model has now, and copies of
/// the other files. The tensors of an unchanged model are written as they were, byte for byte.
///
/// Before anything is written, the new folder's graph is made and compared with the model's, node by node and value by
/// value: what loads the folder computes what the model computes.
///
/// # Errors
/// What [`open`](crate::open) says of `source`; [`ErrorKind::Inexpressible`] where the model has become something that
/// such a folder cannot say, by name: weights stored as integers, layers of different sizes, nodes that the
/// architecture does not have; and files that cannot be written.
pub fn write_back(model: &Model, source: &Path, target: &Path) -> Result<Written, HuggingFaceError> {
    if target
        .canonicalize()
        .is_ok_and(|target| source.canonicalize().is_ok_and(|source| source == target))
    {
        let message = "the folder to write is the one that the model came from";
        return Err(HuggingFaceError::new(ErrorKind::Io, message)
            .file(target)
            .help("choose another folder"));
    }
    let config_path = source.join(CONFIG);
    let old_map = read_object(&config_path)?;
    let old_tensors = read_tensors(source)?;
    let old = Config::read(&old_map, &old_tensors).map_err(|error| error.file(&config_path))?;
    let pooling = Pooling::read(source)?;
    let original = build(&old, pooling.as_ref(), &old_tensors).map_err(|error| error.file(source))?;

    let mut written = Written::default();
    let mut gathered = Gathered::new(model, &original, &old, &old_tensors)?;
    let (map, new) = sizes::edited(&old_map, &old, &gathered, &model.graph, &mut written.changes)?;
    gathered.drop_what_does_not_fit(&old, &new, &mut written.warnings);
    let again = build(&new, pooling.as_ref(), &gathered.tensors)?;
    same::check(&again.graph, &model.graph)?;

    std::fs::create_dir_all(target).map_err(|cause| HuggingFaceError::io(target, "make the folder", &cause))?;
    files::copy(
        source,
        target,
        &mut written.warnings,
        old.vocabulary() == new.vocabulary(),
    )?;
    let tensors = gathered.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    kmr_formats::write_safetensors(&target.join(TENSORS), tensors)?;
    if map == old_map {
        files::copy_file(&config_path, &target.join(CONFIG))?;
    } else {
        files::write_object(&target.join(CONFIG), &map)?;
    }
    Ok(written)
}
