//! Every section but the stages.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::config::{config, table_config};
use super::texts;
use crate::keys;
use crate::reader::{Section, integer, wrong_type};
use crate::suggest::quoted;
use crate::{
    Augment, Data, DataFormat, DataSample, DataSource, ErrorKind, Floor, Limit, Meters, Model, OnNoProgress, Placed,
    Policy, Quality, Target,
};

fn path(section: &Section<'_, '_>, name: &str, directory: &Path) -> Option<Placed<PathBuf>> {
    let text = section.text(name)?;
    Some(text.map(|text| directory.join(text)))
}

pub(super) fn model(root: &Section<'_, '_>, directory: &Path) -> Model {
    let Some(section) = root.table("model") else {
        return Model::default();
    };
    let mut inputs = IndexMap::new();
    if let Some(shapes) = section.table("inputs") {
        for (name, value) in shapes.entries() {
            let dimensions = value.get_ref().as_array().and_then(|items| {
                let dimension = |item| usize::try_from(integer(item)?).ok().filter(|d| *d > 0);
                items
                    .iter()
                    .map(|item| dimension(item.get_ref()))
                    .collect::<Option<Vec<usize>>>()
            });
            match (dimensions, keys::find("model.inputs", "*")) {
                (Some(shape), _) => {
                    inputs.insert(name.value, Placed::new(shape, value.span()));
                }
                (None, Some(key)) => wrong_type(section.context(), key, &name, value),
                (None, None) => {}
            }
        }
    }
    Model {
        path: path(&section, "path", directory).unwrap_or_default(),
        inputs,
    }
}

pub(super) fn models(root: &Section<'_, '_>, directory: &Path) -> IndexMap<String, Placed<PathBuf>> {
    let mut models = IndexMap::new();
    let Some(section) = root.table("models") else {
        return models;
    };
    for (name, value) in section.entries() {
        if matches!(name.value.as_str(), "candidate" | "reference") {
            let message = format!("{} is what rules call a model of the run itself", quoted(&name.value));
            let help = "choose another name";
            section
                .context()
                .report(ErrorKind::Value, name.span.clone(), message, help);
            continue;
        }
        match (value.get_ref().as_str(), keys::find("models", "*")) {
            (Some(text), _) => {
                models.insert(name.value, Placed::new(directory.join(text), value.span()));
            }
            (None, Some(key)) => wrong_type(section.context(), key, &name, value),
            (None, None) => {}
        }
    }
    models
}

pub(super) fn data(root: &Section<'_, '_>, directory: &Path) -> Data {
    let Some(section) = root.table("data") else {
        return Data::default();
    };
    let split = |name| Some(data_source(&section.table(name)?, directory));
    let default_labels = || Placed::new(String::from("labels"), section.span());
    Data {
        calibration: split("calibration"),
        training: split("training"),
        search: split("search").unwrap_or_default(),
        holdout: split("holdout"),
        scale: section.scale("scale"),
        labels: section.text("labels").unwrap_or_else(default_labels),
        tokenizer: path(&section, "tokenizer", directory),
        sample: section.choice("sample").map(|choice| match choice.value {
            "call" => DataSample::Call,
            _ => DataSample::Row,
        }),
        augment: section.table("augment").map(|augment| Augment {
            shift: augment.whole("shift").unwrap_or(0),
            flip: augment.boolean("flip").unwrap_or(false),
        }),
    }
}

fn data_source(section: &Section<'_, '_>, directory: &Path) -> DataSource {
    let format = section.choice("format").map(|choice| match choice.value {
        "npz" => DataFormat::Npz,
        "idx" => DataFormat::Idx,
        "lines" => DataFormat::Lines,
        "jsonl" => DataFormat::Jsonl,
        "csv" => DataFormat::Csv,
        "tsv" => DataFormat::Tsv,
        "parquet" => DataFormat::Parquet,
        _ => DataFormat::Npy,
    });
    let file = path(section, "path", directory).unwrap_or_default();
    DataSource {
        labels: path(section, "labels", directory),
        texts: texts::read(section, &file.value, format),
        path: file,
        shuffle: section.whole("shuffle"),
        skip: section.whole("skip").unwrap_or(0),
        take: section.whole("take"),
        format,
        span: section.span(),
    }
}

pub(super) fn budget(root: &Section<'_, '_>) -> Vec<Limit> {
    let Some(section) = root.table("budget") else {
        return Vec::new();
    };
    let context = section.context();
    let several = section.tables("limit");
    if several.is_empty() {
        for (name, help) in [
            ("meter", "name a cost meter, such as \"size_bytes\""),
            ("at_most", "write \"30%\" of the original, or \"300 kB\""),
        ] {
            if !section.has(name) && !section.has("limit") {
                section.missing(name, help);
            }
        }
        return limit(&section).into_iter().collect();
    }
    if let Some(single) = section.value("meter").or(section.value("at_most")) {
        context.report(
            ErrorKind::Value,
            single.span(),
            "[budget] has both a limit of its own and a list of limits",
            "move `meter` and `at_most` into a [[budget.limit]]",
        );
    }
    let limits: Vec<Limit> = several.iter().filter_map(limit).collect();
    let mut seen = HashSet::new();
    for limit in &limits {
        if !seen.insert(limit.meter.value.as_str()) {
            context.report(
                ErrorKind::Value,
                limit.meter.span.clone(),
                format!("meter {} has two limits", quoted(&limit.meter)),
                "keep the tighter one",
            );
        }
    }
    limits
}

fn limit(section: &Section<'_, '_>) -> Option<Limit> {
    // Both are read before either may be missing, so that both are checked.
    let (meter, at_most) = (section.text("meter"), section.amount("at_most"));
    Some(Limit {
        meter: meter?,
        at_most: at_most?,
    })
}

pub(super) fn quality(root: &Section<'_, '_>) -> Quality {
    let mut quality = Quality {
        meter: Placed::default(),
        floor: Placed::new(Floor::DropAtMost(0.0), 0..0),
        confidence: 0.95,
    };
    let Some(section) = root.table("quality") else {
        return quality;
    };
    quality.meter = section.text("meter").unwrap_or_default();
    if let Some(floor) = floor(&section) {
        quality.floor = floor;
    }
    if let Some(confidence) = section.number("confidence") {
        quality.confidence = confidence.value;
        if !(0.0 < confidence.value && confidence.value < 1.0) {
            section.context().report(
                ErrorKind::Value,
                confidence.span,
                format!("`confidence` lies between 0 and 1; got {}", confidence.value),
                "0.95 stands for 95 %",
            );
        }
    }
    quality
}

fn floor(section: &Section<'_, '_>) -> Option<Placed<Floor>> {
    let context = section.context();
    let drop = section.number("drop_at_most");
    let least = section.number("at_least");
    match (section.has("drop_at_most"), section.has("at_least")) {
        (true, true) => {
            context.report(
                ErrorKind::Value,
                section.value("at_least").map_or(section.span(), |v| v.span()),
                format!("{} has both `drop_at_most` and `at_least`", section.shown()),
                "keep one: the first counts from the original's quality, the second from 0",
            );
            return None;
        }
        (false, false) => {
            section.missing(
                "drop_at_most",
                "write how far quality may fall, such as `drop_at_most = 0.005`, or inf for no \
                 floor",
            );
            return None;
        }
        _ => {}
    }
    if let Some(drop) = drop {
        if drop.value < 0.0 {
            context.report(
                ErrorKind::Value,
                drop.span.clone(),
                format!("`drop_at_most` is at least 0; got {}", drop.value),
                "a drop is written without a sign",
            );
        }
        return Some(drop.map(Floor::DropAtMost));
    }
    let least = least?;
    if least.value.is_infinite() {
        context.report(
            ErrorKind::Value,
            least.span.clone(),
            "`at_least` is a finite number",
            "write `drop_at_most = inf` for no floor",
        );
    }
    Some(least.map(Floor::AtLeast))
}

pub(super) fn policy(root: &Section<'_, '_>) -> Policy {
    let greedy = String::from("greedy");
    let Some(section) = root.table("policy") else {
        return Policy {
            name: Placed::new(greedy, 0..0),
            seed: 0,
            on_no_progress: OnNoProgress::Skip,
            max_steps: None,
            config: crate::Config::empty(0..0),
        };
    };
    let on_no_progress = match section.choice("on_no_progress") {
        Some(choice) if choice.value == "stop" => OnNoProgress::Stop,
        _ => OnNoProgress::Skip,
    };
    Policy {
        name: section
            .text("use")
            .unwrap_or_else(|| Placed::new(greedy, section.span())),
        seed: section.whole("seed").unwrap_or(0),
        on_no_progress,
        max_steps: section.whole("max_steps"),
        config: config(&section, "config"),
    }
}

pub(super) fn plugins(root: &Section<'_, '_>, directory: &Path) -> Vec<Placed<PathBuf>> {
    let Some(section) = root.table("plugins") else {
        return Vec::new();
    };
    let paths = section.texts("paths").into_iter();
    paths.map(|path| path.map(|path| directory.join(path))).collect()
}

pub(super) fn meters(root: &Section<'_, '_>) -> Meters {
    let Some(section) = root.table("meters") else {
        return Meters::default();
    };
    let mut configs = IndexMap::new();
    if let Some(table) = section.table("config") {
        for (name, value) in table.entries() {
            let shown = format!("{} {}", table.shown(), name.value);
            if let Some(inner) = table.entry_table(&name, shown, value) {
                configs.insert(name.value, table_config(&inner));
            }
        }
    }
    Meters {
        report: section.texts("report"),
        config: configs,
    }
}

pub(super) fn target(root: &Section<'_, '_>) -> Target {
    Target {
        cpu: root.table("target").and_then(|section| section.text("cpu")),
    }
}
