//! The register tile of the gradient by the weights: sums of products over positions.

use crate::{
    InstructionSet,
    vector::{Portable, Vector},
};

/// The widest vector in lanes; operands have this much room behind their last position.
pub(crate) const WIDEST_VECTOR: usize = 16;

/// Cotangents of a few output channels, and the input at a few taps.
#[derive(Clone, Copy)]
pub(crate) struct Products<'a> {
    /// `channels` rows of `stride` floats; zeros from `positions` to the next multiple of
    /// [`WIDEST_VECTOR`] and wherever a position is no output.
    pub cotangent: &'a [f32],
    pub channels: usize,
    pub stride: usize,
    /// Readable from every offset for as many positions.
    pub input: &'a [f32],
    /// Where each tap reads, relative to the position.
    pub offsets: &'a [u32],
    pub positions: usize,
}

impl InstructionSet {
    /// Adds to `sums`, `[channel][tap]`, the products of `products` summed over all positions.
    pub(crate) fn sum_products(self, products: &Products<'_>, sums: &mut [f32]) {
        let reach = products.offsets.iter().copied().max().unwrap_or(0) as usize;
        let read = products.positions.next_multiple_of(WIDEST_VECTOR);
        assert!(products.input.len() >= reach + read);
        assert!(products.stride >= read && products.cotangent.len() >= products.channels * products.stride);
        assert!(sums.len() >= products.channels * products.offsets.len());
        // SAFETY: the assertions above bound every access; a value of this type other than `Portable` is
        // only made where the processor was asked.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512(products, sums),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2(products, sums),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => neon(products, sums),
                _ => portable(products, sums),
            }
        }
    }
}

/// At most 27 accumulators of the 32 registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(products: &Products<'_>, sums: &mut [f32]) {
    // SAFETY: passed on from the caller.
    unsafe { wide::<std::arch::x86_64::__m512>(products, sums) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(products: &Products<'_>, sums: &mut [f32]) {
    // SAFETY: passed on from the caller.
    unsafe { wide::<std::arch::aarch64::float32x4_t>(products, sums) }
}

/// Nine accumulators of the 16 registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(products: &Products<'_>, sums: &mut [f32]) {
    // SAFETY: passed on from the caller.
    unsafe { narrow::<std::arch::x86_64::__m256>(products, sums) }
}

unsafe fn portable(products: &Products<'_>, sums: &mut [f32]) {
    // SAFETY: passed on from the caller.
    unsafe { narrow::<Portable>(products, sums) }
}

#[inline(always)]
unsafe fn wide<V: Vector>(products: &Products<'_>, sums: &mut [f32]) {
    let mut channel = 0;
    while channel < products.channels {
        // SAFETY: passed on from the caller.
        channel += unsafe {
            match products.channels - channel {
                1 => sweep::<V, 1, 9>(products, channel, sums),
                2 => sweep::<V, 2, 9>(products, channel, sums),
                4.. if products.offsets.len() <= 3 => sweep::<V, 4, 3>(products, channel, sums),
                3 => sweep::<V, 3, 9>(products, channel, sums),
                4 => sweep::<V, 2, 9>(products, channel, sums),
                _ => sweep::<V, 3, 9>(products, channel, sums),
            }
        };
    }
}

#[inline(always)]
unsafe fn narrow<V: Vector>(products: &Products<'_>, sums: &mut [f32]) {
    let mut channel = 0;
    while channel < products.channels {
        // SAFETY: passed on from the caller.
        channel += unsafe {
            match products.channels - channel {
                1 => sweep::<V, 1, 9>(products, channel, sums),
                2 => sweep::<V, 2, 5>(products, channel, sums),
                _ => sweep::<V, 3, 3>(products, channel, sums),
            }
        };
    }
}

/// Runs the tile of `CHANNELS` by `TAPS` registers over all taps; returns `CHANNELS`.
///
/// # Safety
/// As [`InstructionSet::sum_products`] asserts, with the processor able to run `V`.
#[inline(always)]
unsafe fn sweep<V: Vector, const CHANNELS: usize, const TAPS: usize>(
    products: &Products<'_>,
    channel: usize,
    sums: &mut [f32],
) -> usize {
    const { assert!(V::LANES <= WIDEST_VECTOR) };
    let taps = products.offsets.len();
    for first in (0..taps).step_by(TAPS) {
        // The last tile repeats the last tap, whose sums are dropped.
        let offsets = std::array::from_fn(|tap| products.offsets[(first + tap).min(taps - 1)] as usize);
        // SAFETY: passed on from the caller.
        let tile = unsafe { tile::<V, CHANNELS, TAPS>(products, channel, offsets) };
        for (row, tile) in tile.iter().enumerate() {
            let sums = &mut sums[(channel + row) * taps + first..][..TAPS.min(taps - first)];
            sums.iter_mut().zip(tile).for_each(|(sum, tile)| *sum += tile);
        }
    }
    CHANNELS
}

/// Sums of products of `CHANNELS` channels from `channel` and `TAPS` taps.
///
/// # Safety
/// As for [`sweep`].
#[inline(always)]
unsafe fn tile<V: Vector, const CHANNELS: usize, const TAPS: usize>(
    products: &Products<'_>,
    channel: usize,
    offsets: [usize; TAPS],
) -> [[f32; TAPS]; CHANNELS] {
    let Products { stride, positions, .. } = *products;
    // SAFETY: whole vectors start before `positions`; the caller asserted room for the last one behind
    // every offset and in every row of the cotangent.
    unsafe {
        let cotangent = products.cotangent.as_ptr().add(channel * stride);
        let input = offsets.map(|offset| products.input.as_ptr().add(offset));
        let mut sums = [[V::splat(0.0); TAPS]; CHANNELS];
        let mut position = 0;
        while position < positions {
            let factors: [V; CHANNELS] =
                std::array::from_fn(|channel| V::load(cotangent.add(channel * stride + position)));
            for (tap, input) in input.iter().enumerate() {
                let value = V::load(input.add(position));
                for (sums, &factor) in sums.iter_mut().zip(&factors) {
                    sums[tap] = value.multiply_add(factor, sums[tap]);
                }
            }
            position += V::LANES;
        }
        sums.map(|sums| sums.map(|sum| sum.sum()))
    }
}
