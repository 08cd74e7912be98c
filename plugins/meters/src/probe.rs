//! `probe`: what a linear classifier makes of embeddings.

use std::collections::BTreeSet;

use kmr_sdk::{Error, ErrorCode, Host, MeasureRequest, Meter, Reading, Result, Split};
use serde::Deserialize;

use crate::{
    embedding::{EmbeddingConfig, Pooling, embeddings, judged_embeddings},
    logistic::Classifier,
    measure::{about, labels, reading, run, stop_if_cancelled},
};

/// Where embeddings are, and how the classifier is fitted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProbeConfig {
    /// The embeddings, or states of tokens that they are the mean of; the model's first output if none is given.
    pub output: Option<String>,
    /// Samples per batch; the host chooses if none is given.
    pub batch: Option<usize>,
    /// What of the states of tokens is the embedding.
    pub pooling: Pooling,
    /// How much errors count against large weights.
    pub strength: f64,
    /// How many training samples, from the beginning; all if none is given.
    pub samples: Option<usize>,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            output: None,
            batch: None,
            pooling: Pooling::Mean,
            strength: 1.0,
            samples: None,
        }
    }
}

/// The meter of the share of samples that a classifier gets right, which was fitted to embeddings of the training data.
pub struct Probe {
    config: ProbeConfig,
    embedding: EmbeddingConfig,
}

impl Meter for Probe {
    type Config = ProbeConfig;

    fn new(config: ProbeConfig) -> Result<Self> {
        if !(config.strength > 0.0 && config.strength.is_finite()) {
            let message = format!("it is greater than 0; got {}", config.strength);
            return Err(Error::invalid_configuration(message).at("config.strength"));
        }
        let embedding = EmbeddingConfig {
            output: config.output.clone(),
            batch: config.batch,
            pooling: config.pooling,
            ..Default::default()
        };
        Ok(Self { config, embedding })
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        let (known, answers) = self.embedded(host, Split::Training, self.config.samples)?;
        // Labels that do not occur are no classes: a large one takes no more room than a small one.
        let classes: Vec<usize> = answers.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        if classes.len() < 2 {
            let message = "the training data have one class alone; a classifier needs two";
            return Err(Error::invalid_request(message));
        }
        let places = answers
            .iter()
            .map(|answer| classes.partition_point(|class| class < answer));
        let places: Vec<usize> = places.collect();
        let classifier = Classifier::fit(&known, &places, classes.len(), self.config.strength);
        let classifier = classifier.ok_or_else(|| {
            Error::new(
                ErrorCode::OTHER,
                "embeddings of the training data are not finite, or too large to fit",
            )
        })?;
        let (asked, right) = self.embedded(host, request.split, request.limit)?;
        let scores = asked
            .iter()
            .zip(&right)
            .map(|(text, right)| f64::from(classes[classifier.class(text)] == *right));
        reading(scores.collect())
    }
}

impl Probe {
    /// The candidate's embeddings of a split, with labels.
    fn embedded(&self, host: &Host<'_>, split: Split, limit: Option<usize>) -> Result<(Vec<Vec<f32>>, Vec<usize>)> {
        let (mut texts, mut classes) = (Vec::new(), Vec::new());
        let request = MeasureRequest { split, limit };
        let batches = run(
            host,
            &request,
            "candidate",
            self.config.output.as_deref(),
            self.config.batch,
        )?;
        for batch in batches {
            let batch = batch?;
            stop_if_cancelled(host)?;
            let (name, tensor) = judged_embeddings(&batch, self.config.output.as_deref())?;
            for sample in embeddings(&batch, tensor, &self.embedding).map_err(|error| about(error, name))? {
                if sample.iter().flatten().any(|value| !value.is_finite()) {
                    let message = format!("an embedding of sample {} is not finite", texts.len());
                    return Err(about(Error::new(ErrorCode::OTHER, message), name));
                }
                texts.push(sample.concat());
            }
            for label in labels(&batch)?.iter() {
                let sample = classes.len();
                let message = || format!("sample {sample} has label {label}; classes count from 0");
                classes.push(usize::try_from(*label).map_err(|_| Error::invalid_request(message()))?);
            }
        }
        Ok((texts, classes))
    }
}
