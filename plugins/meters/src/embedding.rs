//! `embedding_similarity` and `embedding_cosine`: embeddings of texts, compared with each other or with the original
//! model's.

use kmr_sdk::{Batch, Error, ErrorCode, Host, MeasureRequest, Meter, Reading, Result, model::Tensor};
use serde::Deserialize;

use crate::{
    correlation::{pearson, spearman},
    measure::{about, judged, judged_pair, next_pair, reading, run, stop_if_cancelled},
    output::floats,
    signal::cosine,
};

/// Where embeddings are, and what is made of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddingConfig {
    /// The embeddings, or states of tokens that they are the mean of; the model's first output if none is given.
    pub output: Option<String>,
    /// Samples per batch; the host chooses if none is given.
    pub batch: Option<usize>,
    /// The input that is 0 where a token only fills up: means of states leave these out.
    pub mask: String,
    /// What of the states of tokens is the embedding.
    pub pooling: Pooling,
}

impl Default for EmbeddingConfig {
    fn default() -> Self {
        Self {
            output: None,
            batch: None,
            mask: "attention_mask".into(),
            pooling: Pooling::Mean,
        }
    }
}

/// What of the states of tokens is the embedding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the first token.
    First,
    /// That of the last token that does not fill up.
    Last,
}

/// How similarities are compared with people's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Correlation {
    /// As numbers.
    #[default]
    Pearson,
    /// As ranks.
    Spearman,
}

/// The settings of `embedding_similarity`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimilarityConfig {
    /// As in [`EmbeddingConfig`].
    pub output: Option<String>,
    /// As in [`EmbeddingConfig`].
    pub pooling: Pooling,
    /// How similarities are compared with people's.
    pub correlation: Correlation,
}

/// The output that holds embeddings: the one that `wanted` names, or the model's first unless that is called `logits`, as
/// scores of classes are.
///
/// # Errors
/// If there is no output, or only scores of classes.
pub fn judged_embeddings<'b>(batch: &'b Batch, wanted: Option<&str>) -> Result<(&'b str, &'b Tensor)> {
    let (name, tensor) = judged(batch)?;
    if wanted.is_none() && name == "logits" {
        let message = format!(
            "{WANTED}; the model gives scores of classes, {:?}: name the value that holds embeddings with `output`, or use \
             a meter of classes",
            tensor.shape()
        );
        return Err(about(Error::new(ErrorCode::SHAPE, message), name));
    }
    Ok((name, tensor))
}

/// What meters of embeddings read.
const WANTED: &str = "this meter needs embeddings, samples × numbers, or states of tokens, samples × tokens × numbers";

/// The embeddings of each sample: one, or several where a sample has several texts.
///
/// Where the input `mask` has an element for each vector along the last axis of the output, these vectors are states of
/// tokens, and the axis before the last is that of tokens.
///
/// # Errors
/// An output of another shape.
pub fn embeddings(batch: &Batch, tensor: &Tensor, config: &EmbeddingConfig) -> Result<Vec<Vec<Vec<f32>>>> {
    let values = floats(tensor)?;
    let shape = tensor.shape();
    let unsuitable = |what: &str| Error::new(ErrorCode::SHAPE, format!("{WANTED}; the model gives {shape:?}{what}"));
    let (&[_, .., length], false) = (shape, tensor.is_empty()) else {
        return Err(unsuitable(""));
    };
    if shape[0] != batch.size {
        let message = format!(", whose first dimension is not that of the {} samples", batch.size);
        return Err(unsuitable(&message));
    }
    if length < 2 {
        return Err(unsuitable(", and one number has no direction"));
    }
    let vectors: Vec<&[f32]> = values.chunks_exact(length).collect();
    let mask = batch.inputs.iter().find(|(name, _)| *name == config.mask);
    let mask = mask
        .map(|(_, tensor)| tensor)
        .filter(|mask| mask.len() == vectors.len());
    // Without a mask a third axis is that of the texts of a sample; a fourth has no meaning here.
    if shape.len() > 3 && mask.is_none() {
        let message = format!(", and no input `{}` says which of these are tokens", config.mask);
        return Err(unsuitable(&message));
    }
    let vectors: Vec<Vec<f32>> = match mask.filter(|_| shape.len() >= 3) {
        Some(mask) => {
            let tokens = shape[shape.len() - 2];
            let mask: Vec<bool> = match mask.to_i64() {
                Ok(mask) => mask.iter().map(|inside| *inside != 0).collect(),
                Err(_) => floats(mask)?.iter().map(|inside| *inside != 0.0).collect(),
            };
            let texts = vectors.chunks_exact(tokens).zip(mask.chunks_exact(tokens));
            texts
                .map(|(states, mask)| pooled(states, mask, config.pooling))
                .collect()
        }
        None => vectors.into_iter().map(<[f32]>::to_vec).collect(),
    };
    let texts = vectors.len() / batch.size;
    Ok(vectors.chunks_exact(texts).map(<[Vec<f32>]>::to_vec).collect())
}

fn pooled(states: &[&[f32]], mask: &[bool], pooling: Pooling) -> Vec<f32> {
    let inside = || {
        states
            .iter()
            .zip(mask)
            .filter(|(_, inside)| **inside)
            .map(|(state, _)| *state)
    };
    let width = states.first().map_or(0, |state| state.len());
    match pooling {
        Pooling::First => inside().next().map_or_else(|| vec![0.0; width], <[f32]>::to_vec),
        Pooling::Last => inside().next_back().map_or_else(|| vec![0.0; width], <[f32]>::to_vec),
        Pooling::Mean => {
            let count = inside().count().max(1) as f64;
            let mean = |at: usize| inside().map(|state| f64::from(state[at])).sum::<f64>() / count;
            (0..width).map(|at| mean(at) as f32).collect()
        }
    }
}

/// The meter of the correlation of cosines within pairs with people's scores.
pub struct Similarity {
    embedding: EmbeddingConfig,
    correlation: Correlation,
}

impl Meter for Similarity {
    type Config = SimilarityConfig;

    fn new(config: SimilarityConfig) -> Result<Self> {
        Ok(Self {
            embedding: EmbeddingConfig {
                output: config.output,
                pooling: config.pooling,
                ..Default::default()
            },
            correlation: config.correlation,
        })
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        let config = &self.embedding;
        let (mut cosines, mut people) = (Vec::new(), Vec::new());
        for batch in run(host, request, "candidate", config.output.as_deref(), config.batch)? {
            let batch = batch?;
            stop_if_cancelled(host)?;
            let (name, tensor) = judged_embeddings(&batch, config.output.as_deref())?;
            for texts in embeddings(&batch, tensor, config).map_err(|error| about(error, name))? {
                let [first, second] = texts.as_slice() else {
                    return Err(about(Error::new(ErrorCode::SHAPE, not_two(texts.len(), config)), name));
                };
                let value = cosine(first, second);
                if !value.is_finite() {
                    let message = format!("an embedding of sample {} is not finite", cosines.len());
                    return Err(about(Error::new(ErrorCode::OTHER, message), name));
                }
                cosines.push(value);
            }
            people.extend(batch.scores()?);
        }
        if cosines.len() != people.len() {
            let message = format!("there are {} scores for {} samples", people.len(), cosines.len());
            return Err(Error::new(ErrorCode::SHAPE, message));
        }
        let correlated = match self.correlation {
            Correlation::Pearson => pearson(&cosines, &people),
            Correlation::Spearman => spearman(&cosines, &people),
        };
        let Some((value, scores)) = correlated else {
            let message = "there is no correlation with what does not vary: all scores or all similarities are equal";
            return Err(Error::invalid_request(message));
        };
        Ok(Reading {
            value,
            scores,
            ..Default::default()
        })
    }
}

/// What is said where a sample has not two embeddings.
fn not_two(count: usize, config: &EmbeddingConfig) -> String {
    match count {
        1 => "this meter compares two texts, and each sample has one: name the column of the second with `against`, \
              beside `text`"
            .to_owned(),
        _ => format!(
            "this meter compares two embeddings, and each sample has {count}: give pairs of texts (`against`), and for \
             states of tokens the input `{}`",
            config.mask
        ),
    }
}

/// The meter of the mean cosine of embeddings with the original model's.
pub struct EmbeddingCosine(EmbeddingConfig);

impl Meter for EmbeddingCosine {
    type Config = EmbeddingConfig;

    fn new(config: EmbeddingConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        let config = &self.0;
        let start = |model| run(host, request, model, config.output.as_deref(), config.batch);
        let (mut candidates, mut references) = (start("candidate")?, start("reference")?);
        let mut scores = Vec::new();
        while let Some((candidate, reference)) = next_pair(&mut candidates, &mut references)? {
            stop_if_cancelled(host)?;
            judged_embeddings(&candidate, config.output.as_deref())?;
            let (name, tensor, original) = judged_pair(&candidate, &reference)?;
            let of = |batch, tensor| embeddings(batch, tensor, config).map_err(|error| about(error, name));
            let pairs = of(&candidate, tensor)?.into_iter().zip(of(&reference, original)?);
            for (texts, originals) in pairs {
                let cosines = texts
                    .iter()
                    .zip(&originals)
                    .map(|(text, original)| cosine(original, text));
                let score = cosines.sum::<f64>() / texts.len() as f64;
                if !score.is_finite() {
                    let message = format!("an embedding of sample {} is not finite", scores.len());
                    return Err(about(Error::new(ErrorCode::OTHER, message), name));
                }
                scores.push(score);
            }
        }
        reading(scores)
    }
}
