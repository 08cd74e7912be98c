//! A manifest that uses every key, and a catalog that offers what it names.

use std::path::Path;

use kmr_manifest::{
    Catalog, Domain, ExtensionKind, KnobOffer, Manifest, Measures, MeterOffer, Per, PolicyOffer, Role, RuleOffer,
    Unavailable,
};
use serde_json::{Value, json};

pub const GOOD: &str = r#"schema = 1

[model]
path = "resnet20.onnx"
inputs = { x = [1, 1, 28, 28] }

[data]
calibration = { path = "train.npz", take = 512, shuffle = 7 }
training = { path = "train.jsonl", text = "first", pair = "second", label = "right", max_length = 128, length = 64 }
search = { path = "search.npz", skip = 10, format = "npz" }
holdout = { path = "t10k-images.gz", labels = "t10k-labels.gz", format = "idx" }
scale = "1/255"
labels = "labels"
sample = "row"
tokenizer = "tokenizer.json"
augment = { shift = 2, flip = true }

[budget]
meter = "size_bytes"
at_most = "30%"

[quality]
meter = "top1"
drop_at_most = 0.005
confidence = 0.95

[policy]
use = "greedy"
seed = 7
on_no_progress = "skip"
max_steps = 100
config = { proxy = { meter = "loss", samples = 256 }, confirm = 3 }

[[stage]]
name = "shrink"
until = "40%"

[[stage.rule]]
use = "prune"
id = "prune-channels"
enabled = true
role = "reduce"
config = { importance = "l2", round_to = 8 }
knobs.channel_sparsity = { values = [0.0, 0.1, 0.2, 0.3], per = "layer" }

[[stage]]
name = "recover"

[[stage.rule]]
use = "distill"
role = "recover"
config = { temperature = 4.0, epochs = 2 }

[[stage]]
name = "pack"

[[stage.rule]]
use = "quantize"
knobs.weight_bits = { values = [32, 8, 4] }

[plugins]
paths = ["plugins"]

[meters]
report = ["macs", "kl"]
config.kl = { temperature = 2.0 }

[target]
cpu = "x86-64-v4"

[output]
format = "onnx"
names = "keep"
external_data = false

[models]
teacher = "resnet56.onnx"
"#;

pub fn parse(text: &str) -> Result<Manifest, kmr_manifest::Error> {
    Manifest::parse(text, Path::new("pipeline.toml"))
}

/// The good manifest with one text replaced; the text must be there.
pub fn changed(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from:?} is not in the sample");
    GOOD.replacen(from, to, 1)
}

pub fn catalog() -> Catalog {
    let cost = |id: &str, unit: &str| MeterOffer {
        id: id.to_string(),
        plugin: None,
        measures: Measures::Cost,
        needs_labels: false,
        unit: unit.to_string(),
    };
    let quality = |id: &str, needs_labels| MeterOffer {
        id: id.to_string(),
        plugin: Some("kmr-meters".to_string()),
        measures: Measures::Quality,
        needs_labels,
        unit: String::new(),
    };
    let unavailable = |kind, id: &str, reason: &str| Unavailable {
        kind,
        id: id.to_string(),
        plugin: "acme".to_string(),
        reason: reason.to_string(),
    };
    Catalog {
        rules: vec![
            rule(
                "prune",
                Role::Reduce,
                vec![
                    knob(
                        "channel_sparsity",
                        "0.95 keeps at least one channel in every layer of this model",
                        Domain::Range { min: 0.0, max: 0.95 },
                        &[Per::Layer, Per::Model],
                        json!([0.0, 0.25, 0.5]),
                    ),
                    knob(
                        "pattern",
                        "zeros out of every group of weights",
                        Domain::Choices(vec![json!("dense"), json!("2:4"), json!("1:4")]),
                        &[Per::Model],
                        json!([]),
                    ),
                ],
            ),
            rule("distill", Role::Recover, Vec::new()),
            rule(
                "quantize",
                Role::Reduce,
                vec![knob(
                    "weight_bits",
                    "",
                    Domain::Choices(vec![json!(32), json!(8), json!(4)]),
                    &[Per::Layer],
                    json!([32, 8, 4]),
                )],
            ),
        ],
        meters: vec![
            cost("size_bytes", "bytes"),
            cost("macs", ""),
            cost("latency", "ms"),
            quality("top1", true),
            quality("loss", true),
            quality("kl", false),
        ],
        policies: ["greedy", "scheduled"]
            .map(|id| PolicyOffer {
                id: id.to_string(),
                plugin: None,
            })
            .to_vec(),
        unavailable: vec![
            unavailable(ExtensionKind::Rule, "factorize", "is disabled"),
            unavailable(ExtensionKind::Meter, "f1", "needs ABI 2.0.0"),
        ],
    }
}

pub fn rule(id: &str, role: Role, knobs: Vec<KnobOffer>) -> RuleOffer {
    RuleOffer {
        id: id.to_string(),
        plugin: format!("kmr-{id}"),
        role,
        knobs,
        after: Vec::new(),
        conflicts: Vec::new(),
    }
}

fn knob(name: &str, description: &str, domain: Domain, per: &[Per], default: Value) -> KnobOffer {
    KnobOffer {
        name: name.to_string(),
        description: description.to_string(),
        domain,
        per: per.to_vec(),
        default: default.as_array().cloned().unwrap_or_default(),
    }
}
