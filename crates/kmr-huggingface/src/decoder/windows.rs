//! How far back the layers of a decoder see.

use crate::HuggingFaceError;
use crate::config::json::Object;

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
/// More layers than any file has tensors for would only take memory.
const MOST_LAYERS: usize = 100_000;

/// How many tokens each layer sees, all for `None`, by `sliding_window`, `use_sliding_window`, `layer_types` and
/// `max_window_layers`, as far as the type of the model knows them.
pub(super) fn windows(
    config: &Object,
    model_type: &str,
    layers: usize,
) -> Result<Vec<Option<usize>>, HuggingFaceError> {
    if layers > MOST_LAYERS {
        return Err(config.error("num_hidden_layers", format!("is {layers}, more than any model has")));
    }
    let qwen = model_type.starts_with("qwen");
    let window = match model_type {
        "mistral" | "mixtral" => config.count("sliding_window")?,
        _ if qwen && config.flag("use_sliding_window")?.unwrap_or(false) => {
            Some(config.size_or("sliding_window", 4096)?)
        }
        _ => None,
    };
    if window == Some(0) {
        return Err(config.error("sliding_window", "must not be 0"));
    }
    let by_layer = matches!(model_type, "qwen2" | "qwen3" | "qwen2_moe");
    let kinds = if by_layer { config.texts("layer_types")? } else { None };
    let Some(kinds) = kinds else {
        let border = config.count("max_window_layers")?.unwrap_or(28);
        let slides = |layer: usize| match model_type {
            "qwen2_moe" => layer.is_multiple_of(2) && layer < border,
            _ => !by_layer || layer >= border,
        };
        return Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect());
    };
    if kinds.len() != layers {
        let message = format!("names {} layers; `num_hidden_layers` is {layers}", kinds.len());
        return Err(config.error("layer_types", message));
    }
    let windows = kinds.into_iter().map(|kind| match (kind, window) {
        (FULL, _) => Ok(None),
        (SLIDING, Some(window)) => Ok(Some(window)),
        (SLIDING, None) => Err(config.error("layer_types", "has sliding layers, and no `sliding_window` is in use")),
        (other, _) => Err(config.unknown("layer_types", other, &[FULL, SLIDING])),
    });
    windows.collect()
}
