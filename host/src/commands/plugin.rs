//! `kmr plugin`: looks at plugins without running them.

use kmr_loader::PluginFile;
use kmr_sdk::wire::{Domain, Extension};

use crate::{
    arguments::{Common, Plugin},
    exit,
    failure::Failure,
    pipeline::{discover, loader_failure, plugin_folders},
    table::Table,
};

pub fn execute(arguments: &Plugin, common: &Common) -> Result<u8, Failure> {
    match arguments {
        Plugin::List => list(common),
        Plugin::Inspect { library } => {
            let plugin = PluginFile::open(library).map_err(|error| loader_failure(&error))?;
            inspect(&plugin, common);
            Ok(exit::SUCCESS)
        }
    }
}

fn list(common: &Common) -> Result<u8, Failure> {
    let mut paths = common.plugin_paths.clone();
    paths.extend(plugin_folders(&[]));
    let plugins = discover(&paths, common.plugin_paths.len())?;
    if common.json {
        let all: Vec<_> = plugins.iter().map(json).collect();
        crate::terminal::line!("{:#}", serde_json::json!({"schema": 1, "plugins": all}));
        return Ok(exit::SUCCESS);
    }
    let mut table = Table::new(&["plugin", "version", "offers", "file"]);
    for plugin in &plugins {
        let metadata = plugin.metadata();
        let offers: Vec<String> = metadata
            .extensions
            .iter()
            .map(|e| format!("{} {}", e.kind(), e.id()))
            .collect();
        table.row([
            metadata.plugin.name.clone(),
            metadata.plugin.version.clone(),
            offers.join(", "),
            plugin.path().display().to_string(),
        ]);
    }
    if plugins.is_empty() {
        log::warn!("no plugin was found; KMR_PLUGIN_PATH and `--plugin-path` say where to look");
    }
    crate::terminal::text!("{}", table.render());
    Ok(exit::SUCCESS)
}

fn json(plugin: &PluginFile) -> serde_json::Value {
    serde_json::json!({
        "path": plugin.path(),
        "sha256": plugin.sha256(),
        "metadata": plugin.metadata(),
    })
}

fn inspect(plugin: &PluginFile, common: &Common) {
    if common.json {
        let mut value = json(plugin);
        value["schema"] = 1.into();
        crate::terminal::line!("{value:#}");
        return;
    }
    let metadata = plugin.metadata();
    let identity = &metadata.plugin;
    crate::terminal::line!("{} {}  {}", identity.name, identity.version, identity.description);
    crate::terminal::line!("file     {}", plugin.path().display());
    crate::terminal::line!("sha256   {}", plugin.sha256());
    crate::terminal::line!("abi      {}", metadata.abi);
    crate::terminal::line!("license  {}", identity.license);
    for extension in &metadata.extensions {
        crate::terminal::line!("\n{} {}", extension.kind(), extension.id());
        match extension {
            Extension::Rule(rule) => {
                crate::terminal::line!("  {}", rule.summary);
                for knob in &rule.knobs {
                    crate::terminal::line!("  knob {}  {}: {}", knob.name, domain(&knob.domain), knob.description);
                }
            }
            Extension::Meter(meter) => crate::terminal::line!("  {}", meter.summary),
            Extension::Policy(policy) => crate::terminal::line!("  {}", policy.summary),
            _ => {}
        }
    }
}

fn domain(domain: &Domain) -> String {
    match domain {
        Domain::Range { min, max } => format!("[{min}, {max}]"),
        Domain::Choices { choices } => {
            let choices: Vec<String> = choices.iter().map(ToString::to_string).collect();
            format!("{{{}}}", choices.join(", "))
        }
    }
}
