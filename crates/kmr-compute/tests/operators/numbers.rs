//! Arithmetic and reductions of all number types.

use kmr_compute::ErrorKind;
use kmr_model::{DType, Element, Tensor};

use super::{
    close,
    common::{floats, integers, run_node},
    one, plain,
};

fn list<T: Element>(values: &[T]) -> Option<Tensor> {
    Some(Tensor::from_vec(vec![values.len()], values.to_vec()))
}

#[track_caller]
fn equal<T: Element + PartialEq + std::fmt::Debug>(got: &Tensor, shape: &[usize], want: &[T]) {
    assert_eq!(got.shape(), shape);
    assert_eq!(got.values::<T>().unwrap()[..], *want);
}

#[test]
fn integers_wrap_around_and_are_cut_off() {
    equal(
        &one(17, "Add", &[list(&[u64::MAX, 1 << 63]), list(&[2_u64, 5])], plain),
        &[2],
        &[1_u64, (1 << 63) + 5],
    );
    equal(
        &one(17, "Mul", &[list(&[100_i8, -128]), list(&[2_i8, -1])], plain),
        &[2],
        &[-56_i8, -128],
    );
    equal(
        &one(17, "Div", &[list(&[-7_i16, 7]), list(&[2_i16, -2])], plain),
        &[2],
        &[-3_i16, -3],
    );
    equal(
        &one(17, "Max", &[list(&[u64::MAX, 3]), list(&[1_u64, 4])], plain),
        &[2],
        &[u64::MAX, 4],
    );
    equal(&one(17, "Neg", &[list(&[i32::MIN, 5])], plain), &[2], &[i32::MIN, -5]);
    equal(&one(17, "Sign", &[list(&[-9_i32, 0, 4])], plain), &[3], &[-1, 0, 1]);
    equal(
        &one(17, "Mean", &[list(&[1_i32, 5]), list(&[4_i32, 5])], plain),
        &[2],
        &[2, 5],
    );
    let old = one(
        17,
        "Clip",
        &[
            list(&[-9_i8, 3, 90]),
            Some(Tensor::scalar(-2_i8)),
            Some(Tensor::scalar(50_i8)),
        ],
        plain,
    );
    equal(&old, &[3], &[-2_i8, 3, 50]);
    let error = run_node(17, "Mod", &[list(&[1_i64]), list(&[0_i64])], 1, plain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
}

#[test]
fn remainders_take_the_sign_that_they_are_told() {
    let a = || list(&[-7_i64, 7, -6]);
    let b = || list(&[3_i64, -3, 3]);
    equal(&one(17, "Mod", &[a(), b()], plain), &[3], &[2_i64, -2, 0]);
    equal(
        &one(17, "Mod", &[a(), b()], |n| n.with_int("fmod", 1)),
        &[3],
        &[-1_i64, 1, 0],
    );
    let x = || list(&[-4.5_f64, 4.5]);
    let y = || list(&[2.0_f64, -2.0]);
    equal(
        &one(17, "Mod", &[x(), y()], |n| n.with_int("fmod", 1)),
        &[2],
        &[-0.5_f64, 0.5],
    );
    let error = run_node(13, "Mod", &[x(), y()], 1, plain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn powers_have_the_type_of_the_base() {
    equal(
        &one(17, "Pow", &[list(&[3_i32, 2]), list(&[39_u64, 31])], plain),
        &[2],
        &[3_i32.wrapping_pow(39), i32::MIN],
    );
    equal(
        &one(
            17,
            "Pow",
            &[list(&[2_i64, 1, -1, -1, -16]), list(&[-1_i64, -5, -3, -4, -2])],
            plain,
        ),
        &[5],
        &[0_i64, 1, -1, 1, 0],
    );
    equal(
        &one(17, "Pow", &[list(&[4_i32, 9]), list(&[0.5_f32, 2.0])], plain),
        &[2],
        &[2, 81],
    );
    equal(
        &one(17, "Pow", &[list(&[2.0_f64]), list(&[-2_i32])], plain),
        &[1],
        &[0.25_f64],
    );
    close(
        &one(17, "Pow", &[list(&[2.0_f32]), list(&[-2_i64])], plain),
        &[1],
        &[0.25],
    );
}

#[test]
fn bits_shift_and_combine() {
    let right = |n: kmr_model::Node| n.with_string("direction", "RIGHT");
    let left = |n: kmr_model::Node| n.with_string("direction", "LEFT");
    equal(
        &one(28, "BitShift", &[list(&[-8_i8, -8, 8]), list(&[1_i8, 9, 9])], right),
        &[3],
        &[-4_i8, -1, 0],
    );
    equal(
        &one(11, "BitShift", &[list(&[200_u8, 1]), list(&[1_u8, 8])], left),
        &[2],
        &[144_u8, 0],
    );
    let (a, b) = (|| list(&[0b1100_u16, u16::MAX]), || list(&[0b1010_u16, 1]));
    equal(&one(18, "BitwiseAnd", &[a(), b()], plain), &[2], &[0b1000_u16, 1]);
    equal(&one(18, "BitwiseOr", &[a(), b()], plain), &[2], &[0b1110_u16, u16::MAX]);
    equal(
        &one(18, "BitwiseXor", &[a(), b()], plain),
        &[2],
        &[0b0110_u16, u16::MAX - 1],
    );
    equal(&one(18, "BitwiseNot", &[list(&[0_i32, -1])], plain), &[2], &[-1_i32, 0]);
}

#[test]
fn comparisons_see_every_bit() {
    let bits = |tensor: &Tensor| tensor.bytes().to_vec();
    let less = one(17, "Less", &[list(&[1_u64, 1 << 63]), list(&[1_u64 << 63, 1])], plain);
    assert_eq!((less.dtype(), bits(&less)), (DType::BOOL, vec![1, 0]));
    let near = 1.0 + f64::EPSILON;
    assert_eq!(
        bits(&one(
            17,
            "Greater",
            &[list(&[near, f64::NAN]), list(&[1.0_f64, 1.0])],
            plain
        )),
        [1, 0]
    );
    let (a, b) = (|| Some(truths(&[1, 1, 0])), || Some(truths(&[1, 0, 0])));
    assert_eq!(bits(&one(17, "Equal", &[a(), b()], plain)), [1, 0, 1]);
    assert_eq!(bits(&one(17, "Xor", &[a(), b()], plain)), [0, 1, 0]);
    let infinite = || list(&[f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.0]);
    assert_eq!(
        bits(&one(20, "IsInf", &[infinite()], |n| n.with_int("detect_negative", 0))),
        [1, 0, 0, 0]
    );
    assert_eq!(bits(&one(20, "IsNaN", &[infinite()], plain)), [0, 0, 1, 0]);
}

fn truths(bits: &[u8]) -> Tensor {
    Tensor::new(DType::BOOL, vec![bits.len()], bits.to_vec().into()).unwrap()
}

#[test]
fn float64_keeps_its_precision() {
    let x = [0.1_f64, -0.75, 2.0];
    type Function = fn(f64) -> f64;
    let table: [(&str, Function); 9] = [
        ("Sin", f64::sin),
        ("Atan", f64::atan),
        ("Exp", f64::exp),
        ("Abs", f64::abs),
        ("Ceil", f64::ceil),
        ("Reciprocal", f64::recip),
        ("Relu", |x| x.max(0.0)),
        ("Elu", |x| if x > 0.0 { x } else { x.exp_m1() }),
        ("Mish", |x| x * x.exp().ln_1p().tanh()),
    ];
    for (operator, function) in table {
        let got = one(22, operator, &[list(&x)], plain);
        for (got, want) in got.values::<f64>().unwrap().iter().zip(x.map(function)) {
            assert!((got - want).abs() < 1e-14, "{operator}: {got} is not {want}");
        }
    }
    let a = Tensor::from_vec(vec![1, 2], vec![1.0_f64, 1e-12]);
    let b = Tensor::from_vec(vec![2, 1], vec![1.0_f64, 1.0]);
    equal(
        &one(17, "MatMul", &[Some(a), Some(b)], plain),
        &[1, 1],
        &[1.0_f64 + 1e-12],
    );
}

#[test]
fn activations_of_the_second_rank() {
    let x = || Some(floats(&[4], &[-2.0, -0.5, 0.0, 3.0]));
    let table: [(&str, [f32; 4]); 9] = [
        ("Elu", [-0.864_664_7, -0.393_469_34, 0.0, 3.0]),
        ("Celu", [-0.864_664_7, -0.393_469_34, 0.0, 3.0]),
        ("Selu", [-1.520_166_4, -0.691_758_2, 0.0, 3.152_103]),
        ("ThresholdedRelu", [0.0, 0.0, 0.0, 3.0]),
        ("Softsign", [-0.666_666_7, -0.333_333_34, 0.0, 0.75]),
        ("Shrink", [-2.0, 0.0, 0.0, 3.0]),
        ("Swish", [-0.238_405_84, -0.188_770_33, 0.0, 2.857_722_3]),
        ("Mish", [-0.252_501_5, -0.220_743_76, 0.0, 2.986_535]),
        ("Round", [-2.0, 0.0, 0.0, 3.0]),
    ];
    for (operator, want) in table {
        close(&one(24, operator, &[x()], plain), &[4], &want);
    }
    let sloped = one(
        17,
        "PRelu",
        &[Some(floats(&[2, 2], &[-1.0, 2.0, -3.0, -0.0])), list(&[0.5_f32, 4.0])],
        plain,
    );
    close(&sloped, &[2, 2], &[-0.5, 2.0, -1.5, 0.0]);
    let signs = one(17, "Sign", &[Some(floats(&[3], &[f32::NAN, -0.1, 7.0]))], plain);
    close(&signs, &[3], &[f32::NAN, -1.0, 1.0]);
}

#[test]
fn sums_of_nothing_are_their_identities() {
    let empty = || Some(Tensor::from_vec(vec![2, 0], Vec::<f32>::new()));
    let axes = || Some(integers(&[1], &[1]));
    for (operator, want) in [
        ("ReduceSum", 0.0),
        ("ReduceProd", 1.0),
        ("ReduceMax", f32::NEG_INFINITY),
        ("ReduceMin", f32::INFINITY),
        ("ReduceL2", 0.0),
        ("ReduceLogSum", f32::NEG_INFINITY),
        ("ReduceLogSumExp", f32::NEG_INFINITY),
    ] {
        close(&one(20, operator, &[empty(), axes()], plain), &[2, 1], &[want; 2]);
    }
    let untouched = one(20, "ReduceSum", &[empty(), Some(integers(&[1], &[0]))], |n| {
        n.with_int("keepdims", 0)
    });
    assert_eq!(untouched.shape(), [0]);
}

#[test]
fn reductions_of_every_kind() {
    let x = || Some(floats(&[2, 2], &[-1.0, 2.0, 3.0, 4.0]));
    let axes = || Some(integers(&[1], &[1]));
    for (operator, want) in [
        ("ReduceProd", [-2.0, 12.0]),
        ("ReduceL1", [3.0, 7.0]),
        ("ReduceL2", [5.0_f32.sqrt(), 5.0]),
        ("ReduceSumSquare", [5.0, 25.0]),
        ("ReduceLogSum", [0.0, 7.0_f32.ln()]),
        ("ReduceLogSumExp", [2.048_587_4, 4.313_261_5]),
    ] {
        close(
            &one(20, operator, &[x(), axes()], |n| n.with_int("keepdims", 0)),
            &[2],
            &want,
        );
    }
    // What is done to single elements is done even where no axis is reduced.
    let noop = one(20, "ReduceL1", &[x()], |n| n.with_int("noop_with_empty_axes", 1));
    close(&noop, &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let large = 1_i64 << 60;
    equal(
        &one(17, "ReduceSum", &[list(&[large, 1, 1])], plain),
        &[1],
        &[large + 2],
    );
    equal(&one(17, "ReduceMean", &[list(&[-3_i32, -4])], plain), &[1], &[-3_i32]);
    equal(&one(17, "ReduceMax", &[list(&[1_u8, 255])], plain), &[1], &[255_u8]);
    let overflow = one(
        17,
        "ReduceLogSumExp",
        &[Some(floats(&[2], &[1000.0, f32::NEG_INFINITY]))],
        plain,
    );
    close(&overflow, &[1], &[1000.0]);
    let bits = one(20, "ReduceMin", &[Some(truths(&[1, 0]))], plain);
    assert_eq!((bits.dtype(), bits.bytes()[..].to_vec()), (DType::BOOL, vec![0]));
    close(
        &one(17, "ReduceMax", &[Some(floats(&[2], &[f32::NAN, 1.0]))], plain),
        &[1],
        &[f32::NAN],
    );
}

#[test]
fn running_sums_go_both_ways() {
    let axis = || Some(Tensor::scalar(0_i32));
    let table = [
        (0, 0, [1, 3, 6]),
        (1, 0, [0, 1, 3]),
        (0, 1, [6, 5, 3]),
        (1, 1, [5, 3, 0]),
    ];
    for (exclusive, reverse, want) in table {
        let how = |n: kmr_model::Node| n.with_int("exclusive", exclusive).with_int("reverse", reverse);
        equal(&one(14, "CumSum", &[list(&[1_i32, 2, 3]), axis()], how), &[3], &want);
        let want = want.map(|value| value as f32);
        close(
            &one(14, "CumSum", &[list(&[1.0_f32, 2.0, 3.0]), axis()], how),
            &[3],
            &want,
        );
    }
    let product = |n: kmr_model::Node| n.with_int("exclusive", 1);
    close(
        &one(26, "CumProd", &[list(&[2.0_f32, 3.0, 4.0]), axis()], product),
        &[3],
        &[1.0, 2.0, 6.0],
    );
    equal(
        &one(26, "CumProd", &[list(&[2_i64, 3, 4]), axis()], plain),
        &[3],
        &[2_i64, 6, 24],
    );
}

#[test]
fn einstein_sums() {
    let a = || Some(floats(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
    let b = || Some(floats(&[2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, 3.0]));
    let sum =
        |inputs: &[Option<Tensor>], equation: &str| one(12, "Einsum", inputs, |n| n.with_string("equation", equation));
    close(
        &sum(&[a(), b()], "ij,jk->ik"),
        &[2, 3],
        &[1.0, 2.0, 8.0, 3.0, 4.0, 18.0],
    );
    close(&sum(&[a(), b()], "ij, jk"), &[2, 3], &[1.0, 2.0, 8.0, 3.0, 4.0, 18.0]);
    close(&sum(&[a()], "ij->ji"), &[2, 2], &[1.0, 3.0, 2.0, 4.0]);
    close(&sum(&[a()], "ii->i"), &[2], &[1.0, 4.0]);
    close(&sum(&[a()], "ii"), &[], &[5.0]);
    close(&sum(&[a()], "...j->..."), &[2], &[3.0, 7.0]);
    close(&sum(&[a(), a()], "ij,ij->"), &[], &[30.0]);
    close(
        &sum(&[a(), list(&[1.0_f32, 10.0])], "ij,k->ikj"),
        &[2, 2, 2],
        &[1.0, 2.0, 10.0, 20.0, 3.0, 4.0, 30.0, 40.0],
    );
    // An axis of size 1 behind an ellipsis is broadcast.
    close(
        &sum(&[a(), Some(floats(&[1, 2], &[1.0, 10.0]))], "...,..."),
        &[2, 2],
        &[1.0, 20.0, 3.0, 40.0],
    );
    close(&sum(&[a(), b(), a()], "ij,jk,ji->k"), &[3], &[7.0, 22.0, 80.0]);
    let whole = Some(integers(&[2, 2], &[1, 2, 3, 4]));
    equal(
        &sum(&[whole.clone(), whole], "ij,jk->ik"),
        &[2, 2],
        &[7_i64, 10, 15, 22],
    );
    let error = run_node(12, "Einsum", &[a()], 1, |n| n.with_string("equation", "ij->ik")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
}

#[test]
fn determinants_and_choices_along_an_axis() {
    let stack = Some(floats(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 0.0, 2.0, 3.0, 0.0]));
    close(&one(22, "Det", &[stack], plain), &[2], &[-2.0, -6.0]);
    let x = || Some(floats(&[2, 2, 1], &[1.0, 3.0, 3.0, 2.0]));
    close(
        &one(13, "Hardmax", &[x()], |n| n.with_int("axis", 1)),
        &[2, 2, 1],
        &[0.0, 1.0, 1.0, 0.0],
    );
    // Before opset 13 all axes from `axis` on are one.
    close(
        &one(12, "Hardmax", &[x()], |n| n.with_int("axis", 0)),
        &[2, 2, 1],
        &[0.0, 1.0, 0.0, 0.0],
    );
    equal(
        &one(13, "Softmax", &[list(&[0.0_f64, 0.0])], plain),
        &[2],
        &[0.5_f64, 0.5],
    );
    let c = Some(integers(&[1, 2], &[100, 200]));
    let a = || Some(integers(&[2, 2], &[1, 2, 3, 4]));
    let gemm = one(13, "Gemm", &[a(), a(), c], |n| {
        n.with_int("transB", 1).with_float("alpha", 2.0)
    });
    equal(&gemm, &[2, 2], &[110_i64, 222, 122, 250]);
}
