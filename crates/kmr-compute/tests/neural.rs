//! Layers of networks: derivatives against central differences, and what the conformance cases leave open.

mod common;

use common::{feeds, floats, load, model, noise, run_node};
use kmr_compute::{ErrorKind, Feeds, Mode};
use kmr_model::{DType, Node, Tensor};

/// `Σ cotangent · output 0`, in float64.
fn objective(node: &Node, inputs: &Feeds, cotangent: &Tensor) -> f64 {
    let y = forward(node, inputs);
    let (y, c) = (y.values::<f32>().unwrap(), cotangent.values::<f32>().unwrap());
    y.iter().zip(c.iter()).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum()
}

fn network(node: &Node, inputs: &Feeds) -> kmr_model::Model {
    let inputs: Vec<(&str, Tensor)> = inputs.iter().map(|(name, x)| (name.as_str(), x.clone())).collect();
    model(23, vec![node.clone()], &inputs, &[], &["y"])
}

fn forward(node: &Node, inputs: &Feeds) -> Tensor {
    let outputs = load(&network(node, inputs)).forward(inputs, &["y"], Mode::default());
    outputs.unwrap().remove(0)
}

/// Compares the gradients by all float32 inputs with central differences along a direction.
#[track_caller]
fn check_gradients(node: Node, inputs: &[(&str, Tensor)]) {
    let inputs = feeds(inputs);
    let is_float = |x: &Tensor| x.dtype() == DType::FLOAT;
    let names: Vec<&str> = inputs
        .iter()
        .filter(|(_, x)| is_float(x))
        .map(|(name, _)| name.as_str())
        .collect();
    let program = load(&network(&node, &inputs));
    let pullback = program.pullback(&inputs, &["y"], &names, Mode::default()).unwrap();
    // On the tape and off it, results are the same but for rounding.
    let plain = forward(&node, &inputs);
    let recorded = pullback.outputs()[0].clone();
    assert_eq!(plain.shape(), recorded.shape());
    for (a, b) in plain
        .values::<f32>()
        .unwrap()
        .iter()
        .zip(recorded.values::<f32>().unwrap().iter())
    {
        assert!(
            (a - b).abs() < 1e-5 * (1.0 + a.abs()),
            "{} is {a}, and {b} on the tape",
            node.op_type()
        );
    }
    let cotangent = noise(plain.shape(), 11);
    let gradients = pullback.pull(vec![cotangent.clone()]).unwrap();
    for (seed, name) in names.iter().enumerate() {
        let start = inputs[*name].clone();
        let direction = noise(start.shape(), 100 + seed as u64);
        let (d, g) = (
            direction.values::<f32>().unwrap(),
            gradients[*name].values::<f32>().unwrap(),
        );
        let slope: f64 = d.iter().zip(g.iter()).map(|(&d, &g)| f64::from(d) * f64::from(g)).sum();
        let moved = |step: f32| {
            let values = start.values::<f32>().unwrap();
            let values: Vec<f32> = values.iter().zip(d.iter()).map(|(v, d)| v + step * d).collect();
            let mut inputs = inputs.clone();
            inputs.insert((*name).into(), floats(start.shape(), &values));
            objective(&node, &inputs, &cotangent)
        };
        let step = 2e-3;
        let measured = (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        let size: f64 = d.iter().zip(g.iter()).map(|(&d, &g)| f64::from((d * g).abs())).sum();
        assert!(
            (slope - measured).abs() < 0.02 * size + 2e-3,
            "{} by {name}: {slope} is not {measured}",
            node.op_type()
        );
        assert!(
            g.iter().any(|&g| g != 0.0),
            "{} has no gradient by {name}",
            node.op_type()
        );
    }
}

#[test]
fn transposed_convolutions_have_derivatives() {
    let node = Node::new("ConvTranspose", "", &["x", "w", "b"], &["y"])
        .with_ints("strides", &[2, 3])
        .with_ints("pads", &[1, 0, 0, 2])
        .with_ints("dilations", &[2, 1])
        .with_ints("output_padding", &[1, 2])
        .with_int("group", 2);
    let inputs = [
        ("x", noise(&[2, 4, 3, 4], 1)),
        ("w", noise(&[4, 3, 3, 2], 2)),
        ("b", noise(&[6], 3)),
    ];
    check_gradients(node, &inputs);
}

#[test]
fn convolutions_in_three_dimensions_have_derivatives() {
    let node = Node::new("Conv", "", &["x", "w"], &["y"])
        .with_ints("strides", &[1, 2, 1])
        .with_ints("pads", &[1, 0, 2, 0, 1, 1]);
    check_gradients(
        node,
        &[("x", noise(&[1, 2, 4, 5, 3], 1)), ("w", noise(&[3, 2, 2, 3, 2], 2))],
    );
}

#[test]
fn recurrent_layers_have_derivatives() {
    for (operator, gates) in [("RNN", 1), ("GRU", 3), ("LSTM", 4)] {
        let node = Node::new(operator, "", &["x", "w", "r", "b", "lengths"], &["y"])
            .with_string("direction", "bidirectional")
            .with_int("linear_before_reset", 1)
            .with_int("hidden_size", 3);
        let inputs = [
            ("x", noise(&[4, 2, 5], 1)),
            ("w", noise(&[2, gates * 3, 5], 2)),
            ("r", noise(&[2, gates * 3, 3], 3)),
            ("b", noise(&[2, 2 * gates * 3], 4)),
            ("lengths", Tensor::from_vec(vec![2], vec![4_i32, 2])),
        ];
        check_gradients(node, &inputs);
    }
}

#[test]
fn a_recurrent_layer_leaves_what_lies_behind_a_sequence_alone() {
    let run = |behind: f32| {
        let mut x = noise(&[3, 2, 2], 1).values::<f32>().unwrap().into_owned();
        // Step 2 of sample 1.
        x[10..].fill(behind);
        let inputs = [
            Some(floats(&[3, 2, 2], &x)),
            Some(noise(&[1, 8, 2], 2)),
            Some(noise(&[1, 8, 2], 3)),
            None,
            Some(Tensor::from_vec(vec![2], vec![3_i32, 2])),
        ];
        run_node(14, "LSTM", &inputs, 3, |n| {
            n.with_string("direction", "reverse").with_int("hidden_size", 2)
        })
        .unwrap()
    };
    let outputs = run(0.5);
    assert_eq!(outputs, run(f32::NAN));
    assert_eq!(outputs[0].values::<f32>().unwrap()[10..], [0.0, 0.0]);
    assert!(outputs[1].values::<f32>().unwrap().iter().all(|&h| h != 0.0));
}

#[test]
fn resizing_has_derivatives() {
    for mode in ["nearest", "linear", "cubic"] {
        let node = Node::new("Resize", "", &["x", "", "", "sizes"], &["y"]).with_string("mode", mode);
        let sizes = Tensor::from_vec(vec![4], vec![1_i64, 2, 7, 3]);
        check_gradients(node, &[("x", noise(&[1, 2, 4, 5], 1)), ("sizes", sizes)]);
    }
}

#[test]
fn normalizations_have_derivatives() {
    let x = || ("x", noise(&[2, 4, 3, 3], 1));
    let (scale, bias) = (|| ("s", noise(&[4], 2)), || ("b", noise(&[4], 3)));
    let three = |operator: &str| Node::new(operator, "", &["x", "s", "b"], &["y"]);
    check_gradients(three("InstanceNormalization"), &[x(), scale(), bias()]);
    check_gradients(
        three("GroupNormalization").with_int("num_groups", 2),
        &[x(), scale(), bias()],
    );
    let statistics = Node::new("LayerNormalization", "", &["x", "s"], &["y", "mean"]);
    check_gradients(statistics, &[x(), ("s", noise(&[3], 2))]);
    let one = |operator: &str| Node::new(operator, "", &["x"], &["y"]);
    check_gradients(one("MeanVarianceNormalization"), &[x()]);
    check_gradients(one("LpNormalization"), &[x()]);
    check_gradients(one("LRN").with_int("size", 3).with_float("alpha", 0.5), &[x()]);
}

#[test]
fn losses_have_derivatives() {
    let classes = Tensor::from_vec(vec![2, 3], vec![0_i64, 3, 1, -1, 2, 3]);
    for reduction in ["none", "sum", "mean"] {
        let node = Node::new("SoftmaxCrossEntropyLoss", "", &["x", "t"], &["y"])
            .with_string("reduction", reduction)
            .with_int("ignore_index", -1);
        check_gradients(node, &[("x", noise(&[2, 4, 3], 1)), ("t", classes.clone())]);
    }
}

#[test]
fn attention_has_derivatives() {
    let node = Node::new("Attention", "", &["q", "k", "v"], &["y"]).with_int("is_causal", 1);
    let inputs = [
        ("q", noise(&[2, 4, 3, 2], 1)),
        ("k", noise(&[2, 2, 3, 2], 2)),
        ("v", noise(&[2, 2, 3, 5], 3)),
    ];
    check_gradients(node.clone(), &inputs);
    let inputs = feeds(&inputs);
    let pullback = load(&network(&node, &inputs))
        .pullback(&inputs, &["y"], &["q", "k", "v"], Mode::default())
        .unwrap();
    assert_eq!(pullback.outputs()[0].shape(), [2, 4, 3, 5]);
    // The first query sees the first key alone, so that its result is the first value, whatever they are.
    let mut cotangent = vec![0.0; 2 * 4 * 3 * 5];
    cotangent[..5].fill(1.0);
    let gradients = pullback.pull(vec![floats(&[2, 4, 3, 5], &cotangent)]).unwrap();
    assert!(gradients["q"].values::<f32>().unwrap().iter().all(|&g| g == 0.0));
    let v = gradients["v"].values::<f32>().unwrap();
    assert_eq!(v[..5], [1.0; 5]);
    assert!(v[5..].iter().all(|&g| g == 0.0));
}

#[test]
fn what_has_no_derivative_says_so() {
    let x = feeds(&[("x", noise(&[1, 1, 4, 4, 4], 1))]);
    let node = Node::new("MaxPool", "pool", &["x"], &["y"]).with_ints("kernel_shape", &[2, 2, 2]);
    let error = load(&network(&node, &x))
        .pullback(&x, &["y"], &["x"], Mode::default())
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`pool`"), "{error}");
    assert!(error.to_string().contains("derivative"), "{error}");
}

#[test]
fn sums_of_quantized_products_take_a_zero_point_for_each_channel() {
    let x = Tensor::from_vec(vec![1, 1, 2, 2], vec![130_u8, 128, 126, 255]);
    let w = Tensor::from_vec(vec![2, 1, 1, 1], vec![3_i8, -128]);
    let zeros = Tensor::from_vec(vec![2], vec![1_i8, 2]);
    let zero = Tensor::scalar(128_u8);
    let inputs = [Some(x), Some(w), Some(zero), Some(zeros)];
    let sums = run_node(10, "ConvInteger", &inputs, 1, |n| n).unwrap().remove(0);
    assert_eq!(
        sums,
        Tensor::from_vec(vec![1, 2, 2, 2], vec![4_i32, 0, -4, 254, -260, 0, 260, -16_510])
    );
}

#[test]
fn sizes_from_values_do_not_end_the_process() {
    let huge = || Some(Tensor::scalar(i64::MAX));
    assert!(run_node(17, "HannWindow", &[huge()], 1, |n| n).is_err());
    let x = Some(noise(&[1, 1, 2, 2], 1));
    let sizes = Some(Tensor::from_vec(vec![4], vec![1_i64 << 40, 1 << 40, 1 << 40, 2]));
    assert!(run_node(19, "Resize", &[x, None, None, sizes], 1, |n| n).is_err());
}
