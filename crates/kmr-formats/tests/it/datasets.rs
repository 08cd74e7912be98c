//! Splits, batches, labels and digests.

use std::fs;
use std::path::Path;

use kmr_formats::{
    Dataset, DatasetSource, ErrorKind, ExpectedInput, FormatError, NamedArrays, Sample, Scale, overlap, overlaps,
    permutation, write_npy, write_npz,
};
use kmr_model::{DType, Tensor};
use proptest::prelude::*;

use crate::fixture;

/// `count` samples of two values each, `[2i, 2i + 1]`, with the label `i % 3`.
fn numbered(count: usize) -> Dataset {
    let x = Tensor::from_vec(vec![count, 2], (0..2 * count as i32).collect());
    let labels = Tensor::from_vec(vec![count], (0..count as i64).map(|i| i % 3).collect());
    Dataset::new("numbered", NamedArrays::from([("x".into(), x)]), Some(labels), None).unwrap()
}

fn written(folder: &Path, count: usize) -> DatasetSource {
    let path = folder.join("numbered.npz");
    let dataset = numbered(count);
    let labels = Tensor::from_vec(vec![count], dataset.labels().unwrap().to_vec());
    write_npz(&path, [("x", &dataset.inputs()["x"]), ("labels", &labels)]).unwrap();
    DatasetSource::new(path)
}

fn first_values(dataset: &Dataset) -> Vec<i32> {
    let values = dataset.inputs()["x"].values::<i32>().unwrap();
    values.chunks(2).map(|row| row[0]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Shuffle, then skip, then take; rows, labels and places stay together.
    #[test]
    fn a_choice_of_samples_is_a_run_of_the_shuffled_order(
        count in 1_usize..40,
        skip in 0_u64..50,
        take in prop::option::of(1_u64..50),
        shuffle in prop::option::of(any::<u64>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut source = written(folder.path(), count);
        (source.skip, source.take, source.shuffle) = (skip, take, shuffle);
        let order = shuffle.map_or((0..count).collect(), |seed| permutation(count, seed));
        let taken = take.map_or(usize::MAX, |take| take as usize);
        let expected: Vec<usize> = order.into_iter().skip(skip as usize).take(taken).collect();
        match source.read() {
            Err(error) => {
                prop_assert!(expected.is_empty());
                prop_assert_eq!(error.kind(), ErrorKind::Empty);
            }
            Ok(dataset) => {
                let values: Vec<usize> =
                    first_values(&dataset).iter().map(|v| *v as usize / 2).collect();
                prop_assert_eq!(&values, &expected);
                let places: Vec<usize> =
                    (0..dataset.len()).map(|i| dataset.place_in_file(i).unwrap()).collect();
                prop_assert_eq!(&places, &expected);
                let labels: Vec<i64> = expected.iter().map(|i| *i as i64 % 3).collect();
                prop_assert_eq!(dataset.labels().unwrap(), &labels[..]);
            }
        }
    }

    #[test]
    fn batches_put_together_are_the_whole(count in 1_usize..30, size in 1_usize..12) {
        let dataset = numbered(count);
        let (mut values, mut labels) = (Vec::new(), Vec::new());
        for start in (0..count).step_by(size) {
            let batch = dataset.batch(start..start + size);
            prop_assert_eq!(batch.len(), 1);
            prop_assert_eq!(batch[0].1.shape(), [size.min(count - start), 2]);
            values.extend_from_slice(&batch[0].1.values::<i32>().unwrap());
            labels.extend_from_slice(dataset.batch_labels(start..start + size).unwrap());
        }
        prop_assert_eq!(values, (0..2 * count as i32).collect::<Vec<_>>());
        prop_assert_eq!(&labels[..], dataset.labels().unwrap());
    }
}

#[test]
fn a_batch_beyond_the_end_is_empty_and_not_a_panic() {
    let dataset = numbered(3);
    assert_eq!(dataset.batch(5..9)[0].1.shape(), [0, 2]);
    assert_eq!(dataset.batch_labels(5..9), Some(&[][..]));
}

#[test]
fn uint8_stays_uint8_and_is_divided_exactly() {
    let pixels = Tensor::from_vec(vec![256, 1], (0..=255_u8).collect());
    let scale = Scale {
        numerator: 1.0,
        denominator: 255.0,
    };
    let arrays = || NamedArrays::from([("x".to_string(), pixels.clone())]);
    let dataset = Dataset::new("pixels", arrays(), None, Some(scale)).unwrap();
    assert_eq!(dataset.inputs()["x"].dtype(), DType::UINT8);
    let batch = dataset.batch(0..256);
    let expected: Vec<f32> = (0..256).map(|x| x as f32 / 255.0).collect();
    assert_eq!(*batch[0].1.values::<f32>().unwrap(), expected);

    let plain = Dataset::new("pixels", arrays(), None, None).unwrap();
    assert_eq!(plain.batch(0..256)[0].1, pixels);
}

#[test]
fn idx_pairs_and_npy_folders_are_read() {
    let mut source = DatasetSource::new(fixture("images.idx.gz"));
    source.labels_path = Some(fixture("labels.idx.gz"));
    let mut dataset = source.read().unwrap();
    assert_eq!(dataset.labels(), Some(&[3, 9][..]));
    let expected = ExpectedInput {
        name: "pixels".to_string(),
        dtype: DType::UINT8,
        sample_shape: vec![Some(1), Some(3), Some(3)],
    };
    dataset.conform(&[expected], Sample::Row).unwrap();
    assert_eq!(dataset.inputs()["pixels"].shape(), [2, 1, 3, 3]);

    let folder = tempfile::tempdir().unwrap();
    let ids = Tensor::from_vec(vec![2, 3], vec![1_i64, 2, 3, 4, 5, 6]);
    let mask = Tensor::from_vec(vec![2, 3], vec![1_i64; 6]);
    write_npy(&folder.path().join("ids.npy"), &ids).unwrap();
    write_npy(&folder.path().join("mask.npy"), &mask).unwrap();
    write_npy(
        &folder.path().join("labels.npy"),
        &Tensor::from_vec(vec![2, 1], vec![0_u8, 1]),
    )
    .unwrap();
    fs::write(folder.path().join("notes.txt"), "not an array").unwrap();
    let dataset = DatasetSource::new(folder.path()).read().unwrap();
    let names: Vec<&String> = dataset.inputs().keys().collect();
    assert_eq!(names, ["ids", "mask"]);
    assert_eq!(dataset.labels(), Some(&[0, 1][..]));
}

#[test]
fn a_digest_is_the_sha256_of_the_stored_bytes() {
    let dataset = DatasetSource::new(fixture("stored.npz")).read().unwrap();
    let digest = dataset.digests().nth(1).unwrap();
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    // hashlib.sha256(x[1].tobytes()).hexdigest()
    assert_eq!(
        digits,
        "ecf4b8f99d46a13ad0309c8b6c550ff0ea320e74e5efed55437717c423febe56"
    );
}

#[test]
fn an_overlap_is_found_wherever_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let part = |skip, take, shuffle| {
        let mut source = written(folder.path(), 30);
        (source.skip, source.take, source.shuffle) = (skip, Some(take), shuffle);
        source.read().unwrap()
    };
    let (a, b) = (part(0, 10, None), part(10, 20, None));
    assert_eq!(overlap(&a, &b), None);
    let (a, b) = (part(0, 12, None), part(10, 20, None));
    assert_eq!(overlaps(&a, &b), [(10, 0), (11, 1)]);
    // The same shuffled order is cut without overlap; another order is not.
    let (a, b) = (part(0, 15, Some(3)), part(15, 15, Some(3)));
    assert_eq!(overlap(&a, &b), None);
    let b = part(15, 15, Some(4));
    let (in_a, in_b) = overlap(&a, &b).unwrap();
    assert_eq!(a.place_in_file(in_a), b.place_in_file(in_b));
}

fn int(name: &str, sample_shape: &[usize]) -> ExpectedInput {
    ExpectedInput {
        name: name.to_string(),
        dtype: DType::INT32,
        sample_shape: sample_shape.iter().copied().map(Some).collect(),
    }
}

#[test]
fn arrays_that_are_no_input_are_dropped() {
    let mut dataset = numbered(4);
    dataset.conform(&[int("x", &[2])], Sample::Row).unwrap();
    assert_eq!(dataset.inputs().len(), 1);
    let array = dataset.inputs()["x"].clone();
    let arrays = NamedArrays::from([("x".to_string(), array.clone()), ("extra".to_string(), array)]);
    let mut dataset = Dataset::new("two", arrays, None, None).unwrap();
    dataset.conform(&[int("x", &[2])], Sample::Row).unwrap();
    assert!(!dataset.inputs().contains_key("extra"));
}

#[test]
fn a_sample_may_be_a_whole_call() {
    let rate = Tensor::from_vec(vec![4], vec![8, 16, 8, 16]);
    let mut dataset = numbered(4);
    let arrays = NamedArrays::from([("x".to_string(), dataset.inputs()["x"].clone()), ("rate".into(), rate)]);
    dataset = Dataset::new("calls", arrays, None, None).unwrap();
    dataset
        .conform(&[int("x", &[2]), int("rate", &[])], Sample::Call)
        .unwrap();
    let calls = dataset.calls(1..3);
    assert_eq!(calls.len(), 2);
    let shapes: Vec<&[usize]> = calls[0].iter().map(|(_, tensor)| tensor.shape()).collect();
    assert_eq!(shapes, [&[2][..], &[]]);
    assert_eq!(calls[1][1].1.values::<i32>().unwrap()[..], [8]);
    assert_eq!(calls[1][0].1.bytes(), dataset.batch(2..3)[0].1.bytes());
    dataset
        .conform(&[int("x", &[2]), int("rate", &[])], Sample::Row)
        .unwrap();
    assert_eq!(dataset.calls(1..3).len(), 1);
}

#[test]
fn messages_about_data_that_do_not_fit() {
    let mut shown = Vec::new();
    let mut show = |error: FormatError| {
        shown.push(format!("{:?}: {error}\n  help: {}", error.kind(), error.way_out()));
    };
    let x = || Tensor::from_vec(vec![4, 2], (0..8).collect::<Vec<i32>>());
    let make = |arrays: Vec<(&str, Tensor)>, labels: Option<Tensor>| {
        let arrays = arrays.into_iter().map(|(name, array)| (name.to_string(), array));
        Dataset::new("data.npz", arrays.collect(), labels, None)
    };
    let labeled = |labels| make(vec![("x", x())], Some(labels)).unwrap_err();
    show(make(vec![], None).unwrap_err());
    show(make(vec![("x", Tensor::scalar(1_i32))], None).unwrap_err());
    show(make(vec![("x", Tensor::from_vec(vec![0, 2], Vec::<i32>::new()))], None).unwrap_err());
    show(make(vec![("x", Tensor::from_vec(vec![4, 0], Vec::<i32>::new()))], None).unwrap_err());
    let three = Tensor::from_vec(vec![3], vec![1_i32, 2, 3]);
    show(make(vec![("x", x()), ("mask", three)], None).unwrap_err());
    show(labeled(Tensor::from_vec(vec![3], vec![0_i64, 1, 2])));
    show(labeled(Tensor::from_vec(vec![4], vec![0.0_f32, 1.0, 2.0, 3.0])));
    show(labeled(Tensor::from_vec(vec![4], vec![0_i64, -1, 2, 3])));
    show(labeled(Tensor::from_vec(vec![4], vec![0, u64::MAX, 2, 3])));
    show(labeled(Tensor::from_vec(vec![4, 10], vec![0_u8; 40])));
    show(numbered(4).check_labels(2).unwrap_err());
    show(numbered(4).conform(&[int("input", &[2])], Sample::Row).unwrap_err());
    show(numbered(4).conform(&[int("x", &[3])], Sample::Row).unwrap_err());
    let float = ExpectedInput {
        dtype: DType::FLOAT,
        ..int("x", &[2])
    };
    show(
        numbered(4)
            .conform(std::slice::from_ref(&float), Sample::Row)
            .unwrap_err(),
    );
    let bytes = Tensor::from_vec(vec![4, 2], vec![0_u8; 8]);
    show(
        make(vec![("x", bytes)], None)
            .unwrap()
            .conform(&[float], Sample::Row)
            .unwrap_err(),
    );
    assert!(numbered(4).check_labels(3).is_ok());
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[test]
fn skipping_everything_is_an_empty_data_set() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = written(folder.path(), 5);
    source.skip = 5;
    let error = source.read().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Empty);
    assert!(
        error
            .to_string()
            .ends_with("no sample is left: skip 5 and take all of 5")
    );
    source.skip = u64::MAX;
    source.take = Some(u64::MAX);
    assert_eq!(source.read().unwrap_err().kind(), ErrorKind::Empty);
}
