//! Which operators have another definition from which operator set on.

use std::{collections::HashSet, sync::LazyLock};

/// Operator, operator set, and `types` or `signature` in a line.
const LINES: &str = include_str!("history.txt");

static CHANGED: LazyLock<HashSet<(&str, i64)>> = LazyLock::new(|| {
    let rows = rows().filter(|row| !row.only_types);
    rows.map(|row| (row.op_type, row.opset)).collect()
});

/// One new definition.
pub(super) struct Row {
    pub op_type: &'static str,
    pub opset: i64,
    /// Whether the new definition only takes more element types.
    pub only_types: bool,
}

/// Every new definition.
pub(super) fn rows() -> impl Iterator<Item = Row> {
    let lines = LINES.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut words = line.split(' ');
        Some(Row {
            op_type: words.next()?,
            opset: words.next()?.parse().ok()?,
            only_types: words.next()? == "types",
        })
    })
}

/// Whether `op_type` has another definition from `opset` on that does more than take further element types.
pub(super) fn changed(op_type: &str, opset: i64) -> bool {
    CHANGED.contains(&(op_type, opset))
}
