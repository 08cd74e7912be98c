//! Routing: fewer experts for each token (`moe_top_k`), fewer experts (`moe_experts`), dense layers that become experts
//! (`moe_split`), and what is really computed (`active_macs`, `active_params`).

mod clusters;
mod config;
mod experts;
mod knob;
mod layer;
mod meters;
mod network;
mod prediction;
mod refit;
mod samples;
mod split;
mod top_k;
mod training;

#[cfg(test)]
mod testing;

kmr_sdk::export_plugin! {
    rule "moe_top_k" => top_k::TopK {
        "summary": "gives each token to fewer experts",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "experts_per_token",
            "description": "how many experts compute for a token; 0 is off, as many as the model has it",
            "domain": { "choices": [
                0, 256, 224, 192, 160, 128, 112, 96, 80, 72, 64, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54,
                53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32,
                31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10,
                9, 8, 7, 6, 5, 4, 3, 2, 1
            ] },
            "per": ["layer", "model"],
            "default": [0, 7, 6, 5, 4, 3, 2, 1]
        }],
        "after": ["moe_experts"],
        "conflicts": ["moe_split"]
    }
    rule "moe_experts" => experts::Experts {
        "summary": "drops or merges experts, and the router's scores with them",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "experts",
            "description": "how many experts are kept; 0 is off, all of them",
            "domain": { "choices": [
                0, 256, 224, 192, 160, 128, 112, 96, 80, 72, 64, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54,
                53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32,
                31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10,
                9, 8, 7, 6, 5, 4, 3, 2, 1
            ] },
            "per": ["layer", "model"],
            "default": [0, 96, 64, 48, 32, 24, 16, 12, 8, 7, 6, 5, 4, 3, 2]
        }],
        "conflicts": ["moe_split"]
    }
    rule "moe_split" => split::Split {
        "summary": "makes experts of a dense feed-forward layer, and computes for each token those that matter",
        "role": "reduce",
        "locality": "graph",
        "knobs": [{
            "name": "active",
            "description": "how many experts compute for a token; 0 is off, the dense layer",
            "domain": { "choices": [
                0, 256, 224, 192, 160, 128, 112, 96, 80, 72, 64, 63, 62, 61, 60, 59, 58, 57, 56, 55, 54,
                53, 52, 51, 50, 49, 48, 47, 46, 45, 44, 43, 42, 41, 40, 39, 38, 37, 36, 35, 34, 33, 32,
                31, 30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10,
                9, 8, 7, 6, 5, 4, 3, 2, 1
            ] },
            "per": ["layer", "model"],
            "default": [0, 7, 6, 5, 4, 3, 2]
        }],
        "opset": 16,
        "after": ["prune", "prune_unstructured", "prune_n_m"]
    }
    meter "active_macs" => meters::ActiveMacs {
        "summary": "multiplications that are really made for a token, on data",
        "measures": "cost",
        "higher_is_better": false,
        "unit": "MACs per token"
    }
    meter "active_params" => meters::ActiveParams {
        "summary": "parameters that really compute for a token, on data",
        "measures": "cost",
        "higher_is_better": false,
        "unit": "parameters per token"
    }
}
