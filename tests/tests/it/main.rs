//! End-to-end tests: the real binary, the real shared libraries, real models and data.

mod adapters;
mod bad_input;
mod commands;
mod convert;
mod engines;
mod main_job;
mod networks;
mod plugins;
mod quantize;
mod texts;
mod training;
mod transformers;

/// A short run of the example: few samples, few values, a budget that one or two steps reach.
const SHORT: &str = r#"
schema = 1
[model]
path = "{example}/resnet20.onnx"
[data]
scale = "1/255"
calibration = { path = "{example}/train-10k.npz", take = 64 }
search = { path = "{example}/search-5k.npz", take = 200 }
holdout = { path = "{example}/test-10k.npz", take = 200 }
[budget]
meter = "size_bytes"
at_most = "95%"
[quality]
meter = "top1"
drop_at_most = 0.2
[policy]
use = "greedy"
seed = 7
config.proxy = { meter = "kl", samples = 50 }
config.confirm = 1
[[stage]]
name = "shrink"
[[stage.rule]]
use = "prune"
knobs.channel_sparsity = { values = [0.0, 0.25, 0.5], per = "layer" }
"#;
