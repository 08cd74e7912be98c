//! Layers of routed experts with weights that are drawn from a seed.

use kmr_model::{
    Build, DType, Dimension, Graph, Model, ModelError, Tensor, ValueInfo,
    experts::{Activation, Choice, FeedForward, Linear, RoutedExperts, Router, SharedExpert, write},
    stored::store_half,
};

/// What a layer is like.
#[derive(Clone, Debug)]
pub struct Specimen {
    pub width: usize,
    pub neurons: usize,
    pub experts: usize,
    pub top_k: usize,
    pub choice: Choice,
    pub activation: Activation,
    pub gated: bool,
    pub biased: bool,
    pub outputs_first: bool,
    /// None, one without a gate, one with.
    pub shared: Option<bool>,
    /// Whether tensors are stored in 16 bits.
    pub halves: bool,
}

/// The layer of `specimen` with its names.
pub fn layer(specimen: &Specimen) -> RoutedExperts {
    let linear = |name: &str| Linear {
        weight: format!("{name}.weight"),
        outputs_first: specimen.outputs_first,
        bias: specimen.biased.then(|| format!("{name}.bias")),
    };
    let network = |name: &str| FeedForward {
        gate: specimen.gated.then(|| linear(&format!("{name}.gate_proj"))),
        up: linear(&format!("{name}.up_proj")),
        down: linear(&format!("{name}.down_proj")),
        activation: specimen.activation,
    };
    RoutedExperts {
        input: "x".into(),
        output: "y".into(),
        router: Router {
            scores: linear("mlp.gate"),
            choice: specimen.choice,
            top_k: specimen.top_k,
        },
        experts: (0..specimen.experts)
            .map(|expert| network(&format!("mlp.experts.{expert}")))
            .collect(),
        shared: specimen.shared.map(|gated| SharedExpert {
            network: network("mlp.shared_expert"),
            gate: gated.then(|| linear("mlp.shared_expert_gate")),
        }),
    }
}

/// The graph of `specimen` with its tensors.
pub fn graph(specimen: &Specimen) -> Result<Graph, ModelError> {
    let mut graph = Graph::new("experts");
    let axes = [
        Dimension::Named("batch".into()),
        Dimension::Named("length".into()),
        Dimension::Fixed(specimen.width),
    ];
    graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &axes)];
    graph.outputs = vec![ValueInfo::tensor("y", DType::FLOAT, &axes)];
    let experts = layer(specimen);
    let mut state = 1_u64;
    let mut draw = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    };
    let sizes = |name: &str| match name {
        "mlp.gate" => (specimen.experts, specimen.width),
        "mlp.shared_expert_gate" => (1, specimen.width),
        _ if name.ends_with("down_proj") => (specimen.width, specimen.neurons),
        _ => (specimen.neurons, specimen.width),
    };
    for name in experts.tensors() {
        let (layer, kind) = name.rsplit_once('.').unwrap_or((name, ""));
        let (outputs, inputs) = sizes(layer);
        let shape = match (kind, specimen.outputs_first) {
            ("bias", _) => vec![outputs],
            (_, true) => vec![outputs, inputs],
            (_, false) => vec![inputs, outputs],
        };
        let values = (0..shape.iter().product()).map(|_| draw()).collect();
        graph
            .initializers
            .insert(name.into(), Tensor::from_vec::<f32>(shape, values).into());
    }
    let mut build = Build::on(&graph);
    for name in experts.tensors().into_iter().filter(|_| specimen.halves) {
        let tensor = &graph.initializers[name].tensor;
        let values = tensor
            .to_f32()?
            .iter()
            .map(|&value| half::bf16::from_f32(value))
            .collect();
        store_half(&mut build, name, Tensor::from_vec(tensor.shape().to_vec(), values));
    }
    write(&mut build, &experts, specimen.width, "mlp")?;
    build.finish().apply(&graph)
}

/// The model of `specimen`.
pub fn model(specimen: &Specimen) -> Result<Model, ModelError> {
    Ok(Model::new(graph(specimen)?, 8, 18))
}
