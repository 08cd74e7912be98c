//! The crate's behavior as its callers see it.

mod errors;
mod parquet;
mod samples;
mod tokens;

use std::path::{Path, PathBuf};

use kmr_formats::{Dataset, FormatError};
use kmr_text::{Content, Limits, TextSource, Texts, Tokenizer};

/// A checked-in file.
fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn words() -> Tokenizer {
    Tokenizer::read(&fixture("words.json")).unwrap()
}

/// A folder with one file of this content.
struct File {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn file(name: &str, content: impl AsRef<[u8]>) -> File {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    File { path, _folder: folder }
}

impl File {
    fn texts(&self, texts: Texts) -> Result<Dataset, FormatError> {
        self.read(Content::Texts(texts))
    }

    fn read(&self, content: Content) -> Result<Dataset, FormatError> {
        TextSource::new(&self.path, content).read(&words(), Limits::default())
    }
}

/// The texts of a column.
fn column(text: &str) -> Texts {
    Texts {
        text: Some(text.into()),
        ..Texts::default()
    }
}

fn integers(dataset: &Dataset, name: &str) -> Vec<i64> {
    dataset.inputs()[name].to_i64().unwrap()
}

fn shown(error: &FormatError, path: &Path) -> String {
    let folder = path.parent().unwrap().display().to_string();
    format!("{error}; {}", error.way_out()).replace(&format!("{folder}/"), "")
}
