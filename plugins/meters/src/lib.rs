//! Quality meters, each with a score per sample whose mean is the value.
//!
//! With labels: `top1`, `top5` and `loss`. Without, against the original model on the same inputs:
//! `agreement`, `kl`, `cosine` and `sqnr`.
//!
//! The scores themselves are pure functions on slices, one module per family; [`measure`] drives the host.

mod accuracy;
mod agreement;
mod config;
mod divergence;
mod loss;
mod measure;
mod output;
mod signal;
mod softmax;
#[cfg(test)]
mod testing;

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
}
