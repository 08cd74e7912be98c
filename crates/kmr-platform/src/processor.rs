//! The instruction-set class of this machine: what bit-exact results depend on.

/// The architecture and the vector instructions that numerical code picks at run time, for example
/// `x86_64 avx2+fma`, `aarch64 neon` or plain `x86_64`.
///
/// Two machines with the same text take the same code paths, so their results are comparable bit by bit.
pub fn instruction_set() -> String {
    let architecture = std::env::consts::ARCH;
    let extensions = extensions().join("+");
    if extensions.is_empty() {
        return architecture.to_owned();
    }
    format!("{architecture} {extensions}")
}

#[cfg(target_arch = "x86_64")]
fn extensions() -> Vec<&'static str> {
    let detected = [
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512bw", std::is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", std::is_x86_feature_detected!("avx512vnni")),
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
    ];
    present(&detected)
}

#[cfg(target_arch = "aarch64")]
fn extensions() -> Vec<&'static str> {
    let detected = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        (
            "dotprod",
            std::arch::is_aarch64_feature_detected!("dotprod"),
        ),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    present(&detected)
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn extensions() -> Vec<&'static str> {
    present(&[])
}

fn present(detected: &[(&'static str, bool)]) -> Vec<&'static str> {
    let present = detected.iter().filter(|(_, present)| *present);
    present.map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_present_is_named_and_the_order_is_kept() {
        let detected = [("avx512f", false), ("avx2", true), ("fma", true)];
        assert_eq!(present(&detected), ["avx2", "fma"]);
    }

    #[test]
    fn the_architecture_comes_first() {
        let text = instruction_set();
        assert_eq!(text.split(' ').next(), Some(std::env::consts::ARCH));
    }
}
