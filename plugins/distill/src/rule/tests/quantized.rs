//! Stored weights, trained.

use kmr_methods::{Clipping, Granularity, Grid, Matrix, Quantized, Scheme, pack, quantize};
use kmr_sdk::model::{
    Build, DType, Edit,
    stored::{Codes, Decode, IntegerWeight, Sharing, store_half, store_integers, stored_weights},
};

use super::*;

/// How weights are stored.
#[derive(Clone, Copy, Debug)]
struct Form {
    bits: u8,
    symmetric: bool,
    granularity: Granularity,
    decode: Decode,
}

fn forms() -> impl Strategy<Value = Form> {
    let granularity = prop_oneof![
        Just(Granularity::Tensor),
        Just(Granularity::Channel),
        (1_usize..9).prop_map(Granularity::Group)
    ];
    let decode = prop_oneof![Just(Decode::Constant), Just(Decode::Kernel)];
    (2_u8..=8, any::<bool>(), granularity, decode).prop_map(|(bits, symmetric, granularity, decode)| Form {
        bits,
        symmetric,
        granularity,
        decode,
    })
}

/// A network whose two weights are stored so; wide enough for words.
fn network_in(form: Form, hidden: usize) -> Model {
    let model = network(hidden, 40);
    let grid = if form.symmetric {
        Grid::symmetric(form.bits)
    } else {
        Grid::asymmetric(form.bits)
    }
    .unwrap();
    let scheme = Scheme {
        grid,
        granularity: form.granularity,
        clipping: Clipping::MinMax,
    };
    let names = ["first.weight", "second.weight"];
    let quantized: Vec<(Vec<usize>, Quantized)> = names
        .iter()
        .map(|name| {
            let tensor = model.graph.tensor(name).unwrap();
            let (inputs, outputs) = (tensor.shape()[0], tensor.shape()[1]);
            let values = tensor.values::<f32>().unwrap();
            let rows: Vec<f32> = (0..outputs * inputs)
                .map(|at| values[at % inputs * outputs + at / inputs])
                .collect();
            let quantized = quantize(Matrix::new(outputs, inputs, &rows).unwrap(), &scheme, None).unwrap();
            (tensor.shape().to_vec(), quantized)
        })
        .collect();
    let weights: Vec<IntegerWeight<'_>> = names
        .iter()
        .zip(["product", "logits"])
        .zip(&quantized)
        .map(|((name, reader), (shape, quantized))| IntegerWeight {
            tensor: name,
            shape,
            axis: 1,
            reader: Some(reader),
            bits: form.bits,
            low: grid.low(),
            sharing: match form.granularity {
                Granularity::Tensor => Sharing::Tensor,
                Granularity::Channel => Sharing::Channel,
                Granularity::Group(size) => Sharing::Group(size),
            },
            codes: &quantized.codes,
            scales: &quantized.scales,
            zero_points: &quantized.zero_points,
            half_scales: false,
            decode: form.decode,
            spelled_zero: false,
        })
        .collect();
    let mut build = Build::on(&model.graph);
    let pack = |codes: &[u8], bits: u8| Ok(pack::pack(codes, bits).unwrap());
    store_integers(&mut build, &weights, Some("product"), &pack).unwrap();
    model.with_graph(build.finish().apply(&model.graph).unwrap())
}

/// Whether two models differ in the values of tensors alone.
fn stored_alike(a: &Model, b: &Model) -> bool {
    let described = |model: &Model| {
        let tensors = model.graph.initializers.iter();
        let described =
            tensors.map(|(name, stored)| (name.clone(), stored.tensor.dtype(), stored.tensor.shape().to_vec()));
        described.collect::<Vec<_>>()
    };
    described(a) == described(b) && a.graph.nodes == b.graph.nodes && a.encoded_len() == b.encoded_len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// What is computed in training is what is stored: a training that moves nothing changes no byte.
    #[test]
    fn a_training_that_moves_nothing_stores_the_same(form in forms(), hidden in 3_usize..40) {
        let host = ToyHost::new(network_in(form, hidden), network(8, 3), samples(20));
        let before = host.candidate();
        train(&host, r#"{"batch": 10, "learning_rate": 1e-30, "weight_decay": 0}"#, 1.0).unwrap();
        prop_assert_eq!(host.candidate(), before);
    }

    /// What is trained is stored as before, byte for byte as long.
    #[test]
    fn training_keeps_the_storage(form in forms(), hidden in 3_usize..40) {
        let host = ToyHost::new(network_in(form, hidden), network(8, 3), samples(20));
        let before = host.candidate();
        train(&host, r#"{"batch": 10, "learning_rate": 0.3, "alpha": 0}"#, 3.0).unwrap();
        let after = host.candidate();
        prop_assert!(stored_alike(&before, &after));
        let codes = |model: &Model| {
            let found = stored_weights(&model.graph).integers;
            let tensors = found.into_iter().map(|weight| match weight.codes {
                Codes::Typed { tensor } | Codes::Packed { words: tensor, .. } => model.graph.tensor(&tensor).unwrap().clone(),
            });
            tensors.collect::<Vec<_>>()
        };
        prop_assert!(codes(&before) != codes(&after), "{:?}", form);
        let answers = evaluate(&after.graph, &rows(&host.samples), "logits");
        prop_assert!(answers.iter().all(|answer| answer.is_finite()));
    }
}

#[test]
fn few_bits_win_back_what_rounding_lost() {
    for decode in [Decode::Constant, Decode::Kernel] {
        for (bits, symmetric, granularity) in [
            (2, true, Granularity::Channel),
            (3, false, Granularity::Group(3)),
            (4, true, Granularity::Tensor),
        ] {
            let form = Form {
                bits,
                symmetric,
                granularity,
                decode,
            };
            let host = ToyHost::new(network_in(form, 24), network(8, 3), samples(60));
            let before = accuracy(&host.candidate().graph, &host.samples);
            let config = r#"{"batch": 10, "alpha": 0, "learning_rate": 0.05, "weight_decay": 0, "average": 0.5}"#;
            let applied = train(&host, config, 30.0).unwrap();
            let after = accuracy(&host.candidate().graph, &host.samples);
            assert!(after > 0.85 && after > before + 0.1, "{form:?} {before} {after}");
            assert!(
                applied.notes.iter().any(|note| note.starts_with("2 stored weights")),
                "{applied:?}"
            );
            let student = &host.seen().sessions[1];
            assert!(student.straight_through);
            assert!(
                student.trainable.iter().any(|name| name == "first.weight.latent"),
                "{student:?}"
            );
        }
    }
}

#[test]
fn halves_are_trained_and_stay_halves() {
    let model = network(6, 40);
    let mut build = Build::on(&model.graph);
    build.place(Some("product"));
    let values = model
        .graph
        .tensor("first.weight")
        .unwrap()
        .values::<f32>()
        .unwrap()
        .into_owned();
    let halves = values
        .iter()
        .map(|&value| kmr_sdk::half::f16::from_f32(value))
        .collect::<Vec<_>>();
    store_half(&mut build, "first.weight", Tensor::from_vec(vec![4, 6], halves));
    let model = model.with_graph(build.finish().apply(&model.graph).unwrap());
    let host = ToyHost::new(model.clone(), network(8, 3), samples(60));
    train(&host, PLAIN, 2.0).unwrap();
    let after = host.candidate();
    assert!(stored_alike(&model, &after));
    let stored = |model: &Model| model.graph.tensor("first.weight_stored").unwrap().clone();
    assert_ne!(stored(&model), stored(&after));
    assert_eq!(stored(&after).dtype(), DType::FLOAT16);
}

#[test]
fn stored_weights_may_be_left_alone() {
    let form = Form {
        bits: 4,
        symmetric: true,
        granularity: Granularity::Channel,
        decode: Decode::Constant,
    };
    let model = network_in(form, 8);
    let host = ToyHost::new(model.clone(), network(8, 3), samples(60));
    train(&host, r#"{"batch": 10, "quantization_aware": false}"#, 1.0).unwrap();
    let changed: Vec<String> = {
        let after = host.candidate().graph;
        let tensors = model.graph.initializers.iter();
        tensors
            .filter(|(name, stored)| after.tensor(name) != Some(&stored.tensor))
            .map(|(name, _)| name.clone())
            .collect()
    };
    assert_eq!(changed, ["first.bias", "second.bias"]);
    // Nothing else is left.
    let mut graph = model.graph.clone();
    let mut patch = kmr_sdk::model::Patch::new();
    for bias in ["first.bias", "second.bias"] {
        let count = graph.tensor(bias).unwrap().len();
        let halves = Tensor::from_vec(vec![count], vec![kmr_sdk::half::f16::ZERO; count]);
        patch.push(Edit::StoreTensor {
            name: bias.into(),
            tensor: halves,
        });
    }
    graph = patch.apply(&graph).unwrap();
    let host = ToyHost::new(model.with_graph(graph), network(8, 3), samples(60));
    let error = refused(&host, r#"{"quantization_aware": false}"#);
    assert!(
        error.contains("set quantization_aware = true to train quantized weights"),
        "{error}"
    );
}
