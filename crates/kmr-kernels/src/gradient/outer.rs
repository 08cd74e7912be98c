//! The register tile of the gradient by the weights: a sum of outer products.

use crate::{
    InstructionSet,
    spread::parts,
    vector::{Portable, Vector},
};

/// The outer products of a few input channels with a few vectors of output channels, over a rectangle
/// of positions.
#[derive(Clone, Copy)]
pub(crate) struct Outer<'a> {
    /// The input, a row of channels for each position.
    pub input: &'a [f32],
    /// Floats from one position to the next, and from one row of positions to the next.
    pub input_strides: [usize; 2],
    /// The cotangent, vectors of channels for each position.
    pub cotangent: &'a [f32],
    /// As for the input.
    pub cotangent_strides: [usize; 2],
    /// Columns and rows of positions.
    pub positions: [usize; 2],
    /// Input channels.
    pub channels: usize,
    /// Vectors of output channels.
    pub vectors: usize,
    /// Floats from one input channel to the next in the sums.
    pub stride: usize,
}

impl InstructionSet {
    /// Adds the products to `sums`, `[channel][vector]`.
    pub(crate) fn add_outer(self, outer: &Outer<'_>, sums: &mut [f32]) {
        if outer.positions.contains(&0) || outer.channels == 0 || outer.vectors == 0 {
            return;
        }
        let last = |strides: [usize; 2]| {
            (0..2)
                .map(|axis| (outer.positions[axis] - 1) * strides[axis])
                .sum::<usize>()
        };
        let width = outer.vectors * self.lanes();
        assert!(outer.input.len() >= last(outer.input_strides) + outer.channels);
        assert!(outer.cotangent.len() >= last(outer.cotangent_strides) + width);
        assert!(sums.len() >= (outer.channels - 1) * outer.stride + width);
        let sums = sums.as_mut_ptr();
        // SAFETY: the assertions above bound every access; a value of this type other than `Portable` is
        // only made where the processor was asked.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512(outer, sums),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2(outer, sums),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => neon(outer, sums),
                _ => portable(outer, sums),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(outer: &Outer<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { wide::<std::arch::x86_64::__m512>(outer, sums) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(outer: &Outer<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { wide::<std::arch::aarch64::float32x4_t>(outer, sums) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(outer: &Outer<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { narrow::<std::arch::x86_64::__m256>(outer, sums) }
}

unsafe fn portable(outer: &Outer<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { narrow::<Portable>(outer, sums) }
}

/// Runs the tiles: `$most` input channels by `$vectors` vectors, or fewer channels.
macro_rules! tiles {
    ($outer:ident, $first:ident, $sums:ident, $vector:ty, $vectors:literal, $most:literal: $($size:literal)*) => {
        for (channel, count) in parts($outer.channels, $most) {
            match count {
                $($size => tile::<$vector, $size, $vectors>($outer, channel, $first, $sums),)*
                _ => tile::<$vector, $most, $vectors>($outer, channel, $first, $sums),
            }
        }
    };
}

/// At most 24 accumulators of the 32 registers.
///
/// # Safety
/// As [`InstructionSet::add_outer`] asserts, with the processor able to run `V`.
#[inline(always)]
unsafe fn wide<V: Vector>(outer: &Outer<'_>, sums: *mut f32) {
    for vector in (0..outer.vectors).step_by(2) {
        // SAFETY: passed on from the caller.
        unsafe {
            if outer.vectors - vector > 1 {
                tiles!(outer, vector, sums, V, 2, 12: 1 2 3 4 5 6 7 8 9 10 11);
            } else {
                tiles!(outer, vector, sums, V, 1, 16: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            }
        }
    }
}

/// At most 12 accumulators of the 16 registers.
///
/// # Safety
/// As for [`wide`].
#[inline(always)]
unsafe fn narrow<V: Vector>(outer: &Outer<'_>, sums: *mut f32) {
    for vector in (0..outer.vectors).step_by(2) {
        // SAFETY: passed on from the caller.
        unsafe {
            if outer.vectors - vector > 1 {
                tiles!(outer, vector, sums, V, 2, 6: 1 2 3 4 5);
            } else {
                tiles!(outer, vector, sums, V, 1, 12: 1 2 3 4 5 6 7 8 9 10 11);
            }
        }
    }
}

/// `CHANNELS` input channels from `channel` and `VECTORS` vectors from `vector`.
///
/// # Safety
/// As for [`wide`].
#[inline(always)]
unsafe fn tile<V: Vector, const CHANNELS: usize, const VECTORS: usize>(
    outer: &Outer<'_>,
    channel: usize,
    vector: usize,
    sums: *mut f32,
) {
    // SAFETY: passed on from the caller; channels and vectors lie inside those of `outer`.
    unsafe {
        let sums = sums.add(channel * outer.stride + vector * V::LANES);
        let mut tile: [[V; VECTORS]; CHANNELS] = std::array::from_fn(|channel| {
            std::array::from_fn(|vector| V::load(sums.add(channel * outer.stride + vector * V::LANES)))
        });
        let [input_step, input_row] = outer.input_strides;
        let [cotangent_step, cotangent_row] = outer.cotangent_strides;
        for row in 0..outer.positions[1] {
            let mut input = outer.input.as_ptr().add(channel + row * input_row);
            let mut cotangent = outer.cotangent.as_ptr().add(vector * V::LANES + row * cotangent_row);
            for _ in 0..outer.positions[0] {
                let factors: [V; VECTORS] = std::array::from_fn(|vector| V::load(cotangent.add(vector * V::LANES)));
                for (channel, tile) in tile.iter_mut().enumerate() {
                    let value = V::splat(*input.add(channel));
                    for (sum, &factor) in tile.iter_mut().zip(&factors) {
                        *sum = value.multiply_add(factor, *sum);
                    }
                }
                input = input.wrapping_add(input_step);
                cotangent = cotangent.wrapping_add(cotangent_step);
            }
        }
        for (channel, tile) in tile.iter().enumerate() {
            for (vector, sum) in tile.iter().enumerate() {
                sum.store(sums.add(channel * outer.stride + vector * V::LANES));
            }
        }
    }
}
