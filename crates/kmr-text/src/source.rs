//! Where texts are stored, and what of them is a sample.

use std::path::{Path, PathBuf};

use kmr_formats::{Dataset, ErrorKind, FormatError};

use crate::{Tokenizer, rows, table, windows};

/// How texts are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A text to a line.
    Lines,
    /// A JSON object to a line.
    Jsonl,
    /// Values apart by commas, quoted by `"`, under a line of names (RFC 4180).
    Csv,
    /// Values apart by tabs, never quoted, under a line of names.
    Tsv,
    /// Apache Parquet: columns of texts, numbers and truths, packed by nothing, Snappy, gzip, Brotli or Zstandard.
    Parquet,
}

impl Format {
    /// The format that a file's name tells.
    pub fn of(path: &Path) -> Option<Self> {
        Some(match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "txt" => Self::Lines,
            "jsonl" | "ndjson" => Self::Jsonl,
            "csv" => Self::Csv,
            "tsv" => Self::Tsv,
            "parquet" => Self::Parquet,
            _ => return None,
        })
    }
}

/// Which columns make samples, and how long these are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// The column of texts; files of lines have none.
    pub text: Option<String>,
    /// The column of texts that the tokenizer joins to them.
    pub pair: Option<String>,
    /// The column of texts that they are compared with, each embedded on its own.
    pub against: Option<String>,
    /// The column of classes (whole numbers) or scores (any numbers).
    pub label: Option<String>,
    /// Tokens that longer texts are cut to.
    pub max_length: Option<usize>,
    /// Tokens that all texts are padded to; the longest of the file when absent.
    pub length: Option<usize>,
}

/// What of a file is a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A text, or two.
    Texts(Texts),
    /// A run of tokens of the whole text.
    Windows {
        /// The column of texts, which follow each other with an empty line between them; files of lines have none.
        text: Option<String>,
        /// Tokens of a window, at least 2.
        window: usize,
        /// Tokens from the start of one window to that of the next, 1 to `window`.
        stride: usize,
    },
}

/// What the model takes, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The number of tokens that it has embeddings for.
    pub vocabulary: Option<usize>,
    /// The most tokens of a text.
    pub positions: Option<usize>,
}

/// Where texts are stored, and what of them is a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextSource {
    /// The file.
    pub path: PathBuf,
    /// The format; found out from the file's name when absent.
    pub format: Option<Format>,
    /// What is a sample.
    pub content: Content,
    /// The seed to shuffle samples by, before `skip` and `take` count.
    pub shuffle: Option<u64>,
    /// Samples left out at the start.
    pub skip: u64,
    /// The greatest number of samples.
    pub take: Option<u64>,
}

impl TextSource {
    /// All samples of a file, in its order.
    pub fn new(path: impl Into<PathBuf>, content: Content) -> Self {
        Self {
            path: path.into(),
            format: None,
            content,
            shuffle: None,
            skip: 0,
            take: None,
        }
    }

    /// Reads the file and makes tokens of the chosen samples.
    ///
    /// # Errors
    ///
    /// As [`read_all`](Self::read_all), and a choice that leaves no sample.
    pub fn read(&self, tokenizer: &Tokenizer, limits: Limits) -> Result<Dataset, FormatError> {
        self.read_all(tokenizer, limits)?
            .select(self.shuffle, self.skip, self.take)
    }

    /// Reads the file and makes tokens of all of it.
    ///
    /// # Errors
    ///
    /// A tokenizer that has tokens which the model has not; a file that cannot be read, is not UTF-8, or is not of its
    /// format; a column that is not there; an empty text in a table; a text that is longer than the model's positions or
    /// the stated length. Each names the file and the line.
    pub fn read_all(&self, tokenizer: &Tokenizer, limits: Limits) -> Result<Dataset, FormatError> {
        if let Some(known) = limits.vocabulary.filter(|known| tokenizer.vocabulary() > *known) {
            let message = format!(
                "the tokenizer has {} tokens; the model has {known}",
                tokenizer.vocabulary()
            );
            return Err(FormatError::new(ErrorKind::Shape, tokenizer.path(), message)
                .help("give the tokenizer that the model was trained with"));
        }
        let format = self.format.or(Format::of(&self.path)).unwrap_or(Format::Lines);
        let content = kmr_platform::map_file(&self.path);
        let content = content.map_err(|cause| FormatError::io(&self.path, "open the file", &cause))?;
        if content.is_empty() {
            return Err(FormatError::new(ErrorKind::Empty, &self.path, "the file is empty"));
        }
        let table = table::Source {
            path: &self.path,
            format,
            content,
        };
        match &self.content {
            Content::Texts(texts) => rows::read(&table, texts, tokenizer, limits),
            Content::Windows { text, window, stride } => {
                let shape = windows::Shape {
                    window: *window,
                    stride: *stride,
                };
                windows::read(&table, text.as_deref(), shape, tokenizer, limits)
            }
        }
    }
}
