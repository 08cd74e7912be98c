//! What ends a command early: an exit code, the thing, the place and the way out.

use std::path::Path;

use kmr_model::{ErrorKind, ModelError};
use serde_json::{Value, json};

use crate::exit;

/// A command's failure.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    message: String,
    place: Option<String>,
    help: Option<String>,
    /// Several problems, rendered already with their places.
    rendered: Option<String>,
}

impl Failure {
    /// A failure that ends the process with `code`.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            place: None,
            help: None,
            rendered: None,
        }
    }

    /// Adds where it happened.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Adds the way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// A model file that cannot be used.
    pub fn model(path: &Path, error: &ModelError) -> Self {
        let failure = Self::new(exit::INPUT, error.to_string()).at(path.display().to_string());
        match (error.help(), error.kind()) {
            (Some(help), _) => failure.help(help),
            (None, ErrorKind::Malformed) => failure.help("export the model again; `onnx.checker` can tell more"),
            (None, _) => failure,
        }
    }

    /// Says which model of `[models]` it is about.
    #[must_use]
    pub fn of_model(mut self, name: &str) -> Self {
        self.message = format!("model `{name}`: {}", self.message);
        self
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        self.code
    }

    /// The failure as people read it, ending with a newline.
    pub fn render(&self, color: bool) -> String {
        if let Some(rendered) = &self.rendered {
            return format!("{}\n", rendered.trim_end());
        }
        let (red, blue, reset) = if color {
            ("\x1b[1;31m", "\x1b[1;34m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut text = format!("{red}error{reset}: {}\n", self.message);
        if let Some(place) = &self.place {
            text += &format!("  {blue}-->{reset} {place}\n");
        }
        if let Some(help) = &self.help {
            text += &format!("  {blue}help{reset}: {help}\n");
        }
        text
    }

    /// The failure as programs read it.
    pub fn to_json(&self) -> Value {
        json!({
            "schema": 1,
            "error": {
                "code": self.code,
                "kind": exit::name(self.code),
                "message": self.message,
                "place": self.place,
                "help": self.help,
            }
        })
    }
}

impl From<kmr_manifest::Error> for Failure {
    fn from(error: kmr_manifest::Error) -> Self {
        let first = error.first();
        let (line, column) = first.line_and_column();
        let code = match error.kind() {
            kmr_manifest::ErrorKind::Extension | kmr_manifest::ErrorKind::PluginPath => exit::PLUGIN_MISSING,
            _ => exit::MANIFEST,
        };
        Self {
            code,
            message: first.message().to_owned(),
            place: Some(format!("{}:{line}:{column}", first.file())),
            help: Some(first.help().to_owned()).filter(|help| !help.is_empty()),
            rendered: Some(error.render(crate::terminal::color())),
        }
    }
}

impl From<kmr_run::RunError> for Failure {
    fn from(error: kmr_run::RunError) -> Self {
        Self::new(exit::USAGE, error.to_string()).help(error.help())
    }
}
