//! Models for tests, and a host that runs them.

mod host;
mod interpreter;

use std::sync::Arc;

use kmr_sdk::{
    Action, Applied, Assignment, KnobSettings, Result, Rule,
    model::{
        Build, DType, Dimension, Edit, Graph, Model, Node, Patch, Tensor, ValueInfo,
        experts::{Activation, Choice, FeedForward, Linear, RoutedExperts, Router, write},
        stored::stored_weights,
    },
};

pub use host::ModelHost;
pub use interpreter::{Value, values};
use kmr_testkit::halved;
pub use kmr_testkit::noise;

/// Numbers of a token.
pub const WIDTH: usize = 6;

fn graph() -> Graph {
    let mut graph = Graph::new("test");
    let named = |name: &str| Dimension::Named(name.into());
    let axes = [named("batch"), named("length"), Dimension::Fixed(WIDTH)];
    graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &axes)];
    graph.outputs = vec![ValueInfo::tensor("y", DType::FLOAT, &axes)];
    graph
}

fn store(graph: &mut Graph, name: &str, shape: &[usize]) {
    let seed = name
        .bytes()
        .fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let tensor = Tensor::from_vec(shape.to_vec(), noise(shape.iter().product(), seed));
    graph.initializers.insert(name.into(), tensor.into());
}

/// `model` with its matrices and lists rounded to bfloat16, and the same with them stored in 16 bits.
pub fn rounded_and_halved(model: &Model) -> [Model; 2] {
    let halved = halved(&model.graph, |_| true);
    let mut rounded = Patch::new();
    for half in stored_weights(&halved).halves {
        let tensor = halved.tensor(&half.tensor).unwrap();
        rounded.push(Edit::StoreTensor {
            name: half.value,
            tensor: Tensor::from_vec(tensor.shape().to_vec(), tensor.to_f32().unwrap().into_owned()),
        });
    }
    [rounded.apply(&model.graph).unwrap(), halved].map(|graph| model.with_graph(graph))
}

/// `x [batch, length, 6]` → gated experts of 5 neurons → `y`.
pub fn mixture(experts: usize, top_k: usize, choice: Choice) -> Model {
    let mut graph = graph();
    let mut linear = |name: String, outputs: usize, inputs: usize| {
        store(&mut graph, &format!("{name}.weight"), &[outputs, inputs]);
        Linear::outputs_first(&format!("{name}.weight"), None)
    };
    let router = linear("mlp.gate".into(), experts, WIDTH);
    let mut network = |expert: usize| FeedForward {
        gate: Some(linear(format!("mlp.experts.{expert}.gate_proj"), 5, WIDTH)),
        up: linear(format!("mlp.experts.{expert}.up_proj"), 5, WIDTH),
        down: linear(format!("mlp.experts.{expert}.down_proj"), WIDTH, 5),
        activation: Activation::Silu,
    };
    let layer = RoutedExperts {
        input: "x".into(),
        output: "y".into(),
        experts: (0..experts).map(&mut network).collect(),
        router: Router {
            scores: router,
            choice,
            top_k,
        },
        shared: None,
    };
    let mut build = Build::on(&graph);
    write(&mut build, &layer, WIDTH, "mlp").unwrap();
    let model = Model::new(build.finish().apply(&graph).unwrap(), 8, 18);
    model.graph.check().unwrap();
    model
}

/// What a dense layer is like.
#[derive(Clone, Copy, Debug)]
pub struct Dense {
    pub neurons: usize,
    pub activation: Activation,
    pub gated: bool,
    pub biased: bool,
    pub outputs_first: bool,
}

/// `x [batch, length, 6]` → dense feed-forward layer → `y`, in the words of an exporter: MatMul and Add, the weights turned
/// where they lie outputs first.
pub fn dense(layer: Dense) -> Model {
    let mut graph = graph();
    let mut nodes: Vec<Node> = Vec::new();
    let mut linear = |nodes: &mut Vec<Node>, name: &str, input: &str, output: &str, inputs: usize, outputs: usize| {
        let weight = format!("mlp.{name}.weight");
        let mut matrix = weight.clone();
        if layer.outputs_first {
            store(&mut graph, &weight, &[outputs, inputs]);
            matrix = format!("{output}.turned");
            nodes.push(Node::new("Transpose", "", &[&weight], &[&matrix]).with_ints("perm", &[1, 0]));
        } else {
            store(&mut graph, &weight, &[inputs, outputs]);
        }
        if layer.biased {
            store(&mut graph, &format!("mlp.{name}.bias"), &[outputs]);
            let product = format!("{output}.product");
            nodes.push(Node::new("MatMul", "", &[input, &matrix], &[&product]));
            nodes.push(Node::new(
                "Add",
                "",
                &[&product, &format!("mlp.{name}.bias")],
                &[output],
            ));
        } else {
            nodes.push(Node::new("MatMul", "", &[input, &matrix], &[output]));
        }
    };
    let inner = if layer.gated {
        linear(&mut nodes, "gate_proj", "x", "gate", WIDTH, layer.neurons);
        "gate"
    } else {
        "up"
    };
    linear(&mut nodes, "up_proj", "x", "up", WIDTH, layer.neurons);
    match layer.activation {
        Activation::Relu => nodes.push(Node::new("Relu", "", &[inner], &["active"])),
        _ => {
            nodes.push(Node::new("Sigmoid", "", &[inner], &["sigmoid"]));
            nodes.push(Node::new("Mul", "", &["sigmoid", inner], &["active"]));
        }
    }
    let hidden = if layer.gated {
        nodes.push(Node::new("Mul", "", &["active", "up"], &["hidden"]));
        "hidden"
    } else {
        "active"
    };
    linear(&mut nodes, "down_proj", hidden, "y", layer.neurons, WIDTH);
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    let model = Model::new(graph, 8, 18);
    model.graph.check().unwrap();
    model
}

/// The model's answer.
pub fn run(model: &Model, x: &Tensor) -> Value {
    values(model, x).remove("y").unwrap()
}

/// A rule with one knob, all of whose values are given.
pub fn rule<R: Rule>(config: R::Config, knob: &str, per: &str) -> Result<R> {
    let values: Vec<usize> = (0..65).collect();
    let knobs = serde_json::json!({ knob: { "values": values, "per": per } });
    R::new(config, serde_json::from_value::<KnobSettings>(knobs).unwrap())
}

/// An action on targets of `knob`.
pub fn action(knob: &str, assignments: &[(&str, usize)]) -> Action {
    let assignment = |&(target, value): &(&str, usize)| Assignment {
        knob: knob.into(),
        target: target.into(),
        value: value.into(),
    };
    Action {
        assignments: assignments.iter().map(assignment).collect(),
        costs_only: false,
    }
}

/// What a rule does with these values of its knob.
pub fn apply<R: Rule>(
    host: &ModelHost,
    config: R::Config,
    knob: &str,
    per: &str,
    assignments: &[(&str, usize)],
) -> Result<Applied> {
    let mut rule = rule::<R>(config, knob, per)?;
    host.with(|host| rule.apply(host, &action(knob, assignments)))
}
