//! ONNX models.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kmr_hostile::onnx::exercise(bytes);
});
