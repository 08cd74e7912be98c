//! Splits of texts: the tokenizer, and what the model's graph says of tokens.

use std::path::{Path, PathBuf};

use kmr_compute::{Feeds, Mode, Program};
use kmr_formats::{Dataset, Sample};
use kmr_manifest::{DataFormat, DataSource, Manifest, TextData, TextSamples};
use kmr_model::{Dimension, Graph, Model};
use kmr_text::{Content, Format, Limits, TextSource, Texts, Tokenizer};

use super::{Splits, format_failure};
use crate::{exit, failure::Failure};

/// The input of tokens.
const TOKENS: &str = "input_ids";
/// The input that is 0 where a token only fills up.
const MASK: &str = "attention_mask";

/// What one sample is, where the texts say it: two that are compared are two rows of one call.
pub fn sample(texts: &TextData) -> Option<Sample> {
    match &texts.samples {
        TextSamples::Texts { against: Some(_), .. } => Some(Sample::Call),
        _ => None,
    }
}

/// Refuses texts of a length that the model does not run on, which its graph alone may know.
///
/// # Errors
/// The first file whose longest sample makes the model fail.
pub fn check_lengths(manifest: &Manifest, splits: &Splits, model: &dyn Program) -> Result<(), Failure> {
    let mut known = Vec::new();
    for (name, source) in manifest.data.splits().filter(|(_, source)| source.texts.is_some()) {
        let Some(data) = splits.named(name) else { continue };
        let longest = longest(data);
        let Some(call) = data.calls(longest..longest + 1).into_iter().next() else {
            continue;
        };
        let shapes: Vec<Vec<usize>> = call.iter().map(|(_, input)| input.shape().to_vec()).collect();
        if known.contains(&shapes) {
            continue;
        }
        let feeds: Feeds = call.into_iter().collect();
        if let Err(error) = model.forward(&feeds, &[], Mode::default()) {
            let tokens = feeds
                .get(TOKENS)
                .and_then(|ids| ids.shape().last().copied())
                .unwrap_or(0);
            let message =
                format!("the model does not run on texts of {tokens} tokens, the longest of this file: {error}");
            return Err(Failure::new(exit::INPUT, message)
                .at(source.path.value.display().to_string())
                .help("if it has positions for fewer tokens, cut longer texts: write `max_length`"));
        }
        known.push(shapes);
    }
    Ok(())
}

/// The sample with the most tokens that do not fill up.
fn longest(data: &Dataset) -> usize {
    let mask = data.inputs().get(MASK).and_then(|mask| mask.to_i64().ok());
    let mask = mask.unwrap_or_default();
    let tokens = |sample: &[i64]| sample.iter().filter(|inside| **inside != 0).count();
    let each = mask.chunks(mask.len().div_ceil(data.len()).max(1)).map(tokens);
    each.enumerate()
        .max_by_key(|(_, tokens)| *tokens)
        .map_or(0, |(at, _)| at)
}

/// The tokenizer, read when the first split of texts asks for it.
pub struct ModelTokenizer<'m> {
    manifest: &'m Manifest,
    limits: Limits,
    /// Tokens that the model takes, where it takes exactly so many.
    length: Option<usize>,
    read: Option<Tokenizer>,
    /// Files of which several splits take parts, as they were read: tokens are made once.
    whole: Vec<(TextSource, Dataset)>,
}

impl<'m> ModelTokenizer<'m> {
    /// That of a manifest's data, or of its model.
    pub fn new(manifest: &'m Manifest, model: &Model) -> Self {
        let length = fixed_length(&model.graph);
        let vocabulary = kmr_sdk::tokens::vocabulary(&model.graph, TOKENS);
        Self {
            manifest,
            limits: Limits {
                vocabulary,
                positions: length.or_else(|| positions(&manifest.model.path.value, vocabulary)),
            },
            length,
            read: None,
            whole: Vec::new(),
        }
    }

    /// A split as tokens.
    pub fn read(&mut self, source: &DataSource, texts: &TextData) -> Result<Dataset, Failure> {
        let whole = TextSource {
            format: source.format.and_then(format),
            ..TextSource::new(&source.path.value, self.content(texts))
        };
        let known = self.whole.iter().find(|(known, _)| *known == whole);
        let dataset = match known {
            Some((_, dataset)) => dataset.clone(),
            None => {
                let limits = self.limits;
                let read = whole.read_all(self.tokenizer(source)?, limits);
                let dataset = read.map_err(|error| format_failure(&error))?;
                self.whole.push((whole, dataset.clone()));
                dataset
            }
        };
        dataset
            .select(source.shuffle, source.skip, source.take)
            .map_err(|error| format_failure(&error))
    }

    fn content(&self, texts: &TextData) -> Content {
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        match &texts.samples {
            TextSamples::Windows { window, stride } => Content::Windows {
                text: texts.text.clone(),
                window: size(*window),
                stride: size(*stride),
            },
            TextSamples::Texts {
                pair,
                against,
                label,
                max_length,
                length,
            } => Content::Texts(Texts {
                text: texts.text.clone(),
                pair: pair.clone(),
                against: against.clone(),
                label: label.clone(),
                max_length: max_length.map(size),
                length: length.map(size).or(self.length),
            }),
        }
    }

    fn tokenizer(&mut self, source: &DataSource) -> Result<&Tokenizer, Failure> {
        if self.read.is_none() {
            let path = match &self.manifest.data.tokenizer {
                Some(path) => path.value.clone(),
                None => of_model(&self.manifest.model.path.value).ok_or_else(|| self.missing(source))?,
            };
            self.read = Some(Tokenizer::read(&path).map_err(|error| format_failure(&error))?);
        }
        self.read.as_ref().ok_or_else(|| self.missing(source))
    }

    fn missing(&self, source: &DataSource) -> Failure {
        let problem = self.manifest.problem(
            kmr_manifest::ErrorKind::Value,
            source.span.clone(),
            "these are texts, and there is no tokenizer",
            "write `tokenizer = \"tokenizer.json\"` in [data]",
        );
        kmr_manifest::Error::from(problem).into()
    }
}

/// The tokenizer that comes with a model: in its folder, beside its file, or in a GGUF file.
fn of_model(model: &Path) -> Option<PathBuf> {
    if model.extension().is_some_and(|ending| ending == "gguf") {
        return Some(model.to_path_buf());
    }
    let folder = if model.is_dir() { model } else { model.parent()? };
    Some(folder.join("tokenizer.json")).filter(|path| path.is_file())
}

fn format(format: DataFormat) -> Option<Format> {
    Some(match format {
        DataFormat::Lines => Format::Lines,
        DataFormat::Jsonl => Format::Jsonl,
        DataFormat::Csv => Format::Csv,
        DataFormat::Tsv => Format::Tsv,
        DataFormat::Parquet => Format::Parquet,
        _ => return None,
    })
}

/// The positions that a model's folder has tokens for: the folder that it is, or that its file lies in, if the
/// configuration there is one of as many tokens.
fn positions(model: &Path, vocabulary: Option<usize>) -> Option<usize> {
    let folder = if model.is_dir() { model } else { model.parent()? };
    let config = kmr_huggingface::read_config(folder).ok()?;
    let own = model.is_dir() || vocabulary == Some(config.vocabulary());
    config.positions().filter(|_| own)
}

fn fixed_length(graph: &Graph) -> Option<usize> {
    let tokens = graph.feeds().find(|input| input.name() == TOKENS)?;
    match tokens.shape()?.get(1)? {
        Dimension::Fixed(length) => Some(*length),
        _ => None,
    }
}
