//! Indexing, ordering and moving elements of all types.

use kmr_compute::ErrorKind;
use kmr_model::{DType, Node, Tensor};

use super::{
    close,
    common::{floats, integers, run_node},
    one, plain,
};

fn list(values: &[i64]) -> Option<Tensor> {
    Some(integers(&[values.len()], values))
}

#[track_caller]
fn whole(got: &Tensor, shape: &[usize], want: &[i64]) {
    assert_eq!((got.shape(), got.to_i64().unwrap()), (shape, want.to_vec()));
}

fn matrix() -> Option<Tensor> {
    Some(integers(&[2, 3], &[1, 2, 3, 4, 5, 6]))
}

#[test]
fn gathers() {
    let at = Some(integers(&[1, 3], &[1, 0, -1]));
    whole(&one(13, "GatherElements", &[matrix(), at], plain), &[1, 3], &[4, 2, 6]);
    let rows = Some(integers(&[2, 1], &[1, 0]));
    whole(
        &one(13, "GatherND", &[matrix(), rows], plain),
        &[2, 3],
        &[4, 5, 6, 1, 2, 3],
    );
    let each = Some(integers(&[2, 1], &[2, -3]));
    whole(
        &one(13, "GatherND", &[matrix(), each], |n| n.with_int("batch_dims", 1)),
        &[2],
        &[3, 4],
    );
    let bits = Some(Tensor::new(DType::BOOL, vec![3], vec![0_u8, 1, 1].into()).unwrap());
    whole(
        &one(13, "Compress", &[matrix(), bits.clone()], |n| n.with_int("axis", 1)),
        &[2, 2],
        &[2, 3, 5, 6],
    );
    whole(&one(13, "Compress", &[matrix(), bits], plain), &[2], &[2, 3]);
    let reversed = one(13, "ReverseSequence", &[matrix(), list(&[3, 2])], |n| {
        n.with_int("time_axis", 1).with_int("batch_axis", 0)
    });
    whole(&reversed, &[2, 3], &[3, 2, 1, 5, 4, 6]);
    let hot = one(11, "OneHot", &[list(&[1, -1, 9]), list(&[2]), list(&[5, 7])], plain);
    whole(&hot, &[3, 2], &[5, 7, 5, 7, 5, 5]);
    for (operator, at) in [
        ("GatherElements", integers(&[1, 3], &[2, 0, 0])),
        ("GatherND", integers(&[1], &[-3])),
    ] {
        let error = run_node(13, operator, &[matrix(), Some(at)], 1, plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
    }
}

#[test]
fn scatters() {
    let at = || Some(integers(&[1, 2], &[1, -2]));
    let updates = || Some(integers(&[1, 2], &[10, 20]));
    whole(
        &one(13, "ScatterElements", &[matrix(), at(), updates()], plain),
        &[2, 3],
        &[1, 20, 3, 10, 5, 6],
    );
    let add = |n: Node| n.with_string("reduction", "add").with_int("axis", 1);
    let twice = Some(integers(&[1, 2], &[0, 0]));
    whole(
        &one(18, "ScatterElements", &[matrix(), twice, updates()], add),
        &[2, 3],
        &[31, 2, 3, 4, 5, 6],
    );
    let rows = || Some(integers(&[1, 1], &[-1]));
    let row = || Some(integers(&[1, 3], &[7, 0, 9]));
    whole(
        &one(13, "ScatterND", &[matrix(), rows(), row()], plain),
        &[2, 3],
        &[1, 2, 3, 7, 0, 9],
    );
    let least = |n: Node| n.with_string("reduction", "min");
    whole(
        &one(18, "ScatterND", &[matrix(), rows(), row()], least),
        &[2, 3],
        &[1, 2, 3, 4, 0, 6],
    );
    let cache = Some(integers(&[2, 3, 1], &[1, 2, 3, 4, 5, 6]));
    let update = Some(integers(&[2, 2, 1], &[10, 20, 30, 40]));
    let circular = |n: Node| n.with_string("mode", "circular");
    let written = one(24, "TensorScatter", &[cache, update, list(&[2, 0])], circular);
    whole(&written, &[2, 3, 1], &[20, 2, 10, 30, 40, 6]);
}

#[test]
fn orders() {
    let x = || Some(floats(&[2, 3], &[1.0, 3.0, 3.0, f32::NAN, 0.0, -0.0]));
    let flat = |n: Node| n.with_int("axis", 1).with_int("keepdims", 0);
    whole(&one(13, "ArgMax", &[x()], flat), &[2], &[1, 0]);
    whole(
        &one(13, "ArgMax", &[x()], |n| flat(n).with_int("select_last_index", 1)),
        &[2],
        &[2, 0],
    );
    whole(&one(13, "ArgMin", &[x()], |n| n.with_int("axis", -1)), &[2, 1], &[0, 0]);
    let large = Some(Tensor::from_vec(vec![2], vec![1_u64, u64::MAX]));
    whole(&one(13, "ArgMin", &[large], plain), &[1], &[0]);
    let top = run_node(
        11,
        "TopK",
        &[Some(floats(&[4], &[2.0, 7.0, 7.0, 1.0])), list(&[3])],
        2,
        plain,
    )
    .unwrap();
    close(&top[0], &[3], &[7.0, 7.0, 2.0]);
    whole(&top[1], &[3], &[1, 2, 0]);
    let least = run_node(11, "TopK", &[matrix(), list(&[1])], 2, |n| {
        n.with_int("axis", 0).with_int("largest", 0)
    })
    .unwrap();
    whole(&least[0], &[1, 3], &[1, 2, 3]);
    whole(&least[1], &[1, 3], &[0, 0, 0]);
    let unique = run_node(11, "Unique", &[list(&[2, 1, 1, 3])], 3, |n| n.with_int("sorted", 0)).unwrap();
    whole(&unique[0], &[3], &[2, 1, 3]);
    whole(&unique[1], &[3], &[0, 1, 3]);
    whole(&unique[2], &[4], &[0, 1, 1, 2]);
    let rows = Some(integers(&[3, 2], &[1, 0, 0, 5, 1, 0]));
    let unique = run_node(11, "Unique", &[rows], 2, |n| n.with_int("axis", 0)).unwrap();
    whole(&unique[0], &[2, 2], &[0, 5, 1, 0]);
    whole(&unique[1], &[2], &[1, 0]);
    let found = one(
        13,
        "NonZero",
        &[Some(floats(&[2, 2], &[1.0, -0.0, f32::NAN, 2.0]))],
        plain,
    );
    whole(&found, &[2, 3], &[0, 1, 1, 0, 0, 1]);
}

#[test]
fn pads_of_every_mode() {
    let line = || list(&[1, 2, 3]);
    let mode = |mode: &'static str| move |n: Node| n.with_string("mode", mode);
    let around = || list(&[4, 2]);
    whole(
        &one(19, "Pad", &[line(), around()], mode("edge")),
        &[9],
        &[1, 1, 1, 1, 1, 2, 3, 3, 3],
    );
    whole(
        &one(19, "Pad", &[line(), around()], mode("wrap")),
        &[9],
        &[3, 1, 2, 3, 1, 2, 3, 1, 2],
    );
    whole(
        &one(19, "Pad", &[line(), list(&[2, 2])], mode("reflect")),
        &[7],
        &[3, 2, 1, 2, 3, 2, 1],
    );
    whole(
        &one(19, "Pad", &[line(), list(&[-1, 2]), Some(Tensor::scalar(9_i64))], plain),
        &[4],
        &[2, 3, 9, 9],
    );
    let x = Some(floats(&[1, 3], &[1.0, 2.0, 3.0]));
    close(
        &one(19, "Pad", &[x, list(&[1, -1]), None, list(&[1])], plain),
        &[1, 3],
        &[0.0, 1.0, 2.0],
    );
    let error = run_node(19, "Pad", &[line(), list(&[-4, 0])], 1, plain).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
}

#[test]
fn layouts_of_all_types() {
    whole(
        &one(13, "Tile", &[matrix(), list(&[1, 2])], plain),
        &[2, 6],
        &[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6],
    );
    whole(&one(14, "Trilu", &[matrix()], plain), &[2, 3], &[1, 2, 3, 0, 5, 6]);
    let lower = one(14, "Trilu", &[matrix(), Some(Tensor::scalar(-1_i64))], |n| {
        n.with_int("upper", 0)
    });
    whole(&lower, &[2, 3], &[0, 0, 0, 4, 0, 0]);
    let deep = || Some(integers(&[1, 4, 1, 1], &[1, 2, 3, 4]));
    let wide = one(13, "DepthToSpace", &[deep()], |n| n.with_int("blocksize", 2));
    whole(&wide, &[1, 1, 2, 2], &[1, 2, 3, 4]);
    let eight = Some(integers(&[1, 8, 1, 1], &[0, 1, 2, 3, 4, 5, 6, 7]));
    let mixed = one(13, "DepthToSpace", std::slice::from_ref(&eight), |n| {
        n.with_int("blocksize", 2)
    });
    whole(&mixed, &[1, 2, 2, 2], &[0, 2, 4, 6, 1, 3, 5, 7]);
    let apart = one(13, "DepthToSpace", &[eight], |n| {
        n.with_int("blocksize", 2).with_string("mode", "CRD")
    });
    whole(&apart, &[1, 2, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7]);
    whole(
        &one(13, "SpaceToDepth", &[Some(wide)], |n| n.with_int("blocksize", 2)),
        &[1, 4, 1, 1],
        &[1, 2, 3, 4],
    );
    let centered = one(18, "CenterCropPad", &[matrix(), list(&[5, 2])], plain);
    whole(&centered, &[5, 2], &[0, 0, 1, 2, 4, 5, 0, 0, 0, 0]);
    let eye = one(13, "EyeLike", &[matrix()], |n| n.with_int("k", 1).with_int("dtype", 6));
    whole(&eye, &[2, 3], &[0, 1, 0, 0, 0, 1]);
    // Packed elements move as any others do.
    let packed = |bytes: &[u8]| Some(Tensor::new(DType::UINT4, vec![2, 3], bytes.to_vec().into()).unwrap());
    let moved = one(21, "Transpose", &[packed(&[0x21, 0x43, 0x65])], plain);
    assert_eq!(
        (moved.shape(), moved.bytes()[..].to_vec()),
        (&[3, 2][..], vec![0x41, 0x52, 0x63])
    );
}

#[test]
fn ranges_of_all_types() {
    let range = |a: Tensor, b: Tensor, c: Tensor| run_node(11, "Range", &[Some(a), Some(b), Some(c)], 1, plain);
    let line = range(
        Tensor::scalar(1.0_f32),
        Tensor::scalar(2.0_f32),
        Tensor::scalar(0.25_f32),
    )
    .unwrap();
    close(&line[0], &[4], &[1.0, 1.25, 1.5, 1.75]);
    let down = range(Tensor::scalar(10_i32), Tensor::scalar(4_i32), Tensor::scalar(-4_i32)).unwrap();
    whole(&down[0], &[2], &[10, 6]);
    let none = range(Tensor::scalar(10_i64), Tensor::scalar(4_i64), Tensor::scalar(1_i64)).unwrap();
    whole(&none[0], &[0], &[]);
    for (limit, step) in [(i64::MAX, 1), (3, 0)] {
        let error = range(Tensor::scalar(0_i64), Tensor::scalar(limit), Tensor::scalar(step)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
    }
}

#[test]
fn small_inputs_do_not_ask_for_all_memory() {
    let huge = || list(&[1 << 40, 1 << 40]);
    let one_by_one = || Some(floats(&[1, 1], &[1.0]));
    for (operator, inputs) in [
        ("Expand", vec![one_by_one(), huge()]),
        ("Tile", vec![one_by_one(), huge()]),
        ("ConstantOfShape", vec![huge()]),
        ("Pad", vec![one_by_one(), list(&[1 << 40, 1 << 40, 0, 0])]),
        ("CenterCropPad", vec![one_by_one(), huge()]),
        (
            "OneHot",
            vec![list(&[1]), list(&[1 << 40]), Some(floats(&[2], &[0.0, 1.0]))],
        ),
        ("Reshape", vec![one_by_one(), huge()]),
    ] {
        let error = run_node(18, operator, &inputs, 1, plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape, "{error}");
    }
}
