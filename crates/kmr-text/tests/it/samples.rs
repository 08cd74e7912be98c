//! What becomes a sample.

use kmr_formats::overlap;
use kmr_model::DType;
use kmr_text::{Content, Limits, TextSource, Texts};
use proptest::prelude::*;

use crate::{column, file, integers, words};

const NAMES: [&str; 4] = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];

#[test]
fn lines_are_padded_to_the_longest() {
    let lines = file("a.txt", "\u{feff}The jury said it.\r\n\n   \nyear\n");
    let dataset = lines.texts(Texts::default()).unwrap();
    assert_eq!(dataset.len(), 2);
    assert_eq!(dataset.inputs().keys().collect::<Vec<_>>(), NAMES);
    for name in NAMES {
        assert_eq!(dataset.inputs()[name].shape(), [2, 9], "{name}");
    }
    let year = words().encode("year", None).unwrap().ids;
    let ids = integers(&dataset, "input_ids");
    assert_eq!(ids[..9], [2, 76, 87, 105, 94, 70, 74, 7, 3]);
    let filled: Vec<i64> = year.iter().map(|id| i64::from(*id)).chain([0; 9]).take(9).collect();
    assert_eq!(ids[9..], filled);
    let mask: Vec<i64> = (0..9).map(|at| i64::from(at < year.len())).collect();
    assert_eq!(integers(&dataset, "attention_mask")[9..], mask);
    assert_eq!(integers(&dataset, "position_ids")[9..], [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(dataset.labels().is_none() && dataset.targets().is_none());
}

#[test]
fn tables_of_every_kind_say_the_same() {
    let texts = Texts {
        label: Some("class".into()),
        pair: Some("b".into()),
        max_length: Some(12),
        length: Some(14),
        ..column("a")
    };
    let tables = [
        (
            "a.jsonl",
            "{\"a\": \"The jury, said\", \"b\": \"a \\\"year\\\"\", \"class\": 1}\n\n{\"b\": \"x\", \"class\": 0, \"a\": \"it\"}\n",
        ),
        ("a.csv", "class,a,b\n1,\"The jury, said\",\"a \"\"year\"\"\"\n0,it,x\n"),
        ("a.tsv", "a\tb\tclass\nThe jury, said\ta \"year\"\t1\nit\tx\t0\n"),
    ];
    let datasets: Vec<_> = tables
        .iter()
        .map(|(name, content)| file(name, content).texts(texts.clone()).unwrap())
        .collect();
    for dataset in &datasets {
        assert_eq!(dataset.labels(), Some(&[1, 0][..]));
        assert_eq!(dataset.inputs(), datasets[0].inputs());
        assert_eq!(dataset.inputs()["input_ids"].shape(), [2, 14]);
    }
    let kinds = integers(&datasets[0], "token_type_ids");
    assert!(kinds[..12].contains(&1) && kinds[12..14] == [0, 0]);
    let ids = integers(&datasets[0], "input_ids");
    assert_eq!((ids[0], ids[11], ids[12]), (2, 3, 0));
}

#[test]
fn numbers_that_are_no_classes_are_scores() {
    let scored = |labels: [&str; 2]| {
        let content = format!("t\ts\na\t{}\nb\t{}\n", labels[0], labels[1]);
        let texts = Texts {
            label: Some("s".into()),
            ..column("t")
        };
        file("a.tsv", content).texts(texts).unwrap()
    };
    let dataset = scored(["0.25", "3"]);
    assert_eq!(dataset.labels(), None);
    let targets = dataset.targets().unwrap();
    assert_eq!(targets.dtype(), DType::DOUBLE);
    assert_eq!(*targets.values::<f64>().unwrap(), [0.25, 3.0]);
    assert_eq!(
        *scored(["-1", "1"]).targets().unwrap().values::<f64>().unwrap(),
        [-1.0, 1.0]
    );
    assert_eq!(scored(["4", "1"]).labels(), Some(&[4, 1][..]));
    let second = dataset.select(None, 1, None).unwrap();
    assert_eq!(*second.batch_targets(0..9).unwrap().values::<f64>().unwrap(), [3.0]);
}

#[test]
fn texts_that_are_compared_are_two_rows_of_a_sample() {
    let texts = Texts {
        against: Some("b".into()),
        label: Some("s".into()),
        ..column("a")
    };
    let table = file("a.csv", "a,b,s\nit,The jury said it.,0.5\nyear,it,0.25\n");
    let dataset = table.texts(texts).unwrap();
    assert_eq!(dataset.inputs()["input_ids"].shape(), [2, 2, 9]);
    assert_eq!(
        integers(&dataset, "input_ids")[9..18],
        [2, 76, 87, 105, 94, 70, 74, 7, 3]
    );
    assert_eq!(
        integers(&dataset, "input_ids")[..9],
        integers(&dataset, "input_ids")[27..]
    );
}

#[test]
fn padding_hides_no_overlap() {
    let short = file("a.txt", "it\nyear\n").texts(Texts::default()).unwrap();
    let long = file("b.txt", "The jury said it.\nyear\n")
        .texts(Texts::default())
        .unwrap();
    assert_eq!(overlap(&short, &long), Some((1, 1)));
    let shuffled = short.gather(&[1, 0]);
    assert_eq!(overlap(&shuffled, &long), Some((0, 1)));
}

#[test]
fn windows_of_running_text() {
    let running = file("a.txt", "The jury said it.\n\nThe jury said a year.");
    let tokens: Vec<i64> = {
        let text = std::fs::read_to_string(&running.path).unwrap();
        words()
            .encode_running(&text)
            .unwrap()
            .into_iter()
            .map(i64::from)
            .collect()
    };
    let windows = |window, stride| {
        running
            .read(Content::Windows {
                text: None,
                window,
                stride,
            })
            .unwrap()
    };
    let dataset = windows(4, 4);
    assert_eq!(integers(&dataset, "input_ids")[..8], tokens[..8]);
    let targets = dataset.targets().unwrap().to_i64().unwrap();
    assert_eq!(targets[..4], [tokens[1], tokens[2], tokens[3], -1]);
    assert_eq!(targets[4..8], [tokens[5], tokens[6], tokens[7], -1]);
    let rows = file(
        "a.jsonl",
        "{\"t\": \"The jury said it.\"}\n{\"t\": \"The jury said a year.\"}\n",
    );
    let content = Content::Windows {
        text: Some("t".into()),
        window: 4,
        stride: 4,
    };
    assert_eq!(rows.read(content).unwrap().inputs(), dataset.inputs());
}

#[test]
fn samples_are_chosen_after_shuffling() {
    let lines = file("a.txt", "it\nyear\nThe jury\nsaid\n");
    let mut source = TextSource::new(&lines.path, Content::Texts(Texts::default()));
    source.shuffle = Some(3);
    source.skip = 1;
    source.take = Some(2);
    let chosen = source.read(&words(), Limits::default()).unwrap();
    let order = kmr_formats::permutation(4, 3);
    let places: Vec<usize> = (0..2).map(|at| chosen.place_in_file(at).unwrap()).collect();
    assert_eq!(places, order[1..3]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Every token but the first of the text, or of a window where windows do not share any, is judged exactly once.
    #[test]
    fn windows_judge_every_token_once(count in 2_usize..60, window in 2_usize..12, stride in 1_usize..12) {
        let stride = stride.min(window);
        // A word to a token.
        let running = file("a.txt", vec!["it"; count].join(" "));
        let tokens = words().encode_running(&vec!["it"; count].join(" ")).unwrap().len();
        prop_assume!(tokens >= 2);
        let dataset = running.read(Content::Windows { text: None, window, stride }).unwrap();
        let targets = dataset.targets().unwrap().to_i64().unwrap();
        let mut judged = vec![0; tokens];
        for (row, targets) in targets.chunks(window).enumerate() {
            for (at, target) in targets.iter().enumerate() {
                if *target >= 0 {
                    judged[row * stride + at + 1] += 1;
                }
            }
        }
        for (at, times) in judged.iter().enumerate() {
            let skipped = at == 0 || (stride == window && at % window == 0);
            prop_assert_eq!(*times, usize::from(!skipped), "token {} of {}", at, tokens);
        }
        let mask = integers(&dataset, "attention_mask");
        let ids = integers(&dataset, "input_ids");
        prop_assert!(mask.iter().zip(&ids).all(|(mask, id)| *mask == 1 || *id == 0));
    }
}
