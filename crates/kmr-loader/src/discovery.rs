//! Finds plugins in folders.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use crate::{LoadError, LoadErrorKind, PluginFile, binary};

/// What was found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// The plugins, by the order of folders and then of file names; equal files once.
    pub plugins: Vec<PluginFile>,
    /// Folders that cannot be read, and libraries that cannot be used.
    pub problems: Vec<LoadError>,
}

/// Looks for plugins in `folders`, not in folders inside of them.
///
/// Every file with the name of a shared library is looked at. One that is a good library and no plugin is
/// passed over: plugins may lie beside others.
pub fn discover<P: AsRef<Path>>(folders: impl IntoIterator<Item = P>) -> Discovery {
    let mut discovery = Discovery::default();
    let mut seen = HashSet::new();
    for folder in folders {
        let folder = folder.as_ref();
        let files = match libraries(folder) {
            Ok(files) => files,
            Err(error) => {
                let message = format!("the plugin folder cannot be read: {error}");
                discovery.problems.push(
                    LoadError::new(LoadErrorKind::Missing, folder, message)
                        .with_help("create the folder, or name another"),
                );
                continue;
            }
        };
        for path in files {
            match PluginFile::open(&path) {
                Ok(file) => {
                    if seen.insert(file.sha256().to_owned()) {
                        discovery.plugins.push(file);
                    }
                }
                Err(error) if error.message() == binary::NO_METADATA => {
                    log::debug!("{} is passed over: {}", path.display(), error.message());
                }
                Err(error) => discovery.problems.push(error),
            }
        }
    }
    discovery
}

fn libraries(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let suffix = std::env::consts::DLL_SUFFIX;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(suffix) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
