//! Where a model came from, as far as the way back needs it.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use kmr_formats::NamedArrays;
use kmr_formats::gguf::{Gguf, GgufValue, to_hugging_face};
use serde_json::{Map, Value};

use crate::HuggingFaceError;
use crate::config::Config;
use crate::folder::{CONFIG, read_object, read_tensors};
use crate::pooling::Pooling;

/// The folder or GGUF file that a model came from.
#[derive(Clone, Debug)]
pub struct Source {
    pub(crate) path: PathBuf,
    /// What `config.json` says, or would say.
    pub(crate) map: Map<String, Value>,
    pub(crate) config: Config,
    pub(crate) pooling: Option<Pooling>,
    pub(crate) tensors: NamedArrays,
    /// The metadata of a GGUF file.
    metadata: Option<IndexMap<String, GgufValue>>,
}

impl Source {
    /// Reads a folder, or a file whose name ends in `.gguf`.
    ///
    /// # Errors
    /// What [`open`](crate::open) and [`open_gguf`](crate::open_gguf) say of files.
    pub fn read(path: &Path) -> Result<Self, HuggingFaceError> {
        match path.extension().is_some_and(|ending| ending == "gguf") && !path.is_dir() {
            true => Self::read_gguf(path),
            false => Self::read_folder(path),
        }
    }

    fn read_folder(path: &Path) -> Result<Self, HuggingFaceError> {
        let config_path = path.join(CONFIG);
        let map = read_object(&config_path)?;
        let tensors = read_tensors(path)?;
        Ok(Self {
            path: path.to_owned(),
            config: Config::read(&map, &tensors).map_err(|error| error.file(&config_path))?,
            pooling: Pooling::read(path)?,
            map,
            tensors,
            metadata: None,
        })
    }

    fn read_gguf(path: &Path) -> Result<Self, HuggingFaceError> {
        let gguf = Gguf::read(path)?;
        let weights = to_hugging_face(path, &gguf)?;
        let tensors = weights.tensors.iter();
        let tensors = tensors
            .map(|(name, tensor)| (name.clone(), tensor.to_tensor()))
            .collect();
        Ok(Self {
            path: path.to_owned(),
            config: Config::read(&weights.config, &tensors).map_err(|error| error.file(path))?,
            pooling: None,
            map: weights.config,
            tensors,
            metadata: Some(gguf.metadata),
        })
    }

    /// Its folder, unless it is a GGUF file.
    pub fn folder(&self) -> Option<&Path> {
        self.metadata.is_none().then_some(&self.path)
    }

    /// Rows of the table of tokens.
    pub fn vocabulary(&self) -> usize {
        self.config.vocabulary()
    }

    /// The metadata of a GGUF file that does not depend on the weights: names, licences, the tokenizer.
    pub(crate) fn described(&self) -> IndexMap<String, GgufValue> {
        let metadata = self.metadata.iter().flatten();
        let described = metadata.filter(|(key, _)| key.starts_with("general.") || key.starts_with("tokenizer."));
        described.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}
