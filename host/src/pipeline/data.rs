//! The splits of the data: read, fitted to the model, and proved to be apart.

mod texts;

pub use texts::check_lengths;

use std::{collections::BTreeMap, sync::Arc};

use kmr_formats::{Dataset, DatasetSource, ExpectedInput, Format, FormatError, Sample, Scale, overlap};
use kmr_manifest::{DataFormat, DataSample, DataSource, Manifest};
use kmr_model::{Dimension, Model};
use kmr_run::{DataDigest, sha256};

use crate::{exit, failure::Failure};

/// The data of a run.
pub struct Splits {
    /// What rules may read.
    pub calibration: Option<Arc<Dataset>>,
    /// What rules may train on, where that is not the calibration data.
    pub training: Option<Arc<Dataset>>,
    /// What the search judges its candidates by.
    pub search: Arc<Dataset>,
    /// What the final floor is judged by, and nothing else.
    pub holdout: Option<Arc<Dataset>>,
}

impl Splits {
    /// The split of this name in the manifest.
    pub fn named(&self, name: &str) -> Option<&Arc<Dataset>> {
        match name {
            "calibration" => self.calibration.as_ref(),
            "training" => self.training.as_ref(),
            "holdout" => self.holdout.as_ref(),
            _ => Some(&self.search),
        }
    }

    /// Every split that there is.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Dataset>> {
        let optional = [&self.calibration, &self.training, &self.holdout];
        std::iter::once(&self.search).chain(optional.into_iter().flatten())
    }

    /// Number and digest of every split's samples.
    pub fn digests(&self) -> BTreeMap<String, DataDigest> {
        let splits = [
            ("calibration", self.calibration.as_ref()),
            ("training", self.training.as_ref()),
            ("search", Some(&self.search)),
            ("holdout", self.holdout.as_ref()),
        ];
        let digest = |data: &Dataset| DataDigest {
            samples: data.len(),
            sha256: sha256(&data.digests().flatten().collect::<Vec<u8>>()),
        };
        let there = splits
            .into_iter()
            .filter_map(|(name, data)| Some((name.to_owned(), digest(data?))));
        there.collect()
    }

    /// Reads every split that the manifest gives.
    pub fn read(manifest: &Manifest, model: &Model) -> Result<Self, Failure> {
        let usual = match manifest.data.sample {
            Some(DataSample::Row) => Sample::Row,
            Some(DataSample::Call) => Sample::Call,
            None => sample_kind(model),
        };
        let mut tokenizer = texts::ModelTokenizer::new(manifest, model);
        let mut splits: Vec<(&str, Arc<Dataset>)> = Vec::new();
        for (name, source) in manifest.data.splits() {
            let (mut dataset, sample) = match &source.texts {
                Some(of) => (tokenizer.read(source, of)?, texts::sample(of).unwrap_or(usual)),
                None => (read(manifest, source).map_err(|error| format_failure(&error))?, usual),
            };
            let expected = expected_inputs(model, sample)?;
            dataset
                .conform(&expected, sample)
                .map_err(|error| format_failure(&error))?;
            splits.push((name, Arc::new(dataset)));
        }
        for (position, (name, dataset)) in splits.iter().enumerate() {
            for (earlier, other) in &splits[..position] {
                // Both are what rules learn from.
                if (*earlier, *name) == ("calibration", "training") {
                    continue;
                }
                if let Some((there, here)) = overlap(other, dataset) {
                    return Err(overlap_failure(
                        manifest,
                        (earlier, other, there),
                        (name, dataset, here),
                    ));
                }
            }
        }
        let mut take = |wanted: &str| {
            let position = splits.iter().position(|(name, _)| *name == wanted)?;
            Some(splits.swap_remove(position).1)
        };
        Ok(Self {
            calibration: take("calibration"),
            training: take("training"),
            search: take("search").ok_or_else(|| Failure::new(exit::INTERNAL, "the search split is lost"))?,
            holdout: take("holdout"),
        })
    }
}

fn read(manifest: &Manifest, source: &DataSource) -> Result<Dataset, FormatError> {
    let data = &manifest.data;
    DatasetSource {
        path: source.path.value.clone(),
        labels_path: source.labels.as_ref().map(|path| path.value.clone()),
        format: source.format.map(|format| match format {
            DataFormat::Npz => Format::Npz,
            DataFormat::Idx => Format::Idx,
            _ => Format::Npy,
        }),
        labels_name: data.labels.value.clone(),
        shuffle: source.shuffle,
        skip: source.skip,
        take: source.take,
        scale: data.scale.as_ref().map(|scale| Scale {
            numerator: scale.value.numerator,
            denominator: scale.value.denominator,
        }),
    }
    .read()
}

/// What a sample is where nobody says it: a row, if every input's first dimension is open; else a call.
pub fn sample_kind(model: &Model) -> Sample {
    let open = |shape: Vec<Dimension>| !matches!(shape.first(), None | Some(Dimension::Fixed(_)));
    let rows = model.graph.feeds().all(|input| input.shape().is_none_or(open));
    if rows { Sample::Row } else { Sample::Call }
}

/// What one sample of the model's inputs is.
pub fn expected_inputs(model: &Model, sample: Sample) -> Result<Vec<ExpectedInput>, Failure> {
    let feeds = model.graph.feeds();
    feeds
        .map(|input| {
            let (Some(dtype), Some(shape)) = (input.dtype(), input.shape()) else {
                let message = format!("input `{}` declares no tensor type and shape", input.name());
                return Err(Failure::new(exit::INPUT, message).help("export the model with typed inputs"));
            };
            let sample = match (sample, shape.split_first()) {
                (Sample::Call, _) => &shape[..],
                (Sample::Row, Some((Dimension::Fixed(rows), _))) => {
                    let message = format!("input `{}` takes batches of exactly {rows}", input.name());
                    return Err(no_rows(message));
                }
                (Sample::Row, Some((_, row))) => row,
                (Sample::Row, None) => {
                    return Err(no_rows(format!(
                        "input `{}` is a single number; rows need an axis",
                        input.name()
                    )));
                }
            };
            Ok(ExpectedInput {
                name: input.name().to_owned(),
                dtype,
                sample_shape: sample
                    .iter()
                    .map(|dimension| match dimension {
                        Dimension::Fixed(size) => Some(*size),
                        _ => None,
                    })
                    .collect(),
            })
        })
        .collect()
}

/// A model whose samples cannot be rows.
fn no_rows(message: String) -> Failure {
    Failure::new(exit::INPUT, message).help("let each sample be a whole call: write `sample = \"call\"` in [data]")
}

/// A data file that cannot be used.
pub fn format_failure(error: &FormatError) -> Failure {
    let failure = Failure::new(exit::INPUT, error.to_string()).at(error.file().display().to_string());
    match error.way_out() {
        "" => failure,
        help => failure.help(help),
    }
}

fn overlap_failure(
    manifest: &Manifest,
    (first, first_data, there): (&str, &Dataset, usize),
    (second, second_data, here): (&str, &Dataset, usize),
) -> Failure {
    let place = |dataset: &Dataset, position| dataset.place_in_file(position).unwrap_or(position);
    let message = format!(
        "the splits `{first}` and `{second}` overlap: sample {} of {} is sample {} of {}",
        place(first_data, there),
        first_data.path().display(),
        place(second_data, here),
        second_data.path().display(),
    );
    let span = manifest
        .data
        .splits()
        .find(|(name, _)| *name == second)
        .map(|(_, source)| source.span.clone());
    kmr_manifest::Error::from(manifest.problem(
        kmr_manifest::ErrorKind::Value,
        span.unwrap_or(0..0),
        message,
        "give each split samples of its own; `skip` and `take` cut a file into ranges",
    ))
    .into()
}
