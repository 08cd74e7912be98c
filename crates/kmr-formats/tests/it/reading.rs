//! Files that other programs wrote.

use kmr_formats::{ErrorKind, read_idx, read_npy, read_npz};
use kmr_model::{DType, Element, Tensor};

use crate::fixture;

fn x() -> Tensor {
    Tensor::from_vec(vec![2, 3, 4], (0..24).map(|n| n as f32 / 8.0).collect())
}

#[test]
fn npz_stored_and_deflated() {
    for name in ["stored.npz", "deflated.npz"] {
        let arrays = read_npz(&fixture(name)).unwrap();
        let names: Vec<&String> = arrays.keys().collect();
        assert_eq!(names, ["x", "labels"]);
        assert_eq!(arrays["x"], x());
        assert_eq!(arrays["labels"], Tensor::from_vec(vec![2], vec![1_i64, 0]));
    }
}

#[test]
fn npy_of_every_version_and_order() {
    for name in ["fortran.npy", "version2.npy", "version3.npy"] {
        assert_eq!(read_npy(&fixture(name)).unwrap(), x(), "{name}");
    }
}

#[test]
fn every_element_type() {
    fn check<T: Element + PartialEq + std::fmt::Debug>(array: &Tensor, expected: [T; 2]) {
        assert_eq!(array.shape(), [2]);
        assert_eq!(*array.values::<T>().unwrap(), expected);
    }
    let arrays = read_npz(&fixture("types.npz")).unwrap();
    check(&arrays["f4"], [1.5_f32, -2.0]);
    check(&arrays["f8"], [1.5_f64, -2.0]);
    check(&arrays["u1"], [1_u8, 255]);
    check(&arrays["i1"], [1_i8, -1]);
    check(&arrays["u2"], [1, u16::MAX]);
    check(&arrays["i2"], [1_i16, -1]);
    check(&arrays["u4"], [1, u32::MAX]);
    check(&arrays["i4"], [1_i32, -1]);
    check(&arrays["u8"], [1, u64::MAX]);
    check(&arrays["i8"], [1_i64, -1]);
    check(&arrays["big"], [1_i32, -2]);
    assert_eq!(arrays["f2"].dtype(), DType::FLOAT16);
    assert_eq!(*arrays["f2"].to_f32().unwrap(), [1.5, -2.0]);
    assert_eq!(arrays["b1"].dtype(), DType::BOOL);
    assert_eq!(arrays["b1"].bytes()[..], [1, 0]);
    assert_eq!(arrays["zero"], Tensor::scalar(7_i64));
}

#[test]
fn idx_plain_and_compressed() {
    let images = Tensor::from_vec(vec![2, 3, 3], (0..18_u8).collect());
    assert_eq!(read_idx(&fixture("images.idx")).unwrap(), images);
    assert_eq!(read_idx(&fixture("images.idx.gz")).unwrap(), images);
}

#[test]
fn objects_texts_and_records_are_refused() {
    for name in ["objects.npy", "texts.npy", "record.npy"] {
        let error = read_npy(&fixture(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}
