//! Manifests.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kmr_hostile::manifest::exercise(bytes);
});
