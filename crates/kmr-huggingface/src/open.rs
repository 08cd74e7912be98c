//! From a folder or a GGUF file to a model.

use std::{collections::HashSet, path::Path};

use kmr_formats::NamedArrays;
use kmr_formats::gguf::{Gguf, to_hugging_face};
use kmr_model::Model;

use crate::config::Config;
use crate::folder::{CONFIG, read_object, read_tensors};
use crate::network::STORED;
use crate::pooling::Pooling;
use crate::{ErrorKind, HuggingFaceError, Tensors, decoder, encoder};

/// A folder, opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The model.
    pub model: Model,
    /// What it was made by.
    pub config: Config,
    /// The folder's tensors that are no part of the model, in the order of its files: poolers, other heads, buffers, or
    /// what nobody expected.
    pub unused: Vec<String>,
    /// Those of them that are named as a used one but for its numbers: parts of layers or experts beyond those that
    /// `config.json` counts.
    pub uncounted: Vec<String>,
}

/// Whether `path` is a folder with a model's configuration.
pub fn is_folder(path: &Path) -> bool {
    path.is_dir() && path.join(CONFIG).is_file()
}

/// What a folder's `config.json` says; whether there are tensors that it fits is not looked at.
///
/// # Errors
/// A file that is missing or damaged, and an architecture or a setting that is not known.
pub fn read_config(folder: &Path) -> Result<Config, HuggingFaceError> {
    let path = folder.join(CONFIG);
    let map = read_object(&path)?;
    Config::read(&map, &NamedArrays::new()).map_err(|error| error.file(&path))
}

/// Opens a folder.
///
/// # Errors
/// A file that is missing or damaged, an architecture or a setting that is not known, and a tensor that is missing or
/// does not fit the configuration. Each names what it is about.
pub fn open(folder: &Path) -> Result<Opened, HuggingFaceError> {
    let path = folder.join(CONFIG);
    if !is_folder(folder) {
        return Err(HuggingFaceError::new(ErrorKind::Io, format!("has no `{CONFIG}`"))
            .file(folder)
            .help("give an ONNX file, or a folder that `save_pretrained` wrote"));
    }
    let map = read_object(&path)?;
    if map.get("quantization_config").is_some_and(|value| !value.is_null()) {
        let message = "has `quantization_config`: its weights are packed, and only plain ones are read";
        return Err(HuggingFaceError::new(ErrorKind::Unknown, message)
            .file(&path)
            .help("give the folder before it was quantized, or the ONNX file that it was written from"));
    }
    let tensors = read_tensors(folder)?;
    let config = Config::read(&map, &tensors).map_err(|error| error.file(&path))?;
    let pooling = Pooling::read(folder)?;
    opened(folder, config, pooling.as_ref(), &tensors)
}

/// Opens a GGUF file with a decoder of the Llama kind. Plain numbers of 16 bits stay so, blocks become float32.
///
/// # Errors
/// A file that is missing or damaged, an architecture or a tensor that is not known, and a tensor that is missing or does
/// not fit the metadata. Each names what it is about.
pub fn open_gguf(path: &Path) -> Result<Opened, HuggingFaceError> {
    let weights = to_hugging_face(path, &Gguf::read(path)?)?;
    let tensors = weights.tensors.iter();
    let tensors: NamedArrays = tensors
        .map(|(name, tensor)| (name.clone(), tensor.to_tensor()))
        .collect();
    let config = Config::read(&weights.config, &tensors).map_err(|error| error.file(path))?;
    opened(path, config, None, &tensors)
}

fn opened(
    path: &Path,
    config: Config,
    pooling: Option<&Pooling>,
    tensors: &NamedArrays,
) -> Result<Opened, HuggingFaceError> {
    let model = build(&config, pooling, tensors).map_err(|error| error.file(path))?;
    let used = |name: &str| {
        let initializers = &model.graph.initializers;
        initializers.contains_key(name) || initializers.contains_key(&format!("{name}{STORED}"))
    };
    let (used, unused): (Vec<String>, Vec<String>) = tensors.keys().cloned().partition(|name| used(name));
    let forms: HashSet<String> = used.iter().map(|name| without_numbers(name)).collect();
    let beyond = unused.iter().filter(|name| forms.contains(&without_numbers(name)));
    Ok(Opened {
        uncounted: beyond.cloned().collect(),
        model,
        config,
        unused,
    })
}

/// `name` with a 0 in the place of each of its numbers.
fn without_numbers(name: &str) -> String {
    let parts = name.split('.');
    let form = |part: &str| match part.parse::<usize>() {
        Ok(_) => "0".to_owned(),
        Err(_) => part.to_owned(),
    };
    parts.map(form).collect::<Vec<_>>().join(".")
}

/// The model of a configuration.
pub(crate) fn build(
    config: &Config,
    pooling: Option<&Pooling>,
    tensors: &dyn Tensors,
) -> Result<Model, HuggingFaceError> {
    match config {
        Config::Encoder(config) => encoder(config, pooling, tensors),
        Config::Decoder(_) if pooling.is_some() => {
            let message = "is a decoder with a pooling; poolings are known of encoders alone";
            Err(HuggingFaceError::new(ErrorKind::Unknown, message)
                .help("remove `modules.json` to open the decoder by itself"))
        }
        Config::Decoder(config) => decoder(config, tensors),
    }
}
