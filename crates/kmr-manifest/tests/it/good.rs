//! What a good manifest is read as.

use std::path::Path;

use kmr_manifest::{
    Amount, DataFormat, ErrorKind, Floor, KEYS, Manifest, OnNoProgress, Scale, TextData, TextSamples, ValueKind,
};
use serde_json::json;

use crate::sample::{GOOD, catalog, changed, parse};

#[test]
fn every_key_is_read() {
    let manifest = Manifest::parse(GOOD, Path::new("folder/pipeline.toml")).unwrap();
    assert_eq!(*manifest.model.path, Path::new("folder/resnet20.onnx"));
    assert_eq!(*manifest.model.inputs["x"], [1, 1, 28, 28]);
    assert_eq!(*manifest.models["teacher"], Path::new("folder/resnet56.onnx"));

    let calibration = manifest.data.calibration.as_ref().unwrap();
    assert_eq!(calibration.take, Some(512));
    assert_eq!(calibration.shuffle, Some(7));
    assert_eq!(manifest.data.search.skip, 10);
    assert_eq!(manifest.data.search.format, Some(DataFormat::Npz));
    let holdout = manifest.data.holdout.as_ref().unwrap();
    let labels = holdout.labels.as_ref().unwrap();
    assert_eq!(**labels, Path::new("folder/t10k-labels.gz"));
    assert_eq!(holdout.format, Some(DataFormat::Idx));
    let scale = Scale {
        numerator: 1.0,
        denominator: 255.0,
    };
    assert_eq!(**manifest.data.scale.as_ref().unwrap(), scale);
    assert_eq!(*manifest.data.labels, "labels");

    assert_eq!(*manifest.budget[0].meter, "size_bytes");
    assert_eq!(*manifest.budget[0].at_most, Amount::Share(0.3));
    assert_eq!(*manifest.quality.floor, Floor::DropAtMost(0.005));
    let texts = manifest.data.training.clone().unwrap().texts.unwrap();
    assert_eq!(texts.text.as_deref(), Some("first"));
    let samples = TextSamples::Texts {
        pair: Some("second".into()),
        against: None,
        label: Some("right".into()),
        max_length: Some(128),
        length: Some(64),
    };
    assert_eq!(texts.samples, samples);
    assert_eq!(
        **manifest.data.tokenizer.as_ref().unwrap(),
        Path::new("folder/tokenizer.json")
    );
    assert_eq!(
        manifest.data.augment.map(|augment| (augment.shift, augment.flip)),
        Some((2, true))
    );
    assert_eq!(manifest.quality.confidence, 0.95);
    assert_eq!(manifest.policy.seed, 7);
    assert_eq!(manifest.policy.on_no_progress, OnNoProgress::Skip);
    assert_eq!(manifest.policy.max_steps, Some(100));
    assert_eq!(manifest.policy.config.value["confirm"], json!(3));

    let ids: Vec<&str> = manifest.rules().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids, ["prune-channels", "distill", "quantize"]);
    assert_eq!(*manifest.plugins[0], Path::new("folder/plugins"));
    let temperature = &manifest.meters.config["kl"].value["temperature"];
    assert_eq!(*temperature, json!(2.0));
    assert_eq!(**manifest.target.cpu.as_ref().unwrap(), "x86-64-v4");
}

/// The sample is only a test of every key while it holds every key.
#[test]
fn the_sample_holds_every_key_but_the_alternatives() {
    let alternatives = ["limit", "at_least", "meter", "against", "window", "stride"];
    for key in KEYS.iter().filter(|key| key.name != "*") {
        let written = GOOD
            .split(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
            .any(|word| word == key.name);
        let alternative = alternatives.contains(&key.name) || key.table == "until";
        assert!(written || alternative, "{key:?}");
    }
    assert!(KEYS.iter().any(|key| key.kind == ValueKind::Scale));
}

#[test]
fn a_split_holds_texts_by_its_name_its_format_or_its_keys() {
    let texts = |split: &str| {
        let text = changed("{ path = \"search.npz\", skip = 10, format = \"npz\" }", split);
        parse(&text).unwrap().data.search.texts
    };
    let lines = Some(TextData::default());
    assert_eq!(texts("{ path = \"a.npz\" }"), None);
    assert_eq!(texts("{ path = \"folder\" }"), None);
    assert_eq!(texts("{ path = \"a.TXT\" }"), lines);
    assert_eq!(texts("{ path = \"a\", format = \"lines\" }"), lines);
    assert_eq!(texts("{ path = \"a.csv\", format = \"npy\" }"), None);
    let windows = |window, stride| {
        let samples = TextSamples::Windows { window, stride };
        Some(TextData { text: None, samples })
    };
    assert_eq!(texts("{ path = \"a\", window = 512 }"), windows(512, 512));
    assert_eq!(texts("{ path = \"a\", window = 512, stride = 256 }"), windows(512, 256));
}

#[test]
fn places_point_at_what_was_written() {
    let manifest = parse(GOOD).unwrap();
    let written = |span: std::ops::Range<usize>| &GOOD[span];
    assert_eq!(written(manifest.budget[0].at_most.span.clone()), "\"30%\"");
    let config = &manifest.policy.config;
    assert_eq!(written(config.span("/proxy/meter")), "\"loss\"");
    assert_eq!(
        written(config.span("/proxy/unknown/deeper")),
        "{ meter = \"loss\", samples = 256 }"
    );
    let knob = &manifest.stages[0].rules[0].knobs[0];
    assert_eq!(written(knob.name.span.clone()), "channel_sparsity");
    let values = knob.values.as_ref().unwrap();
    assert_eq!(written(values[2].span.clone()), "0.2");
    assert_eq!(written(manifest.stages[1].span.clone()), "[[stage]]");
}

#[test]
fn the_smallest_manifest_is_enough() {
    let text = r#"
        schema = 1
        model.path = "m.onnx"
        data.search.path = "s.npz"
        budget = { meter = "macs", at_most = 1000 }
        quality = { meter = "kl", drop_at_most = inf }
        stage = [{ name = "only", rule = [{ use = "prune", knobs.channel_sparsity = {} }] }]
    "#;
    let manifest = parse(text).unwrap();
    let resolved = manifest.resolve(&catalog()).unwrap();
    assert_eq!(resolved.warnings, []);
    assert_eq!(resolved.policy.offer.id, "greedy");
    let expected = json!({
        "config": {},
        "knobs": { "channel_sparsity": { "values": [0.0, 0.25, 0.5], "per": "layer" } },
    });
    assert_eq!(resolved.stages[0].rules[0].configuration, expected);
}

#[test]
fn resolution_finds_every_name() {
    let resolved = parse(GOOD).unwrap().resolve(&catalog()).unwrap();
    let meters: Vec<&str> = resolved.meters.iter().map(|meter| meter.offer.id.as_str()).collect();
    assert_eq!(meters, ["size_bytes", "top1", "loss", "macs", "kl"]);
    assert_eq!(resolved.meters[4].config, json!({ "temperature": 2.0 }));
    let until = resolved.stages[0].until.as_ref().unwrap();
    assert_eq!(
        (until.meter.as_str(), &until.at_most),
        ("size_bytes", &Amount::Share(0.4))
    );
    let expected = json!({
        "config": { "importance": "l2", "round_to": 8 },
        "knobs": { "channel_sparsity": { "values": [0.0, 0.1, 0.2, 0.3], "per": "layer" } },
    });
    assert_eq!(resolved.stages[0].rules[0].configuration, expected);
    assert_eq!(resolved.warnings, []);
}

#[test]
fn a_disabled_rule_is_not_looked_at_and_its_stage_is_left_out() {
    let text = changed("use = \"distill\"\n", "use = \"nobody\"\nenabled = false\n");
    let manifest = parse(&text).unwrap();
    let resolved = manifest.resolve(&catalog()).unwrap();
    let names: Vec<&str> = resolved.stages.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["shrink", "pack"]);
    assert_eq!(resolved.warnings.len(), 1);
    assert_eq!(resolved.warnings[0].kind(), ErrorKind::Warning);

    let mut switched = parse(GOOD).unwrap();
    switched.disable(&["distill"]).unwrap();
    let resolved = switched.resolve(&catalog()).unwrap();
    assert_eq!(resolved.stages.len(), 2);
}

#[test]
fn disabling_is_all_or_nothing() {
    let mut manifest = parse(GOOD).unwrap();
    assert!(manifest.disable(&["distill", "nobody"]).is_err());
    assert!(manifest.rules().all(|rule| rule.enabled));
}

#[test]
fn the_last_reducing_stage_needs_no_until() {
    let mut manifest = parse(&changed("until = \"40%\"\n", "")).unwrap();
    assert!(manifest.resolve(&catalog()).is_err());
    manifest.disable(&["quantize"]).unwrap();
    let resolved = manifest.resolve(&catalog()).unwrap();
    assert_eq!(resolved.stages.len(), 2);
}

#[test]
fn several_limits_with_a_stage_that_names_its_own() {
    let limits = "[[budget.limit]]\nmeter = \"size_bytes\"\nat_most = \"300 kB\"\n\
                  [[budget.limit]]\nmeter = \"latency\"\nat_most = \"3.5 ms\"\n";
    let text = changed("[budget]\nmeter = \"size_bytes\"\nat_most = \"30%\"\n", limits)
        .replace("until = \"40%\"", "until = { meter = \"macs\", at_most = 1_000_000 }");
    let resolved = parse(&text).unwrap().resolve(&catalog()).unwrap();
    assert_eq!(resolved.limits[0].at_most.limit(1e9), 300_000.0);
    assert_eq!(resolved.limits[1].at_most.limit(1e9), 3.5);
    assert_eq!(resolved.stages[0].until.as_ref().unwrap().meter, "macs");
}

#[test]
fn the_schema_declares_what_is_required() {
    let schema = kmr_manifest::schema();
    let split = &schema["properties"]["data"]["properties"]["search"];
    assert_eq!(split["required"], json!(["path"]));
    assert_eq!(split["additionalProperties"], json!(false));
    let stage = &schema["properties"]["stage"]["items"]["properties"];
    let knobs = &stage["rule"]["items"]["properties"]["knobs"];
    assert_eq!(
        knobs["additionalProperties"]["properties"]["per"]["enum"],
        json!(["model", "layer", "channel_group"])
    );
}
