//! Quality meters, each with a score per sample whose mean is the value.
//!
//! With labels: `top1`, `top5`, `loss`, `accuracy` and `f1`. Without, against the original model on the same inputs:
//! `agreement`, `kl`, `cosine`, `sqnr` and `embedding_cosine`. On tokens: `perplexity` and `next_token_loss`, and against
//! the original model `next_token_kl` and `next_token_flips`. On embeddings: `embedding_similarity` and `probe`.
//!
//! Where the value is no mean over samples (a ratio of sums, its exponential, a correlation), scores are linearized: their
//! mean is the value, and they vary as it does, to first order. See [`ratio`] and [`correlation`].
//!
//! The scores themselves are pure functions on slices, one module per family; [`measure`] drives the host.

mod accuracy;
mod agreement;
mod config;
mod correlation;
mod divergence;
mod embedding;
mod f1;
mod logistic;
mod loss;
mod measure;
mod next_token;
mod output;
mod perplexity;
mod positions;
mod probe;
mod ratio;
mod signal;
mod softmax;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod texts;

kmr_sdk::export_plugin! {
    meter "top1" => accuracy::Top<1> {
        "summary": "share of samples whose label has the highest score",
        "measures": "quality",
        "needs_labels": true,
        "unit": "fraction"
    }
    meter "top5" => accuracy::Top<5> {
        "summary": "share of samples whose label is among the five highest scores",
        "measures": "quality",
        "needs_labels": true,
        "unit": "fraction"
    }
    meter "loss" => loss::Loss {
        "summary": "cross entropy of the logits with the labels",
        "measures": "quality",
        "needs_labels": true,
        "higher_is_better": false,
        "unit": "nat"
    }
    meter "agreement" => agreement::Agreement {
        "summary": "share of samples whose highest score is where the original model has it",
        "measures": "quality",
        "unit": "fraction"
    }
    meter "kl" => divergence::Divergence {
        "summary": "Kullback-Leibler divergence of the model's softmax from the original model's",
        "measures": "quality",
        "higher_is_better": false,
        "unit": "nat"
    }
    meter "cosine" => signal::Cosine {
        "summary": "cosine similarity of the output with the original model's",
        "measures": "quality",
        "unit": "cosine"
    }
    meter "sqnr" => signal::SignalToNoise {
        "summary": "signal-to-quantization-noise ratio of the output, the original model's being the signal",
        "measures": "quality",
        "unit": "dB"
    }
    meter "accuracy" => accuracy::Accuracy {
        "summary": "share of answers that are right, one for each sample or for each of its judged positions",
        "measures": "quality",
        "needs_labels": true,
        "unit": "fraction"
    }
    meter "f1" => f1::F1 {
        "summary": "harmonic mean of precision and recall, over all classes or of one",
        "measures": "quality",
        "needs_labels": true,
        "unit": "fraction"
    }
    meter "perplexity" => perplexity::Perplexity {
        "summary": "exponential of the mean loss of the next token",
        "measures": "quality",
        "higher_is_better": false,
        "unit": "perplexity"
    }
    meter "next_token_loss" => perplexity::NextTokenLoss {
        "summary": "mean cross entropy of the next token",
        "measures": "quality",
        "higher_is_better": false,
        "unit": "nat"
    }
    meter "next_token_kl" => next_token::NextTokenDivergence {
        "summary": "Kullback-Leibler divergence of the next token's distribution from the original model's",
        "measures": "quality",
        "higher_is_better": false,
        "unit": "nat"
    }
    meter "next_token_flips" => next_token::NextTokenFlips {
        "summary": "share of tokens whose likeliest successor is not the original model's",
        "measures": "quality",
        "higher_is_better": false,
        "unit": "fraction"
    }
    meter "embedding_similarity" => embedding::Similarity {
        "summary": "correlation of the cosines of pairs of embeddings with people's scores",
        "measures": "quality",
        "needs_labels": true,
        "unit": "correlation"
    }
    meter "embedding_cosine" => embedding::EmbeddingCosine {
        "summary": "cosine similarity of embeddings with the original model's",
        "measures": "quality",
        "unit": "cosine"
    }
    meter "probe" => probe::Probe {
        "summary": "share of samples that a linear classifier of embeddings, fitted to the training data, gets right",
        "measures": "quality",
        "needs_labels": true,
        "unit": "fraction"
    }
}
