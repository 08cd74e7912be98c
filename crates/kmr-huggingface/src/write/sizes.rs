//! A configuration with the sizes that the tensors have now.

use kmr_model::{DType, Graph, experts};
use serde_json::{Map, Value, json};

use super::gathered::Gathered;
use crate::config::Config;
use crate::decoder::{DecoderConfig, ExpertNames, ExpertsConfig};
use crate::encoder::{EncoderConfig, EncoderFamily};
use crate::error::shown;
use crate::{ErrorKind, HuggingFaceError};

/// The old configuration with new sizes, as it is written and as it is read; says what changed.
pub(super) fn edited(
    old: &Map<String, Value>,
    config: &Config,
    gathered: &Gathered,
    changes: &mut Vec<String>,
) -> Result<(Map<String, Value>, Config), HuggingFaceError> {
    let mut edit = Edit {
        map: old.clone(),
        changes,
    };
    match config {
        Config::Encoder(config) => encoder(&mut edit, config, gathered)?,
        Config::Decoder(config) => decoder(&mut edit, config, gathered, &gathered.folded)?,
    }
    edit.dtype(gathered.dtype());
    let map = edit.map;
    let config = Config::read(&map, &gathered.tensors)
        .map_err(|error| HuggingFaceError::new(ErrorKind::Inexpressible, error.message()))?;
    Ok((map, config))
}

struct Edit<'e> {
    map: Map<String, Value>,
    changes: &'e mut Vec<String>,
}

impl Edit<'_> {
    /// Sets a size, if it is not what it was.
    fn size(&mut self, key: &str, old: usize, new: usize) {
        if old != new {
            self.map.insert(key.into(), new.into());
            self.changes.push(format!("{key} {old} -> {new}"));
        }
    }

    /// Says the element type where the configuration says one that is not so: it is what weights are loaded as.
    fn dtype(&mut self, dtype: DType) {
        let Some(name) = dtype.name() else { return };
        for key in ["dtype", "torch_dtype"] {
            let old = self.map.get(key).and_then(Value::as_str).map(str::to_owned);
            if let Some(old) = old.filter(|old| old != name) {
                self.map.insert(key.into(), name.into());
                self.changes.push(format!("{key} {} -> {name}", shown(&old)));
            }
        }
    }

    /// The size along `axis` that a tensor has in every layer.
    fn common(
        gathered: &Gathered,
        (what, key): (&str, &str),
        tensors: impl Iterator<Item = String>,
        axis: usize,
    ) -> Result<Option<usize>, HuggingFaceError> {
        let mut common: Option<(usize, String)> = None;
        for name in tensors {
            let Some(&size) = gathered.shape(&name)?.get(axis) else {
                return Err(refuse(format!("tensor `{}` is no matrix", shown(&name))));
            };
            match &common {
                None => common = Some((size, name)),
                Some((first, of)) if *first != size => {
                    let message = format!(
                        "`{}` has {first} {what}, and `{}` has {size}; `{key}` is one number for all layers",
                        shown(of),
                        shown(&name)
                    );
                    return Err(refuse(message).help("prune all layers to one size, or write the model as ONNX"));
                }
                Some(_) => {}
            }
        }
        Ok(common.map(|(size, _)| size))
    }
}

fn refuse(message: String) -> HuggingFaceError {
    HuggingFaceError::new(ErrorKind::Inexpressible, message).help("write the model as ONNX instead")
}

fn encoder(edit: &mut Edit, config: &EncoderConfig, gathered: &Gathered) -> Result<(), HuggingFaceError> {
    let distil = config.family == EncoderFamily::DistilBert;
    let key = |own: &'static str, other: &'static str| if distil { own } else { other };
    let module = format!("{}embeddings.", config.prefix);
    let rows = |table: &str| Ok::<_, HuggingFaceError>(gathered.shape(&format!("{module}{table}.weight"))?[0]);
    edit.size("vocab_size", config.vocabulary, rows("word_embeddings")?);
    edit.size(
        "max_position_embeddings",
        config.positions,
        rows("position_embeddings")?,
    );
    if let Some(types) = config.token_types {
        edit.size("type_vocab_size", types, rows("token_type_embeddings")?);
    }
    let hidden = gathered.shape(&format!("{module}word_embeddings.weight"))?[1];
    edit.size(key("dim", "hidden_size"), config.hidden, hidden);
    edit.size(
        key("n_layers", "num_hidden_layers"),
        config.layers,
        gathered.layers.len(),
    );
    let names = config.names();
    let weights = |part: &'static str| {
        (0..gathered.layers.len()).map(move |layer| format!("{}{part}.weight", config.layer(layer)))
    };
    let inner = key("hidden_dim", "intermediate_size");
    if let Some(size) = Edit::common(gathered, ("neurons", inner), weights(names.expand), 0)? {
        edit.size(inner, config.intermediate, size);
    }
    let head_key = key("n_heads", "num_attention_heads");
    if let Some(width) = Edit::common(gathered, ("rows", head_key), weights(names.query), 0)?
        && width != hidden
    {
        let head = config.hidden / config.heads;
        let message = format!(
            "{} of {} heads are left, and heads of this type must make up the hidden size: {width} is not {hidden}",
            width / head,
            config.heads
        );
        return Err(refuse(message).help("keep all heads, or write the model as ONNX"));
    }
    Ok(())
}

fn decoder(
    edit: &mut Edit,
    config: &DecoderConfig,
    gathered: &Gathered,
    graph: &Graph,
) -> Result<(), HuggingFaceError> {
    let table = gathered.shape(&format!("{}embed_tokens.weight", config.prefix))?;
    let (vocabulary, hidden) = (table[0], table[1]);
    edit.size("vocab_size", config.vocabulary, vocabulary);
    edit.size("hidden_size", config.hidden, hidden);
    edit.size("num_hidden_layers", config.layers(), gathered.layers.len());
    let weights = |part: &'static str| {
        (0..gathered.layers.len()).map(move |layer| format!("{}{part}.weight", config.layer(layer)))
    };
    let has_experts = |layer: &usize| config.experts.as_ref().is_some_and(|experts| experts.in_layer(*layer));
    let inner = ("neurons", "intermediate_size");
    let routed_layers = gathered.layers.iter().map(has_experts);
    let dense = weights("mlp.gate_proj")
        .zip(routed_layers)
        .filter(|(_, has_experts)| !has_experts);
    if let Some(size) = Edit::common(gathered, inner, dense.map(|(name, _)| name), 0)? {
        edit.size(inner.1, config.intermediate, size);
    }
    if let Some(experts) = &config.experts {
        routed(edit, (config, experts), gathered, graph)?;
    }
    let mut heads = |key: &'static str, part: &'static str, old: usize| -> Result<usize, HuggingFaceError> {
        let rows = Edit::common(gathered, ("rows", key), weights(part), 0)?;
        let rows = rows.unwrap_or(old * config.head_size);
        if !rows.is_multiple_of(config.head_size) {
            return Err(refuse(format!(
                "{rows} rows are no whole number of heads of {}",
                config.head_size
            )));
        }
        edit.size(key, old, rows / config.head_size);
        Ok(rows / config.head_size)
    };
    let queries = heads("num_attention_heads", "self_attn.q_proj", config.heads)?;
    let keys = heads("num_key_value_heads", "self_attn.k_proj", config.key_value_heads)?;
    // Absent, it stands for the number of queries' heads.
    if keys != queries && !edit.map.contains_key("num_key_value_heads") {
        edit.map.insert("num_key_value_heads".into(), keys.into());
    }
    if edit.map.get("head_dim").is_none_or(Value::is_null) && hidden / queries.max(1) != config.head_size {
        edit.map.insert("head_dim".into(), config.head_size.into());
    }
    let is_llama = edit.map.get("model_type").and_then(Value::as_str) == Some("llama");
    if is_llama && !hidden.is_multiple_of(queries.max(1)) {
        let message = format!("{queries} heads are left, and those of a llama must divide its hidden size {hidden}");
        return Err(refuse(message).help("keep a number of heads that divides it, or write the model as ONNX"));
    }
    if gathered.layers.len() != config.layers() {
        kinds(edit, config, gathered);
    }
    Ok(())
}

/// The sizes of routed experts.
fn routed(
    edit: &mut Edit,
    (config, old): (&DecoderConfig, &ExpertsConfig),
    gathered: &Gathered,
    graph: &Graph,
) -> Result<(), HuggingFaceError> {
    let mixtral = old.names == ExpertNames::Mixtral;
    let places = gathered.layers.iter().enumerate();
    let layers: Vec<usize> = places
        .filter(|(_, layer)| old.in_layer(**layer))
        .map(|(place, _)| place)
        .collect();
    let routers = layers.iter().map(|&layer| old.router(&config.layer(layer)));
    let key = match edit.map.contains_key("num_local_experts") {
        true => "num_local_experts",
        false => "num_experts",
    };
    let count = Edit::common(gathered, ("experts", key), routers, 0)?.unwrap_or(old.count);
    edit.size(key, old.count, count);
    let inner = if mixtral {
        "intermediate_size"
    } else {
        "moe_intermediate_size"
    };
    let gates = layers.iter().flat_map(|&layer| {
        (0..count).map(move |expert| format!("{}.weight", old.expert(&config.layer(layer), expert)[0]))
    });
    if let Some(size) = Edit::common(gathered, ("neurons", inner), gates, 0)? {
        edit.size(inner, old.intermediate, size);
    }
    // How many are chosen is no tensor's size; where layers differ in it, the comparison of graphs will say so.
    let mut chosen = experts::find(graph).into_iter().map(|found| found.experts.router.top_k);
    if let Some(first) = chosen.next() {
        edit.size("num_experts_per_tok", old.top_k, first);
    }
    if gathered.layers.len() != config.layers() && !mixtral {
        let dense: Vec<usize> = (0..gathered.layers.len())
            .filter(|place| !layers.contains(place))
            .collect();
        edit.map.insert("decoder_sparse_step".into(), 1.into());
        edit.map.insert("mlp_only_layers".into(), json!(dense));
    }
    Ok(())
}

/// Says which of the layers that are left see all tokens, where the configuration says so of layers, or they differ in it.
fn kinds(edit: &mut Edit, config: &DecoderConfig, gathered: &Gathered) {
    let model_type = edit.map.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let may_differ = matches!(model_type, "qwen2" | "qwen3" | "qwen2_moe");
    if edit.map.contains_key("layer_types") || may_differ && config.windows.iter().any(Option::is_some) {
        let windows = gathered.layers.iter().filter_map(|&layer| config.windows.get(layer));
        let kinds: Vec<&str> = windows
            .map(|window| match window {
                Some(_) => "sliding_attention",
                None => "full_attention",
            })
            .collect();
        edit.map.insert("layer_types".into(), json!(kinds));
    }
}
