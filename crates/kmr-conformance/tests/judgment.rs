//! What the harness says of engines that are right, wrong, broken and modest.

use std::collections::BTreeMap;

use kmr_conformance::{Case, Failure, Feeds, Record, Verdict, cases, judge};
use kmr_model::{Model, Tensor};

fn case(path: &str) -> Case {
    let mut cases = cases().unwrap().into_iter();
    cases.find(|case| case.path() == path).unwrap()
}

/// `Relu`, with every result changed by `change`.
fn relu(feeds: &Feeds, change: impl Fn(f32) -> f32) -> Vec<Tensor> {
    let x = &feeds["x"];
    let values = x.values::<f32>().unwrap();
    let values = values.iter().map(|&value| change(value.max(0.0))).collect();
    vec![Tensor::from_vec(x.shape().to_vec(), values)]
}

#[test]
fn the_archives_hold_the_cases_that_the_script_says() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases().unwrap() {
        assert!(!case.model.is_empty() && !case.data.is_empty(), "{}", case.path());
        *counts.entry(case.suite).or_default() += 1;
    }
    let counts: Vec<(&str, usize)> = counts.iter().map(|(suite, count)| (suite.as_str(), *count)).collect();
    let expected = [
        ("node", 932),
        ("node-1.23", 1393),
        ("pytorch-converted", 82),
        ("pytorch-operator", 35),
        ("simple", 23),
    ];
    assert_eq!(counts, expected);
}

#[test]
fn values_count_within_the_tolerances_alone() {
    let case = case("node/test_relu");
    let judged = |change: fn(f32) -> f32| judge(&case, |_, feeds| Ok(relu(feeds, change)));
    assert_eq!(judged(|value| value), Verdict::Passed);
    assert_eq!(judged(|value| value * 1.0009), Verdict::Passed);
    assert!(matches!(judged(|value| value * 1.002), Verdict::Wrong(_)));
    assert!(matches!(judged(|_| f32::NAN), Verdict::Wrong(_)));
    assert!(matches!(judged(|_| f32::INFINITY), Verdict::Wrong(_)));
}

#[test]
fn types_shapes_and_counts_count() {
    let case = case("node/test_relu");
    let judged = |change: fn(Tensor) -> Vec<Tensor>| judge(&case, |_, f| Ok(change(relu(f, |v| v).remove(0))));
    let verdicts = [
        judged(|tensor| vec![tensor.reshaped(vec![60]).unwrap()]),
        judged(|tensor| {
            let wide = tensor.values::<f32>().unwrap().iter().map(|&v| f64::from(v)).collect();
            vec![Tensor::from_vec(tensor.shape().to_vec(), wide)]
        }),
        judged(|_| Vec::new()),
        judged(|tensor| vec![tensor.clone(), tensor]),
    ];
    for verdict in verdicts {
        assert!(matches!(verdict, Verdict::Wrong(_)), "{verdict:?}");
    }
}

#[test]
fn engines_that_fail_are_wrong_and_those_that_refuse_are_not() {
    let case = case("node/test_relu");
    let refused = judge(&case, |_, _| Err(Failure::Refused("not today".into())));
    assert_eq!(refused, Verdict::Refused("not today".into()));
    let failed = judge(&case, |_, _| Err(Failure::Failed("shapes".into())));
    assert_eq!(failed, Verdict::Wrong("shapes".into()));
    let panicked = judge(&case, |_: &Model, _: &Feeds| panic!("an engine's defect"));
    assert!(matches!(panicked, Verdict::Wrong(_)), "{panicked:?}");
}

#[test]
fn what_is_no_tensor_is_refused_by_name() {
    let never = |_: &Model, _: &Feeds| -> Result<Vec<Tensor>, Failure> { unreachable!("nothing to run") };
    for (path, named) in [
        ("node/test_sequence_insert_at_back", "`sequence`"),
        ("node/test_strnormalizer_nostopwords_nochangecase", "`x`"),
    ] {
        let Verdict::Refused(reason) = judge(&case(path), never) else {
            panic!("{path} was judged");
        };
        assert!(reason.contains(named), "{reason}");
    }
}

#[test]
fn a_record_is_read_as_it_was_written_and_shows_what_is_lost() {
    let mut before = Record::default();
    before.insert("a/one".into(), Verdict::Passed);
    before.insert("a/random".into(), Verdict::PassedByShape);
    before.insert("a/two".into(), Verdict::Refused("node `n`: no: never".into()));
    before.insert("b/three".into(), Verdict::Passed);
    assert_eq!(Record::parse(&before.to_string()), Ok(before.clone()));
    assert_eq!(before.compare(&before), kmr_conformance::Comparison::default());

    let mut after = before.clone();
    after.insert("a/one".into(), Verdict::Refused("forgotten".into()));
    after.insert("a/two".into(), Verdict::Passed);
    after.insert("b/three".into(), Verdict::Wrong("element 0".into()));
    let comparison = after.compare(&before);
    let counts = [&comparison.wrong, &comparison.lost, &comparison.changed].map(Vec::len);
    assert_eq!(counts, [1, 2, 1], "{comparison:?}");
    assert!(Record::parse("perhaps a/one").is_err());

    let merged = Record::parse("passed a/one\nrefused a/one: earlier").unwrap();
    assert_eq!(merged, Record::parse("passed a/one").unwrap());
}
