//! Looks for plugins in files and folders.

use std::{
    collections::HashSet,
    io,
    path::{Path, PathBuf},
};

use crate::{
    error::{LoaderError, Result},
    file::{PluginFile, unreadable},
};

/// Opens the plugins among files and folders, in the order given; a folder's files in the order of their names.
///
/// A file must be a plugin. In a folder only files that are named as shared libraries are looked at (not those in
/// folders inside it); shared libraries that are no plugins are passed over with a debug log line. A file that is
/// reached twice counts once. What cannot be used comes back as errors beside the plugins that can.
pub fn discover(paths: &[PathBuf]) -> (Vec<PluginFile>, Vec<LoaderError>) {
    let mut search = Search::default();
    for path in paths {
        match std::fs::metadata(path) {
            Err(error) => search.errors.push(unreadable(path, &error)),
            Ok(metadata) if metadata.is_dir() => search.folder(path),
            Ok(_) => search.file(path, |path| PluginFile::open(path).map(Some)),
        }
    }
    (search.plugins, search.errors)
}

#[derive(Default)]
struct Search {
    seen: HashSet<PathBuf>,
    plugins: Vec<PluginFile>,
    errors: Vec<LoaderError>,
}

impl Search {
    fn folder(&mut self, folder: &Path) {
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = match entries {
            Ok(entries) => entries,
            Err(error) => return self.errors.push(unreadable(folder, &error)),
        };
        let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
        files.retain(|path| kmr_platform::is_library_file_name(path) && path.is_file());
        files.sort();
        for path in files {
            self.file(&path, PluginFile::find);
        }
    }

    fn file(&mut self, path: &Path, open: impl FnOnce(&Path) -> Result<Option<PluginFile>>) {
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if !self.seen.insert(identity) {
            return;
        }
        match open(path) {
            Ok(Some(plugin)) => self.plugins.push(plugin),
            Ok(None) => log::debug!("{} is a shared library but no plugin", path.display()),
            Err(error) => self.errors.push(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        error::ErrorKind,
        tiny_library::{NATIVE_MACHINE, tiny_library},
    };

    fn plugin_bytes(name: &str) -> Vec<u8> {
        let metadata = serde_json::json!({
            "abi": kmr_abi::VERSION,
            "plugin": {"name": name, "version": "0.1.0", "license": "MIT", "description": ""},
            "extensions": [],
        });
        tiny_library(NATIVE_MACHINE, ".kmr", metadata.to_string().as_bytes())
    }

    fn names(plugins: &[PluginFile]) -> Vec<&str> {
        plugins
            .iter()
            .map(|plugin| plugin.metadata().plugin.name.as_str())
            .collect()
    }

    #[test]
    fn a_folder_gives_its_plugins_by_name_and_reports_damage() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::write(place("libsecond.so"), plugin_bytes("second")).unwrap();
        fs::write(place("libfirst.so"), plugin_bytes("first")).unwrap();
        fs::write(place("libother.so"), tiny_library(NATIVE_MACHINE, ".text", b"")).unwrap();
        fs::write(place("libtext.so"), "no library").unwrap();
        fs::write(place("notes.txt"), "no library either").unwrap();
        fs::create_dir(place("libfolder.so")).unwrap();
        let (plugins, errors) = discover(&[folder.path().to_owned()]);
        assert_eq!(names(&plugins), ["first", "second"]);
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].kind(), ErrorKind::Damaged);
        assert_eq!(errors[0].place(), place("libtext.so"));
    }

    #[test]
    fn a_file_must_be_a_plugin_and_counts_once() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("anything");
        fs::write(&plugin, plugin_bytes("plugin")).unwrap();
        let other = folder.path().join("libother.so");
        fs::write(&other, tiny_library(NATIVE_MACHINE, ".text", b"")).unwrap();
        let missing = folder.path().join("missing");
        let (plugins, errors) = discover(&[other, missing, plugin.clone(), plugin]);
        assert_eq!(names(&plugins), ["plugin"]);
        let kinds: Vec<ErrorKind> = errors.iter().map(LoaderError::kind).collect();
        assert_eq!(kinds, [ErrorKind::Damaged, ErrorKind::Missing]);
    }
}
