//! Whole models: values, subsets, threads, derivatives, statistics.

mod common;

use std::collections::BTreeMap;

use common::{feeds, floats, load, model, noise};
use kmr_compute::{
    BatchNorm, ComputeError, Engine, ErrorKind, Feeds, Interpreter, Mode, Observation, Program, Statistic, observe,
};
use kmr_model::{Model, Node, Tensor};

const BATCH: Mode = Mode {
    batch_norm: BatchNorm::Batch,
    straight_through: false,
    dropout: None,
};

struct Fixture {
    model: Model,
    x: Tensor,
    y: Vec<f32>,
}

/// A model with an input and what ONNX Runtime made of it, see `fixtures/make.py`.
fn fixture(name: &str, shape: &[usize]) -> Fixture {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let read = |extension: &str| std::fs::read(folder.join(format!("{name}.{extension}"))).unwrap();
    let values = bytemuck::allocation::pod_collect_to_vec::<u8, f32>(&read("f32"));
    let (x, y) = values.split_at(shape.iter().product());
    Fixture {
        model: Model::decode(read("onnx").into()).unwrap(),
        x: floats(shape, x),
        y: y.to_vec(),
    }
}

fn fixtures() -> [Fixture; 3] {
    [
        fixture("residual", &[2, 3, 9, 9]),
        fixture("mobile", &[2, 4, 7, 7]),
        fixture("encoder", &[2, 5, 12]),
    ]
}

fn value_names(model: &Model) -> Vec<&str> {
    model.graph.nodes.iter().map(|node| node.id()).collect()
}

#[test]
fn fixtures_compute_what_onnx_runtime_computes() {
    for Fixture { model, x, y } in fixtures() {
        assert_eq!(Interpreter.supports(&model), []);
        let result = load(&model).forward(&feeds(&[("x", x)]), &[], Mode::default()).unwrap();
        let values = result[0].values::<f32>().unwrap();
        assert_eq!(values.len(), y.len());
        for (got, want) in values.iter().zip(&y) {
            assert!((got - want).abs() < 1e-5, "{}: {got} is not {want}", model.graph.name());
        }
    }
}

#[test]
fn asking_for_more_or_starting_later_changes_no_bit() {
    for Fixture { model, x, .. } in fixtures() {
        let program = load(&model);
        let whole = feeds(&[("x", x)]);
        let result = program.forward(&whole, &[], Mode::default()).unwrap().remove(0);
        let names = value_names(&model);
        let all = program.forward(&whole, &names, Mode::default()).unwrap();
        assert_eq!(all.last(), Some(&result));
        for (name, value) in names.iter().zip(&all) {
            let alone = program.forward(&whole, &[name], Mode::default()).unwrap();
            assert_eq!(alone[0], *value, "{name}");
        }
        // A later start: everything that is computed so far, and nothing else.
        for cut in 0..names.len() {
            let cached: Vec<_> = names[..cut].iter().copied().zip(all.iter().cloned()).collect();
            let mut start = whole.clone();
            start.extend(feeds(&cached));
            assert_eq!(program.forward(&start, &[], Mode::default()).unwrap()[0], result);
        }
    }
}

#[test]
fn only_needed_nodes_run_and_missing_feeds_are_named() {
    let Fixture { model, x, .. } = fixture("residual", &[2, 3, 9, 9]);
    let program = load(&model);
    let last = model.graph.nodes.last().unwrap();
    let before = program
        .forward(&feeds(&[("x", x)]), &[&last.inputs()[0]], Mode::default())
        .unwrap();
    let inner = feeds(&[(&last.inputs()[0], before[0].clone())]);
    assert_eq!(
        program.forward(&inner, &[], Mode::default()).unwrap()[0].shape(),
        [2, 5]
    );
    let error = program.forward(&Feeds::new(), &[], Mode::default()).unwrap_err();
    assert_eq!(error.to_string(), "input `x`: is not fed");
    let error = program.forward(&inner, &["nothing"], Mode::default()).unwrap_err();
    assert_eq!(error.to_string(), "value `nothing`: does not exist in this model");
    let wrong = feeds(&[("x", floats(&[1, 3, 8, 9], &[0.0; 216]))]);
    let error = program.forward(&wrong, &[], Mode::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "input `x`: is declared as [batch, 3, 9, 9]; fed was [1, 3, 8, 9]"
    );
}

#[test]
fn a_fed_initializer_replaces_the_stored_one() {
    let nodes = vec![
        Node::new("Neg", "", &["w"], &["negative"]),
        Node::new("Conv", "", &["x", "negative"], &["y"]),
    ];
    let inputs = [("x", floats(&[1, 1, 1, 2], &[1.0, 2.0]))];
    let model = model(17, nodes, &inputs, &[("w", floats(&[1, 1, 1, 1], &[-3.0]))], &["y"]);
    let program = load(&model);
    let run = |feeds: Feeds| program.forward(&feeds, &[], Mode::default()).unwrap().remove(0);
    assert_eq!(run(feeds(&inputs)), floats(&[1, 1, 1, 2], &[3.0, 6.0]));
    let mut replaced = feeds(&inputs);
    replaced.insert("w".into(), floats(&[1, 1, 1, 1], &[5.0]));
    assert_eq!(run(replaced), floats(&[1, 1, 1, 2], &[-5.0, -10.0]));
    assert_eq!(run(feeds(&inputs)), floats(&[1, 1, 1, 2], &[3.0, 6.0]));
}

#[test]
fn an_unknown_operator_is_in_the_way_only_where_it_is_needed() {
    let nodes = vec![
        Node::new("Relu", "", &["x"], &["fine"]),
        Node::new("StringNormalizer", "odd", &["fine"], &["y"]),
    ];
    let x = [("x", floats(&[2], &[-1.0, 1.0]))];
    let model = model(17, nodes, &x, &[], &["y"]);
    let refusals = Interpreter.supports(&model);
    assert_eq!(
        (refusals.len(), refusals[0].node.as_str(), refusals[0].opset),
        (1, "odd", Some(17))
    );
    let program = load(&model);
    assert_eq!(
        program.forward(&feeds(&x), &["fine"], Mode::default()).unwrap()[0],
        floats(&[2], &[0.0, 1.0])
    );
    let error = program.forward(&feeds(&x), &[], Mode::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "node `odd`: operator `StringNormalizer` (opset 17) is not supported"
    );
}

#[test]
fn threads_change_no_bit_forward_and_backward() {
    for Fixture { model, x, .. } in fixtures() {
        let trainable: Vec<&str> = trainable(&model);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let program = load(&model);
                let mut repeated = Vec::new();
                (0..16).for_each(|_| repeated.extend_from_slice(&x.values::<f32>().unwrap()));
                let mut shape = x.shape().to_vec();
                shape[0] *= 16;
                let feeds = feeds(&[("x", floats(&shape, &repeated))]);
                let outputs = program.forward(&feeds, &value_names(&model), Mode::default()).unwrap();
                let pullback = program.pullback(&feeds, &["y"], &trainable, BATCH).unwrap();
                let cotangent = noise(pullback.outputs()[0].shape(), 5);
                (outputs, pullback.pull(vec![cotangent]).unwrap())
            })
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(4));
    }
}

/// The float32 initializers that are no statistics and no scalars.
fn trainable(model: &Model) -> Vec<&str> {
    let named = |name: &str| !name.starts_with("mean") && !name.starts_with("variance");
    model
        .graph
        .initializers
        .iter()
        .filter(|(name, i)| i.tensor.values::<f32>().is_ok() && !i.tensor.shape().is_empty() && named(name))
        .map(|(name, _)| name.as_str())
        .collect()
}

/// `Σ cotangent · output`, in float64.
fn objective(program: &dyn Program, feeds: &Feeds, mode: Mode, cotangent: &Tensor) -> f64 {
    let y = program.forward(feeds, &["y"], mode).unwrap().remove(0);
    let (y, c) = (y.values::<f32>().unwrap(), cotangent.values::<f32>().unwrap());
    y.iter().zip(c.iter()).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum()
}

/// Compares gradients by `names` with central differences along random directions.
fn check_gradients(model: &Model, feeds: &Feeds, names: &[&str], mode: Mode) {
    let program = load(model);
    let pullback = program.pullback(feeds, &["y"], names, mode).unwrap();
    let cotangent = noise(pullback.outputs()[0].shape(), 11);
    let gradients = pullback.pull(vec![cotangent.clone()]).unwrap();
    for (seed, name) in names.iter().enumerate() {
        let start = match feeds.get(*name) {
            Some(fed) => fed.clone(),
            None => (**model.graph.tensor(name).unwrap()).clone(),
        };
        let gradient = &gradients[*name];
        assert_eq!(gradient.shape(), start.shape());
        let direction = noise(start.shape(), 100 + seed as u64);
        let (d, g) = (direction.values::<f32>().unwrap(), gradient.values::<f32>().unwrap());
        let slope: f64 = d.iter().zip(g.iter()).map(|(&d, &g)| f64::from(d) * f64::from(g)).sum();
        let moved = |step: f32| {
            let values = start.values::<f32>().unwrap();
            let values: Vec<f32> = values.iter().zip(d.iter()).map(|(v, d)| v + step * d).collect();
            let mut feeds = feeds.clone();
            feeds.insert((*name).into(), floats(start.shape(), &values));
            objective(&*program, &feeds, mode, &cotangent)
        };
        let step = 2e-3;
        let measured = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        let size = d
            .iter()
            .zip(g.iter())
            .map(|(&d, &g)| f64::from((d * g).abs()))
            .sum::<f64>();
        assert!(
            (slope - measured).abs() < 0.02 * size + 2e-3,
            "{name} in {}: {slope} is not {measured}",
            model.graph.name()
        );
        assert!(g.iter().any(|&g| g != 0.0), "{name} has no gradient at all");
    }
}

#[test]
fn gradients_agree_with_differences() {
    for Fixture { model, x, .. } in fixtures() {
        // With batch statistics a shift right before them has no gradient, so those stay out.
        let mut names = trainable(&model);
        names.push("x");
        check_gradients(&model, &feeds(&[("x", x.clone())]), &names, Mode::default());
        if model.graph.name() == "residual" {
            let scales: Vec<&str> = names.into_iter().filter(|n| n.starts_with("scale")).collect();
            check_gradients(&model, &feeds(&[("x", x)]), &scales, BATCH);
        }
    }
}

#[test]
fn gradients_of_the_other_operators_agree_with_differences() {
    type Attributes = fn(Node) -> Node;
    let operators: Vec<(&str, Attributes)> = vec![
        ("LeakyRelu", |n| n),
        ("Tanh", |n| n),
        ("Gelu", |n| n),
        ("Exp", |n| n),
        ("LogSoftmax", |n| n.with_int("axis", 1)),
        ("Abs", |n| n),
        ("GlobalMaxPool", |n| n),
        ("AveragePool", |n| {
            n.with_ints("kernel_shape", &[2, 3]).with_ints("pads", &[1, 0, 0, 2])
        }),
        ("MaxPool", |n| {
            n.with_ints("kernel_shape", &[2, 2]).with_ints("strides", &[2, 2])
        }),
        ("ReduceMax", |n| n.with_ints("axes", &[1])),
        ("ReduceSum", |n| n),
        ("Transpose", |n| n.with_ints("perm", &[0, 2, 3, 1])),
        ("Flatten", |n| n),
    ];
    let x = [("x", noise(&[2, 3, 4, 4], 3))];
    for (operator, attributes) in operators {
        let node = attributes(Node::new(operator, "", &["x"], &["y"]));
        let model = model(17, vec![node], &x, &[], &["y"]);
        check_gradients(&model, &feeds(&x), &["x"], Mode::default());
    }
    let pairs = [("x", noise(&[2, 3], 1)), ("z", noise(&[3], 2))];
    for operator in ["Add", "Sub", "Mul", "Max", "Min"] {
        let model = model(
            17,
            vec![Node::new(operator, "", &["x", "z"], &["y"])],
            &pairs,
            &[],
            &["y"],
        );
        check_gradients(&model, &feeds(&pairs), &["x", "z"], Mode::default());
    }
}

#[test]
fn derivatives_by_inner_values_and_of_nothing() {
    let nodes = vec![
        Node::new("Mul", "", &["x", "x"], &["square"]),
        Node::new("Mul", "", &["square", "w"], &["y"]),
        Node::new("Relu", "", &["x"], &["apart"]),
    ];
    let x = [("x", floats(&[2], &[3.0, 4.0]))];
    let model = model(17, nodes, &x, &[("w", floats(&[2], &[10.0, 20.0]))], &["y"]);
    let program = load(&model);
    let names = ["square", "x", "apart"];
    let pullback = program.pullback(&feeds(&x), &["y"], &names, Mode::default()).unwrap();
    assert_eq!(pullback.outputs()[0], floats(&[2], &[90.0, 320.0]));
    let gradients = pullback.pull(vec![floats(&[2], &[1.0, 2.0])]).unwrap();
    let expected = BTreeMap::from([
        ("square".to_owned(), floats(&[2], &[10.0, 40.0])),
        ("x".to_owned(), floats(&[2], &[60.0, 320.0])),
        ("apart".to_owned(), floats(&[2], &[0.0, 0.0])),
    ]);
    assert_eq!(gradients, expected);
    let pullback = program.pullback(&feeds(&x), &["y"], &["w"], Mode::default()).unwrap();
    let error = pullback.pull(vec![floats(&[1], &[1.0])]).unwrap_err();
    assert_eq!(error.to_string(), "cotangent 0: is float32 [1]; expected float32 [2]");
}

#[test]
fn batch_statistics_normalize_each_batch() {
    let Fixture { model, x, .. } = fixture("residual", &[2, 3, 9, 9]);
    let program = load(&model);
    let node = model
        .graph
        .nodes
        .iter()
        .find(|node| node.is("BatchNormalization"))
        .unwrap();
    let observation = Observation {
        values: vec![node.id().into()],
        statistics: vec![Statistic::Mean, Statistic::Variance],
        channel_axis: 1,
        mode: BATCH,
    };
    let batches = [Ok::<_, ComputeError>(feeds(&[("x", x)]))];
    let seen = observe(&*program, batches, &observation).unwrap();
    let parameter = |k: usize| {
        model
            .graph
            .tensor(&node.inputs()[k])
            .unwrap()
            .values::<f32>()
            .unwrap()
            .into_owned()
    };
    let means = seen[&format!("{}/mean", node.id())]
        .values::<f32>()
        .unwrap()
        .into_owned();
    let variances = seen[&format!("{}/variance", node.id())]
        .values::<f32>()
        .unwrap()
        .into_owned();
    for channel in 0..means.len() {
        assert!((means[channel] - parameter(2)[channel]).abs() < 1e-5);
        assert!((variances[channel] - parameter(1)[channel].powi(2)).abs() < 1e-3);
    }
}

#[test]
fn statistics_do_not_depend_on_how_samples_are_batched() {
    let nodes = vec![Node::new("Identity", "", &["x"], &["y"])];
    let all = noise(&[6, 2, 3], 9);
    let model = model(17, nodes, &[("x", all.clone())], &[], &["y"]);
    let program = load(&model);
    let observation = Observation {
        values: vec!["y".into()],
        statistics: ["min", "max", "mean", "mean_abs", "mean_square", "variance", "gram"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect(),
        channel_axis: -2,
        mode: Mode::default(),
    };
    let values = all.values::<f32>().unwrap().into_owned();
    let seen = |sizes: &[usize]| {
        let mut rest = &values[..];
        let batches: Vec<_> = sizes
            .iter()
            .map(|&size| {
                let (batch, after) = rest.split_at(size * 6);
                rest = after;
                Ok::<_, ComputeError>(feeds(&[("x", floats(&[size, 2, 3], batch))]))
            })
            .collect();
        observe(&*program, batches, &observation).unwrap()
    };
    let channel = |c: usize| values.chunks(3).skip(c).step_by(2).flatten().map(|&v| f64::from(v));
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / 18.0;
    for sizes in [&[6][..], &[1, 2, 3], &[4, 2]] {
        let seen = seen(sizes);
        let got = |name: &str, at: usize| f64::from(seen[&format!("y/{name}")].values::<f32>().unwrap()[at]);
        for c in 0..2 {
            let average = mean(&mut channel(c));
            let expected = [
                ("min", channel(c).fold(f64::INFINITY, f64::min)),
                ("max", channel(c).fold(f64::NEG_INFINITY, f64::max)),
                ("mean", average),
                ("mean_abs", mean(&mut channel(c).map(f64::abs))),
                ("mean_square", mean(&mut channel(c).map(|v| v * v))),
                ("variance", mean(&mut channel(c).map(|v| (v - average).powi(2)))),
            ];
            for (name, want) in expected {
                assert!(
                    (got(name, c) - want).abs() < 1e-6,
                    "{name}: {} is not {want}",
                    got(name, c)
                );
            }
            let product = mean(&mut channel(0).zip(channel(1)).map(|(a, b)| a * b));
            assert!((got("gram", 1 + c) - product).abs() < 1e-6);
            assert!((got("gram", 3 * c) - expected[4].1).abs() < 1e-6);
        }
    }
    let nothing: [Result<Feeds, ComputeError>; 0] = [];
    let error = observe(&*program, nothing, &observation).unwrap_err();
    assert_eq!(error.to_string(), "value `y`: was never seen: there were no samples");
}
