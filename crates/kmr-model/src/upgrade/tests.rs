//! The table of adapters against the history of definitions.

use super::{adapters, history};

/// Definitions that changed without a known way from the old one to the new.
const REFUSED: [(&str, i64); 3] = [("Attention", 24), ("Attention", 25), ("Scan", 9)];

#[test]
fn every_new_definition_has_an_adapter_or_is_refused_on_purpose() {
    let mut seen = 0;
    for row in history::rows().filter(|row| !row.only_types) {
        let known = adapters::find(row.op_type, row.opset).is_some();
        let refused = REFUSED.contains(&(row.op_type, row.opset));
        assert!(known != refused, "{} {}", row.op_type, row.opset);
        seen += 1;
    }
    assert_eq!(seen, 73, "the history is whole");
}

#[test]
fn history_and_changes_agree() {
    assert!(history::changed("Softmax", 13) && !history::changed("Softmax", 11));
    assert!(!history::changed("Relu", 14) && !history::changed("Unheard", 13));
}
