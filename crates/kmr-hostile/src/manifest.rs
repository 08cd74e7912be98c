//! Manifests: TOML text, its checks, and its resolution against what plugins offer.

use std::path::Path;

use kmr_manifest::{
    Catalog, Domain, Error, ExtensionKind, KnobOffer, Manifest, Measures, MeterOffer, Per, PolicyOffer, Role,
    RuleOffer, Unavailable,
};
use serde_json::{Value, json};

use crate::{Outcome, message};

/// Reads a manifest and resolves it.
///
/// # Panics
/// If a rule is broken.
pub fn exercise(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else {
        // The program reads manifests as text.
        return Outcome::Refused;
    };
    match Manifest::parse(text, Path::new("pipeline.toml")) {
        Err(error) => {
            check(&error, text);
            Outcome::Refused
        }
        Ok(manifest) => {
            if let Err(error) = manifest.resolve(&catalog()) {
                check(&error, text);
            }
            Outcome::Read
        }
    }
}

fn check(error: &Error, text: &str) {
    assert!(error.problems().next().is_some());
    for problem in error.problems() {
        let span = problem.span();
        assert!(span.start <= span.end && span.end <= text.len(), "{problem:?}");
        message::check(problem.message());
        message::check(problem.help());
    }
    assert!(error.render(true).len() >= error.render(false).len());
}

/// Something of every kind that a manifest can name.
fn catalog() -> Catalog {
    let knob = |name: &str, domain, per: &[Per], default: Value| KnobOffer {
        name: name.into(),
        description: String::new(),
        domain,
        per: per.to_vec(),
        default: default.as_array().cloned().unwrap_or_default(),
    };
    let rule = |id: &str, role, knobs| RuleOffer {
        id: id.into(),
        plugin: "plugin".into(),
        role,
        knobs,
        after: Vec::new(),
        conflicts: Vec::new(),
    };
    let meter = |id: &str, measures, unit: &str| MeterOffer {
        id: id.into(),
        plugin: None,
        measures,
        needs_labels: id == "top1",
        unit: unit.into(),
    };
    let range = Domain::Range { min: 0.0, max: 0.95 };
    let choices = Domain::Choices(vec![json!(32), json!(8), json!("2:4")]);
    Catalog {
        rules: vec![
            rule(
                "prune",
                Role::Reduce,
                vec![
                    knob("sparsity", range, &[Per::Layer, Per::Model], json!([0.0, 0.5])),
                    knob("bits", choices, &[Per::Model], json!([])),
                ],
            ),
            rule("distill", Role::Recover, vec![]),
        ],
        meters: vec![
            meter("size_bytes", Measures::Cost, "bytes"),
            meter("latency", Measures::Cost, "ms"),
            meter("top1", Measures::Quality, ""),
            meter("kl", Measures::Quality, ""),
        ],
        policies: vec![PolicyOffer {
            id: "greedy".into(),
            plugin: None,
        }],
        unavailable: vec![Unavailable {
            kind: ExtensionKind::Rule,
            id: "factorize".into(),
            plugin: "acme".into(),
            reason: "is disabled".into(),
        }],
    }
}
