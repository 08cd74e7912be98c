//! No text makes the crate panic, and every problem has a place inside the text.

use kmr_manifest::Error;
use proptest::prelude::*;

use crate::sample::{GOOD, catalog, parse};

/// Everything that a host does with a text.
fn exercise(text: &str) {
    let check = |error: Error| {
        for problem in error.problems() {
            let span = problem.span();
            assert!(span.start <= span.end && span.end <= text.len(), "{problem:?}");
            assert!(!problem.message().is_empty());
            assert!(!problem.help().is_empty(), "{problem:?}");
            assert!(!problem.message().contains(char::is_control), "{problem:?}");
            assert!(!problem.help().contains(char::is_control), "{problem:?}");
        }
        assert!(error.render(true).len() >= error.render(false).len());
    };
    match parse(text) {
        Err(error) => check(error),
        Ok(manifest) => {
            if let Err(error) = manifest.resolve(&catalog()) {
                check(error);
            }
        }
    }
}

/// Pieces that are likely to be grammatical somewhere.
fn fragment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[\\PC\n]{0,12}",
        prop::sample::select(vec![
            "\"",
            "[",
            "]]",
            "{",
            "}",
            "=",
            ",",
            "\n",
            "0",
            "-1",
            "inf",
            "nan",
            "\"\"",
            "1e400",
            "99999999999999999999",
            "true",
            "[]",
            "{}",
            "[[stage]]\n",
            "[[stage.rule]]\n",
            "1979-05-27",
            "\"\\u0000\"",
            "'''",
            "é",
            "\u{feff}",
            "#",
            "\r",
            "0x",
            "..",
        ])
        .prop_map(str::to_string),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn arbitrary_text_never_panics(text in "[\\PC\n\t]{0,200}") {
        exercise(&text);
    }

    #[test]
    fn a_mutated_manifest_never_panics(
        edits in prop::collection::vec((0..GOOD.len(), 0..30_usize, fragment()), 1..4),
    ) {
        let mut text = GOOD.to_string();
        for (start, length, inserted) in edits {
            let start = text.floor_char_boundary(start);
            let end = text.floor_char_boundary(start + length).max(start);
            text.replace_range(start..end, &inserted);
        }
        exercise(&text);
    }

    #[test]
    fn a_value_of_any_other_kind_never_panics(index in 0..60_usize, value in fragment()) {
        let lines = GOOD.lines().enumerate().map(|(number, line)| match line.split_once(" = ") {
            Some((key, _)) if number == index => format!("{key} = {value}\n"),
            _ => format!("{line}\n"),
        });
        exercise(&lines.collect::<String>());
    }
}

#[test]
fn deep_nesting_is_refused_without_a_crash() {
    for open in ["[", "{a=", "[[", "{a=["] {
        exercise(&format!("schema = 1\nx = {}", open.repeat(100_000)));
        exercise(&format!("schema = 1\nx = {0}{1}", open.repeat(60), "]".repeat(60)));
    }
    let nested = format!("policy.config.{} = 1", vec!["a"; 20_000].join("."));
    exercise(&nested);
}

#[test]
fn a_hundred_thousand_mistakes_are_not_all_told() {
    let keys: String = (0..100_000).map(|k| format!("key{k} = 1\n")).collect();
    let error = parse(&format!("schema = 1\n{keys}")).unwrap_err();
    assert_eq!(error.problems().count(), 101);
    let last = error.problems().last().unwrap();
    assert!(last.message().ends_with("more mistakes from here on"), "{last:?}");
    exercise(&format!("schema = 1\n{keys}"));
}

#[test]
fn huge_values_are_refused_or_read() {
    let values = |list: String| GOOD.replace("[0.0, 0.1, 0.2, 0.3]", &list);
    let digits = "9".repeat(100_000);
    for list in [
        format!("[{}]", "0.5, ".repeat(100_000)),
        format!("[{digits}]"),
        format!("[{digits}.5]"),
        format!("[1e{digits}]"),
        format!("[\"{digits}\"]"),
        format!("[\"\t{digits}\"]"),
        format!("[0x{}]", "f".repeat(100_000)),
        format!("[{}]", "[".repeat(100)),
    ] {
        let text = values(list);
        assert!(parse(&text).is_err() || parse(&text).unwrap().resolve(&catalog()).is_err());
        exercise(&text);
    }
}

#[test]
fn a_tab_in_a_text_is_shown_as_one() {
    let error = parse(&GOOD.replacen("role = \"recover\"", "role = \"re\tcover\"", 1)).unwrap_err();
    assert!(error.first().message().ends_with(r#"got "re\tcover""#), "{error}");
}
