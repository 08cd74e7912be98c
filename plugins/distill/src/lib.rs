//! Distillation: training that wins back what compression lost.

mod average;
mod blocks;
mod config;
mod course;
mod epochs;
mod features;
mod latent;
mod objective;
mod rule;
mod selection;
mod session_edits;
mod student;
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
        "after": ["prune", "prune_unstructured", "prune_n_m", "distill_student"]
    }
    rule "distill_student" => student::DistillStudent {
        "summary": "cuts a smaller model of the same kind out of the model, and trains it to answer as the original does",
        "role": "reduce",
        "locality": "graph",
        "knobs": [
            {
                "name": "width",
                "description": "the share of channels kept, the same in every layer",
                "domain": { "min": 0.01, "max": 1 },
                "per": ["model"],
                "default": [1, 0.75, 0.5, 0.25]
            },
            {
                "name": "depth",
                "description": "the share of residual blocks kept",
                "domain": { "min": 0.01, "max": 1 },
                "per": ["model"],
                "default": [1, 0.75, 0.5, 0.25]
            }
        ],
        "conflicts": ["prune", "quantize"]
    }
}
