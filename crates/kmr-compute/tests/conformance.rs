//! The interpreter, judged by the conformance cases of the ONNX project.
//!
//! `conformance/interpreter.txt` says of each case whether it passes, or why it is refused. A case must never be
//! wrong. `UPDATE_CONFORMANCE=1` writes the file anew, unless a case of it that passed does not pass any more.

use std::{collections::BTreeMap, env, fs, path::Path};

use kmr_compute::{Engine, ErrorKind, Interpreter, Mode};
use kmr_conformance::{Failure, Record, Verdict, cases, judge};
use kmr_model::{Model, Tensor};

fn run(model: &Model, feeds: &kmr_conformance::Feeds) -> Result<Vec<Tensor>, Failure> {
    let program = Interpreter.load(model);
    let outputs = program.and_then(|program| program.forward(feeds, &[], Mode::default()));
    outputs.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => Failure::Refused(error.to_string()),
        kind => Failure::Failed(format!("{kind:?} error: {error}")),
    })
}

#[test]
fn every_case_passes_or_is_refused_as_the_list_says() {
    let mut record = Record::default();
    let mut counts: BTreeMap<String, [usize; 4]> = BTreeMap::new();
    for case in cases().expect("the archives are whole") {
        let verdict = judge(&case, run);
        let column = match verdict {
            Verdict::Passed => 0,
            Verdict::PassedByShape => 1,
            Verdict::Refused(_) => 2,
            Verdict::Wrong(_) => 3,
        };
        counts.entry(case.suite.clone()).or_default()[column] += 1;
        record.insert(case.path(), verdict);
    }
    for (suite, [passed, by_shape, refused, wrong]) in &counts {
        let of = passed + by_shape + refused + wrong;
        println!("{suite}: {passed} of {of} passed, {by_shape} by shape, {refused} refused, {wrong} wrong");
    }

    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/interpreter.txt");
    let earlier = Record::parse(&fs::read_to_string(&file).expect("the list is there")).expect("it is a list");
    let comparison = record.compare(&earlier);
    let shown = |lines: &[String]| lines.join("\n  ");
    assert!(
        comparison.wrong.is_empty(),
        "{} cases are wrong:\n  {}",
        comparison.wrong.len(),
        shown(&comparison.wrong)
    );
    assert!(
        comparison.lost.is_empty(),
        "cases that passed are lost:\n  {}",
        shown(&comparison.lost)
    );
    if env::var_os("UPDATE_CONFORMANCE").is_some() {
        fs::write(&file, record.to_string()).expect("the list can be written");
        return;
    }
    assert!(
        comparison.changed.is_empty(),
        "the list says otherwise (UPDATE_CONFORMANCE=1 writes it anew):\n  {}",
        shown(&comparison.changed)
    );
}
