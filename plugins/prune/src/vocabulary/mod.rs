//! The rule `prune_vocabulary`: removes the rows of embeddings, and of the scores of words, that a corpus never uses.

mod corpus;
mod removal;
mod tables;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kmr_sdk::{
    Action, Applied, Error, Host, KnobSettings, Result, Rule, Target, log,
    model::{Model, shapes},
    serde_json::Value,
};
use serde::Deserialize;

use crate::{
    knob::{MODEL, unknown_target},
    recent::Recent,
};
use removal::Words;
use tables::Vocabulary;

/// The name of the knob: the share of the corpus' words that the rows kept cover.
const KNOB: &str = "token_coverage";
const OFF: &str = "off";

/// The configuration of `prune_vocabulary`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The id that ids without a row are read as.
    unknown: Option<usize>,
    /// Ids whose rows stay whatever the corpus has.
    keep: Vec<usize>,
    /// The model's input of ids; the one that the largest table is looked up by, if none is given.
    input: Option<String>,
    /// Whether scores of words lose their rows, too.
    outputs: bool,
    /// The score of a word that has no row any more.
    missing_score: f32,
    /// How many calibration samples are read; all if none is given.
    samples: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            unknown: None,
            keep: Vec::new(),
            input: None,
            outputs: true,
            missing_score: -100.0,
            samples: None,
        }
    }
}

/// The rule `prune_vocabulary`.
pub struct PruneVocabulary {
    config: Config,
    unknown: usize,
    /// The shares that the manifest turns the knob through, the greatest first.
    shares: Vec<f64>,
    prepared: Recent<Prepared>,
}

/// What is found out about a model once.
struct Prepared {
    base: Model,
    vocabulary: Option<Vocabulary>,
    /// How often the corpus has each id.
    counts: Vec<u64>,
}

impl Rule for PruneVocabulary {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        let values: Vec<Value> = knobs.values(KNOB)?;
        if values.first().is_some_and(|off| off != OFF) {
            let message = "the first value has to be \"off\"";
            return Err(Error::invalid_configuration(message).at(format!("knob `{KNOB}`")));
        }
        let mut shares = values.iter().skip(1).map(share).collect::<Result<Vec<f64>>>()?;
        shares.sort_by(|a, b| b.total_cmp(a));
        shares.dedup();
        let unknown = config.unknown.ok_or_else(|| {
            let message = "has to be given: the id that ids without a row are read as, such as that of [UNK]";
            Error::invalid_configuration(message).at("config.unknown")
        })?;
        if config.samples == Some(0) {
            return Err(Error::invalid_configuration("has to be 1 or more; got 0").at("config.samples"));
        }
        if !config.missing_score.is_finite() {
            let message = format!("has to be a finite number; got {}", config.missing_score);
            return Err(Error::invalid_configuration(message).at("config.missing_score"));
        }
        Ok(Self {
            config,
            unknown,
            shares,
            prepared: Recent::default(),
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        if self.shares.is_empty() {
            return Ok(Vec::new());
        }
        let prepared = self.prepare(host)?;
        let Some(vocabulary) = &prepared.vocabulary else {
            return Ok(Vec::new());
        };
        let mut last = vocabulary.rows;
        let mut values = vec![Value::from(OFF)];
        for &share in &self.shares {
            let kept = self.words(&prepared, share).kept.len();
            if kept < last {
                values.push(share.into());
                last = kept;
            }
        }
        Ok((values.len() > 1)
            .then(|| Target {
                knob: KNOB.into(),
                target: MODEL.into(),
                label: vocabulary.tables[0].tensor.clone(),
                values,
                layers: vocabulary.nodes(),
            })
            .into_iter()
            .collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let mut applied = Applied {
            complete: true,
            ..Applied::default()
        };
        for assignment in action.of(KNOB).filter(|assignment| assignment.value != OFF) {
            let share = share(&assignment.value)?;
            let prepared = self.prepare(host)?;
            let (Some(vocabulary), MODEL) = (&prepared.vocabulary, assignment.target.as_str()) else {
                return Err(unknown_target(assignment));
            };
            let words = self.words(&prepared, share);
            let patch = removal::patch(&prepared.base, vocabulary, &words, self.config.missing_score)?;
            host.edit(&patch)?;
            for node in vocabulary.nodes() {
                let label = prepared
                    .base
                    .graph
                    .node(&node)
                    .map_or(node.as_str(), |node| node.label());
                applied.change(label, "words", vocabulary.rows, words.kept.len());
            }
            let total: u64 = prepared.counts.iter().sum();
            let covered: u64 = words.kept.iter().map(|&id| prepared.counts[id]).sum();
            applied.notes.push(format!(
                "{} of {} rows kept, which cover {covered} of the corpus' {total} ids; all others are read as {}",
                words.kept.len(),
                vocabulary.rows,
                self.unknown
            ));
        }
        Ok(applied)
    }
}

/// A share of the corpus.
fn share(value: &Value) -> Result<f64> {
    let share = value.as_f64().filter(|&share| share > 0.0 && share <= 1.0);
    share.ok_or_else(|| {
        let message = format!("takes \"off\" or a share above 0 and at most 1; got {value}");
        Error::invalid_request(message).at(format!("knob `{KNOB}`"))
    })
}

impl PruneVocabulary {
    /// What is known of the candidate: found out once, and remembered for as long as it stays the same.
    fn prepare(&mut self, host: &Host<'_>) -> Result<Arc<Prepared>> {
        let base = host.graph()?;
        match self.prepared.get(|known| known.base == base) {
            Some(known) => Ok(known),
            None => {
                let found = self.analyze(host, base)?;
                Ok(self.prepared.add(found))
            }
        }
    }

    fn analyze(&self, host: &Host<'_>, base: Model) -> Result<Prepared> {
        let shapes = shapes::infer(&base, &host.feeds(&base))?;
        let found = tables::find(&base, &shapes, self.config.input.as_deref(), self.config.outputs)?;
        let Some(vocabulary) = found else {
            log::warn!("no words can be removed: no input of the model is looked up in a stored table of its own");
            return Ok(Prepared {
                base,
                vocabulary: None,
                counts: Vec::new(),
            });
        };
        let ids = self.config.keep.iter().map(|id| (id, "config.keep"));
        for (id, place) in ids.chain([(&self.unknown, "config.unknown")]) {
            if *id >= vocabulary.rows {
                let (table, rows) = (&vocabulary.tables[0].tensor, vocabulary.rows);
                let message = format!("the table `{table}` has {rows} rows; there is no id {id}");
                return Err(Error::invalid_configuration(message).at(place));
            }
        }
        let counts = corpus::counts(host, &base.graph, &vocabulary, self.config.samples)?;
        Ok(Prepared {
            base,
            vocabulary: Some(vocabulary),
            counts,
        })
    }

    /// The words that stay: the most frequent ones that cover `share` of the corpus, and those that are kept anyway.
    fn words(&self, prepared: &Prepared, share: f64) -> Words {
        let mut kept = corpus::covering(&prepared.counts, share);
        kept.extend(self.config.keep.iter().chain([&self.unknown]));
        kept.sort_unstable();
        kept.dedup();
        Words {
            kept,
            unknown: self.unknown,
        }
    }
}
