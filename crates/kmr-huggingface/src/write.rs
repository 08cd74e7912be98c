//! The way back: a changed model as a folder that `transformers` loads, or as a GGUF file.

mod blocks;
mod files;
mod gathered;
mod gguf;
mod integers;
mod packed;
mod same;
mod sizes;

use std::path::Path;

use kmr_model::{Graph, Model};
use serde_json::{Map, Value};

use crate::config::Config;
use crate::folder::{CONFIG, TENSORS, read_object, read_tensors};
use crate::open::build;
use crate::source::Source;
use crate::{ErrorKind, HuggingFaceError};
use gathered::Gathered;
pub use gguf::GGUF_KINDS;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// What changed in the configuration: `intermediate_size 1536 -> 1024`.
    pub changes: Vec<String>,
    /// What whoever uses the folder had better know: tensors that had to be left out or rounded, files that may not fit
    /// any more.
    pub warnings: Vec<String>,
}

/// [`Source::write_folder`] for a source that is a folder, or a GGUF file whose tokenizer is not needed.
///
/// # Errors
/// Those of [`Source::read`] and [`Source::write_folder`].
pub fn write_back(model: &Model, source: &Path, target: &Path) -> Result<Written, HuggingFaceError> {
    Source::read(source)?.write_folder(model, target, None)
}

/// Refuses a target that cannot become a new folder: a file, or a folder that is not empty.
///
/// # Errors
/// [`ErrorKind::Exists`] for such a one, and [`ErrorKind::Unwritable`] if it cannot be looked at.
pub fn check_folder(target: &Path) -> Result<(), HuggingFaceError> {
    match kmr_platform::vacant(target) {
        Ok(_) => Ok(()),
        Err(cause) => Err(HuggingFaceError::taken(target, &cause)),
    }
}

fn refuse_source(source: &Path, target: &Path) -> Result<(), HuggingFaceError> {
    if target
        .canonicalize()
        .is_ok_and(|target| source.canonicalize().is_ok_and(|source| source == target))
    {
        let message = "what is to be written is what the model came from";
        return Err(HuggingFaceError::new(ErrorKind::Exists, message)
            .file(target)
            .help("choose another name"));
    }
    Ok(())
}

/// A model in the words of the architecture that it came from.
struct Expressed {
    gathered: Gathered,
    map: Map<String, Value>,
    config: Config,
    /// The graph that a folder of float32 numbers would give.
    graph: Graph,
    written: Written,
}

impl Expressed {
    /// What became of the model of `source`, compared with the graph of its architecture node by node.
    fn of(model: &Model, source: &Source) -> Result<Self, HuggingFaceError> {
        let (old, pooling) = (&source.config, source.pooling.as_ref());
        let original = build(old, pooling, &source.tensors).map_err(|error| error.file(&source.path))?;
        let mut written = Written::default();
        let mut gathered = Gathered::new(model, &original, old, &source.tensors)?;
        let (map, config) = sizes::edited(&source.map, old, &gathered, &mut written.changes)?;
        gathered.drop_what_does_not_fit(old, &config, &mut written.warnings);
        let again = build(&config, pooling, &gathered.tensors)?;
        same::check(&again.graph, &gathered.folded)?;
        Ok(Self {
            gathered,
            map,
            config,
            graph: again.graph,
            written,
        })
    }
}

impl Source {
    /// Writes `model`, which is what became of this source as [`open`](crate::open) or [`open_gguf`](crate::open_gguf)
    /// opened it, into the new folder `target`: `model.safetensors` in one file, `config.json` with the sizes that the
    /// model has now, and copies of the other files. The tensors of an unchanged model are written as they were, byte for
    /// byte. `tokenizer` is the `tokenizer.json` of a source that has none as a file.
    ///
    /// Weights that are made of integers become those of the package `compressed-tensors`, of four or eight bits; tables
    /// of embeddings, which it does not know, and weights whose groups do not divide their rows are written as
    /// floating-point numbers, with a warning.
    ///
    /// Before anything is written, the new folder's graph is made and compared with the model's, node by node and value by
    /// value: what loads the folder computes what the model computes. What was written is read again before it takes its
    /// name.
    ///
    /// # Errors
    /// [`ErrorKind::Inexpressible`] where the model has become something that such a folder cannot say, by name: integer
    /// activations, layers of different sizes, nodes that the architecture does not have. [`ErrorKind::Exists`] for a
    /// target that is there and not empty. Files that cannot be written, and [`ErrorKind::Damaged`] if what was written
    /// is not what is read.
    pub fn write_folder(
        &self,
        model: &Model,
        target: &Path,
        tokenizer: Option<&[u8]>,
    ) -> Result<Written, HuggingFaceError> {
        refuse_source(&self.path, target)?;
        check_folder(target)?;
        let Expressed {
            gathered,
            mut map,
            config,
            graph,
            mut written,
        } = Expressed::of(model, self)?;
        let packed = packed::pack(&gathered, &config, &graph, &mut written.warnings);
        if let Some(quantization) = &packed.config {
            map.insert("quantization_config".into(), quantization.clone());
        }
        let mut warnings = Vec::new();
        let same_vocabulary = self.config.vocabulary() == config.vocabulary();
        kmr_platform::new_folder(target, |folder| -> Result<(), Failed> {
            if let Some(source) = self.folder() {
                files::copy(source, folder, &mut warnings, same_vocabulary)?;
            }
            if let Some(tokenizer) = tokenizer {
                files::write(&folder.join(files::TOKENIZER), tokenizer)?;
            }
            let tensors = packed.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
            kmr_formats::write_safetensors(&folder.join(TENSORS), tensors)
                .map_err(|error| HuggingFaceError::unwritten(&error, target))?;
            match self.folder().filter(|_| map == self.map) {
                Some(source) => files::copy_file(&source.join(CONFIG), &folder.join(CONFIG))?,
                None => files::write_object(&folder.join(CONFIG), &map)?,
            }
            packed.check(&read_tensors(folder)?, &gathered)?;
            match read_object(&folder.join(CONFIG))? == map {
                true => Ok(()),
                false => Err(HuggingFaceError::damaged(CONFIG).into()),
            }
        })
        .map_err(|failed| failed.at(target))?;
        written.warnings.extend(warnings);
        Ok(written)
    }
}

/// What ends the writing of a folder.
enum Failed {
    Io(std::io::Error),
    Own(HuggingFaceError),
}

impl From<std::io::Error> for Failed {
    fn from(cause: std::io::Error) -> Self {
        Self::Io(cause)
    }
}

impl From<HuggingFaceError> for Failed {
    fn from(error: HuggingFaceError) -> Self {
        Self::Own(error)
    }
}

impl Failed {
    fn at(self, target: &Path) -> HuggingFaceError {
        match self {
            Self::Io(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
                HuggingFaceError::taken(target, &cause)
            }
            Self::Io(cause) => HuggingFaceError::unwritable(target, &cause),
            Self::Own(error) => error,
        }
    }
}
