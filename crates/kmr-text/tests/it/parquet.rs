//! Parquet files of the package pyarrow; see `fixtures/parquet/make.py`.

use std::fs;

use kmr_hostile::mutation::{Numbers, mutated};
use kmr_text::{Content, TextSource, Texts};

use crate::{column, file, fixture, shown, words};

/// The files that hold the rows of `rows.jsonl`.
const FILES: [&str; 5] = ["plain", "snappy", "zstd", "gzip", "brotli"];

fn read(name: &str, texts: Texts) -> Result<kmr_formats::Dataset, kmr_formats::FormatError> {
    let source = TextSource::new(fixture(&format!("parquet/{name}")), Content::Texts(texts));
    source.read(&words(), kmr_text::Limits::default())
}

fn refused(name: &str, texts: Texts) -> String {
    let path = fixture(&format!("parquet/{name}"));
    shown(&read(name, texts).unwrap_err(), &path)
}

fn labeled(text: &str, label: &str) -> Texts {
    Texts {
        label: Some(label.into()),
        ..column(text)
    }
}

#[test]
fn every_file_says_what_the_json_lines_say() {
    for label in ["class", "score", "single", "flag", "count"] {
        for (text, pair) in [("text", Some("pair")), ("required", None)] {
            let texts = Texts {
                pair: pair.map(String::from),
                ..labeled(text, label)
            };
            let wanted = read("rows.jsonl", texts.clone()).unwrap();
            assert_eq!(wanted.len(), 40);
            for name in FILES {
                let made = read(&format!("{name}.parquet"), texts.clone()).unwrap();
                assert_eq!(made.inputs(), wanted.inputs(), "{name} {text}");
                assert_eq!(made.labels(), wanted.labels(), "{name} {label}");
                assert_eq!(made.targets(), wanted.targets(), "{name} {label}");
                assert_eq!(made.labels().is_some(), matches!(label, "class" | "flag" | "count"));
            }
        }
    }
}

#[test]
fn windows_are_cut_of_a_column() {
    let windows = |name: &str| {
        let content = Content::Windows {
            text: Some("text".into()),
            window: 16,
            stride: 8,
        };
        let source = TextSource::new(fixture(&format!("parquet/{name}")), content);
        source.read(&words(), kmr_text::Limits::default()).unwrap()
    };
    assert_eq!(windows("zstd.parquet").inputs(), windows("rows.jsonl").inputs());
}

#[test]
fn columns_that_are_not_read_are_named() {
    let kinds = |column_name: &str| refused("kinds.parquet", column(column_name));
    assert_eq!(
        kinds("txt"),
        "kinds.parquet: there is no column `txt`; the columns are `list`, `day`, `moment`, `clock`, `price`, `bytes`, \
         `binary`, `nothing`, `optional`, `blank`, `text`"
    );
    assert_eq!(
        kinds("list"),
        "kinds.parquet: array `list`: the column holds lists or records; texts, numbers and truths are read; write the \
         column as texts or numbers"
    );
    for (name, what) in [
        ("day", "dates"),
        ("moment", "timestamps"),
        ("clock", "times"),
        ("price", "decimals"),
        ("bytes", "bytes"),
        ("nothing", "nothing at all"),
    ] {
        let message = kinds(name);
        assert!(
            message.contains(&format!("array `{name}`: the column holds {what};")),
            "{message}"
        );
    }
    assert!(kinds("binary").contains("array `binary`: the column is not UTF-8 (from row 1 on)"));
    assert_eq!(
        kinds("optional"),
        "kinds.parquet: array `optional`: row 4 has nothing here; leave the row out, or put a value there"
    );
    assert!(kinds("blank").contains("array `blank`: row 2 has an empty text"));
    assert!(
        refused("kinds.parquet", labeled("text", "blank")).contains("array `blank`: row 1 has `a`, which is no number")
    );
    assert!(refused("plain.parquet", column("record")).contains("array `record`: the column holds lists or records"));
    let unnamed = refused("plain.parquet", Texts::default());
    assert_eq!(
        unnamed,
        "plain.parquet: the column of texts is not named; write `text`, its name"
    );
}

#[test]
fn files_that_are_not_read_say_why() {
    assert!(refused("lz4.parquet", column("text")).contains(
        "array `text`: the column is packed by LZ4; Snappy, gzip, Brotli and Zstandard are read; write the file again"
    ));
    assert!(refused("delta.parquet", column("text")).contains(
        "array `text`: the column has values in the encoding DELTA_BYTE_ARRAY; PLAIN, RLE and dictionaries are read"
    ));
    let whole = fs::read(fixture("parquet/plain.parquet")).unwrap();
    let with = |content: &[u8]| {
        let file = file("a.parquet", content);
        shown(&file.texts(column("text")).unwrap_err(), &file.path)
    };
    assert!(with(b"text\nit\n").starts_with("a.parquet: does not begin with `PAR1`: this is no Parquet file"));
    assert!(with(&whole[..1000]).starts_with("a.parquet: does not end with `PAR1`: the file is cut short"));
    let encrypted = [&whole[..whole.len() - 4], b"PARE"].concat();
    assert!(with(&encrypted).starts_with("a.parquet: the file is encrypted"));
    let mut long = whole.clone();
    let length = long.len() - 8;
    long[length..length + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(with(&long).contains("the footer takes 4294967295 bytes; there are "));
    let message = refused("repeated.parquet", column("text"));
    assert!(
        message.contains("is past what is read of a file of 648 bytes"),
        "{message}"
    );
    assert!(
        message.ends_with("write the table as several files, or as JSON lines"),
        "{message}"
    );
    let message = refused("unfolded.parquet", column("text"));
    assert!(
        message.contains("that is said to hold 67108874; 4194304 are read of it at most"),
        "{message}"
    );
}

#[test]
fn damage_is_an_error_with_its_file() {
    let mut numbers = Numbers::new(5);
    let mut read = 0;
    for name in FILES {
        let whole = fs::read(fixture(&format!("parquet/{name}.parquet"))).unwrap();
        let mut check = |content: &[u8]| {
            let file = file("a.parquet", content);
            match file.texts(labeled("text", "score")) {
                Ok(dataset) => read += usize::from(!dataset.is_empty()),
                Err(error) => {
                    let message = shown(&error, &file.path);
                    assert!(message.starts_with("a.parquet: ") && message.len() < 1000, "{message}");
                    assert!(!message.chars().any(char::is_control), "{message}");
                }
            }
        };
        for _ in 0..600 {
            check(&mutated(&whole, &mut numbers));
        }
        for length in (0..whole.len()).step_by(7) {
            check(&whole[..length]);
        }
    }
    assert!(read > 100, "only {read} damaged files were read");
}
