//! Distillation: training that wins back what compression lost.

mod average;
mod config;
mod course;
mod epochs;
mod features;
mod logits;
mod objective;
mod progress;
mod rule;
mod selection;
mod session_edits;
mod survey;
mod training;
mod zeros;

#[cfg(test)]
mod testing;

kmr_sdk::export_plugin! {
    rule "distill" => rule::Distill {
        "summary": "trains the weights to answer as the original model does, and as the labels say",
        "role": "recover",
        "locality": "graph",
        "knobs": [{
            "name": "epochs",
            "description": "passes over the training data; parts of one are allowed",
            "domain": { "min": 0, "max": 1000 },
            "per": ["model"],
            "default": [0, 1, 2]
        }],
        "after": ["prune", "prune_unstructured", "prune_n_m", "quantize"]
    }
}
