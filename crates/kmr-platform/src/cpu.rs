//! Instruction sets.

macro_rules! detected {
    ($detect:ident: $($feature:tt)*) => { [$(($feature, std::arch::$detect!($feature))),*] };
}

pub(crate) fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    let features = detected!(is_x86_feature_detected:
        "sse4.1" "sse4.2" "avx" "f16c" "fma" "avx2" "avxvnni" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni"
        "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    let features = detected!(is_aarch64_feature_detected:
        "neon" "fp16" "dotprod" "bf16" "i8mm" "sve" "sve2");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let features: [(&str, bool); 0] = [];

    let mut text = std::env::consts::ARCH.to_owned();
    for (feature, _) in features.iter().filter(|(_, present)| *present) {
        text.push(' ');
        text.push_str(feature);
    }
    text
}
