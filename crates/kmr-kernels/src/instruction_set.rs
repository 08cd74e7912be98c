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

    /// Lanes of a vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Self::Avx512 => 16,
            Self::Avx2 => 8,
            Self::Neon | Self::Portable => 4,
        }
    }

    /// How `channels` are laid over lanes: the whole vectors of this class, and the class whose one
    /// vector takes the rest where that is cheaper.
    pub(crate) fn vectors(self, channels: usize) -> (usize, Option<Self>) {
        let rest = channels % self.lanes();
        // Every processor with AVX-512 has AVX2, and both round alike.
        if self == Self::Avx512 && (1..=Self::Avx2.lanes()).contains(&rest) {
            (channels / self.lanes(), Some(Self::Avx2))
        } else {
            (channels.div_ceil(self.lanes()), None)
        }
    }

    /// Lanes that `channels` take in all.
    pub(crate) fn padded(self, channels: usize) -> usize {
        let (vectors, rest) = self.vectors(channels);
        vectors * self.lanes() + rest.map_or(0, Self::lanes)
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
