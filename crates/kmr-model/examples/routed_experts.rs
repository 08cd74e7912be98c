//! Writes a layer of routed experts with drawn weights, for `tests/experts/answers.py`:
//! `routed_experts OUT WIDTH NEURONS EXPERTS K CHOICE ACTIVATION [gated] [biased] [inputs_first] [shared] [shared_gate]`

use std::{env, error::Error, fs};

use kmr_model::experts::{Activation, Choice};

#[path = "../tests/experts/specimen.rs"]
mod specimen;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, out, width, neurons, experts, top_k, choice, activation, flags @ ..] = arguments.as_slice() else {
        return Err("usage: routed_experts OUT WIDTH NEURONS EXPERTS K CHOICE ACTIVATION [FLAG ...]".into());
    };
    let has = |flag: &str| flags.iter().any(|given| given == flag);
    let specimen = specimen::Specimen {
        width: width.parse()?,
        neurons: neurons.parse()?,
        experts: experts.parse()?,
        top_k: top_k.parse()?,
        choice: match choice.as_str() {
            "softmax" => Choice::SoftmaxThenTopK { renormalize: false },
            "renormalized" => Choice::SoftmaxThenTopK { renormalize: true },
            "chosen" => Choice::TopKThenSoftmax,
            "unweighted" => Choice::Unweighted,
            other => return Err(format!("no choice `{other}`").into()),
        },
        activation: match activation.as_str() {
            "relu" => Activation::Relu,
            "silu" => Activation::Silu,
            "gelu" => Activation::Gelu,
            "gelu_tanh" => Activation::GeluTanh,
            other => return Err(format!("no activation `{other}`").into()),
        },
        gated: has("gated"),
        biased: has("biased"),
        outputs_first: !has("inputs_first"),
        shared: (has("shared") || has("shared_gate")).then(|| has("shared_gate")),
        halves: false,
    };
    fs::write(out, specimen::model(&specimen)?.encode_to_vec())?;
    Ok(())
}
