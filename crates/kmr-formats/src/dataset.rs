//! Samples in memory.

mod conform;
mod labels;

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use kmr_model::{DType, Tensor};
use sha2::{Digest, Sha256};

use crate::{ErrorKind, FormatError, NamedArrays, SampleDigest};

pub use conform::ExpectedInput;

/// How a stored uint8 value becomes a float32 input: `x * numerator / denominator`, each step
/// rounded to float32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    /// Finite and not zero.
    pub numerator: f64,
    /// Finite and not zero.
    pub denominator: f64,
}

/// What one sample of a data set is to the model that it is fed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sample {
    /// A position on the first axis of every input: many samples make one call.
    #[default]
    Row,
    /// A whole call: each array has one axis more than its input, so that inputs without an axis of
    /// samples (a sampling rate, a recurrent state) can be fed, too.
    Call,
}

/// The inputs of one call of a model, by name.
pub type Inputs = Vec<(String, Tensor)>;

/// Samples by input name, with labels perhaps. Never empty; the first axis of every array counts
/// the samples.
#[derive(Clone, Debug)]
pub struct Dataset {
    path: PathBuf,
    inputs: NamedArrays,
    labels: Option<Vec<i64>>,
    targets: Option<Tensor>,
    /// What stands for each sample where its arrays do not: those of texts are padded.
    identities: Option<Vec<SampleDigest>>,
    /// The place of every sample in the file.
    places: Vec<usize>,
    scale: Option<Scale>,
    /// Whether the only input has no name of its own.
    unnamed: bool,
    sample: Sample,
}

impl Dataset {
    /// A data set made of arrays in memory. `name` stands for the file in errors.
    ///
    /// # Errors
    ///
    /// Arrays that do not fit each other, labels that are no labels, and no sample at all.
    pub fn new(
        name: impl Into<PathBuf>,
        inputs: NamedArrays,
        labels: Option<Tensor>,
        scale: Option<Scale>,
    ) -> Result<Self, FormatError> {
        let path = name.into();
        let labels = labels.map(|labels| (path.as_path(), "labels", labels));
        Self::from_arrays(&path, inputs, labels, scale, false)
    }

    pub(crate) fn from_arrays(
        path: &Path,
        inputs: NamedArrays,
        labels: Option<(&Path, &str, Tensor)>,
        scale: Option<Scale>,
        unnamed: bool,
    ) -> Result<Self, FormatError> {
        let mut count = None;
        for (name, array) in &inputs {
            let error = |kind, message: String| FormatError::new(kind, path, message).array(name);
            let Some(samples) = array.shape().first().copied() else {
                let message = "a single number is no list of samples".to_string();
                return Err(error(ErrorKind::Shape, message));
            };
            if array.is_empty() {
                let message = format!("the array is empty: its shape is {:?}", array.shape());
                return Err(error(ErrorKind::Empty, message));
            }
            let (first, expected) = *count.get_or_insert((name, samples));
            if samples != expected {
                let message = format!("{samples} samples; array `{first}` has {expected}");
                return Err(error(ErrorKind::Shape, message));
            }
        }
        let Some((_, count)) = count else {
            return Err(FormatError::new(ErrorKind::Empty, path, "there is no array of inputs")
                .help("name arrays like the model's inputs"));
        };
        let labels = match labels {
            Some((file, name, labels)) => Some(labels::read(file, name, &labels, count)?),
            None => None,
        };
        Ok(Self {
            path: path.to_path_buf(),
            inputs,
            labels,
            targets: None,
            identities: None,
            places: (0..count).collect(),
            scale,
            unnamed,
            sample: Sample::Row,
        })
    }

    /// The same samples with targets instead of labels: float64 scores, or for each position of an output an int64
    /// class, below 0 where it is not judged.
    ///
    /// # Errors
    ///
    /// Targets of another element type, and ones whose first axis is not that of the samples.
    pub fn with_targets(self, targets: Tensor) -> Result<Self, FormatError> {
        let error = |kind, message: String| Err(FormatError::new(kind, &self.path, message));
        if targets.shape().first() != Some(&self.len()) {
            let message = format!("targets of shape {:?} for {} samples", targets.shape(), self.len());
            return error(ErrorKind::Labels, message);
        }
        if ![DType::DOUBLE, DType::INT64].contains(&targets.dtype()) {
            let message = format!("targets are float64 or int64; these are {}", targets.dtype());
            return error(ErrorKind::Labels, message);
        }
        Ok(Self {
            labels: None,
            targets: Some(targets),
            ..self
        })
    }

    /// The same samples with digests that stand for them, one for each, instead of those of their arrays: what is padded
    /// differently is the same text.
    ///
    /// # Errors
    ///
    /// Another number of digests.
    pub fn with_identities(self, identities: Vec<SampleDigest>) -> Result<Self, FormatError> {
        if identities.len() != self.len() {
            let message = format!("{} digests for {} samples", identities.len(), self.len());
            return Err(FormatError::new(ErrorKind::Shape, &self.path, message));
        }
        Ok(Self {
            identities: Some(identities),
            ..self
        })
    }

    /// Number of samples; never 0.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Always false: a data set without samples is an error when it is made.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The file or folder that the samples came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The inputs' arrays as they are stored, in the order of the file.
    pub fn inputs(&self) -> &NamedArrays {
        &self.inputs
    }

    /// The label of every sample, none below 0.
    pub fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }

    /// What samples are judged by where that is no class for each: see [`Dataset::with_targets`].
    pub fn targets(&self) -> Option<&Tensor> {
        self.targets.as_ref()
    }

    /// The place in its file of the sample at `position`, counted from 0.
    pub fn place_in_file(&self, position: usize) -> Option<usize> {
        self.places.get(position).copied()
    }

    /// The element type that an input has in batches.
    pub fn batch_dtype(&self, stored: DType) -> DType {
        match (stored, self.scale) {
            (DType::UINT8, Some(_)) => DType::FLOAT,
            (stored, _) => stored,
        }
    }

    /// What one sample is to the model that this data set was [fitted](Dataset::conform) to.
    pub fn sample(&self) -> Sample {
        self.sample
    }

    /// The calls of a model that compute the samples in `range`: one for all rows, or one for each
    /// sample that is a call of its own.
    pub fn calls(&self, range: Range<usize>) -> Vec<Inputs> {
        let batch = self.batch(range.clone());
        match self.sample {
            Sample::Row => vec![batch],
            Sample::Call => {
                let samples = batch.first().map_or(0, |(_, array)| array.shape()[0]);
                let call = |sample: usize| {
                    let inputs = batch.iter();
                    inputs.map(move |(name, array)| (name.clone(), element(array, sample)))
                };
                (0..samples).map(|sample| call(sample).collect()).collect()
            }
        }
    }

    /// The inputs of the samples in `range`, which is cut to the samples there are.
    ///
    /// Arrays share the data set's memory, except uint8 ones under a scale, which become float32.
    pub fn batch(&self, range: Range<usize>) -> Inputs {
        let end = range.end.min(self.len());
        let range = range.start.min(end)..end;
        let inputs = self.inputs.iter();
        inputs
            .map(|(name, array)| {
                let rows = rows(array, range.clone());
                let rows = match (array.dtype(), self.scale) {
                    (DType::UINT8, Some(scale)) => scaled(&rows, scale),
                    _ => rows,
                };
                (name.clone(), rows)
            })
            .collect()
    }

    /// The labels of the samples in `range`, which is cut to the samples there are.
    pub fn batch_labels(&self, range: Range<usize>) -> Option<&[i64]> {
        let labels = self.labels.as_deref()?;
        let end = range.end.min(labels.len());
        Some(&labels[range.start.min(end)..end])
    }

    /// What the samples in `range` are judged by, which is cut to the samples there are: labels as int64, or targets.
    pub fn batch_targets(&self, range: Range<usize>) -> Option<Tensor> {
        if let Some(labels) = self.batch_labels(range.clone()) {
            return Some(Tensor::from_vec(vec![labels.len()], labels.to_vec()));
        }
        let end = range.end.min(self.len());
        Some(rows(self.targets.as_ref()?, range.start.min(end)..end))
    }

    /// The digest of every sample; see [`SampleDigest`].
    pub fn digests(&self) -> impl Iterator<Item = SampleDigest> + '_ {
        let mut inputs: Vec<(&String, &Tensor)> = self.inputs.iter().collect();
        inputs.sort_by_key(|(name, _)| *name);
        (0..self.len()).map(move |sample| {
            if let Some(identities) = &self.identities {
                return identities[sample];
            }
            let mut digest = Sha256::new();
            for (_, array) in &inputs {
                let size = row_size(array);
                digest.update(&array.bytes()[sample * size..(sample + 1) * size]);
            }
            digest.finalize().into()
        })
    }

    /// Checks that every label names one of `classes` classes.
    ///
    /// # Errors
    ///
    /// The first label that does not.
    pub fn check_labels(&self, classes: usize) -> Result<(), FormatError> {
        let labels = self.labels.iter().flatten().zip(&self.places);
        let outside = |label: i64| usize::try_from(label).map_or(true, |label| label >= classes);
        match labels.into_iter().find(|(label, _)| outside(**label)) {
            None => Ok(()),
            Some((label, place)) => Err(FormatError::new(
                ErrorKind::Labels,
                &self.path,
                format!("sample {place} has the label {label}; the model has {classes} classes"),
            )
            .help("labels count from 0")),
        }
    }

    /// The samples that are left after shuffling by a seed, leaving out `skip` and taking at most `take`.
    ///
    /// # Errors
    ///
    /// A choice that leaves no sample.
    pub fn select(self, shuffle: Option<u64>, skip: u64, take: Option<u64>) -> Result<Self, FormatError> {
        let count = self.len();
        let start = usize::try_from(skip).unwrap_or(usize::MAX).min(count);
        let taken = take.map_or(usize::MAX, |take| usize::try_from(take).unwrap_or(usize::MAX));
        let end = start.saturating_add(taken).min(count);
        if start == end {
            let take = take.map_or("all".to_string(), |take| take.to_string());
            let message = format!("no sample is left: skip {skip} and take {take} of {count}");
            return Err(FormatError::new(ErrorKind::Empty, &self.path, message)
                .help(format!("skip fewer than {count} samples")));
        }
        Ok(match shuffle {
            Some(seed) => self.gather(&crate::permutation(count, seed)[start..end]),
            None => self.slice(start..end),
        })
    }

    /// A run of samples that shares this data set's memory. The range lies within the samples
    /// and is not empty.
    pub fn slice(self, range: Range<usize>) -> Self {
        let inputs = self.inputs.iter();
        Self {
            inputs: inputs
                .map(|(name, array)| (name.clone(), rows(array, range.clone())))
                .collect(),
            labels: self.labels.as_ref().map(|labels| labels[range.clone()].to_vec()),
            targets: self.targets.as_ref().map(|targets| rows(targets, range.clone())),
            identities: self.identities.as_ref().map(|known| known[range.clone()].to_vec()),
            places: self.places[range].to_vec(),
            ..self
        }
    }

    /// The samples at these positions, copied.
    pub fn gather(&self, positions: &[usize]) -> Self {
        let inputs = self.inputs.iter();
        Self {
            inputs: inputs
                .map(|(name, array)| (name.clone(), gathered(array, positions)))
                .collect(),
            labels: self
                .labels
                .as_ref()
                .map(|labels| positions.iter().map(|p| labels[*p]).collect()),
            targets: self.targets.as_ref().map(|targets| gathered(targets, positions)),
            identities: self
                .identities
                .as_ref()
                .map(|known| positions.iter().map(|p| known[*p]).collect()),
            places: positions.iter().map(|p| self.places[*p]).collect(),
            path: self.path.clone(),
            scale: self.scale,
            unnamed: self.unnamed,
            sample: self.sample,
        }
    }
}

/// Bytes of one sample.
fn row_size(array: &Tensor) -> usize {
    array.byte_len() / array.shape()[0]
}

fn rows(array: &Tensor, range: Range<usize>) -> Tensor {
    let size = row_size(array);
    let bytes = array.bytes().slice(range.start * size..range.end * size);
    with_rows(array, range.len(), bytes)
}

/// One sample, without the axis of samples.
fn element(array: &Tensor, sample: usize) -> Tensor {
    let row = rows(array, sample..sample + 1);
    row.reshaped(array.shape()[1..].to_vec())
        .expect("an axis of size 1 holds nothing")
}

fn gathered(array: &Tensor, positions: &[usize]) -> Tensor {
    let size = row_size(array);
    let mut bytes = Vec::with_capacity(positions.len() * size);
    for position in positions {
        bytes.extend_from_slice(&array.bytes()[position * size..(position + 1) * size]);
    }
    with_rows(array, positions.len(), Bytes::from(bytes))
}

fn with_rows(array: &Tensor, count: usize, bytes: Bytes) -> Tensor {
    let mut shape = array.shape().to_vec();
    shape[0] = count;
    Tensor::new(array.dtype(), shape, bytes).expect("whole rows fill their shape")
}

/// uint8 values as float32 under a scale.
fn scaled(array: &Tensor, scale: Scale) -> Tensor {
    let (numerator, denominator) = (scale.numerator as f32, scale.denominator as f32);
    let table: [f32; 256] = std::array::from_fn(|x| x as f32 * numerator / denominator);
    let values: Vec<f32> = array.bytes().iter().map(|byte| table[usize::from(*byte)]).collect();
    Tensor::from_vec(array.shape().to_vec(), values)
}
