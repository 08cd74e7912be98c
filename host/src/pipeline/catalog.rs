//! What the host and the plugins offer.

use std::{env, path::PathBuf};

use kmr_loader::{ErrorKind, LoaderError, PluginFile};
use kmr_manifest as manifest;
use kmr_sdk::wire;

use crate::{exit, failure::Failure};

/// The host's own meters: costs counted on what would be written.
pub const COST_METERS: [(&str, &str); 5] = [
    ("size_bytes", "bytes"),
    ("params", ""),
    ("nonzero_params", ""),
    ("macs", ""),
    ("peak_activation_bytes", "bytes"),
];

/// The host's own policies.
pub const POLICIES: [&str; 4] = ["evolve", "greedy", "knapsack", "scheduled"];

/// Where plugins are looked for beside the paths of a manifest: the command line, `KMR_PLUGIN_PATH`,
/// and the folder of this program with its `plugins` inside.
pub fn plugin_folders(command_line: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders = command_line.to_vec();
    if let Some(paths) = env::var_os("KMR_PLUGIN_PATH") {
        folders.extend(env::split_paths(&paths).filter(|path| !path.as_os_str().is_empty()));
    }
    if let Ok(program) = env::current_exe()
        && let Some(folder) = program.parent()
    {
        folders.push(folder.to_owned());
        folders.extend(Some(folder.join("plugins")).filter(|plugins| plugins.is_dir()));
    }
    folders
}

/// The plugins in `paths`, the first of each name, without running any.
///
/// What cannot be used is an error where the manifest or the command line names it (the first `named`
/// paths), and a warning elsewhere.
pub fn discover(paths: &[PathBuf], named: usize) -> Result<Vec<PluginFile>, Failure> {
    let (named, found) = paths.split_at(named);
    let (mut plugins, errors) = kmr_loader::discover(named);
    if let Some(error) = errors.into_iter().next() {
        return Err(loader_failure(&error));
    }
    let (others, errors) = kmr_loader::discover(found);
    for error in errors {
        log::warn!("{error}; it is left aside");
    }
    plugins.extend(others);
    let mut unique: Vec<PluginFile> = Vec::new();
    for plugin in plugins {
        let name = &plugin.metadata().plugin.name;
        match unique.iter().find(|known| known.metadata().plugin.name == *name) {
            Some(known) if known.sha256() != plugin.sha256() => log::warn!(
                "plugin `{name}` is taken from {}; {} is left aside",
                known.path().display(),
                plugin.path().display()
            ),
            Some(_) => {}
            None => unique.push(plugin),
        }
    }
    Ok(unique)
}

/// The failure of a plugin that cannot be opened, loaded or called.
pub fn loader_failure(error: &LoaderError) -> Failure {
    let code = match error.kind() {
        ErrorKind::Missing => exit::PLUGIN_MISSING,
        ErrorKind::Incompatible | ErrorKind::Damaged => exit::PLUGIN_INCOMPATIBLE,
        _ => exit::PLUGIN_FAILED,
    };
    if let Some(details) = error.details() {
        log::debug!("{}: {details}", error.place().display());
    }
    let failure = Failure::new(code, error.message()).at(error.place().display().to_string());
    match error.help() {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// The catalog of the host and of `plugins`.
pub fn catalog(plugins: &[PluginFile]) -> manifest::Catalog {
    let mut catalog = manifest::Catalog::default();
    for (id, unit) in COST_METERS {
        catalog.meters.push(manifest::MeterOffer {
            id: id.into(),
            plugin: None,
            measures: manifest::Measures::Cost,
            needs_labels: false,
            unit: unit.into(),
        });
    }
    for id in POLICIES {
        catalog.policies.push(manifest::PolicyOffer {
            id: id.into(),
            plugin: None,
        });
    }
    for plugin in plugins {
        let metadata = plugin.metadata();
        for extension in &metadata.extensions {
            add(&mut catalog, &metadata.plugin.name, extension);
        }
    }
    catalog
}

fn add(catalog: &mut manifest::Catalog, plugin: &str, extension: &wire::Extension) {
    let taken =
        |kind: &str, id: &str| log::warn!("{kind} `{id}` of plugin `{plugin}` is offered already; the first is used");
    match extension {
        wire::Extension::Rule(rule) if catalog.rules.iter().any(|r| r.id == rule.id) => taken("rule", &rule.id),
        wire::Extension::Rule(rule) => catalog.rules.push(manifest::RuleOffer {
            id: rule.id.clone(),
            plugin: plugin.into(),
            role: match rule.role {
                wire::Role::Reduce => manifest::Role::Reduce,
                wire::Role::Recover => manifest::Role::Recover,
            },
            knobs: rule.knobs.iter().map(knob).collect(),
            after: rule.after.clone(),
            conflicts: rule.conflicts.clone(),
        }),
        wire::Extension::Meter(meter) if catalog.meters.iter().any(|m| m.id == meter.id) => taken("meter", &meter.id),
        wire::Extension::Meter(meter) => catalog.meters.push(manifest::MeterOffer {
            id: meter.id.clone(),
            plugin: Some(plugin.into()),
            measures: match meter.measures {
                wire::Measures::Cost => manifest::Measures::Cost,
                wire::Measures::Quality => manifest::Measures::Quality,
            },
            needs_labels: meter.needs_labels,
            unit: meter.unit.clone(),
        }),
        wire::Extension::Policy(policy) if catalog.policies.iter().any(|p| p.id == policy.id) => {
            taken("policy", &policy.id);
        }
        wire::Extension::Policy(policy) => catalog.policies.push(manifest::PolicyOffer {
            id: policy.id.clone(),
            plugin: Some(plugin.into()),
        }),
        other => log::debug!(
            "plugin `{plugin}` offers a {} that this kmr does not know",
            other.kind()
        ),
    }
}

fn knob(knob: &wire::KnobInfo) -> manifest::KnobOffer {
    manifest::KnobOffer {
        name: knob.name.clone(),
        description: knob.description.clone(),
        domain: match &knob.domain {
            wire::Domain::Range { min, max } => manifest::Domain::Range { min: *min, max: *max },
            wire::Domain::Choices { choices } => manifest::Domain::Choices(choices.clone()),
        },
        per: knob
            .per
            .iter()
            .map(|per| match per {
                wire::Per::Model => manifest::Per::Model,
                wire::Per::Layer => manifest::Per::Layer,
                wire::Per::ChannelGroup => manifest::Per::ChannelGroup,
            })
            .collect(),
        default: knob.default.clone(),
    }
}
