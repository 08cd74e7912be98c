//! How a split's texts become samples.

use std::path::Path;

use crate::reader::Section;
use crate::suggest::quoted;
use crate::{DataFormat, ErrorKind, TextData, TextSamples};

/// Endings of files of texts.
const ENDINGS: [&str; 6] = ["txt", "jsonl", "ndjson", "csv", "tsv", "parquet"];
/// Endings of files of arrays.
const OF_ARRAYS: [&str; 4] = ["npz", "npy", "idx", "gz"];
/// Keys of samples that are texts.
const OF_TEXTS: [&str; 5] = ["pair", "against", "label", "max_length", "length"];

/// What is said of texts; none where the file holds arrays.
pub(super) fn read(section: &Section<'_, '_>, path: &Path, format: Option<DataFormat>) -> Option<TextData> {
    let refuse = |name: &str, message: String, help: &str| {
        let span = section.value(name).map_or(section.span(), |value| value.span());
        section.context().report(ErrorKind::Value, span, message, help);
    };
    let said = || OF_TEXTS.iter().chain(&["text", "window", "stride"]).copied();
    let written = said().find(|name| section.has(name));
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .map(str::to_ascii_lowercase);
    let named = |endings: &[&str]| ending.as_deref().is_some_and(|ending| endings.contains(&ending));
    let is_text = match format {
        Some(format) => format.is_text(),
        None => named(&ENDINGS) || (written.is_some() && !named(&OF_ARRAYS)),
    };
    if !is_text {
        if let Some(name) = written {
            let (what, help) = match (format, ending) {
                (None, Some(ending)) => (
                    format!("a file of the ending `.{ending}` holds arrays"),
                    "leave it out, or name a file of texts",
                ),
                _ => (
                    "the format is one of arrays".to_owned(),
                    "leave it out, or write another `format`",
                ),
            };
            refuse(name, format!("{} is for texts; {what}", quoted(name)), help);
        }
        return None;
    }
    if section.has("labels") {
        let message = "a file of texts has no file of labels beside it".to_owned();
        refuse("labels", message, "name the column of labels with `label`");
    }
    let text = |name| section.text(name).map(|text| text.value);
    let samples = match section.whole("window") {
        Some(window) => {
            if let Some(name) = OF_TEXTS.iter().find(|name| section.has(name)) {
                let message = format!(
                    "{} is for samples that are texts; `window` cuts running text",
                    quoted(name)
                );
                refuse(name, message, "keep one of them");
            }
            let stride = section.whole("stride").unwrap_or(window);
            if stride > window {
                let message = format!("`stride` is at most the window, {window}; got {stride}");
                refuse("stride", message, "a greater stride would leave tokens out");
            }
            TextSamples::Windows { window, stride }
        }
        None => {
            if section.has("stride") && !section.has("window") {
                refuse(
                    "stride",
                    "`stride` is for windows".to_owned(),
                    "write `window`, too, such as `window = 512`",
                );
            }
            TextSamples::Texts {
                pair: text("pair"),
                against: text("against"),
                label: text("label"),
                max_length: section.whole("max_length"),
                length: section.whole("length"),
            }
        }
    };
    Some(TextData {
        text: text("text"),
        samples,
    })
}
