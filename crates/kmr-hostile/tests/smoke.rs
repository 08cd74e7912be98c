//! The kept corpus of the fuzz targets, whole and damaged.

use std::{fs, path::PathBuf};

use kmr_hostile::{
    Outcome, arrays, gguf, manifest,
    mutation::{Numbers, mutated},
    onnx, specimen,
};

type Exercise = fn(&[u8]) -> Outcome;

/// The files of a target's corpus, by name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has a corpus");
    files
}

/// Runs every file of the corpus, and `rounds` mutations of files drawn from it.
fn smoke(target: &str, exercise: Exercise, rounds: usize) {
    let files = corpus(target);
    let outcomes: Vec<Outcome> = files.iter().map(|(_, bytes)| exercise(bytes)).collect();
    for wanted in [Outcome::Read, Outcome::Refused] {
        assert!(
            outcomes.contains(&wanted),
            "the corpus of {target} has a file that is {wanted:?}"
        );
    }
    let mut numbers = Numbers::new(3);
    let mut read = 0;
    for _ in 0..rounds {
        let (_, original) = &files[numbers.below(files.len())];
        read += usize::from(exercise(&mutated(original, &mut numbers)) == Outcome::Read);
    }
    assert!(
        read > rounds / 200,
        "only {read} of {rounds} mutations of {target} were read"
    );
}

#[test]
fn onnx_corpus() {
    smoke("onnx", onnx::exercise, 6_000);
}

#[test]
fn npz_corpus() {
    smoke("npz", arrays::exercise, 6_000);
}

#[test]
fn gguf_corpus() {
    smoke("gguf", gguf::exercise, 6_000);
}

#[test]
fn a_gguf_file_cut_short_at_any_byte_is_refused() {
    let whole = gguf::specimen();
    assert_eq!(gguf::exercise(&whole), Outcome::Read);
    // The last tensor is followed by nothing but filling.
    for length in 0..whole.len() - 32 {
        assert_eq!(gguf::exercise(&whole[..length]), Outcome::Refused, "{length}");
    }
}

#[test]
fn manifest_corpus() {
    smoke("manifest", manifest::exercise, 3_000);
}

#[test]
fn a_model_cut_short_at_any_byte_keeps_the_rules() {
    let whole = specimen::everything();
    assert_eq!(onnx::exercise(&whole), Outcome::Read);
    for length in 0..whole.len() {
        onnx::exercise(&whole[..length]);
    }
}

#[test]
fn a_model_with_any_bit_flipped_keeps_the_rules() {
    let whole = specimen::everything();
    let mut read = 0;
    for place in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[place] ^= 1 << bit;
            read += usize::from(onnx::exercise(&bytes) == Outcome::Read);
        }
    }
    // Most of a model is names, numbers and texts, of which another is as good.
    assert!(read > whole.len(), "{read} of {} flips were read", whole.len() * 8);
}
