//! Quantization: weights, and activations where asked, as integers in standard operators.

mod activations;
mod awq;
mod bits;
mod codes;
mod config;
mod cut;
mod dynamic;
mod equalize;
mod fold;
mod hard_swish;
mod layers;
mod parts;
mod placement;
mod rule;
mod sites;
mod smooth;
mod storage;
#[cfg(test)]
mod testing;
mod times;
mod values;
mod weights;

kmr_sdk::export_plugin! {
    rule "quantize" => rule::Quantize {
        "summary": "stores weights, and activations where asked, in fewer bits",
        "role": "reduce",
        "locality": "graph",
        "opset": 21,
        "knobs": [{
            "name": "weight_bits",
            "description": "the bits that a weight is stored in; 32 is off",
            "domain": { "choices": [32, 16, "bf16", 8, 7, 6, 5, 4, 3, 2] },
            "per": ["layer", "model", "channel_group"],
            "default": [32, 8, 6, 4, 3, 2]
        }],
        "after": ["prune", "prune_depth", "prune_vocabulary"],
        "conflicts": ["prune_unstructured", "prune_n_m"]
    }
}
