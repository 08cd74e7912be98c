//! Arrays: npz, npy and IDX.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    kmr_hostile::arrays::exercise(bytes);
});
