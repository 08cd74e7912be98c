//! The runtime of tests.

use kmr_onnxruntime::{Found, find};

/// The runtime; none where no library can be found, which only a machine that is not for tests may lack.
pub fn found() -> Option<&'static Found> {
    let found = find().expect("a library that is named loads");
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "ONNX Runtime is missing; name its library in KMR_ORT_DYLIB"
        );
        eprintln!("SKIPPED: ONNX Runtime is not found; name its library in KMR_ORT_DYLIB or `pip install onnxruntime`");
    }
    found
}
