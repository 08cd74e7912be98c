//! Low-rank adapters in the folders of Hugging Face's PEFT: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A layer's tensors are called `base_model.model.<layer>.lora_A.weight` and `…lora_B.weight`, as PEFT 0.x saves them.
//! The scaling is not stored; it is `lora_alpha` / r, or / √r with `use_rslora`, with ranks and alphas of single layers
//! in patterns.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use indexmap::IndexMap;
use kmr_model::adapters::{A, Adapter, B};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::atomic::write_atomically;
use crate::{ErrorKind, FormatError, read_safetensors, write_safetensors};

const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
/// What stands before a layer's name.
const PREFIX: &str = "base_model.model.";
/// The longest configuration that is read.
const LONGEST_CONFIG: u64 = 16 << 20;

/// What is written of the configuration, and what is read.
#[derive(Debug, Serialize, Deserialize)]
struct Config {
    peft_type: String,
    #[serde(default)]
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default)]
    inference_mode: bool,
    r: usize,
    lora_alpha: Number,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default = "none")]
    bias: String,
    #[serde(default)]
    target_modules: Value,
    #[serde(default)]
    rank_pattern: IndexMap<String, usize>,
    #[serde(default)]
    alpha_pattern: IndexMap<String, Number>,
}

fn none() -> String {
    "none".into()
}

/// A number that is written without a point where it is whole, as PEFT's `lora_alpha` is.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(transparent)]
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.fract() == 0.0 && self.0.abs() < 1e15 {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

/// Writes adapters into `folder`, which is made if it is not there. `base` is the name or path of the model that they
/// belong to. The same adapters give the same bytes.
///
/// # Errors
///
/// No adapter at all, one layer twice, and files that cannot be written.
pub fn write_peft(folder: &Path, adapters: &[Adapter], base: Option<&str>) -> Result<(), FormatError> {
    let ranks: BTreeMap<usize, usize> = adapters.iter().fold(BTreeMap::new(), |mut ranks, adapter| {
        *ranks.entry(adapter.rank).or_default() += 1;
        ranks
    });
    // Of equally frequent ranks the smallest.
    let Some((&rank, _)) = ranks.iter().rev().max_by_key(|(_, count)| **count) else {
        return Err(
            FormatError::new(ErrorKind::Empty, folder, "there is no adapter to write")
                .help("keep adapters with keep = \"nodes\", or add them with the rule `lora_adapt`"),
        );
    };
    let alpha = |adapter: &Adapter| f64::from(adapter.scaling) * adapter.rank as f64;
    let common = adapters
        .iter()
        .find(|adapter| adapter.rank == rank)
        .map_or(rank as f64, alpha);
    // PEFT takes the first pattern that a layer's name ends in.
    let mut longest_first: Vec<&Adapter> = adapters.iter().collect();
    longest_first.sort_by_key(|adapter| std::cmp::Reverse(adapter.layer.len()));
    let mut config = Config {
        peft_type: "LORA".into(),
        base_model_name_or_path: base.map(str::to_owned),
        task_type: None,
        inference_mode: true,
        r: rank,
        lora_alpha: Number(common),
        lora_dropout: 0.0,
        use_rslora: false,
        use_dora: false,
        fan_in_fan_out: false,
        bias: none(),
        target_modules: adapters.iter().map(|adapter| adapter.layer.as_str()).collect(),
        rank_pattern: IndexMap::new(),
        alpha_pattern: IndexMap::new(),
    };
    let several = ranks.len() > 1 || adapters.iter().any(|adapter| alpha(adapter) != common);
    for adapter in longest_first.into_iter().filter(|_| several) {
        config.rank_pattern.insert(adapter.layer.clone(), adapter.rank);
        config
            .alpha_pattern
            .insert(adapter.layer.clone(), Number(alpha(adapter)));
    }
    fs::create_dir_all(folder).map_err(|cause| FormatError::io(folder, "make the folder", &cause))?;
    let names: Vec<[String; 2]> = adapters
        .iter()
        .map(|adapter| [A, B].map(|suffix| format!("{PREFIX}{}{suffix}", adapter.layer)))
        .collect();
    let tensors = names.iter().zip(adapters);
    let tensors = tensors.flat_map(|([a, b], adapter)| [(a.as_str(), &adapter.a), (b.as_str(), &adapter.b)]);
    write_safetensors(&folder.join(TENSORS), tensors)?;
    let path = folder.join(CONFIG);
    let text = serde_json::to_string_pretty(&config)
        .map_err(|cause| FormatError::new(ErrorKind::Unsupported, &path, format!("cannot be written: {cause}")))?;
    write_atomically(&path, |file| std::io::Write::write_all(file, text.as_bytes()))
}

/// Reads the adapters of a folder that PEFT or [`write_peft`] wrote, as float32, in the order of their layers' names.
///
/// # Errors
///
/// Files that cannot be read or are damaged; adapters of another kind than plain LoRA; a tensor that belongs to none.
pub fn read_peft(folder: &Path) -> Result<Vec<Adapter>, FormatError> {
    let config_path = folder.join(CONFIG);
    let config = read_config(&config_path)?;
    let path = folder.join(TENSORS);
    let mut tensors = read_safetensors(&path)?;
    let mut layers: Vec<String> = Vec::new();
    for name in tensors.keys() {
        let own = name.strip_prefix(PREFIX).unwrap_or(name);
        match own.strip_suffix(A).or_else(|| own.strip_suffix(B)) {
            Some(layer) if !layer.is_empty() => layers.push(layer.to_owned()),
            _ => {
                let message = "this is no A or B of plain LoRA";
                return Err(FormatError::new(ErrorKind::Unsupported, &path, message)
                    .array(name)
                    .help("save adapters alone: no bias, no modules_to_save, no embeddings"));
            }
        }
    }
    layers.sort();
    layers.dedup();
    let mut adapters = Vec::new();
    for layer in layers {
        let mut take = |suffix: &str| {
            let name = format!("{layer}{suffix}");
            let tensor = tensors
                .shift_remove(&format!("{PREFIX}{name}"))
                .or_else(|| tensors.shift_remove(&name));
            tensor.ok_or_else(|| {
                FormatError::new(ErrorKind::Malformed, &path, "is missing, its other half is there").array(&name)
            })
        };
        let (a, b) = (take(A)?, take(B)?);
        let misfit = |error: kmr_model::ModelError| {
            FormatError::new(ErrorKind::Shape, &path, error.to_string())
                .help("save the adapters again with the PEFT that trained them")
        };
        let floats = |tensor: kmr_model::Tensor| {
            Ok(kmr_model::Tensor::from_vec(
                tensor.shape().to_vec(),
                tensor.to_f32()?.into_owned(),
            ))
        };
        let (a, b) = (floats(a).map_err(misfit)?, floats(b).map_err(misfit)?);
        let rank = matching(&config.rank_pattern, &layer, &config_path)?.unwrap_or(config.r);
        let alpha = matching(&config.alpha_pattern, &layer, &config_path)?
            .unwrap_or(config.lora_alpha)
            .0;
        let divisor = if config.use_rslora {
            (rank as f64).sqrt()
        } else {
            rank as f64
        };
        let adapter = Adapter::new(&layer, a, b, (alpha / divisor) as f32).map_err(misfit)?;
        if adapter.rank != rank {
            let message = format!("its rank is {}; the configuration says {rank}", adapter.rank);
            return Err(FormatError::new(ErrorKind::Shape, &path, message)
                .array(&layer)
                .help("take the configuration that was saved with these tensors"));
        }
        adapters.push(adapter);
    }
    match adapters.is_empty() {
        true => Err(FormatError::new(ErrorKind::Empty, &path, "there is no adapter in it")),
        false => Ok(adapters),
    }
}

fn read_config(path: &Path) -> Result<Config, FormatError> {
    let io = |cause| FormatError::io(path, "read the file", &cause);
    if fs::metadata(path).map_err(io)?.len() > LONGEST_CONFIG {
        return Err(FormatError::new(
            ErrorKind::Malformed,
            path,
            "is too long for a configuration",
        ));
    }
    let text = fs::read(path).map_err(io)?;
    let malformed = |cause: serde_json::Error| {
        FormatError::new(
            ErrorKind::Malformed,
            path,
            format!("is no configuration of LoRA: {cause}"),
        )
        .help("give a folder that PEFT's save_pretrained wrote")
    };
    let config: Config = serde_json::from_slice(&text).map_err(malformed)?;
    let plain = [
        (
            config.peft_type == "LORA",
            format!("peft_type is {:?}", config.peft_type),
        ),
        (!config.use_dora, "use_dora is true".into()),
        (config.bias == "none", format!("bias is {:?}", config.bias)),
        (config.r > 0, "r is 0".into()),
    ];
    match plain.into_iter().find(|(holds, _)| !holds) {
        Some((_, what)) => {
            Err(
                FormatError::new(ErrorKind::Unsupported, path, format!("{what}; only plain LoRA is read"))
                    .help("train adapters with peft_type LORA, without DoRA and without biases"),
            )
        }
        None => Ok(config),
    }
}

/// The value of the first pattern that `layer` ends in, as PEFT finds it; patterns that are more than a name are
/// refused.
fn matching<T: Copy>(patterns: &IndexMap<String, T>, layer: &str, path: &Path) -> Result<Option<T>, FormatError> {
    for (pattern, value) in patterns {
        let name = pattern.strip_prefix('^');
        let (whole, name) = (name.is_some(), name.unwrap_or(pattern));
        if !name
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':'))
        {
            let message = format!("the pattern `{}` is more than a layer's name", pattern.escape_debug());
            return Err(FormatError::new(ErrorKind::Unsupported, path, message)
                .help("write rank_pattern and alpha_pattern with the names of layers"));
        }
        let ends = || layer.strip_suffix(name).is_some_and(|before| before.ends_with('.'));
        if layer == name || !whole && ends() {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}
