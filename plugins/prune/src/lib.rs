//! Pruning: whole channels and attention heads (`prune`), residual blocks (`prune_depth`), words (`prune_vocabulary`),
//! single weights (`prune_unstructured`), N:M patterns (`prune_n_m`).

mod depth;
mod importance;
mod knob;
mod made_up;
mod pattern;
mod recalibration;
mod recent;
mod scored;
mod selection;
mod storage;
mod structural;
mod unstructured;
mod vocabulary;
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
        }],
        "after": ["prune_depth", "prune_vocabulary"]
    }
    rule "prune_depth" => depth::PruneDepth {
        "summary": "removes the residual blocks that matter least",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "blocks_removed",
            "description": "how many blocks are removed",
            "domain": { "min": 0, "max": 1000 },
            "per": ["model"],
            "default": [0, 1, 2, 3, 4]
        }]
    }
    rule "prune_vocabulary" => vocabulary::PruneVocabulary {
        "summary": "removes the rows of embeddings and word scores that a corpus never uses",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "token_coverage",
            "description": "the share of the corpus' words that the rows kept cover",
            "domain": { "choices": ["off", 1.0, 0.9999, 0.999, 0.998, 0.995, 0.99, 0.98, 0.95, 0.9, 0.8] },
            "per": ["model"],
            "default": ["off", 1.0, 0.999, 0.99]
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
        "after": ["prune", "prune_depth", "prune_vocabulary"]
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
        "after": ["prune", "prune_depth", "prune_vocabulary"],
        "conflicts": ["prune_unstructured"]
    }
}
