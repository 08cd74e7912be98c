//! GGUF files.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kmr_hostile::gguf::exercise(bytes);
});
