//! Damaged files: one clear error, no panic, no memory that the file does not justify.

use std::fs;
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use kmr_formats::{DatasetSource, ErrorKind, FormatError, read_idx, read_npy, read_npz};
use proptest::prelude::*;
use zip::write::SimpleFileOptions;

use crate::fixture;

/// Reads the bytes in every way there is.
fn read_all(folder: &Path, bytes: &[u8]) -> Vec<FormatError> {
    let path = folder.join("file");
    fs::write(&path, bytes).unwrap();
    [
        read_npz(&path).err(),
        read_npy(&path).err(),
        read_idx(&path).err(),
        DatasetSource::new(&path).read().err(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

const FIXTURES: &[&str] = &[
    "stored.npz",
    "deflated.npz",
    "types.npz",
    "fortran.npy",
    "images.idx",
    "images.idx.gz",
];

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    for name in FIXTURES {
        let whole = fs::read(fixture(name)).unwrap();
        for length in 0..whole.len() {
            let path = folder.path().join("file");
            fs::write(&path, &whole[..length]).unwrap();
            let outcome = match name.split_once('.').unwrap().1 {
                "npz" => read_npz(&path).err(),
                "npy" => read_npy(&path).err(),
                _ => read_idx(&path).err(),
            };
            let error = outcome.unwrap_or_else(|| panic!("{name} of {length} bytes was read"));
            let message = error.to_string();
            assert!(message.starts_with(&path.display().to_string()), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn mutated_files_never_panic(
        name in prop::sample::select(FIXTURES.to_vec()),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = fs::read(fixture(name)).unwrap();
        for (place, byte) in edits {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        read_all(folder.path(), &bytes);
    }

    #[test]
    fn random_files_are_errors(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let folder = tempfile::tempdir().unwrap();
        // Four random bytes that spell an empty IDX array are possible, but not likely.
        prop_assert!(read_all(folder.path(), &bytes).len() >= 3);
    }

    #[test]
    fn random_headers_never_panic(text in "[{}()\\[\\]'\",:<>|a-z0-9_ TrueFalse]{0,80}") {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((text.len() as u16).to_le_bytes());
        bytes.extend(text.as_bytes());
        read_all(folder.path(), &bytes);
    }
}

fn npy(shape: &str, values: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.extend(values);
    bytes
}

#[test]
fn a_shape_beyond_the_file_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("huge.npy");
    for shape in ["(1099511627776,)", "(4294967295, 4294967295)"] {
        fs::write(&path, npy(shape, &[0; 100])).unwrap();
        let error = read_npy(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Malformed);
        assert!(error.to_string().contains("at most 100"), "{error}");
    }
    let mut idx = vec![0, 0, 0x0e, 3];
    idx.extend([0xff; 12]);
    fs::write(&path, &idx).unwrap();
    assert!(read_idx(&path).unwrap_err().to_string().contains("at most 0"));
    fs::write(&path, npy("(100,)", &[0; 101])).unwrap();
    let error = read_npy(&path).unwrap_err();
    assert!(error.to_string().contains("more bytes follow"), "{error}");
}

/// An archive with one deflated entry of the given bytes.
fn deflated(path: &Path, bytes: &[u8]) {
    let mut writer = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    writer.start_file("x.npy", options).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap();
}

#[test]
fn a_deflate_bomb_gives_no_more_than_its_shape() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bomb.npz");
    deflated(&path, &npy("(10,)", &vec![0; 50_000_000]));
    assert!(fs::metadata(&path).unwrap().len() < 100_000);
    let error = read_npz(&path).unwrap_err();
    assert_eq!(error.array_name(), Some("x"));
    assert!(error.to_string().contains("more bytes follow"), "{error}");

    // A shape that the few compressed bytes cannot stand for.
    deflated(&path, &npy("(1000000000,)", &[1, 2, 3]));
    let error = read_npz(&path).unwrap_err();
    assert!(error.to_string().contains("at most"), "{error}");

    let gz = folder.path().join("bomb.gz");
    let mut encoder = GzEncoder::new(fs::File::create(&gz).unwrap(), Compression::best());
    encoder.write_all(&[0, 0, 8, 1, 0, 0, 0, 10]).unwrap();
    encoder.write_all(&vec![0; 50_000_000]).unwrap();
    encoder.finish().unwrap();
    assert!(read_idx(&gz).unwrap_err().to_string().contains("more bytes follow"));
}

#[test]
fn a_wrong_checksum_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flipped.npz");
    let mut bytes = fs::read(fixture("stored.npz")).unwrap();
    // The last value byte of `x`, which nothing but the checksum guards: 96 bytes of values that
    // end in 23 / 8 = 2.875.
    let value = 2.875_f32.to_le_bytes();
    let place = bytes.windows(4).position(|window| window == value).unwrap();
    bytes[place] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = read_npz(&path).unwrap_err();
    assert_eq!((error.kind(), error.array_name()), (ErrorKind::Malformed, Some("x")));
}

#[test]
fn messages_name_file_array_and_offset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let mut shown = Vec::new();
    let mut show = |bytes: &[u8], read: fn(&Path) -> Option<FormatError>| {
        fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap();
        let message = error.to_string();
        let message = message.replace(&path.display().to_string(), "FILE");
        shown.push(format!("{message}\n  help: {}", error.way_out()));
    };
    let npz = |path: &Path| read_npz(path).err();
    let npy_file = |path: &Path| read_npy(path).err();
    let idx = |path: &Path| read_idx(path).err();
    let dataset = |path: &Path| DatasetSource::new(path).read().err();
    let stored = fs::read(fixture("stored.npz")).unwrap();
    show(&stored[..200], npz);
    show(b"a text file", npz);
    show(b"a text file", dataset);
    show(b"", dataset);
    show(&fs::read(fixture("fortran.npy")).unwrap()[..150], npy_file);
    show(&npy("(200,)", &[0; 100]), npy_file);
    show(&fs::read(fixture("objects.npy")).unwrap(), npy_file);
    show(&fs::read(fixture("images.idx.gz")).unwrap()[..30], idx);
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("x.npy", options).unwrap();
    zip.write_all(&npy("(200,)", &[0; 100])).unwrap();
    show(&zip.finish().unwrap().into_inner(), npz);
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("README.md", options).unwrap();
    show(&zip.finish().unwrap().into_inner(), npz);
    let missing = read_npz(&folder.path().join("none.npz")).unwrap_err();
    shown.push(
        missing
            .to_string()
            .replace(&folder.path().display().to_string(), "FOLDER"),
    );
    insta::assert_snapshot!(shown.join("\n\n"));
}
