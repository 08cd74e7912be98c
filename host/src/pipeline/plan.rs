//! What a manifest asks for, with every name found.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use kmr_loader::{Plugin, PluginFile};
use kmr_manifest::{Catalog, Manifest, Resolved};
use kmr_sdk::wire::{Extension, MeterInfo, Platform};

use super::catalog;
use crate::{exit, failure::Failure};

/// A checked manifest and the plugins that it needs.
pub struct Plan {
    /// The manifest's file.
    pub path: PathBuf,
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest against what is offered.
    pub resolved: Resolved,
    /// The plugins that the manifest uses, not yet loaded.
    files: Vec<PluginFile>,
}

impl Plan {
    /// Reads and resolves the manifest at `path`, without the rules in `disabled`. No plugin's code runs.
    pub fn read(path: &Path, disabled: &[String], plugin_paths: &[PathBuf]) -> Result<Self, Failure> {
        let mut manifest = Manifest::read(path)?;
        manifest.disable(disabled)?;
        manifest.check_files()?;
        let mut paths: Vec<PathBuf> = manifest.plugins.iter().map(|placed| placed.value.clone()).collect();
        paths.extend_from_slice(plugin_paths);
        let named = paths.len();
        paths.extend(catalog::plugin_folders(&[]));
        let files = catalog::discover(&paths, named)?;
        let offers: Catalog = catalog::catalog(&files);
        let resolved = manifest.resolve(&offers)?;
        for warning in &resolved.warnings {
            eprintln!("{}", warning.render(crate::terminal::color()).trim_end());
        }
        let mut plan = Self {
            path: path.to_owned(),
            manifest,
            resolved,
            files,
        };
        let used = plan.used_plugins();
        plan.files.retain(|file| used.contains(&file.metadata().plugin.name));
        Ok(plan)
    }

    /// Names of the plugins that something in the manifest comes from.
    fn used_plugins(&self) -> Vec<String> {
        let rules = self.resolved.stages.iter().flat_map(|stage| &stage.rules);
        let mut used: Vec<String> = rules.map(|rule| rule.offer.plugin.clone()).collect();
        used.extend(
            self.resolved
                .meters
                .iter()
                .filter_map(|meter| meter.offer.plugin.clone()),
        );
        used.extend(self.resolved.policy.offer.plugin.clone());
        used
    }

    /// The least version of ONNX's operator set that the rules in use write; 0 for any.
    pub fn opset(&self) -> i64 {
        let rules = self.resolved.stages.iter().flat_map(|stage| &stage.rules);
        let used: Vec<&str> = rules.map(|rule| rule.offer.id.as_str()).collect();
        let extensions = self.files.iter().flat_map(|file| &file.metadata().extensions);
        let needed = extensions.filter_map(|extension| match extension {
            Extension::Rule(rule) if used.contains(&rule.id.as_str()) => Some(rule.opset),
            _ => None,
        });
        needed.max().unwrap_or(0)
    }

    /// What the artifact is laid out for.
    pub fn platform(&self) -> Platform {
        let cpu = self.manifest.target.cpu.as_ref().map_or("", |cpu| cpu.value.as_str());
        let cpu = if cpu == "native" {
            kmr_platform::current().cpu_features()
        } else {
            cpu.to_owned()
        };
        Platform { cpu }
    }

    /// The metadata of the meter `id`; none for the host's own.
    pub fn meter_info(&self, id: &str) -> Option<&MeterInfo> {
        let extensions = self.files.iter().flat_map(|file| &file.metadata().extensions);
        extensions.into_iter().find_map(|extension| match extension {
            Extension::Meter(meter) if meter.id == id => Some(meter),
            _ => None,
        })
    }

    /// Where the manifest uses each rule, by the use's id.
    pub fn rule_places(&self) -> HashMap<String, String> {
        let rules = self.manifest.rules().map(|rule| {
            let help = String::new();
            let problem = self
                .manifest
                .problem(kmr_manifest::ErrorKind::Value, rule.span.clone(), "", help);
            let (line, column) = problem.line_and_column();
            (rule.id.value.clone(), format!("{}:{line}:{column}", problem.file()))
        });
        rules.collect()
    }

    /// Loads the plugins: their code runs from here on.
    pub fn load(&self, threads: NonZeroUsize) -> Result<Vec<Box<dyn Plugin>>, Failure> {
        let loaded = self.files.iter().map(|file| {
            log::info!(
                "loading plugin {} from {}",
                file.metadata().plugin.name,
                file.path().display()
            );
            let plugin = file.load(threads).map_err(|error| catalog::loader_failure(&error))?;
            Ok(Box::new(plugin) as Box<dyn Plugin>)
        });
        loaded.collect()
    }
}

/// The plugin of this name.
pub fn plugin<'p>(plugins: &'p [Box<dyn Plugin>], name: &str) -> Result<&'p dyn Plugin, Failure> {
    let found = plugins.iter().find(|plugin| plugin.metadata().plugin.name == name);
    found
        .map(AsRef::as_ref)
        .ok_or_else(|| Failure::new(exit::INTERNAL, format!("plugin `{name}` was not loaded")))
}
