//! Pruning: whole channels (`prune`), single weights (`prune_unstructured`), N:M patterns (`prune_n_m`).

mod importance;
mod knob;
mod pattern;
mod recalibration;
mod scored;
mod selection;
mod storage;
mod structural;
mod unstructured;
mod weights;
mod zeroing;

#[cfg(test)]
mod testing;

kmr_sdk::export_plugin! {
    rule "prune" => structural::Prune {
        "summary": "removes the least important channels, with everything that is coupled to them",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "channel_sparsity",
            "description": "the share of channels removed",
            "domain": { "min": 0, "max": 0.95 },
            "per": ["layer", "model"],
            "default": [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
        }]
    }
    rule "prune_unstructured" => unstructured::PruneUnstructured {
        "summary": "sets the least important single weights to zero",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "weight_sparsity",
            "description": "the share of weights set to zero",
            "domain": { "min": 0, "max": 0.99 },
            "per": ["layer", "model"],
            "default": [0, 0.5, 0.7, 0.8, 0.9, 0.95]
        }],
        "after": ["prune"]
    }
    rule "prune_n_m" => pattern::PruneNM {
        "summary": "keeps at most N of every M neighbouring weights along the input channels",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "pattern",
            "description": "N:M, as 2:4",
            "domain": { "choices": ["off", "4:8", "2:4", "1:4"] },
            "per": ["layer", "model"],
            "default": ["off", "2:4", "1:4"]
        }],
        "after": ["prune"],
        "conflicts": ["prune_unstructured"]
    }
}
