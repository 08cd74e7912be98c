//! Bad input, named with its place.

use kmr_formats::ErrorKind;
use kmr_text::{Content, Limits, TextSource, Texts, Tokenizer};

use crate::{column, file, fixture, shown, words};

fn refused(name: &str, content: impl AsRef<[u8]>, texts: Texts) -> String {
    let file = file(name, content);
    shown(&file.texts(texts).unwrap_err(), &file.path)
}

fn limited(content: &str, texts: Texts, limits: Limits) -> String {
    let file = file("a.txt", content);
    let source = TextSource::new(&file.path, Content::Texts(texts));
    shown(&source.read(&words(), limits).unwrap_err(), &file.path)
}

#[test]
fn bytes_that_are_no_text() {
    let message = refused("a.txt", b"one\ntwo \xff\n", Texts::default());
    assert_eq!(
        message,
        "a.txt: line 2 is not UTF-8 (at byte 8); convert the file, such as with `iconv -t UTF-8`"
    );
    assert!(refused("a.csv", b"a\n\xc3\n", column("a")).contains("line 2 is not UTF-8 (at byte 2)"));
}

#[test]
fn files_without_samples() {
    assert!(refused("a.txt", "", Texts::default()).starts_with("a.txt: the file is empty"));
    assert!(refused("a.txt", "\n \n", Texts::default()).starts_with("a.txt: every line is blank"));
    assert!(refused("a.csv", "a,b\n", column("a")).starts_with("a.csv: there is no row"));
    let missing = TextSource::new(fixture("nothing.txt"), Content::Texts(Texts::default()));
    let error = missing.read(&words(), Limits::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn rows_that_do_not_fit() {
    assert_eq!(
        refused("a.csv", "a,b\n1,2\n", column("text")),
        "a.csv: line 1 has no column `text`; the columns are `a`, `b`"
    );
    assert_eq!(
        refused("a.jsonl", "{\"a\": \"x\"}\n{\"b\": \"x\"}\n", column("a")),
        "a.jsonl: line 2 has no column `a`; the columns are `b`"
    );
    assert!(refused("a.jsonl", "{\"a\": \"x\"}\n[1]\n", column("a")).contains("line 2 is no JSON object"));
    assert!(refused("a.csv", "a,b\n1,2\n3\n", column("a")).contains("line 3 has 1 values; there are 2 names"));
    assert_eq!(
        refused("a.tsv", "a\tb\nx\t1\n \t0\n", column("a")),
        "a.tsv: array `a`: line 3 has an empty text; leave the row out, or put a text there"
    );
    let labeled = Texts {
        label: Some("b".into()),
        ..column("a")
    };
    assert_eq!(
        refused("a.tsv", "a\tb\nx\tgood\n", labeled.clone()),
        "a.tsv: array `b`: line 2 has `good`, which is no number; give classes as whole numbers from 0, or scores as numbers"
    );
    assert!(refused("a.tsv", "a\tb\nx\tinf\n", labeled).contains("line 2 has `inf`"));
}

#[test]
fn columns_of_files_that_have_none() {
    let message = refused("a.txt", "x\n", column("text"));
    assert_eq!(
        message,
        "a.txt: a file of lines has no column `text`; name a JSONL, CSV, TSV or Parquet file by its ending, or write `format`"
    );
    let labeled = Texts {
        label: Some("b".into()),
        ..Texts::default()
    };
    assert!(refused("a.txt", "x\n", labeled.clone()).contains("has no column `b`"));
    assert!(
        refused("a.csv", "a,b\nx,1\n", Texts::default()).contains("the column of texts is not named; write `text`")
    );
    assert!(refused("a.csv", "a,b\nx,1\n", labeled).contains("column `b` is named, the column of texts is not"));
}

#[test]
fn texts_that_are_too_long() {
    let positions = Limits {
        positions: Some(8),
        vocabulary: None,
    };
    assert_eq!(
        limited("it\nThe jury said it.\n", Texts::default(), positions),
        "a.txt: line 2 has 9 tokens, more than the model's positions, 8; cut longer texts: write `max_length` = 8"
    );
    let stated = Texts {
        length: Some(8),
        ..Texts::default()
    };
    assert_eq!(
        limited("it\nThe jury said it.\n", stated, Limits::default()),
        "a.txt: line 2 has 9 tokens, more than the stated `length`, 8; write a greater `length`, or cut by `max_length` = 8"
    );
    let far = Texts {
        length: Some(99),
        ..Texts::default()
    };
    assert!(limited("it\n", far, positions).contains("`length` is 99, more than the model's positions, 8"));
    let nothing = Texts {
        max_length: Some(2),
        ..Texts::default()
    };
    assert!(
        limited("it\n", nothing, Limits::default()).contains("`max_length` is 2; the tokenizer alone adds 2 tokens")
    );
}

#[test]
fn windows_that_do_not_fit() {
    let refused = |content: &str, window, stride, positions| {
        let file = file("a.txt", content);
        let content = Content::Windows {
            text: None,
            window,
            stride,
        };
        let limits = Limits {
            positions,
            vocabulary: None,
        };
        let error = TextSource::new(&file.path, content).read(&words(), limits).unwrap_err();
        shown(&error, &file.path)
    };
    assert!(refused("it it", 1, 1, None).contains("`window` is 1"));
    assert!(refused("it it", 4, 0, None).contains("`stride` is 0, `window` 4"));
    assert!(refused("it it", 4, 5, None).contains("`stride` is 5, `window` 4"));
    assert_eq!(
        refused("it it", 16, 16, Some(8)),
        "a.txt: `window` is 16, more than the model's positions, 8; write `window = 8`"
    );
    assert!(refused(".", 4, 4, None).contains("there is nothing to predict"));
}

#[test]
fn a_tokenizer_that_does_not_fit_the_model() {
    let limits = Limits {
        vocabulary: Some(100),
        positions: None,
    };
    let file = file("a.txt", "it\n");
    let source = TextSource::new(&file.path, Content::Texts(Texts::default()));
    let error = source.read(&words(), limits).unwrap_err();
    assert!(error.file().ends_with("words.json"));
    let message = error.to_string();
    assert!(
        message.ends_with("the tokenizer has 120 tokens; the model has 100"),
        "{message}"
    );
}

#[test]
fn files_that_hold_no_tokenizer() {
    let refused = |content: &str| {
        let file = file("tokenizer.json", content);
        shown(&Tokenizer::read(&file.path).unwrap_err(), &file.path)
    };
    assert!(refused("").contains("this is no tokenizer"));
    assert!(refused("{}").contains("this is no tokenizer: it has no `model`; give the `tokenizer.json`"));
    assert!(refused("{\"model\": {\"type\": \"Magic\"}}").contains("this is no tokenizer"));
}
