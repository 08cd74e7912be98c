//! Routed experts that are written are found again, and nothing else is taken for them.

use std::sync::Arc;

use kmr_model::{
    Build, Edit, Graph, Model, Node, Patch, Tensor,
    experts::{Activation, Choice, find, networks},
    shapes,
    stored::store_half,
};
use proptest::prelude::*;

mod specimen;
use specimen::{Specimen, graph, layer, model};

fn specimens() -> impl Strategy<Value = Specimen> {
    let choice = prop_oneof![
        any::<bool>().prop_map(|renormalize| Choice::SoftmaxThenTopK { renormalize }),
        Just(Choice::TopKThenSoftmax),
        Just(Choice::Unweighted),
    ];
    let activation = prop_oneof![
        Just(Activation::Relu),
        Just(Activation::Silu),
        Just(Activation::Gelu),
        Just(Activation::GeluTanh)
    ];
    let sizes = (1_usize..6, 1_usize..6, 1_usize..6)
        .prop_flat_map(|(width, neurons, experts)| (Just(width), Just(neurons), Just(experts), 1..=experts));
    let flags = (any::<[bool; 4]>(), any::<Option<bool>>());
    (sizes, choice, activation, flags).prop_map(
        |((width, neurons, experts, top_k), choice, activation, ([gated, biased, outputs_first, halves], shared))| {
            Specimen {
                width,
                neurons,
                experts,
                top_k,
                choice,
                activation,
                gated,
                biased,
                outputs_first,
                shared,
                halves,
            }
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_found(specimen in specimens()) {
        let model = Model::decode(model(&specimen).unwrap().encode_to_vec().into()).unwrap();
        let found = find(&model.graph);
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!(&found[0].experts, &layer(&specimen));
        prop_assert_eq!(found[0].count(), specimen.experts);
        prop_assert_eq!(found[0].weights.is_none(), specimen.choice == Choice::Unweighted);
        // Each expert's nodes are its own, and all networks are found among the feed-forward ones.
        let own: usize = found[0].each.iter().map(|expert| expert.nodes.len()).sum();
        let all: std::collections::BTreeSet<&String> = found[0].each.iter().flat_map(|expert| &expert.nodes).collect();
        prop_assert_eq!(own, all.len());
        let shared = usize::from(specimen.shared.is_some());
        prop_assert_eq!(networks(&model.graph).len(), specimen.experts + shared);
        let shapes = shapes::infer(&model, &[("x".to_owned(), vec![2, 3, specimen.width])].into()).unwrap();
        prop_assert_eq!(shapes.shape("y"), Some(&[2, 3, specimen.width][..]));
        prop_assert_eq!(shapes.shape(&found[0].chosen), Some(&[6, specimen.top_k][..]));
        // Six tokens, each given to k experts of as many products as an expert has.
        let network = specimen.width * specimen.neurons * if specimen.gated { 3 } else { 2 };
        let shared = specimen.shared.map_or(0, |gated| network + if gated { specimen.width } else { 0 });
        let each = specimen.width * specimen.experts + specimen.top_k * network + shared;
        let costs = kmr_model::cost::Costs::with_shapes(&model, &shapes).unwrap();
        prop_assert_eq!(costs.macs(), Ok(6 * each as u64));
        prop_assert_eq!(costs.layers.iter().filter_map(|layer| layer.macs).sum::<u64>(), 6 * each as u64);
    }

    /// Names mean nothing, and whatever is connected otherwise is another thing, be it in one place alone.
    #[test]
    fn what_is_connected_otherwise_is_not_found(specimen in specimens(), at in any::<prop::sample::Index>()) {
        let graph = graph(&specimen).unwrap();
        let values: Vec<String> = graph.nodes.iter().map(|node| node.id().to_owned()).collect();
        let at = at.index(graph.nodes.len());
        let node = graph.nodes[at].clone();
        // What a Cast reads is what a weight holds, not how it is connected.
        prop_assume!(!node.is("Cast"));
        for (slot, input) in node.inputs().iter().enumerate() {
            for value in values[..at].iter().filter(|&value| value != input) {
                let mut patch = Patch::new();
                patch.push(Edit::Rewire { node: node.id().to_owned(), input: slot, value: value.clone() });
                // Either it is no layer of experts any more, or another one: what is written back is what stands there.
                for found in find(&patch.apply(&graph).unwrap()) {
                    prop_assert!(found.experts != layer(&specimen), "input {slot} of `{}` is `{value}`", node.id());
                }
            }
        }
    }
}

#[test]
fn wrong_numbers_of_experts_are_refused() {
    let specimen = Specimen {
        width: 4,
        neurons: 3,
        experts: 2,
        top_k: 3,
        choice: Choice::Unweighted,
        activation: Activation::Relu,
        gated: false,
        biased: false,
        outputs_first: true,
        shared: None,
        halves: false,
    };
    let error = graph(&specimen).unwrap_err();
    assert_eq!(
        error.to_string(),
        "experts `mlp`: cannot give a token of 4 numbers to 3 of 2 experts"
    );
}

/// x → up → (activation in the words of an exporter) → down.
fn spelled(nodes: Vec<Node>) -> Graph {
    let mut graph = Graph::new("network");
    graph.inputs = vec![kmr_model::ValueInfo::untyped("x")];
    graph.outputs = vec![kmr_model::ValueInfo::untyped("y")];
    let tensor = |shape: &[usize], value: f32| Tensor::from_vec(shape.to_vec(), vec![value; shape.iter().product()]);
    for (name, tensor) in [
        ("up", tensor(&[2, 3], 0.5)),
        ("turned", tensor(&[3, 2], 0.5)),
        ("up.bias", tensor(&[3], 0.1)),
        ("down", tensor(&[3, 2], 0.5)),
        ("root", tensor(&[], std::f32::consts::SQRT_2)),
        ("one", tensor(&[1], 1.0)),
        ("half", tensor(&[], 0.5)),
        ("three", tensor(&[], 3.0)),
        ("cube", tensor(&[], 0.044715)),
        ("slope", tensor(&[], 0.797_884_6)),
        ("wrong", tensor(&[], 1.41)),
    ] {
        graph.initializers.insert(name.into(), tensor.into());
    }
    graph.nodes = vec![
        Arc::new(Node::new("MatMul", "", &["x", "up"], &["product"])),
        Arc::new(Node::new("Add", "", &["up.bias", "product"], &["h"])),
    ];
    graph.nodes.extend(nodes.into_iter().map(Arc::new));
    graph
        .nodes
        .push(Arc::new(Node::new("MatMul", "", &["a", "down"], &["y"])));
    graph
}

#[test]
fn activations_are_known_by_what_they_compute() {
    let node = |op: &str, inputs: &[&str], output: &str| Node::new(op, "", inputs, &[output]);
    let erf = |root: &str| {
        vec![
            node("Div", &["h", root], "1"),
            node("Erf", &["1"], "2"),
            node("Add", &["2", "one"], "3"),
            node("Mul", &["h", "half"], "4"),
            node("Mul", &["4", "3"], "a"),
        ]
    };
    let tanh = vec![
        node("Pow", &["h", "three"], "1"),
        node("Mul", &["cube", "1"], "2"),
        node("Add", &["h", "2"], "3"),
        node("Mul", &["3", "slope"], "4"),
        node("Tanh", &["4"], "5"),
        node("Add", &["one", "5"], "6"),
        node("Mul", &["half", "h"], "7"),
        node("Mul", &["7", "6"], "a"),
    ];
    let silu = vec![node("Sigmoid", &["h"], "1"), node("Mul", &["1", "h"], "a")];
    let known = |nodes: Vec<Node>| {
        let found = networks(&spelled(nodes));
        assert!(found.len() < 2);
        found.into_iter().next().map(|found| {
            assert_eq!(
                (found.input.as_str(), found.hidden.as_str(), found.output.as_str()),
                ("x", "a", "y")
            );
            assert_eq!(found.network.up.bias.as_deref(), Some("up.bias"));
            found.network.activation
        })
    };
    assert_eq!(known(erf("root")), Some(Activation::Gelu));
    assert_eq!(known(tanh), Some(Activation::GeluTanh));
    assert_eq!(known(silu), Some(Activation::Silu));
    assert_eq!(known(vec![node("Relu", &["h"], "a")]), Some(Activation::Relu));
    assert_eq!(known(vec![node("Gelu", &["h"], "a")]), Some(Activation::Gelu));
    assert_eq!(
        known(vec![node("Gelu", &["h"], "a").with_string("approximate", "tanh")]),
        Some(Activation::GeluTanh)
    );
    assert_eq!(known(erf("wrong")), None);
    assert_eq!(known(vec![node("Tanh", &["h"], "a")]), None);
    assert_eq!(
        known(vec![node("Mul", &["h", "up.bias"], "1"), node("Relu", &["1"], "a")]),
        None
    );
}

#[test]
fn casts_of_shared_weights_belong_to_no_network() {
    let mut graph = spelled(vec![Node::new("Relu", "", &["h"], &["a"])]);
    let mut build = Build::on(&graph);
    let half = Tensor::from_vec(vec![3, 2], vec![half::bf16::ONE; 6]);
    build.place(Some("product"));
    store_half(&mut build, "down", half);
    graph = build.finish().apply(&graph).unwrap();
    assert_eq!(networks(&graph)[0].nodes, ["product", "h", "a", "down", "y"]);
    graph.nodes.push(Arc::new(Node::new("Neg", "", &["down"], &["other"])));
    assert_eq!(networks(&graph)[0].nodes, ["product", "h", "a", "y"]);
}

#[test]
fn neurons_that_others_read_belong_to_no_network() {
    let mut graph = spelled(vec![Node::new("Relu", "", &["h"], &["a"])]);
    assert_eq!(networks(&graph).len(), 1);
    graph.outputs.push(kmr_model::ValueInfo::untyped("a"));
    assert_eq!(networks(&graph).len(), 0);
}

#[test]
fn turned_matrices_are_outputs_first() {
    let mut graph = spelled(vec![Node::new("Relu", "", &["h"], &["a"])]);
    graph.nodes[0] = Arc::new(Node::new("MatMul", "", &["x", "t"], &["product"]));
    graph.nodes.insert(
        0,
        Arc::new(Node::new("Transpose", "", &["turned"], &["t"]).with_ints("perm", &[1, 0])),
    );
    let found = networks(&graph);
    let up = &found[0].network.up;
    assert!(up.outputs_first && up.weight == "turned" && found[0].nodes.len() == 5);
}

/// A long chain of nodes is looked at without going deep.
#[test]
fn long_chains_end() {
    let mut nodes = vec![Node::new("Relu", "", &["h"], &["0"])];
    for at in 0..20_000 {
        nodes.push(Node::new("Identity", "", &[&at.to_string()], &[&(at + 1).to_string()]));
    }
    nodes.push(Node::new("Identity", "", &["20000"], &["a"]));
    assert!(networks(&spelled(nodes)).is_empty());
}
