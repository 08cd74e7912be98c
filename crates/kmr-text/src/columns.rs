//! Cells of a column, and what they are taken for.

use std::path::Path;

use kmr_formats::{ErrorKind, FormatError};

/// A column of a table, with the line or row of every cell.
pub(crate) struct Column {
    pub(crate) name: String,
    unit: &'static str,
    pub(crate) cells: Vec<(usize, String)>,
}

/// What samples are judged by.
pub(crate) enum Judged {
    Classes(Vec<i64>),
    Scores(Vec<f64>),
}

impl Column {
    pub(crate) fn new(name: &str, unit: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            cells: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, line: usize, cell: String) {
        self.cells.push((line, cell));
    }

    fn error(&self, path: &Path, message: String) -> FormatError {
        FormatError::new(ErrorKind::Labels, path, message).array(&self.name)
    }

    /// The cells as texts, with their lines.
    pub(crate) fn texts(&self, path: &Path) -> Result<Vec<(usize, &str)>, FormatError> {
        let cells = self.cells.iter().map(|(line, text)| {
            if text.trim().is_empty() {
                let message = format!("{} {line} has an empty text", self.unit);
                let error = FormatError::new(ErrorKind::Empty, path, message).array(&self.name);
                return Err(error.help("leave the row out, or put a text there"));
            }
            Ok((*line, text.as_str()))
        });
        cells.collect()
    }

    /// The cells as classes if all are whole numbers, else as scores.
    pub(crate) fn judged(&self, path: &Path) -> Result<Judged, FormatError> {
        let texts = self.cells.iter().map(|(line, text)| (*line, text.trim()));
        let classes: Option<Vec<i64>> = texts.clone().map(|(_, text)| text.parse().ok()).collect();
        if let Some(classes) = classes {
            // A number below 0 is no class, and may be a score.
            if classes.iter().all(|class| *class >= 0) {
                return Ok(Judged::Classes(classes));
            }
        }
        let scores = texts.map(|(line, text)| {
            let score: Option<f64> = text.parse().ok();
            score.filter(|score| score.is_finite()).ok_or_else(|| {
                let message = format!("{} {line} has `{}`, which is no number", self.unit, text.escape_debug());
                self.error(path, message)
                    .help("give classes as whole numbers from 0, or scores as numbers")
            })
        });
        Ok(Judged::Scores(scores.collect::<Result<_, _>>()?))
    }
}
