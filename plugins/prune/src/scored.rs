//! The weights of a model with their scores, found out once.

use std::sync::Arc;

use kmr_sdk::{Error, Host, Ignore, Result, log, model::Model};

use crate::{
    importance::{
        ElementScores,
        weights::{Importance, scores},
    },
    made_up,
    recent::Recent,
    weights::{Weight, weights},
};

/// The weights of a model with the scores of their elements.
pub struct Scored {
    /// The model.
    pub base: Model,
    /// Its weights, those to be ignored left out.
    pub weights: Vec<Weight>,
    /// The scores of each.
    pub scores: ElementScores,
}

/// Scores weights, and remembers what it found for as long as the model stays the same.
pub struct Remembered {
    importance: Importance,
    samples: usize,
    ignore: Ignore,
    known: Recent<Scored>,
}

impl Remembered {
    /// Nothing is known yet.
    ///
    /// # Errors
    /// If `samples` is zero.
    pub fn new(importance: Importance, samples: usize, ignore: Ignore) -> Result<Self> {
        if samples == 0 {
            return Err(Error::invalid_configuration("has to be 1 or more; got 0").at("config.samples"));
        }
        Ok(Self {
            importance,
            samples,
            ignore,
            known: Recent::default(),
        })
    }

    /// The scored weights of the candidate.
    ///
    /// # Errors
    /// If the candidate cannot be read or observed, or holds weights that are not finite.
    pub fn of(&mut self, host: &Host<'_>) -> Result<Arc<Scored>> {
        let base = host.graph()?;
        match self.known.get(|known| known.base == base) {
            Some(known) => Ok(known),
            None => {
                let scored = self.score(host, base)?;
                Ok(self.known.add(scored))
            }
        }
    }

    fn score(&self, host: &Host<'_>, base: Model) -> Result<Scored> {
        let all = weights(&base.graph);
        self.ignore.check(all.iter().flat_map(names))?;
        let weights: Vec<Weight> = all
            .into_iter()
            .filter(|weight| !self.ignore.covers(names(weight)))
            .collect();
        if weights.is_empty() {
            log::warn!(
                "no weights can be pruned: no convolution, matrix product or recurrent layer has a stored weight of \
                 floating-point numbers of its own that is not ignored"
            );
        }
        if self.importance == Importance::SparseGpt && !weights.is_empty() {
            made_up::check(host, &base.graph, &weights)?;
        }
        let scores = scores(host, &base.graph, &weights, self.importance, self.samples)?;
        Ok(Scored { base, weights, scores })
    }
}

/// Everything that `ignore` may call a weight by.
fn names(weight: &Weight) -> impl Iterator<Item = &str> + Clone {
    let readers = weight
        .readers
        .iter()
        .flat_map(|reader| [reader.node.as_str(), reader.label.as_str()]);
    let layer = weight.tensor.strip_suffix(".weight").unwrap_or(&weight.tensor);
    readers.chain([weight.tensor.as_str(), layer])
}
