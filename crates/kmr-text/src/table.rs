//! Columns of a file, whatever its format.

use std::path::Path;

use bytes::Bytes;
use kmr_formats::{ErrorKind, FormatError};
use serde_json::{Map, Value};

use crate::columns::Column;
use crate::{Format, parquet};

/// A file that is not empty.
pub(crate) struct Source<'f> {
    pub(crate) path: &'f Path,
    pub(crate) format: Format,
    pub(crate) content: Bytes,
}

impl Source<'_> {
    pub(crate) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> FormatError {
        FormatError::new(kind, self.path, message)
    }

    /// The whole file as text, without a byte order mark.
    pub(crate) fn text(&self) -> Result<&str, FormatError> {
        match std::str::from_utf8(&self.content) {
            Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
            Err(error) => {
                let place = error.valid_up_to();
                let line = 1 + self.content[..place].iter().filter(|byte| **byte == b'\n').count();
                Err(self
                    .error(ErrorKind::Malformed, format!("line {line} is not UTF-8"))
                    .offset(place as u64)
                    .help("convert the file, such as with `iconv -t UTF-8`"))
            }
        }
    }

    /// What a sample's place in the file is counted in.
    pub(crate) fn unit(&self) -> &'static str {
        match self.format {
            Format::Parquet => "row",
            _ => "line",
        }
    }

    /// The columns of these names, in their order, each with a cell for every row.
    pub(crate) fn columns(&self, names: &[&str]) -> Result<Vec<Column>, FormatError> {
        let mut columns: Vec<Column> = names.iter().map(|name| Column::new(name, self.unit())).collect();
        match self.format {
            Format::Lines => return Err(self.columnless(names)),
            Format::Jsonl => self.json(&mut columns)?,
            Format::Csv => self.separated(&mut columns, b',', true)?,
            Format::Tsv => self.separated(&mut columns, b'\t', false)?,
            Format::Parquet => parquet::read(self, &mut columns)?,
        }
        if columns.first().is_some_and(|column| column.cells.is_empty()) {
            return Err(self.error(ErrorKind::Empty, "there is no row"));
        }
        Ok(columns)
    }

    /// The lines that are not blank, with their numbers from 1.
    pub(crate) fn lines(&self) -> Result<Vec<(usize, &str)>, FormatError> {
        let lines = self.text()?.lines().enumerate();
        let lines: Vec<(usize, &str)> = lines
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(at, line)| (at + 1, line))
            .collect();
        match lines.is_empty() {
            true => Err(self.error(ErrorKind::Empty, "every line is blank")),
            false => Ok(lines),
        }
    }

    /// A table of which no column of texts is named.
    pub(crate) fn unnamed(&self) -> FormatError {
        let message = "the column of texts is not named";
        self.error(ErrorKind::Shape, message).help("write `text`, its name")
    }

    fn columnless(&self, names: &[&str]) -> FormatError {
        let message = format!("a file of lines has no column `{}`", names.first().unwrap_or(&""));
        self.error(ErrorKind::Unsupported, message)
            .help("name a JSONL, CSV, TSV or Parquet file by its ending, or write `format`")
    }

    fn missing(&self, name: &str, known: impl Iterator<Item = String>, line: usize) -> FormatError {
        let known: Vec<String> = known.map(|name| format!("`{}`", name.escape_debug())).collect();
        self.error(
            ErrorKind::Shape,
            format!("line {line} has no column `{}`", name.escape_debug()),
        )
        .help(format!("the columns are {}", known.join(", ")))
    }

    fn json(&self, columns: &mut [Column]) -> Result<(), FormatError> {
        for (line, text) in self.lines()? {
            let row: Map<String, Value> = serde_json::from_str(text).map_err(|cause| {
                let message = format!("line {line} is no JSON object: {cause}");
                self.error(ErrorKind::Malformed, message)
            })?;
            for column in columns.iter_mut() {
                let Some(value) = row.get(&column.name) else {
                    return Err(self.missing(&column.name, row.keys().cloned(), line));
                };
                let cell = match value {
                    Value::String(text) => text.clone(),
                    Value::Number(number) => number.to_string(),
                    Value::Bool(value) => u8::from(*value).to_string(),
                    _ => {
                        let message = format!("line {line} has neither a text nor a number here");
                        return Err(self.error(ErrorKind::Shape, message).array(&column.name));
                    }
                };
                column.push(line, cell);
            }
        }
        Ok(())
    }

    fn separated(&self, columns: &mut [Column], separator: u8, quoted: bool) -> Result<(), FormatError> {
        let text = self.text()?;
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(separator)
            .quoting(quoted)
            .from_reader(text.as_bytes());
        let malformed = |cause: csv::Error| self.error(ErrorKind::Malformed, separated_message(&cause));
        let names = reader.headers().map_err(malformed)?.clone();
        let mut places = Vec::with_capacity(columns.len());
        for column in columns.iter() {
            let place = names.iter().position(|name| name == column.name);
            places.push(place.ok_or_else(|| self.missing(&column.name, names.iter().map(String::from), 1))?);
        }
        for row in reader.records() {
            let row = row.map_err(malformed)?;
            let line = row.position().map_or(0, |position| position.line() as usize);
            for (column, place) in columns.iter_mut().zip(&places) {
                column.push(line, row.get(*place).unwrap_or_default().to_owned());
            }
        }
        Ok(())
    }
}

fn separated_message(cause: &csv::Error) -> String {
    match cause.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, |position| position.line());
            format!("line {line} has {len} values; there are {expected_len} names")
        }
        _ => cause.to_string(),
    }
}
