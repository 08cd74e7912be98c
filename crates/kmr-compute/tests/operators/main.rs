//! Single operators against values computed by hand from ONNX's specification.

#[path = "../common/mod.rs"]
mod common;
mod conversions;
mod derivatives;
mod numbers;
mod selection;

use common::{floats, integers, run_node};
use kmr_compute::ErrorKind;
use kmr_model::{DType, Node, Tensor};

/// Runs a node with one output.
fn one(opset: i64, operator: &str, inputs: &[Option<Tensor>], attributes: impl FnOnce(Node) -> Node) -> Tensor {
    run_node(opset, operator, inputs, 1, attributes).unwrap().remove(0)
}

fn plain(node: Node) -> Node {
    node
}

#[track_caller]
fn close(got: &Tensor, shape: &[usize], want: &[f32]) {
    assert_eq!(got.shape(), shape);
    let values = got.values::<f32>().unwrap();
    for (got, want) in values.iter().zip(want) {
        let equal = got == want || (got.is_nan() && want.is_nan()) || (got - want).abs() < 2e-6 * (1.0 + want.abs());
        assert!(equal, "{values:?} is not {want:?}");
    }
}

#[test]
fn activations() {
    let x = || Some(floats(&[2, 2], &[-2.0, -0.5, 0.0, 3.0]));
    let table: [(&str, [f32; 4]); 12] = [
        ("Relu", [0.0, 0.0, 0.0, 3.0]),
        ("LeakyRelu", [-0.02, -0.005, 0.0, 3.0]),
        ("Sigmoid", [0.119_202_92, 0.377_540_67, 0.5, 0.952_574_1]),
        ("HardSigmoid", [0.1, 0.4, 0.5, 1.0]),
        ("HardSwish", [-1.0 / 3.0, -0.208_333_34, 0.0, 3.0]),
        ("Tanh", [-0.964_027_6, -0.462_117_16, 0.0, 0.995_054_8]),
        ("Erf", [-0.995_322_3, -0.520_499_9, 0.0, 0.999_977_9]),
        ("Exp", [0.135_335_28, 0.606_530_66, 1.0, 20.085_537]),
        ("Log", [f32::NAN, f32::NAN, f32::NEG_INFINITY, 1.098_612_3]),
        ("Sqrt", [f32::NAN, f32::NAN, 0.0, 1.732_050_8]),
        ("Neg", [2.0, 0.5, 0.0, -3.0]),
        ("Reciprocal", [-0.5, -2.0, f32::INFINITY, 1.0 / 3.0]),
    ];
    for (operator, want) in table {
        close(&one(17, operator, &[x()], plain), &[2, 2], &want);
    }
    let gelu = one(20, "Gelu", &[x()], plain);
    close(&gelu, &[2, 2], &[-0.045_500_27, -0.154_268_77, 0.0, 2.995_950_3]);
    let gelu = one(20, "Gelu", &[x()], |n| n.with_string("approximate", "tanh"));
    close(&gelu, &[2, 2], &[-0.045_402, -0.154_286, 0.0, 2.996_362_6]);
}

#[test]
fn clip_takes_its_bounds_from_where_the_opset_has_them() {
    let x = || Some(floats(&[3], &[-1.0, 2.0, 9.0]));
    let old = one(6, "Clip", &[x()], |n| n.with_float("min", 0.0).with_float("max", 6.0));
    close(&old, &[3], &[0.0, 2.0, 6.0]);
    let six = Some(Tensor::scalar(6.0_f32));
    close(&one(13, "Clip", &[x(), None, six], plain), &[3], &[-1.0, 2.0, 6.0]);
    let bound = Some(Tensor::scalar(3_i64));
    let whole = one(13, "Clip", &[Some(integers(&[2], &[1, 5])), bound], plain);
    assert_eq!(whole.to_i64().unwrap(), [3, 5]);
}

#[test]
fn arithmetic_broadcasts() {
    let a = || Some(floats(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]));
    let b = || Some(floats(&[2, 1], &[10.0, 20.0]));
    let sum = one(17, "Add", &[a(), b()], plain);
    close(&sum, &[2, 2, 2], &[11.0, 12.0, 21.0, 22.0, 13.0, 14.0, 23.0, 24.0]);
    let scalar = || Some(Tensor::scalar(2.0_f32));
    close(
        &one(17, "Div", &[a(), scalar()], plain),
        &[2, 1, 2],
        &[0.5, 1.0, 1.5, 2.0],
    );
    close(&one(17, "Mul", &[scalar(), scalar()], plain), &[], &[4.0]);
    close(
        &one(
            17,
            "Pow",
            &[Some(floats(&[3], &[-2.0, 0.5, 3.0])), Some(Tensor::scalar(3.0_f32))],
            plain,
        ),
        &[3],
        &[-8.0, 0.125, 27.0],
    );
    let nan = Some(floats(&[2], &[f32::NAN, 1.0]));
    let other = Some(floats(&[2], &[5.0, f32::NAN]));
    close(
        &one(17, "Max", &[nan.clone(), other.clone()], plain),
        &[2],
        &[f32::NAN; 2],
    );
    close(
        &one(17, "Min", &[b(), Some(floats(&[3], &[9.0, 15.0, 30.0]))], plain),
        &[2, 3],
        &[9.0, 10.0, 10.0, 9.0, 15.0, 20.0],
    );
    let whole = one(
        17,
        "Div",
        &[Some(integers(&[3], &[7, -7, 9])), Some(integers(&[], &[2]))],
        plain,
    );
    assert_eq!(whole.to_i64().unwrap(), [3, -3, 4]);
}

#[test]
fn what_does_not_fit_is_an_error_with_the_node() {
    let error = run_node(
        17,
        "Add",
        &[Some(floats(&[2], &[0.0; 2])), Some(floats(&[3], &[0.0; 3]))],
        1,
        plain,
    )
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
    assert_eq!(
        error.to_string(),
        "node `the node` (Add): shapes [2] and [3] do not broadcast"
    );
    let error = run_node(
        17,
        "Div",
        &[Some(integers(&[1], &[1])), Some(integers(&[1], &[0]))],
        1,
        plain,
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "node `the node` (Div): divides by zero or overflows");
    let error = run_node(17, "Exp", &[Some(integers(&[1], &[1]))], 1, plain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    for (operator, inputs) in [
        ("MatMul", [floats(&[2, 3], &[0.0; 6]), floats(&[2, 3], &[0.0; 6])]),
        (
            "Conv",
            [floats(&[1, 2, 3, 3], &[0.0; 18]), floats(&[1, 3, 1, 1], &[0.0; 3])],
        ),
        ("Reshape", [floats(&[3], &[0.0; 3]), integers(&[1], &[4])]),
        ("Expand", [floats(&[3], &[0.0; 3]), integers(&[1], &[4])]),
        ("Gather", [floats(&[3], &[0.0; 3]), integers(&[1], &[3])]),
        ("Concat", [floats(&[3, 1], &[0.0; 3]), floats(&[2, 2], &[0.0; 4])]),
        ("Gemm", [floats(&[2, 3], &[0.0; 6]), floats(&[2, 3], &[0.0; 6])]),
    ] {
        let [a, b] = inputs;
        let error = run_node(17, operator, &[Some(a), Some(b)], 1, plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape, "{error}");
        assert!(error.to_string().starts_with("node `the node`"), "{error}");
    }
}

#[test]
fn softmax_flattens_before_opset_13() {
    let x = || Some(floats(&[1, 2, 2], &[0.0, 0.0, 0.0, 0.0]));
    close(&one(12, "Softmax", &[x()], plain), &[1, 2, 2], &[0.25; 4]);
    close(&one(13, "Softmax", &[x()], plain), &[1, 2, 2], &[0.5; 4]);
    let log = one(13, "LogSoftmax", &[x()], |n| n.with_int("axis", 1));
    close(&log, &[1, 2, 2], &[-std::f32::consts::LN_2; 4]);
}

/// The many small shares of a large vocabulary would be lost one by one in a float32 sum.
#[test]
fn softmax_keeps_its_digits_on_long_axes() {
    let mut x = vec![-16.0; 6625];
    x[0] = 0.0;
    let greatest = 1.0 / (1.0 + 6624.0 * (-16.0_f64).exp());
    let mut expected = vec![(greatest * (-16.0_f64).exp()) as f32; 6625];
    expected[0] = greatest as f32;
    let along = |shape: &[usize]| one(17, "Softmax", &[Some(floats(shape, &x))], |n| n.with_int("axis", 1));
    close(&along(&[1, 6625]), &[1, 6625], &expected);
    close(&along(&[1, 6625, 1]), &[1, 6625, 1], &expected);
}

#[test]
fn convolutions_of_every_kind() {
    let x = || Some(floats(&[1, 1, 3, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]));
    let w = || Some(floats(&[1, 1, 2, 2], &[1.0, 10.0, 100.0, 1000.0]));
    close(
        &one(17, "Conv", &[x(), w()], plain),
        &[1, 1, 2, 2],
        &[5421.0, 6532.0, 8754.0, 9865.0],
    );
    let upper = one(17, "Conv", &[x(), w()], |n| n.with_string("auto_pad", "SAME_UPPER"));
    close(
        &upper,
        &[1, 1, 3, 3],
        &[5421.0, 6532.0, 603.0, 8754.0, 9865.0, 906.0, 87.0, 98.0, 9.0],
    );
    let lower = one(17, "Conv", &[x(), w()], |n| n.with_string("auto_pad", "SAME_LOWER"));
    close(
        &lower,
        &[1, 1, 3, 3],
        &[1000.0, 2100.0, 3200.0, 4010.0, 5421.0, 6532.0, 7040.0, 8754.0, 9865.0],
    );
    let line = Some(floats(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]));
    let taps = Some(floats(&[2, 1, 2], &[1.0, 1.0, 2.0, -1.0]));
    let bias = Some(floats(&[2], &[0.5, 0.0]));
    let grouped = one(17, "Conv", &[line, taps, bias], |n| {
        n.with_int("group", 2)
            .with_ints("dilations", &[2])
            .with_ints("pads", &[0, 1])
    });
    close(&grouped, &[1, 2, 3], &[4.5, 6.5, 3.5, 3.0, 4.0, 14.0]);
}

#[test]
fn pools() {
    let x = || Some(floats(&[1, 1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let two = |n: Node| n.with_ints("kernel_shape", &[2, 2]);
    close(&one(17, "MaxPool", &[x()], two), &[1, 1, 1, 2], &[5.0, 6.0]);
    close(&one(17, "AveragePool", &[x()], two), &[1, 1, 1, 2], &[3.0, 4.0]);
    let padded = |n: Node| two(n).with_ints("pads", &[1, 1, 0, 0]).with_ints("strides", &[2, 2]);
    close(&one(17, "AveragePool", &[x()], padded), &[1, 1, 1, 2], &[1.0, 2.5]);
    let counted = |n: Node| padded(n).with_int("count_include_pad", 1);
    close(&one(17, "AveragePool", &[x()], counted), &[1, 1, 1, 2], &[0.25, 1.25]);
    let negative = Some(floats(&[1, 1, 3], &[-1.0, -2.0, -3.0]));
    let line = |n: Node| {
        n.with_ints("kernel_shape", &[2])
            .with_ints("strides", &[2])
            .with_int("ceil_mode", 1)
    };
    close(&one(17, "MaxPool", &[negative], line), &[1, 1, 2], &[-1.0, -3.0]);
    close(&one(17, "GlobalAveragePool", &[x()], plain), &[1, 1, 1, 1], &[3.5]);
    close(&one(17, "GlobalMaxPool", &[x()], plain), &[1, 1, 1, 1], &[6.0]);
}

#[test]
fn reductions_find_their_axes_where_the_opset_has_them() {
    let x = || Some(floats(&[2, 2], &[1.0, 2.0, 3.0, 5.0]));
    let attribute = |n: Node| n.with_ints("axes", &[-1]);
    close(&one(11, "ReduceSum", &[x()], attribute), &[2, 1], &[3.0, 8.0]);
    close(&one(17, "ReduceMean", &[x()], attribute), &[2, 1], &[1.5, 4.0]);
    let flat = |n: Node| n.with_int("keepdims", 0);
    let axes = || Some(integers(&[1], &[0]));
    close(&one(13, "ReduceSum", &[x(), axes()], flat), &[2], &[4.0, 7.0]);
    close(&one(18, "ReduceMax", &[x(), axes()], flat), &[2], &[3.0, 5.0]);
    close(&one(18, "ReduceMean", &[x()], flat), &[], &[2.75]);
    close(
        &one(18, "ReduceMin", &[x()], |n| n.with_int("noop_with_empty_axes", 1)),
        &[2, 2],
        &[1.0, 2.0, 3.0, 5.0],
    );
}

#[test]
fn normalizations() {
    let x = || Some(floats(&[1, 2, 2], &[1.0, 3.0, 5.0, 5.0]));
    let list = |values: &[f32]| Some(floats(&[2], values));
    let batch = one(
        17,
        "BatchNormalization",
        &[
            x(),
            list(&[2.0, 1.0]),
            list(&[0.0, 7.0]),
            list(&[1.0, 5.0]),
            list(&[4.0, 1.0]),
        ],
        |n| n.with_float("epsilon", 0.0),
    );
    close(&batch, &[1, 2, 2], &[0.0, 2.0, 7.0, 7.0]);
    let layer = one(
        17,
        "LayerNormalization",
        &[x(), list(&[1.0, 2.0]), list(&[0.0, 1.0])],
        |n| n.with_float("epsilon", 1e-12),
    );
    close(&layer, &[1, 2, 2], &[-1.0, 3.0, 0.0, 1.0]);
}

#[test]
fn products_of_any_rank() {
    let a = Some(floats(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]));
    let b = Some(floats(&[2, 2], &[1.0, 0.0, 1.0, 1.0]));
    close(
        &one(17, "MatMul", &[a.clone(), b], plain),
        &[2, 1, 2],
        &[3.0, 2.0, 7.0, 4.0],
    );
    let stacked = Some(floats(&[3, 1, 2, 1], &[1.0, 1.0, 2.0, 0.0, 0.0, 1.0]));
    close(
        &one(17, "MatMul", &[a, stacked], plain),
        &[3, 2, 1, 1],
        &[3.0, 7.0, 2.0, 6.0, 2.0, 4.0],
    );
    let vector = || Some(floats(&[2], &[1.0, 2.0]));
    close(&one(17, "MatMul", &[vector(), vector()], plain), &[], &[5.0]);
    let matrix = || Some(floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let gemm = one(17, "Gemm", &[matrix(), matrix(), vector()], |n| {
        n.with_int("transA", 1).with_float("alpha", 0.5).with_float("beta", 2.0)
    });
    close(&gemm, &[2, 2], &[7.0, 11.0, 9.0, 14.0]);
}

#[test]
fn layouts() {
    let x = || Some(floats(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let whole = || Some(integers(&[2, 3], &[1, 2, 3, 4, 5, 6]));
    let list = |values: &[i64]| Some(integers(&[values.len()], values));
    close(
        &one(17, "Transpose", &[x()], plain),
        &[3, 2],
        &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0],
    );
    assert_eq!(
        one(17, "Transpose", &[whole()], plain).to_i64().unwrap(),
        [1, 4, 2, 5, 3, 6]
    );
    assert_eq!(one(17, "Reshape", &[x(), list(&[0, -1, 1])], plain).shape(), [2, 3, 1]);
    assert_eq!(one(17, "Flatten", &[x()], |n| n.with_int("axis", 0)).shape(), [1, 6]);
    assert_eq!(
        one(17, "Unsqueeze", &[x(), list(&[0, -1])], plain).shape(),
        [1, 2, 3, 1]
    );
    assert_eq!(
        one(11, "Unsqueeze", &[x()], |n| n.with_ints("axes", &[1])).shape(),
        [2, 1, 3]
    );
    assert_eq!(
        one(17, "Squeeze", &[Some(floats(&[1, 2, 1], &[0.0; 2]))], plain).shape(),
        [2]
    );
    // Backwards from the last column, rows from the first.
    let slice = [list(&[0, -1]), list(&[2, i64::MIN]), list(&[0, 1]), list(&[1, -2])];
    let [starts, ends, axes, steps] = slice;
    let inputs = |x: Option<Tensor>| [x, starts.clone(), ends.clone(), axes.clone(), steps.clone()];
    close(&one(17, "Slice", &inputs(x()), plain), &[2, 2], &[3.0, 1.0, 6.0, 4.0]);
    assert_eq!(
        one(17, "Slice", &inputs(whole()), plain).to_i64().unwrap(),
        [3, 1, 6, 4]
    );
    let old = one(9, "Slice", &[x()], |n| {
        n.with_ints("starts", &[1])
            .with_ints("ends", &[9])
            .with_ints("axes", &[1])
    });
    close(&old, &[2, 2], &[2.0, 3.0, 5.0, 6.0]);
    let pads = list(&[0, 1, 1, 0]);
    let padded = [0.0, 1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0];
    close(&one(17, "Pad", &[x(), pads.clone()], plain), &[3, 4], &padded);
    let padded: Vec<i64> = padded.iter().map(|&v| v as i64).collect();
    assert_eq!(one(17, "Pad", &[whole(), pads], plain).to_i64().unwrap(), padded);
    close(
        &one(17, "Concat", &[x(), x()], |n| n.with_int("axis", -1)),
        &[2, 6],
        &[1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 4.0, 5.0, 6.0],
    );
    let parts = run_node(17, "Split", &[x(), list(&[1, 2])], 2, |n| n.with_int("axis", 1)).unwrap();
    close(&parts[0], &[2, 1], &[1.0, 4.0]);
    close(&parts[1], &[2, 2], &[2.0, 3.0, 5.0, 6.0]);
    close(
        &one(17, "Expand", &[Some(floats(&[2, 1], &[1.0, 2.0])), list(&[2])], plain),
        &[2, 2],
        &[1.0, 1.0, 2.0, 2.0],
    );
    close(
        &one(17, "Gather", &[x(), Some(integers(&[1, 2], &[-1, 0]))], |n| {
            n.with_int("axis", 1)
        }),
        &[2, 1, 2],
        &[3.0, 1.0, 6.0, 4.0],
    );
    assert_eq!(
        one(17, "Shape", &[x()], |n| n.with_int("start", -1)).to_i64().unwrap(),
        [3]
    );
    let dropout = run_node(17, "Dropout", &[x()], 2, plain).unwrap();
    assert_eq!((dropout[1].dtype(), dropout[1].shape()), (DType::BOOL, &[2, 3][..]));
}

#[test]
fn choices() {
    let less = one(
        17,
        "Less",
        &[Some(floats(&[3], &[1.0, f32::NAN, 3.0])), Some(Tensor::scalar(2.0_f32))],
        plain,
    );
    assert_eq!((less.dtype(), less.to_i64().unwrap()), (DType::BOOL, vec![1, 0, 0]));
    let equal = one(
        17,
        "Equal",
        &[Some(integers(&[2], &[1, 2])), Some(integers(&[2, 1], &[1, 2]))],
        plain,
    );
    assert_eq!(
        (equal.shape(), equal.to_i64().unwrap()),
        (&[2, 2][..], vec![1, 0, 0, 1])
    );
    let chosen = one(
        17,
        "Where",
        &[
            Some(equal),
            Some(floats(&[2], &[1.0, 2.0])),
            Some(Tensor::scalar(-1.0_f32)),
        ],
        plain,
    );
    close(&chosen, &[2, 2], &[1.0, -1.0, -1.0, 2.0]);
}

#[test]
fn casts_and_half_precision() {
    let half = one(
        17,
        "Cast",
        &[Some(floats(&[3], &[1.0, 1.0 + 1.0 / 2048.0, 70000.0]))],
        |n| n.with_int("to", 10),
    );
    let values = half.values::<half::f16>().unwrap();
    assert_eq!(
        values.iter().map(|v| v.to_f32()).collect::<Vec<_>>(),
        [1.0, 1.0, f32::INFINITY]
    );
    let whole = one(17, "Cast", &[Some(floats(&[3], &[-1.9, 2.9, 0.0]))], |n| {
        n.with_int("to", 7)
    });
    assert_eq!(whole.to_i64().unwrap(), [-1, 2, 0]);
    // Narrow floats compute in float32 and stay narrow.
    let a = Tensor::from_vec(vec![1], vec![half::f16::from_f32(0.1)]);
    let sum = one(17, "Add", &[Some(a.clone()), Some(a)], plain);
    assert_eq!(sum.values::<half::f16>().unwrap()[0], half::f16::from_f32(0.2));
}

#[test]
fn quantization_is_exact() {
    let x = Some(floats(&[2, 3], &[0.0, 0.5, 1.5, -300.0, 2.5, f32::INFINITY]));
    let scale = || Some(floats(&[2], &[1.0, 2.0]));
    let zero = || Some(Tensor::from_vec(vec![2], vec![0_i8, 3]));
    let axis = |n: Node| n.with_int("axis", 0);
    let quantized = one(17, "QuantizeLinear", &[x, scale(), zero()], axis);
    assert_eq!(quantized.values::<i8>().unwrap()[..], [0, 0, 2, -128, 4, 127]);
    let back = one(17, "DequantizeLinear", &[Some(quantized), scale(), zero()], axis);
    close(&back, &[2, 3], &[0.0, 0.0, 2.0, -262.0, 2.0, 248.0]);
    // Two to a byte, the low half first; an odd number leaves the last half unused.
    let packed = Tensor::new(DType::INT4, vec![3], vec![0x8f_u8, 0x07].into()).unwrap();
    let wide = one(
        21,
        "DequantizeLinear",
        &[Some(packed), Some(Tensor::scalar(0.5_f32))],
        plain,
    );
    close(&wide, &[3], &[-0.5, -4.0, 3.5]);
    let packed = Tensor::new(DType::UINT4, vec![4, 1], vec![0x21_u8, 0x43].into()).unwrap();
    let scales = Some(floats(&[2, 1], &[1.0, 10.0]));
    let blocked = one(21, "DequantizeLinear", &[Some(packed), scales], |n| {
        n.with_int("axis", 0).with_int("block_size", 2)
    });
    close(&blocked, &[4, 1], &[1.0, 2.0, 30.0, 40.0]);
}

#[test]
fn not_a_number_never_panics() {
    let bad = || {
        Some(floats(
            &[1, 2, 2, 2],
            &[
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                f32::NAN,
                0.0,
                -0.0,
                f32::MAX,
                f32::MIN,
            ],
        ))
    };
    for operator in [
        "Relu",
        "Sigmoid",
        "HardSwish",
        "Softmax",
        "LogSoftmax",
        "Erf",
        "Exp",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "ReduceMax",
    ] {
        one(17, operator, &[bad()], plain);
    }
    one(17, "MaxPool", &[bad()], |n| n.with_ints("kernel_shape", &[2, 2]));
    one(17, "Cast", &[bad()], |n| n.with_int("to", 7));
    one(17, "QuantizeLinear", &[bad(), Some(Tensor::scalar(0.0_f32))], plain);
}
