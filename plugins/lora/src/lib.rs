//! Low-rank adapters: repairing what compression has done to layers (`lora`), fine-tuning with few parameters
//! (`lora_adapt`), and what fine-tuning costs (`trainable_params`, `optimizer_bytes`).

mod adapt;
mod adapter;
mod compression;
mod config;
mod inputs;
mod integers;
mod knob;
mod layers;
mod merge;
mod meters;
mod nodes;
mod rule;
mod training;

#[cfg(test)]
mod testing;

kmr_sdk::export_plugin! {
    rule "lora" => rule::Lora {
        "summary": "repairs layers by adapters of low rank, trained or from compression's own error",
        "role": "recover",
        "locality": "graph",
        "knobs": [{
            "name": "rank",
            "description": "the rank of adapters; 0 is off",
            "domain": { "min": 0, "max": 1024 },
            "per": ["model", "layer"],
            "default": [0, 4, 8, 16]
        }],
        "after": ["prune", "prune_unstructured", "prune_n_m", "quantize", "distill"]
    }
    rule "lora_adapt" => adapt::LoraAdapt {
        "summary": "adds adapters for fine-tuning with fewer trainable parameters",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "rank",
            "description": "the rank of adapters; 0 is off, the fine-tuning of everything",
            "domain": { "choices": [0, 512, 256, 128, 96, 64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1] },
            "per": ["model"],
            "default": [0, 64, 32, 16, 8, 4]
        }],
        "after": ["prune", "quantize"]
    }
    meter "trainable_params" => meters::TrainableParams {
        "summary": "elements that fine-tuning trains: those of adapters, or all parameters where there are none",
        "measures": "cost",
        "higher_is_better": false,
        "unit": "parameters"
    }
    meter "optimizer_bytes" => meters::OptimizerBytes {
        "summary": "bytes of the optimizer's state while what is trainable is trained",
        "measures": "cost",
        "higher_is_better": false,
        "unit": "bytes"
    }
}
