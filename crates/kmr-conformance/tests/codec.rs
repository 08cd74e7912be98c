//! The codec and the rewriting of whole models over every model of the suites.

use buffa::Message;
use kmr_conformance::cases;
use kmr_model::{Model, proto};

/// Models whose files are not as protobuf's own writers would have them, so that no writer gives the same bytes.
const IN_AN_ORDER_OF_THEIR_OWN: usize = 0;

#[test]
fn every_model_is_written_again_as_it_was_read() {
    let (mut reordered, mut failures) = (0, Vec::new());
    for case in cases().unwrap() {
        let written = match Model::decode(case.model.clone()) {
            Ok(model) => {
                let written = model.encode_to_vec();
                assert_eq!(written.len() as u64, model.encoded_len(), "{}", case.path());
                written
            }
            Err(error) => {
                failures.push(format!("{}: {error}", case.path()));
                continue;
            }
        };
        if written == case.model {
            continue;
        }
        // Every field is equal, floating-point numbers to the bit.
        reordered += 1;
        let canonical = proto::ModelProto::decode(&mut case.model.clone())
            .unwrap()
            .encode_to_vec();
        if written != canonical {
            failures.push(format!("{}: a field differs", case.path()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(reordered, IN_AN_ORDER_OF_THEIR_OWN);
}

#[test]
fn functions_and_constants_of_every_model_can_be_rewritten() {
    let (mut constants, mut failures) = (0, Vec::new());
    for case in cases().unwrap() {
        let model = Model::decode(case.model.clone()).unwrap();
        let rewritten = model
            .inline_functions()
            .and_then(|(inlined, _)| inlined.lift_constants());
        let (rewritten, changes) = match rewritten {
            Ok(rewritten) => rewritten,
            Err(error) => {
                failures.push(format!("{}: {error}", case.path()));
                continue;
            }
        };
        constants += usize::from(!changes.is_empty());
        assert!(!rewritten.has_functions(), "{}", case.path());
        let again = Model::decode(rewritten.encode_to_vec().into());
        assert_eq!(
            again.unwrap().encode_to_vec(),
            rewritten.encode_to_vec(),
            "{}",
            case.path()
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(constants > 300, "only {constants} models have constants");
}
