//! Positions that are judged: those whose target is a class. Targets come with the data, one class for each position of a
//! sample and below 0 where none is judged; data without any are token numbers, and the target is the next token.

use kmr_sdk::{Batch, Error, ErrorCode, Host, MeasureRequest, Reading, Result, model::Tensor, tokens::vocabulary};
use serde::Deserialize;

use crate::{
    measure::{about, judged, judged_pair, next_pair, run, stop_if_cancelled},
    output::Vectors,
    ratio::{Share, linearized},
};

/// For meters that judge tokens: `perplexity`, `next_token_loss`, `next_token_kl` and `next_token_flips`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenConfig {
    /// The logits, of shape samples × positions × classes; the model's first output if none is given.
    pub output: Option<String>,
    /// Samples per batch; one if none is given, since logits of whole vocabularies are large.
    pub batch: Option<usize>,
    /// The input that holds the tokens, where the data have no targets.
    pub tokens: String,
    /// The input that is 0 where a token only fills up.
    pub mask: String,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            output: None,
            batch: Some(1),
            tokens: "input_ids".into(),
            mask: "attention_mask".into(),
        }
    }
}

/// What is judged at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// A class; a sample may be a single position.
    Class,
    /// The token that comes next.
    NextToken,
}

/// Adds up, for each sample, `score(logits, target)` over its judged positions, and counts these.
///
/// # Errors
/// If there are no targets, one is no class of the output, the output is unsuitable or a score is not finite.
pub fn labeled(
    host: &Host<'_>,
    config: &TokenConfig,
    request: &MeasureRequest,
    what: Judged,
    score: impl Fn(&[f32], usize) -> f64,
) -> Result<Vec<Share>> {
    let known = known_tokens(host, config, what);
    let mut shares = Vec::new();
    let mut gathered = Vec::new();
    for batch in run(host, request, "candidate", config.output.as_deref(), config.batch)? {
        let batch = batch?;
        stop_if_cancelled(host)?;
        let (name, tensor) = judged(&batch)?;
        let vectors = logits(tensor, batch.size, what, known).map_err(|error| about(error, name))?;
        let targets = Targets::of(&batch, config, what, &vectors)?;
        for row in 0..batch.size {
            let mut share = Share::default();
            for (position, target) in targets.of_sample(row) {
                let logits = vectors.vector(row, position, &mut gathered);
                let value = score(logits, target);
                add(&mut share, value, name, shares.len(), position)?;
            }
            shares.push(share);
        }
    }
    Ok(shares)
}

/// The same with `score(the original model's logits, logits)`.
///
/// # Errors
/// As [`labeled`], and if the outputs do not fit each other.
pub fn paired(
    host: &Host<'_>,
    config: &TokenConfig,
    request: &MeasureRequest,
    score: impl Fn(&[f32], &[f32]) -> f64,
) -> Result<Vec<Share>> {
    let known = known_tokens(host, config, Judged::NextToken);
    let mut shares = Vec::new();
    let (mut gathered, mut gathered_reference) = (Vec::new(), Vec::new());
    let start = |model| run(host, request, model, config.output.as_deref(), config.batch);
    let (mut candidates, mut references) = (start("candidate")?, start("reference")?);
    while let Some((candidate, reference)) = next_pair(&mut candidates, &mut references)? {
        stop_if_cancelled(host)?;
        let (name, output, original) = judged_pair(&candidate, &reference)?;
        let view =
            |tensor| logits(tensor, candidate.size, Judged::NextToken, known).map_err(|error| about(error, name));
        let (output, original) = (view(output)?, view(original)?);
        let targets = Targets::of(&candidate, config, Judged::NextToken, &output)?;
        for row in 0..candidate.size {
            let mut share = Share::default();
            for (position, _) in targets.of_sample(row) {
                let logits = output.vector(row, position, &mut gathered);
                let reference = original.vector(row, position, &mut gathered_reference);
                let value = score(reference, logits);
                add(&mut share, value, name, shares.len(), position)?;
            }
            shares.push(share);
        }
    }
    Ok(shares)
}

/// The reading whose value is the mean over positions.
///
/// # Errors
/// If no position is judged.
pub fn mean(shares: &[Share]) -> Result<Reading> {
    let Some((value, scores)) = linearized(shares) else {
        return Err(Error::invalid_request("there are no tokens to measure on"));
    };
    Ok(Reading {
        value,
        scores,
        details: [("tokens".to_owned(), tokens(shares).into())].into_iter().collect(),
    })
}

/// How many positions are judged.
pub fn tokens(shares: &[Share]) -> u64 {
    shares.iter().map(|share| share.below as u64).sum()
}

fn add(share: &mut Share, value: f64, output: &str, sample: usize, position: usize) -> Result<()> {
    if !value.is_finite() {
        let message = format!("the score is {value} at sample {sample}, position {position}");
        return Err(about(Error::new(ErrorCode::OTHER, message), output));
    }
    share.above += value;
    share.below += 1.0;
    Ok(())
}

/// How many tokens the original model knows, as far as its graph tells.
fn known_tokens(host: &Host<'_>, config: &TokenConfig, what: Judged) -> Option<usize> {
    match what {
        Judged::Class => None,
        Judged::NextToken => vocabulary(&host.graph_of("reference").ok()?.graph, &config.tokens),
    }
}

/// Logits at each position: the classes lie along the last axis.
fn logits(tensor: &Tensor, samples: usize, what: Judged, known: Option<usize>) -> Result<Vectors<'_>> {
    if what == Judged::NextToken {
        let shape = tensor.shape();
        let wanted = "this meter needs the scores of every next token, samples × positions × vocabulary";
        if shape.len() < 3 {
            let message =
                format!("{wanted}; the model gives the shape {shape:?}, which has no positions, as classifiers do");
            return Err(Error::new(ErrorCode::SHAPE, message));
        }
        if let (Some(&length), Some(known)) = (shape.last(), known)
            && length < known
        {
            let message = format!(
                "{wanted}; the model knows {known} tokens and gives {length} numbers at each position, as states of \
                 tokens are: name the logits with `output`, or use `embedding_cosine`"
            );
            return Err(Error::new(ErrorCode::SHAPE, message));
        }
    }
    Vectors::classes(tensor, samples, -1, 2)
}

/// The class of each position, below 0 where none is judged.
struct Targets {
    classes: Vec<i64>,
    positions: usize,
}

impl Targets {
    fn of(batch: &Batch, config: &TokenConfig, what: Judged, output: &Vectors<'_>) -> Result<Self> {
        let (positions, classes) = (output.positions(), output.length());
        let targets = match &batch.labels {
            Some(labels) if labels.shape() == [batch.size, positions] => labels.to_i64()?,
            Some(labels) if positions == 1 && labels.shape() == [batch.size] => labels.to_i64()?,
            Some(labels) => {
                let message = format!(
                    "the data have targets of shape {:?}, where the output has {} samples of {positions} positions",
                    labels.shape(),
                    batch.size
                );
                return Err(Error::new(ErrorCode::SHAPE, message));
            }
            None => next_tokens(batch, config, positions)?,
        };
        let greatest = targets.iter().copied().max().unwrap_or(-1);
        if usize::try_from(greatest).is_ok_and(|greatest| greatest >= classes) {
            let message = match what {
                Judged::Class => {
                    format!("the data have the class {greatest}, but the model has {classes}, counted from 0")
                }
                Judged::NextToken => format!(
                    "the data have the token {greatest}, but the output has {classes} numbers at each position, where a \
                     meter of tokens needs one for each, counted from 0"
                ),
            };
            return Err(Error::invalid_request(message));
        }
        Ok(Self {
            classes: targets,
            positions,
        })
    }

    /// The judged positions of a sample, with their classes.
    fn of_sample(&self, row: usize) -> impl Iterator<Item = (usize, usize)> + '_ {
        let classes = &self.classes[row * self.positions..][..self.positions];
        let judged = classes.iter().enumerate();
        judged.filter_map(|(position, class)| Some((position, usize::try_from(*class).ok()?)))
    }
}

/// The token after each, where both are more than filling.
fn next_tokens(batch: &Batch, config: &TokenConfig, positions: usize) -> Result<Vec<i64>> {
    let input = |name: &str| {
        let found = batch.inputs.iter().find(|(known, _)| known == name);
        let shaped = found.filter(|(_, tensor)| tensor.shape() == [batch.size, positions]);
        shaped
            .map(|(_, tensor)| tensor.to_i64().map_err(Error::from))
            .transpose()
    };
    let Some(tokens) = input(&config.tokens)? else {
        let message = format!(
            "the data have neither targets nor an input `{}` with a token for each position",
            config.tokens
        );
        return Err(Error::not_found(message));
    };
    let mask = input(&config.mask)?.unwrap_or_else(|| vec![1; tokens.len()]);
    let target = |at: usize| {
        let inside = !(at + 1).is_multiple_of(positions);
        (inside && mask[at] != 0 && mask[at + 1] != 0).then(|| tokens[at + 1])
    };
    Ok((0..tokens.len()).map(|at| target(at).unwrap_or(-1)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_tokens_are_told_from_scores() {
        let states = Tensor::from_vec(vec![2, 3, 4], vec![0.0_f32; 24]);
        let refused = |known| match logits(&states, 2, Judged::NextToken, known) {
            Ok(_) => None,
            Err(error) => Some(error.message),
        };
        assert_eq!(
            refused(Some(9)).unwrap(),
            "this meter needs the scores of every next token, samples × positions × vocabulary; the model knows 9 tokens \
             and gives 4 numbers at each position, as states of tokens are: name the logits with `output`, or use \
             `embedding_cosine`"
        );
        assert_eq!(refused(Some(4)), None);
        assert_eq!(refused(None), None);
        assert!(logits(&states, 2, Judged::Class, Some(9)).is_ok());
    }
}
