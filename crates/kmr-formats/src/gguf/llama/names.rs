//! Names of tensors on both sides.

/// What a tensor is, as far as its rows are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A query projection or its bias.
    Query,
    /// A key projection or its bias.
    Key,
    /// Anything else.
    Other,
}

/// What stands outside blocks.
const WHOLE: [(&str, &str); 3] = [
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// What each block has, behind `blk.0.` and `model.layers.0.`.
const BLOCK: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

const GGUF_BLOCK: &str = "blk.";
const HUGGING_FACE_BLOCK: &str = "model.layers.";

/// Hugging Face's name of a tensor of GGUF.
pub(super) fn hugging_face(name: &str) -> Option<(String, Place)> {
    let (stem, suffix) = parameter(name)?;
    if let Some((_, wanted)) = WHOLE.iter().find(|(known, _)| *known == stem) {
        return Some((format!("{wanted}.{suffix}"), Place::Other));
    }
    let (block, inside) = block(stem, GGUF_BLOCK)?;
    let (known, wanted) = BLOCK.iter().find(|(known, _)| *known == inside)?;
    Some((format!("{HUGGING_FACE_BLOCK}{block}.{wanted}.{suffix}"), place(known)))
}

/// GGUF's name of a tensor of Hugging Face.
pub(super) fn gguf(name: &str) -> Option<(String, Place)> {
    let (stem, suffix) = parameter(name)?;
    if let Some((wanted, _)) = WHOLE.iter().find(|(_, known)| *known == stem) {
        return Some((format!("{wanted}.{suffix}"), Place::Other));
    }
    let (block, inside) = block(stem, HUGGING_FACE_BLOCK)?;
    let (wanted, _) = BLOCK.iter().find(|(_, known)| *known == inside)?;
    Some((format!("{GGUF_BLOCK}{block}.{wanted}.{suffix}"), place(wanted)))
}

fn place(known: &str) -> Place {
    match known {
        "attn_q" => Place::Query,
        "attn_k" => Place::Key,
        _ => Place::Other,
    }
}

fn parameter(name: &str) -> Option<(&str, &str)> {
    let (stem, suffix) = name.rsplit_once('.')?;
    ["weight", "bias"].contains(&suffix).then_some((stem, suffix))
}

/// The number of a block and the name inside it.
fn block<'n>(stem: &'n str, prefix: &str) -> Option<(usize, &'n str)> {
    let (block, inside) = stem.strip_prefix(prefix)?.split_once('.')?;
    let number: usize = block.parse().ok()?;
    // A number has one way to be written.
    (number.to_string() == block).then_some((number, inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for stem in BLOCK
            .iter()
            .map(|(known, _)| format!("blk.12.{known}"))
            .chain(WHOLE.map(|(known, _)| known.into()))
        {
            for suffix in ["weight", "bias"] {
                let name = format!("{stem}.{suffix}");
                let (there, place) = hugging_face(&name).unwrap();
                assert_eq!(gguf(&there), Some((name, place)));
            }
        }
        assert_eq!(
            hugging_face("blk.0.attn_q.weight"),
            Some(("model.layers.0.self_attn.q_proj.weight".into(), Place::Query))
        );
        for foreign in [
            "rope_freqs.weight",
            "blk.x.attn_q.weight",
            "blk.007.attn_q.weight",
            "output",
            "blk.0.attn_q.scale",
        ] {
            assert_eq!(hugging_face(foreign), None, "{foreign}");
        }
    }
}
