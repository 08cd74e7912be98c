//! One trait over the vector registers of the supported processors.

/// A register of float32 lanes.
///
/// # Safety
/// Implementors' methods may use instructions that only some processors have: call them where the
/// matching [`InstructionSet`](crate::InstructionSet) was detected. Pointers must be valid for
/// [`LANES`](Vector::LANES) floats; they need no alignment.
pub(crate) unsafe trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    /// `self * factor + addend`.
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// The sum of all lanes.
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        const { assert!(Self::LANES <= 16) };
        let mut lanes = [0.0; 16];
        // SAFETY: there is room for the widest vector; the caller detected the instruction set.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut count = Self::LANES;
        while count > 1 {
            count /= 2;
            for lane in 0..count {
                lanes[lane] += lanes[lane + count];
            }
        }
        lanes[0]
    }
}

macro_rules! vector {
    ($type:ty, $lanes:literal, $splat:path, $load:path, $fma:expr, $store:path) => {
        // SAFETY: thin names for the processor's own instructions; the trait states what callers owe.
        unsafe impl Vector for $type {
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the caller detected the instruction set.
                unsafe { $splat(value) }
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller detected the instruction set and gave a valid pointer.
                unsafe { $load(from) }
            }
            #[inline(always)]
            unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: the caller detected the instruction set.
                unsafe { $fma(self, factor, addend) }
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller detected the instruction set and gave a valid pointer.
                unsafe { $store(to, self) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::{
        __m256, __m512, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_fmadd_ps,
        _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };
    vector!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
    vector!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_fmadd_ps,
        _mm512_storeu_ps
    );
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Vector;
    use std::arch::aarch64::{float32x4_t, vdupq_n_f32, vfmaq_f32, vld1q_f32, vst1q_f32};
    #[inline(always)]
    unsafe fn multiply_add(a: float32x4_t, b: float32x4_t, addend: float32x4_t) -> float32x4_t {
        // SAFETY: the caller detected NEON.
        unsafe { vfmaq_f32(addend, a, b) }
    }
    vector!(float32x4_t, 4, vdupq_n_f32, vld1q_f32, multiply_add, vst1q_f32);
}

/// Four lanes in plain Rust, which every compiler target can vectorise.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 4]);

// SAFETY: no special instructions; pointers are used as the trait allows.
unsafe impl Vector for Portable {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gave a pointer to four floats.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn multiply_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|lane| {
            self.0[lane] * factor.0[lane] + addend.0[lane]
        }))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gave a pointer to four floats.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) };
    }
}
