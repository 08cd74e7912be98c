//! From TOML text to a [`Manifest`]: everything that the text alone can tell.

mod config;
mod sections;
mod stages;
mod texts;

use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;

use crate::reader::{Context, Section};
use crate::{Error, ErrorKind, Manifest, Output, OutputFormat, OutputNames, Problem, SCHEMA, Source};

impl Manifest {
    /// Reads a manifest from its text. `path` names it in problems, and its folder is where
    /// relative paths start; the file system is not touched.
    ///
    /// # Errors
    ///
    /// Every mistake that the text alone shows, in the order of the text.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let source = Source::new(path, text);
        let root = DeTable::parse(text).map_err(|error| syntax_problem(&source, &error))?;
        let context = Context::new(Arc::clone(&source));
        check_schema(&context, root.get_ref())?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let shown = String::from("the manifest");
        let section = Section::open(&context, "", shown, root.get_ref(), 0..0);
        let manifest = Self {
            source,
            directory: directory.to_path_buf(),
            model: sections::model(&section, directory),
            models: sections::models(&section, directory),
            data: sections::data(&section, directory),
            budget: sections::budget(&section),
            quality: sections::quality(&section),
            policy: sections::policy(&section),
            stages: stages::stages(&section),
            plugins: sections::plugins(&section, directory),
            meters: sections::meters(&section),
            target: sections::target(&section),
            output: output(&section),
        };
        match Error::from_problems(context.into_problems()) {
            Some(error) => Err(error),
            None => Ok(manifest),
        }
    }
}

fn syntax_problem(source: &Arc<Source>, error: &toml::de::Error) -> Error {
    let mut message = error.message().lines().collect::<Vec<_>>().join("; ");
    let span = error.span().unwrap_or(0..0);
    if message == "duplicate key" {
        message = format!("{message} {}", crate::suggest::quoted(source.excerpt(&span)));
    }
    let help = match message.contains("duplicate key") {
        true => "every key and every [table] is written once; lists of tables have two brackets",
        false => "texts need quotes, and every key a line of its own",
    };
    Error::from(Problem::new(source, ErrorKind::Syntax, span, message, help))
}

/// A manifest of another schema would be full of seeming mistakes, so its version comes first.
fn check_schema(context: &Context, root: &DeTable<'_>) -> Result<(), Error> {
    let Some(value) = root.get("schema") else {
        return Ok(());
    };
    let version = crate::reader::integer(value.get_ref());
    if version.is_some_and(|version| u64::try_from(version) == Ok(SCHEMA)) {
        return Ok(());
    }
    let message = format!(
        "`schema` is {SCHEMA} in this version of kmr; got {}",
        context.shown(&value.span())
    );
    Err(Error::from(Problem::new(
        &context.source,
        ErrorKind::Value,
        value.span(),
        message,
        format!("write `schema = {SCHEMA}`, or use a version of kmr that reads the other"),
    )))
}

fn output(root: &Section<'_, '_>) -> Output {
    let (mut names, mut external_data) = (OutputNames::Keep, false);
    if let Some(section) = root.table("output") {
        // ONNX is the only choice that the table of keys declares.
        section.choice("format");
        if section.choice("names").is_some_and(|choice| choice.value == "short") {
            names = OutputNames::Short;
        }
        external_data = section.boolean("external_data").unwrap_or(false);
    }
    Output {
        format: OutputFormat::Onnx,
        names,
        external_data,
    }
}
