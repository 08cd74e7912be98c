//! `perplexity` and `next_token_loss`: how well the next token is foretold.

use kmr_sdk::{Error, Host, MeasureRequest, Meter, Reading, Result};

use crate::{
    loss::cross_entropy,
    positions::{self, Judged, TokenConfig, labeled, tokens},
    ratio::{Share, linearized},
};

/// exp of the mean loss over all judged tokens, with a score for each window: P + P · (its linearized loss − the mean
/// loss). Scores have the mean P, so that margins of tests are in the unit of perplexity, and to first order vary as P.
fn perplexity(shares: &[Share]) -> Option<(f64, f64, Vec<f64>)> {
    let (loss, losses) = linearized(shares)?;
    let value = loss.exp();
    let scores = losses.iter().map(|score| value + value * (score - loss)).collect();
    Some((value, loss, scores))
}

/// The meter of perplexity. The output must be logits.
pub struct Perplexity(TokenConfig);

impl Meter for Perplexity {
    type Config = TokenConfig;

    fn new(config: TokenConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        let shares = labeled(host, &self.0, request, Judged::NextToken, cross_entropy)?;
        let Some((value, loss, scores)) = perplexity(&shares) else {
            return Err(Error::invalid_request("there are no tokens to measure on"));
        };
        let details = [
            ("loss".to_owned(), loss.into()),
            ("tokens".to_owned(), tokens(&shares).into()),
        ];
        Ok(Reading {
            value,
            scores,
            details: details.into_iter().collect(),
        })
    }
}

/// The meter of the mean loss, the logarithm of the perplexity.
pub struct NextTokenLoss(TokenConfig);

impl Meter for NextTokenLoss {
    type Config = TokenConfig;

    fn new(config: TokenConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        positions::mean(&labeled(host, &self.0, request, Judged::NextToken, cross_entropy)?)
    }
}
