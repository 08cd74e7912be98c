//! Which vector instructions the kernels use.

use std::fmt;

/// A class of vector instructions; results are bit-identical within one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstructionSet {
    /// AVX-512F: 16 lanes, fused multiply-add.
    Avx512,
    /// AVX2 and FMA: 8 lanes, fused multiply-add.
    Avx2,
    /// NEON: 4 lanes, fused multiply-add.
    Neon,
    /// Any processor: products are rounded before they are added.
    Portable,
}

impl InstructionSet {
    /// The best class that this processor has.
    pub fn detect() -> Self {
        *Self::available().first().unwrap_or(&Self::Portable)
    }

    /// All classes that this processor has, the best first.
    pub fn available() -> Vec<Self> {
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                available.push(Self::Avx512);
            }
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                available.push(Self::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            available.push(Self::Neon);
        }
        available.push(Self::Portable);
        available
    }

    /// This class, or portable code where this processor lacks it.
    pub(crate) fn or_portable(self) -> Self {
        if Self::available().contains(&self) {
            self
        } else {
            Self::Portable
        }
    }

    /// The class's name as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
