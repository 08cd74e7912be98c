//! What is written is read back.

use std::fs;

use kmr_formats::{ErrorKind, NamedArrays, read_npy, read_npz, write_npy, write_npz};
use kmr_model::{DType, Tensor};
use proptest::prelude::*;

fn tensors() -> impl Strategy<Value = Tensor> {
    let types = [
        DType::FLOAT,
        DType::DOUBLE,
        DType::FLOAT16,
        DType::UINT8,
        DType::INT16,
        DType::UINT32,
        DType::INT64,
    ];
    let shape = prop::collection::vec(0_usize..5, 0..4);
    (prop::sample::select(types.to_vec()), shape, any::<u8>()).prop_map(|(dtype, shape, first)| {
        let length = dtype.byte_len(shape.iter().product()).unwrap();
        let bytes: Vec<u8> = (0..length).map(|i| first.wrapping_add(i as u8)).collect();
        Tensor::new(dtype, shape, bytes.into()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn npz_and_npy_round_trip(
        arrays in prop::collection::hash_map("[a-zA-Z0-9_./:é-]{1,12}", tensors(), 0..5),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("arrays.npz");
        let arrays: NamedArrays = arrays.into_iter().collect();
        write_npz(&path, arrays.iter().map(|(name, array)| (name.as_str(), array))).unwrap();
        prop_assert_eq!(&read_npz(&path).unwrap(), &arrays);
        for array in arrays.values() {
            let path = folder.path().join("array.npy");
            write_npy(&path, array).unwrap();
            prop_assert_eq!(&read_npy(&path).unwrap(), array);
        }
    }
}

#[test]
fn the_same_arrays_give_the_same_bytes_and_nothing_else_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let array = Tensor::from_vec(vec![3], vec![1.0_f32, 2.0, 3.0]);
    let (a, b) = (folder.path().join("a.npz"), folder.path().join("b.npz"));
    write_npz(&a, [("/conv1/output", &array)]).unwrap();
    write_npz(&b, [("/conv1/output", &array)]).unwrap();
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn what_cannot_be_written_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.npz");
    let good = Tensor::scalar(1_u8);
    write_npz(&path, [("x", &good)]).unwrap();
    let before = fs::read(&path).unwrap();

    let packed = Tensor::new(DType::INT4, vec![2], vec![0].into()).unwrap();
    let error = write_npz(&path, [("y", &packed)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.array_name(), Some("y"));
    let error = write_npz(&path, [("x", &good), ("x", &good)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

    let nowhere = folder.path().join("missing/a.npz");
    let error = write_npz(&nowhere, [("x", &good)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}
