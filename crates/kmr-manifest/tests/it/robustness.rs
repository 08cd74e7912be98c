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
            assert!(!problem.message().contains(['\n', '\u{1b}']), "{problem:?}");
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
