//! Operator sets and the IR versions that brought them.

use crate::proto::OperatorSetIdProto;

/// The oldest operator set that can be upgraded.
pub const OLDEST: i64 = 7;
/// The newest operator set that models can be upgraded to.
pub const NEWEST: i64 = 25;

/// The first operator set of each IR version, from the release table of the ONNX specification.
const IR_VERSIONS: [(i64, i64); 11] = [
    (1, 3),
    (9, 4),
    (10, 5),
    (11, 6),
    (12, 7),
    (15, 8),
    (19, 9),
    (21, 10),
    (23, 11),
    (24, 12),
    (25, 13),
];

/// The IR version that came with `opset`.
pub(super) fn ir_version(opset: i64) -> i64 {
    let mut rows = IR_VERSIONS.iter().rev();
    rows.find(|(first, _)| *first <= opset)
        .map_or(3, |(_, version)| *version)
}

fn is_standard(set: &OperatorSetIdProto) -> bool {
    matches!(set.domain.as_deref(), None | Some("" | "ai.onnx"))
}

/// The version of the standard operator set among `sets`.
pub(super) fn imported(sets: &[OperatorSetIdProto]) -> Option<i64> {
    sets.iter()
        .find(|set| is_standard(set))
        .map(|set| set.version.unwrap_or_default())
}

/// Makes `sets` import this version of the standard operator set.
pub(super) fn import(sets: &mut Vec<OperatorSetIdProto>, version: i64) {
    match sets.iter_mut().find(|set| is_standard(set)) {
        Some(set) => set.version = Some(version),
        None => sets.push(OperatorSetIdProto {
            domain: Some(String::new()),
            version: Some(version),
            ..Default::default()
        }),
    }
}
