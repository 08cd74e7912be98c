//! Reading a manifest from disk, and whether what it names is there.

use std::path::Path;

use crate::{Error, ErrorKind, Manifest, Problem, Source};

impl Manifest {
    /// Reads and parses the manifest at `path`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is not UTF-8, and everything that [`Manifest::parse`] finds.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|cause| {
            Error::from(Problem::new(
                &Source::new(path, ""),
                ErrorKind::Unreadable,
                0..0,
                format!("the manifest cannot be read: {cause}"),
                "give the path of a TOML file",
            ))
        })?;
        let text = String::from_utf8(bytes).map_err(|cause| {
            let valid = cause.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(cause.as_bytes());
            Error::from(Problem::new(
                &Source::new(path, text),
                ErrorKind::Syntax,
                valid..valid,
                "the manifest is not UTF-8 text",
                "save the file as UTF-8",
            ))
        })?;
        Self::parse(&text, path)
    }

    /// Checks that the models, the data of every split and the plugin paths exist.
    ///
    /// # Errors
    ///
    /// One problem for every path that does not exist: [`ErrorKind::File`] or
    /// [`ErrorKind::PluginPath`].
    pub fn check_files(&self) -> Result<(), Error> {
        let from = match self.directory.as_os_str().is_empty() {
            true => String::from("the working directory"),
            false => format!("`{}`", self.directory.display()),
        };
        let relative = format!("relative paths start from the manifest's folder, {from}");
        let mut named = vec![("model file", ErrorKind::File, &self.model.path)];
        named.extend(self.models.values().map(|path| ("model file", ErrorKind::File, path)));
        for (split, source) in self.data.splits() {
            let what = match split {
                "calibration" => "calibration data",
                "training" => "training data",
                "search" => "search data",
                _ => "holdout data",
            };
            named.push((what, ErrorKind::File, &source.path));
            if let Some(labels) = &source.labels {
                named.push(("labels file", ErrorKind::File, labels));
            }
        }
        if let Some(tokenizer) = &self.data.tokenizer {
            named.push(("tokenizer", ErrorKind::File, tokenizer));
        }
        for path in &self.plugins {
            named.push(("plugin path", ErrorKind::PluginPath, path));
        }
        let problems = named
            .into_iter()
            .filter(|(_, _, path)| !path.exists())
            .map(|(what, kind, path)| {
                let message = format!("{what} `{}` does not exist", path.display());
                self.problem(kind, path.span.clone(), message, relative.as_str())
            })
            .collect();
        Error::from_problems(problems).map_or(Ok(()), Err)
    }
}
