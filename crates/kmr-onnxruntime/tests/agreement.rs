//! The runtime against the built-in engine.

use std::{fs, num::NonZeroUsize, path::Path, sync::Arc};

use bytes::Bytes;
use half::{bf16, f16};
use kmr_compute::{BatchNorm, Engine, ErrorKind, Feeds, Interpreter, Mode, Program};
use kmr_model::{DType, Dimension, Graph, Initializer, Model, Node, Tensor, ValueInfo};
use kmr_onnxruntime::{OnnxRuntime, Options};

mod common;
use common::found;

const INNER: &str = "/layer2/layer2.0/Relu_1_output_0";

fn resnet() -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/fashion-mnist/resnet20.onnx");
    Model::decode(Bytes::from(fs::read(path).unwrap())).unwrap()
}

fn engine() -> Option<OnnxRuntime> {
    found().map(|found| found.engine(Options::default()))
}

/// Numbers in [0, 1) that need no generator crate.
fn noise(shape: &[usize]) -> Tensor {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let values = (0..shape.iter().product()).map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    });
    Tensor::from_vec(shape.to_vec(), values.collect())
}

fn forward(program: &dyn Program, feeds: &Feeds, outputs: &[&str]) -> Vec<Tensor> {
    program.forward(feeds, outputs, Mode::default()).unwrap()
}

#[track_caller]
fn close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_f32().unwrap(), b.to_f32().unwrap());
    let far = a
        .iter()
        .zip(b.iter())
        .map(|(a, b)| (a - b).abs() / (1.0 + b.abs()))
        .fold(0.0, f32::max);
    assert!(far < 1e-4, "apart by {far}");
}

#[test]
fn outputs_inner_values_and_partial_graphs_agree_with_the_built_in_engine() {
    let Some(engine) = engine() else { return };
    let model = resnet();
    assert!(engine.supports(&model).is_empty());
    let (theirs, ours) = (engine.load(&model).unwrap(), Interpreter.load(&model).unwrap());
    for batch in [1, 7] {
        let feeds = Feeds::from([("image".into(), noise(&[batch, 1, 28, 28]))]);
        let names = [INNER, "logits"];
        let (a, b) = (forward(&*theirs, &feeds, &names), forward(&*ours, &feeds, &names));
        assert_eq!(a[1].shape(), [batch, 10]);
        close(&a[0], &b[0]);
        close(&a[1], &b[1]);
        close(&forward(&*theirs, &feeds, &[])[0], &b[1]);
        // From an inner value on, the input is not needed.
        let inner = Feeds::from([(INNER.into(), b[0].clone())]);
        close(&forward(&*theirs, &inner, &["logits"])[0], &b[1]);
    }
}

#[test]
fn a_fed_initializer_stands_in_for_the_models() {
    let Some(engine) = engine() else { return };
    let model = resnet();
    let (name, weights) = model
        .graph
        .initializers
        .iter()
        .find(|(_, weights)| weights.tensor.shape().len() == 4)
        .unwrap();
    let feeds = Feeds::from([
        ("image".into(), noise(&[2, 1, 28, 28])),
        (name.clone(), noise(weights.tensor.shape())),
    ]);
    let (theirs, ours) = (engine.load(&model).unwrap(), Interpreter.load(&model).unwrap());
    close(&forward(&*theirs, &feeds, &[])[0], &forward(&*ours, &feeds, &[])[0]);
    // What is given is given back, whatever it is.
    assert_eq!(forward(&*theirs, &feeds, &[name])[0], feeds[name]);
    assert_eq!(forward(&*theirs, &Feeds::new(), &[name])[0], *weights.tensor);
}

#[test]
fn one_of_several_outputs_of_a_node_may_be_given() {
    let Some(engine) = engine() else { return };
    let split = Node::new("Split", "", &["x"], &["left", "right"]).with_int("num_outputs", 2);
    let model = model(
        18,
        vec![split, Node::new("Add", "", &["left", "right"], &["y"])],
        &[("x", noise(&[1, 2]))],
        "y",
    );
    let feeds = Feeds::from([
        ("x".into(), Tensor::from_vec(vec![2, 2], vec![1.0_f32, 2.0, 3.0, 4.0])),
        ("right".into(), Tensor::from_vec(vec![1, 2], vec![10.0_f32, 20.0])),
    ]);
    let program = engine.load(&model).unwrap();
    assert_eq!(*forward(&*program, &feeds, &["y"])[0].to_f32().unwrap(), [11.0, 22.0]);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let Some(found) = found() else { return };
    let feeds = Feeds::from([("image".into(), noise(&[7, 1, 28, 28]))]);
    let answers = [1, 2, 4].map(|threads| {
        let threads = NonZeroUsize::new(threads).unwrap();
        let engine = found.engine(Options {
            threads,
            ..Options::default()
        });
        forward(&*engine.load(&resnet()).unwrap(), &feeds, &[])
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    let plain = found.engine(Options {
        optimize: false,
        ..Options::default()
    });
    close(
        &forward(&*plain.load(&resnet()).unwrap(), &feeds, &[])[0],
        &answers[0][0],
    );
}

/// A model of `nodes`, its inputs declared as tensors like these with an open first dimension.
fn model(opset: i64, nodes: Vec<Node>, inputs: &[(&str, Tensor)], output: &str) -> Model {
    let mut graph = Graph::new("test");
    for (name, tensor) in inputs {
        let mut shape: Vec<Dimension> = tensor.shape().iter().map(|&size| Dimension::Fixed(size)).collect();
        if let Some(first) = shape.first_mut() {
            *first = Dimension::Named("batch".into());
        }
        graph.inputs.push(ValueInfo::tensor(name, tensor.dtype(), &shape));
    }
    graph.outputs.push(ValueInfo::untyped(output));
    graph.nodes = nodes.into_iter().map(Arc::new).collect();
    Model::new(graph, 10, opset)
}

#[test]
fn numbers_of_every_type_go_in_and_come_out() {
    let Some(engine) = engine() else { return };
    let tensors = [
        Tensor::from_vec(vec![2], vec![1.5_f32, -2.0]),
        Tensor::from_vec(vec![2], vec![1.5_f64, -2.0]),
        Tensor::from_vec(vec![2], vec![f16::from_f32(1.5), f16::NEG_INFINITY]),
        Tensor::from_vec(vec![2], vec![bf16::from_f32(1.5), bf16::NEG_INFINITY]),
        Tensor::from_vec(vec![2], vec![i8::MIN, i8::MAX]),
        Tensor::from_vec(vec![2], vec![i16::MIN, i16::MAX]),
        Tensor::from_vec(vec![2], vec![i32::MIN, i32::MAX]),
        Tensor::from_vec(vec![2], vec![i64::MIN, i64::MAX]),
        Tensor::from_vec(vec![2], vec![0_u8, u8::MAX]),
        Tensor::from_vec(vec![2], vec![0_u16, u16::MAX]),
        Tensor::from_vec(vec![2], vec![0_u32, u32::MAX]),
        Tensor::from_vec(vec![2], vec![0_u64, u64::MAX]),
        Tensor::new(DType::BOOL, vec![2], Bytes::from_static(&[0, 1])).unwrap(),
        Tensor::from_vec(vec![0, 3], Vec::<f32>::new()),
        Tensor::scalar(7_i64),
    ];
    for tensor in tensors {
        let model = model(
            17,
            vec![Node::new("Identity", "", &["x"], &["y"])],
            &[("x", tensor.clone())],
            "y",
        );
        let program = engine.load(&model).unwrap();
        assert_eq!(
            forward(&*program, &Feeds::from([("x".into(), tensor.clone())]), &[])[0],
            tensor
        );
    }
}

#[test]
fn packed_integers_work_inside_and_are_refused_by_name_at_the_border() {
    let Some(engine) = engine() else { return };
    let dequantize = Node::new("DequantizeLinear", "", &["packed", "scale"], &["wide"]);
    let mut model = model(
        21,
        vec![dequantize, Node::new("Mul", "", &["x", "wide"], &["y"])],
        &[("x", noise(&[1, 2]))],
        "y",
    );
    let packed = Tensor::new(DType::INT4, vec![2], Bytes::from_static(&[0x73])).unwrap();
    model
        .graph
        .initializers
        .insert("packed".into(), Initializer::from(packed.clone()));
    model
        .graph
        .initializers
        .insert("scale".into(), Initializer::from(Tensor::scalar(0.5_f32)));
    let program = engine.load(&model).unwrap();
    let x = Tensor::from_vec(vec![1, 2], vec![1.0_f32, 10.0]);
    let mut feeds = Feeds::from([("x".into(), x)]);
    assert_eq!(*forward(&*program, &feeds, &[])[0].to_f32().unwrap(), [1.5, 35.0]);
    feeds.insert("packed".into(), packed);
    let error = program.forward(&feeds, &[], Mode::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("`packed`: is int4"), "{error}");
}

#[test]
fn what_is_asked_wrongly_is_refused_by_name() {
    let Some(engine) = engine() else { return };
    let program = engine.load(&resnet()).unwrap();
    let image = |tensor| Feeds::from([("image".into(), tensor)]);
    let good = image(noise(&[1, 1, 28, 28]));
    let mut stray = good.clone();
    stray.insert("stray".into(), Tensor::scalar(1.0_f32));
    for (feeds, outputs, kind, place) in [
        (&Feeds::new(), &[][..], ErrorKind::Name, "input `image`"),
        (&good, &["nothing"][..], ErrorKind::Name, "value `nothing`"),
        (&stray, &[][..], ErrorKind::Name, "value `stray`"),
        (&image(noise(&[1, 1, 28])), &[][..], ErrorKind::Shape, "input `image`"),
        (
            &image(noise(&[1, 3, 28, 28])),
            &[][..],
            ErrorKind::Shape,
            "input `image`",
        ),
        (
            &image(Tensor::from_vec(vec![1, 1, 28, 28], vec![0_u8; 784])),
            &[][..],
            ErrorKind::Shape,
            "input `image`",
        ),
    ] {
        let error = program.forward(feeds, outputs, Mode::default()).unwrap_err();
        assert_eq!((error.kind(), error.place()), (kind, place), "{error}");
    }
    let inner = Feeds::from([(INNER.into(), noise(&[1, 5, 14, 14]))]);
    let error = program.forward(&inner, &["logits"], Mode::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
    let error = program.pullback(&good, &[], &[], Mode::default()).err().unwrap();
    assert!(error.help().unwrap().contains("built-in"));
    let batch = Mode {
        batch_norm: BatchNorm::Batch,
        ..Mode::default()
    };
    assert_eq!(
        program.forward(&good, &[], batch).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}

#[test]
fn an_unknown_operator_is_refused_with_its_node() {
    let Some(engine) = engine() else { return };
    let nodes = vec![
        Node::new("Relu", "", &["x"], &["a"]),
        Node::new("Frobnicate", "odd", &["a"], &["y"]),
    ];
    let model = model(17, nodes, &[("x", noise(&[1, 2]))], "y");
    let refusals = engine.supports(&model);
    assert_eq!(refusals.len(), 1);
    assert_eq!(
        (refusals[0].node.as_str(), refusals[0].operator.as_str()),
        ("odd", "Frobnicate")
    );
    // What lies before it can still be computed.
    let program = engine.load(&model).unwrap();
    let feeds = Feeds::from([("x".into(), Tensor::from_vec(vec![1, 2], vec![-1.0_f32, 2.0]))]);
    assert_eq!(*forward(&*program, &feeds, &["a"])[0].to_f32().unwrap(), [0.0, 2.0]);
    assert_eq!(
        program.forward(&feeds, &[], Mode::default()).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
}
