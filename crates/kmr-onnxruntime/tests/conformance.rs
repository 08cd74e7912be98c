//! The runtime, judged by the conformance cases of the ONNX project.

use kmr_compute::{Engine, ErrorKind, Mode};
use kmr_conformance::{Failure, Verdict, cases, judge};
use kmr_onnxruntime::Options;

mod common;

/// Where the runtime itself answers otherwise than the ONNX project: dropout of a generator of its own, corners that
/// it rounds otherwise, masks with the smallest number for minus infinity, and what it has not implemented.
const OTHERWISE: [&str; 8] = [
    "test_attention_4d_diff_heads_mask4d_padded_kv",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_3d_mask_causal",
    "test_attention_4d_with_past_and_present_qk_matmul_bias_4d_mask_causal",
    "test_maxunpool_export_with_output_shape",
    "test_reduce_max_empty_set_bool",
    "test_resize_downsample_scales_cubic_align_corners",
    "test_resize_downsample_scales_linear_align_corners",
    "test_training_dropout",
];

#[test]
fn cases_pass_or_are_refused_but_where_the_runtime_differs_from_the_standard() {
    let Some(found) = common::found() else { return };
    let engine = found.engine(Options::default());
    let (mut passed, mut refused, mut wrong) = (0, 0, Vec::new());
    for case in cases().expect("the archives are whole") {
        let verdict = judge(&case, |model, feeds| {
            let program = engine.load(model);
            let outputs = program.and_then(|program| program.forward(feeds, &[], Mode::default()));
            outputs.map_err(|error| match error.kind() {
                ErrorKind::Unsupported => Failure::Refused(error.to_string()),
                kind => Failure::Failed(format!("{kind:?} error: {error}")),
            })
        });
        match verdict {
            Verdict::Passed | Verdict::PassedByShape => passed += 1,
            Verdict::Refused(_) => refused += 1,
            Verdict::Wrong(_) if OTHERWISE.iter().any(|known| case.path().contains(known)) => {}
            Verdict::Wrong(difference) => wrong.push(format!("{}: {difference}", case.path())),
        }
    }
    println!("ONNX Runtime {}: {passed} passed, {refused} refused", found.version);
    assert!(
        wrong.is_empty(),
        "{} cases are wrong:\n  {}",
        wrong.len(),
        wrong.join("\n  ")
    );
    assert!(passed >= 2_000, "{passed} cases passed");
}
