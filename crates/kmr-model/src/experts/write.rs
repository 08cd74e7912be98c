//! Writing routed experts.

use super::{Choice, RoutedExperts};
use crate::{Build, ErrorKind, ModelError, Node, Tensor};

/// Adds the nodes of `experts`, for tokens of `width` numbers. Their values are called `name` and what they are; those of
/// the layer's input, tensors and output are as `experts` says. The tensors have to be in the graph, or put there by
/// `build`.
///
/// # Errors
/// [`ErrorKind::Shape`] if there is no expert, or more or fewer than one of them are chosen.
pub fn write(build: &mut Build, experts: &RoutedExperts, width: usize, name: &str) -> Result<(), ModelError> {
    let (count, top_k) = (experts.experts.len(), experts.router.top_k);
    if !(1..=count).contains(&top_k) || i64::try_from(width).is_err() {
        let message = format!("cannot give a token of {width} numbers to {top_k} of {count} experts");
        return Err(ModelError::new(ErrorKind::Shape, format!("experts `{name}`"), message)
            .with_help("choose 1 to as many as there are"));
    }
    let plain = |node: Node| node;
    let of = |part: &str| format!("{name}.{part}");
    let list = |build: &mut Build, values: Vec<i64>| {
        build.constant(&of("sizes"), Tensor::from_vec(vec![values.len()], values))
    };
    let rows = list(build, vec![-1, width as i64]);
    let tokens = build.node("Reshape", &[&experts.input, &rows], &of("tokens"), plain);
    let scores = experts.router.scores.write(build, &tokens, &of("scores"));
    let (chosen, weights) = choose(build, experts, &scores, name);

    let mut sum = match &experts.shared {
        Some(shared) => {
            let made = shared.network.write(build, &tokens, &of("shared"));
            match &shared.gate {
                Some(gate) => {
                    let gate = gate.write(build, &tokens, &of("shared.gate"));
                    let gate = build.node("Sigmoid", &[&gate], &of("shared.share"), plain);
                    build.node("Mul", &[&made, &gate], &of("shared.weighted"), plain)
                }
                None => made,
            }
        }
        None => {
            let sizes = build.node("Shape", &[&tokens], &of("tokens.shape"), plain);
            build.node("ConstantOfShape", &[&sizes], &of("zeros"), plain)
        }
    };
    let first = build.constant(&of("first"), Tensor::scalar(0_i64));
    let last_axis = list(build, vec![1]);
    for (position, expert) in experts.experts.iter().enumerate() {
        let of = |part: &str| format!("{name}.{position}.{part}");
        let number = build.constant(&of("number"), Tensor::scalar(position as i64));
        let hits = build.node("Equal", &[&chosen, &number], &of("hits"), plain);
        let found = build.node("NonZero", &[&hits], &of("where"), plain);
        let rows = build.node("Gather", &[&found, &first], &of("rows"), |node| {
            node.with_int("axis", 0)
        });
        let own = build.node("Gather", &[&tokens, &rows], &of("tokens"), |node| {
            node.with_int("axis", 0)
        });
        let mut made = expert.write(build, &own, &format!("{name}.{position}"));
        if let Some(weights) = &weights {
            let places = build.node("Transpose", &[&found], &of("places"), |node| {
                node.with_ints("perm", &[1, 0])
            });
            let weight = build.node("GatherND", &[weights, &places], &of("weight"), plain);
            let weight = build.node("Unsqueeze", &[&weight, &last_axis], &of("weights"), plain);
            made = build.node("Mul", &[&made, &weight], &of("weighted"), plain);
        }
        let rows = build.node("Unsqueeze", &[&rows, &last_axis], &of("indices"), plain);
        sum = build.node("ScatterND", &[&sum, &rows, &made], &of("sum"), |node| {
            node.with_string("reduction", "add")
        });
    }
    let sizes = build.node("Shape", &[&experts.input], &of("shape"), plain);
    build.node_into("Reshape", &[&sum, &sizes], &[&experts.output], plain);
    Ok(())
}

/// The chosen experts of each token and, where they have weights, these.
fn choose(build: &mut Build, experts: &RoutedExperts, scores: &str, name: &str) -> (String, Option<String>) {
    let plain = |node: Node| node;
    let of = |part: &str| format!("{name}.{part}");
    let top_k = experts.router.top_k as i64;
    // A constant of this layer's own, so that it can be changed in place.
    let top_k = build.tensor(&of("top_k"), Tensor::from_vec(vec![1], vec![top_k]));
    let (greatest, chosen) = (build.name(&of("greatest")), build.name(&of("chosen")));
    let softmax = |build: &mut Build, value: &str, name: &str| {
        build.node("Softmax", &[value], name, |node| node.with_int("axis", -1))
    };
    let best = |build: &mut Build, value: &str| {
        build.node_into("TopK", &[value, &top_k], &[&greatest, &chosen], |node| {
            node.with_int("axis", -1)
        });
    };
    let weights = match experts.router.choice {
        Choice::SoftmaxThenTopK { renormalize } => {
            let shares = softmax(build, scores, &of("shares"));
            best(build, &shares);
            Some(if renormalize {
                let axis = build.constant(&of("axis"), Tensor::from_vec(vec![1], vec![-1_i64]));
                let total = build.node("ReduceSum", &[&greatest, &axis], &of("total"), |node| {
                    node.with_int("keepdims", 1)
                });
                build.node("Div", &[&greatest, &total], &of("weights"), plain)
            } else {
                greatest.clone()
            })
        }
        Choice::TopKThenSoftmax => {
            best(build, scores);
            Some(softmax(build, &greatest, &of("weights")))
        }
        Choice::Unweighted => {
            best(build, scores);
            None
        }
    };
    (chosen, weights)
}
