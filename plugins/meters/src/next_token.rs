//! `next_token_kl` and `next_token_flips`: how far next tokens are from the original model's.

use kmr_sdk::{Host, MeasureRequest, Meter, Reading, Result};

use crate::{
    agreement::same_answer,
    divergence::kullback_leibler,
    positions::{TokenConfig, mean, paired},
};

/// The meter of the mean Kullback-Leibler divergence over judged tokens. The outputs must be logits.
pub struct NextTokenDivergence(TokenConfig);

impl Meter for NextTokenDivergence {
    type Config = TokenConfig;

    fn new(config: TokenConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        mean(&paired(host, &self.0, request, kullback_leibler)?)
    }
}

/// The meter of the share of judged tokens whose likeliest successor is another.
pub struct NextTokenFlips(TokenConfig);

impl Meter for NextTokenFlips {
    type Config = TokenConfig;

    fn new(config: TokenConfig) -> Result<Self> {
        Ok(Self(config))
    }

    fn measure(&mut self, host: &Host<'_>, request: &MeasureRequest) -> Result<Reading> {
        let flipped = |reference: &[f32], candidate: &[f32]| 1.0 - same_answer(reference, candidate);
        mean(&paired(host, &self.0, request, flipped)?)
    }
}
