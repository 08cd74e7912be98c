//! Llama-like decoders between GGUF and Hugging Face: names, the configuration, and the order of rows.
//!
//! llama.cpp rotates neighboring numbers of a head where transformers rotates its two halves, so the rows of a head's
//! query and key projections are interleaved in files of the architecture `llama`.

mod config;
mod names;

use std::path::Path;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{Gguf, GgufTensor, GgufValue};
use crate::error::shown;
use crate::{ErrorKind, FormatError};

use names::Place;

/// A model as a Hugging Face folder has it.
#[derive(Clone, Debug, PartialEq)]
pub struct LlamaWeights {
    /// What `config.json` holds.
    pub config: Map<String, Value>,
    /// Tensors by Hugging Face's names, encoded as they were.
    pub tensors: IndexMap<String, GgufTensor>,
}

/// An architecture's names on both sides.
struct Architecture {
    /// `general.architecture`.
    gguf: &'static str,
    /// `model_type`.
    model_type: &'static str,
    /// `architectures`.
    class: &'static str,
    /// Whether the rows of queries and keys are interleaved.
    interleaved: bool,
}

static ARCHITECTURES: [Architecture; 4] = [
    Architecture {
        gguf: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        interleaved: true,
    },
    Architecture {
        gguf: "llama",
        model_type: "mistral",
        class: "MistralForCausalLM",
        interleaved: true,
    },
    Architecture {
        gguf: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        interleaved: false,
    },
    Architecture {
        gguf: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        interleaved: false,
    },
];

/// A file's model with Hugging Face's names and configuration. `path` is the file's name in messages.
///
/// # Errors
///
/// An architecture or a tensor that is not known, metadata that is missing, and projections that are no whole heads.
pub fn to_hugging_face(path: &Path, gguf: &Gguf) -> Result<LlamaWeights, FormatError> {
    let architecture = architecture(path, gguf)?;
    let config = config::read(path, gguf, architecture)?;
    let mut tensors = IndexMap::with_capacity(gguf.tensors.len());
    for (name, tensor) in &gguf.tensors {
        let Some((wanted, place)) = names::hugging_face(name) else {
            let message = format!("architecture `{}` has no such tensor", architecture.gguf);
            let help = "experts and stored rotation factors are not read from GGUF: give the Hugging Face folder";
            return Err(FormatError::new(ErrorKind::Unsupported, path, message)
                .array(name)
                .help(help));
        };
        let rows = |of: &[usize]| reordered(path, name, tensor, of);
        let tensor = match heads(&config, place).filter(|_| architecture.interleaved) {
            Some(heads) => rows(&parted(&whole_heads(path, name, tensor, heads)?))?,
            None => tensor.clone(),
        };
        tensors.insert(wanted, tensor);
    }
    Ok(LlamaWeights { config, tensors })
}

/// The file of a model with Hugging Face's names: `metadata` (a tokenizer's, perhaps) with the configuration's keys put
/// over it. `path` is the model's name in messages.
///
/// # Errors
///
/// A model type or a tensor that is not known, numbers that are missing in the configuration, and projections that are no
/// whole heads.
pub fn from_hugging_face(
    path: &Path,
    model: &LlamaWeights,
    metadata: IndexMap<String, GgufValue>,
) -> Result<Gguf, FormatError> {
    let model_type = model
        .config
        .get("model_type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let architecture = ARCHITECTURES.iter().find(|known| known.model_type == model_type);
    let architecture = architecture.ok_or_else(|| unknown(path, "model type", model_type, |known| known.model_type))?;
    let mut gguf = Gguf {
        metadata,
        tensors: IndexMap::with_capacity(model.tensors.len()),
    };
    config::write(path, &model.config, architecture, &mut gguf.metadata)?;
    for (name, tensor) in &model.tensors {
        let Some((wanted, place)) = names::gguf(name) else {
            let message = format!("models of type `{model_type}` have no such tensor in GGUF");
            return Err(FormatError::new(ErrorKind::Unsupported, path, message).array(name));
        };
        let tensor = match heads(&model.config, place).filter(|_| architecture.interleaved) {
            Some(heads) => {
                let order = interleaved(&whole_heads(path, name, tensor, heads)?);
                reordered(path, name, tensor, &order)?
            }
            None => tensor.clone(),
        };
        gguf.tensors.insert(wanted, tensor);
    }
    Ok(gguf)
}

fn architecture(path: &Path, gguf: &Gguf) -> Result<&'static Architecture, FormatError> {
    let name = gguf
        .value("general.architecture")
        .and_then(GgufValue::as_text)
        .unwrap_or_default();
    let mut alike = ARCHITECTURES.iter().filter(|known| known.gguf == name);
    // Llamas and Mistrals are one architecture there, and only Mistrals have a window.
    let windowed = gguf.value(&format!("{name}.attention.sliding_window")).is_some();
    let known = alike.clone().find(|known| windowed && known.model_type == "mistral");
    known
        .or_else(|| alike.next())
        .ok_or_else(|| unknown(path, "architecture", name, |known| known.gguf))
}

fn unknown(path: &Path, what: &str, name: &str, of: impl Fn(&'static Architecture) -> &'static str) -> FormatError {
    let mut known: Vec<&str> = ARCHITECTURES.iter().map(of).collect();
    known.dedup();
    let message = format!("the {what} `{}` is not known", shown(name));
    FormatError::new(ErrorKind::Unsupported, path, message).help(format!("known are {}", known.join(", ")))
}

/// The number of heads whose rows a tensor holds, where these may be interleaved.
fn heads(config: &Map<String, Value>, place: Place) -> Option<usize> {
    let key = match place {
        Place::Query => "num_attention_heads",
        Place::Key => "num_key_value_heads",
        Place::Other => return None,
    };
    usize::try_from(config.get(key)?.as_u64()?).ok()
}

/// Heads of rows: how many, and rows of each.
struct Heads {
    count: usize,
    rows: usize,
}

/// The heads of a projection's rows, or of a bias.
fn whole_heads(path: &Path, name: &str, tensor: &GgufTensor, heads: usize) -> Result<Heads, FormatError> {
    let rows = tensor.shape().first().copied().unwrap_or(0);
    if heads == 0 || tensor.bytes().is_empty() || !rows.is_multiple_of(heads) || !(rows / heads).is_multiple_of(2) {
        let message = format!("its {rows} rows are no {heads} heads of an even number of rows");
        return Err(FormatError::new(ErrorKind::Shape, path, message).array(name));
    }
    Ok(Heads {
        count: heads,
        rows: rows / heads,
    })
}

/// For each row in two halves per head, the interleaved row that it is.
fn parted(heads: &Heads) -> Vec<usize> {
    let half = heads.rows / 2;
    let row = |head: usize| (0..heads.rows).map(move |row| head * heads.rows + row % half * 2 + row / half);
    (0..heads.count).flat_map(row).collect()
}

/// For each interleaved row, the row in two halves per head that it is.
fn interleaved(heads: &Heads) -> Vec<usize> {
    let half = heads.rows / 2;
    let row = |head: usize| (0..heads.rows).map(move |row| head * heads.rows + row % 2 * half + row / 2);
    (0..heads.count).flat_map(row).collect()
}

fn reordered(path: &Path, name: &str, tensor: &GgufTensor, order: &[usize]) -> Result<GgufTensor, FormatError> {
    let refuse = |message: String| FormatError::new(ErrorKind::Shape, path, message).array(name);
    // A bias has one row of numbers: each is one row of the projection.
    if tensor.shape().len() == 1 {
        let column = GgufTensor::new(tensor.kind(), vec![tensor.shape()[0], 1], tensor.bytes().clone());
        let column = column.and_then(|column| column.with_rows(order));
        let column = column.map_err(|error| refuse(error.to_string()))?;
        return GgufTensor::new(tensor.kind(), tensor.shape().to_vec(), column.bytes().clone())
            .map_err(|error| refuse(error.to_string()));
    }
    tensor.with_rows(order).map_err(|error| refuse(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orders_undo_each_other() {
        let heads = Heads { count: 3, rows: 8 };
        let (there, back) = (parted(&heads), interleaved(&heads));
        assert_eq!(there[..8], [0, 2, 4, 6, 1, 3, 5, 7]);
        let both: Vec<usize> = back.iter().map(|&row| there[row]).collect();
        assert_eq!(both, (0..24).collect::<Vec<_>>());
    }
}
