//! The register tile: a few output channels over a few vectors of neighbouring positions.

use crate::{
    InstructionSet,
    vector::{Portable, Vector},
};

/// The widest tile in positions; buffers have this much room behind their last position.
pub(crate) const WIDEST: usize = 128;

/// One block of output channels over all positions of a packed input.
#[derive(Clone, Copy)]
pub(crate) struct Block<'a> {
    /// Output channels in this block.
    pub channels: usize,
    /// The packed input; readable from every offset for `positions` rounded up to the tile, see [`WIDEST`].
    pub input: &'a [f32],
    /// Where each tap reads, relative to the position.
    pub offsets: &'a [u32],
    /// `[tap][channel]`.
    pub weights: &'a [f32],
    /// One per channel.
    pub bias: &'a [f32],
    /// Positions to compute.
    pub positions: usize,
    /// Distance between two channels of the output.
    pub output_stride: usize,
}

impl InstructionSet {
    /// Output channels of a full tile.
    pub(crate) fn tile_channels(self) -> usize {
        match self {
            Self::Avx512 | Self::Neon => 8,
            Self::Avx2 | Self::Portable => 6,
        }
    }

    /// Divides `channels` into blocks of nearly equal size, as (first channel, channels).
    pub(crate) fn blocks(self, channels: usize) -> impl Iterator<Item = (usize, usize)> {
        let blocks = channels.div_ceil(self.tile_channels()).max(1);
        (0..blocks).map(move |block| {
            let (first, end) = (channels * block / blocks, channels * (block + 1) / blocks);
            (first, end - first)
        })
    }

    /// Computes `block` into `output`, `output_stride` floats per channel.
    pub(crate) fn compute(self, block: &Block<'_>, output: &mut [f32]) {
        if let Some(reach) = block.offsets.iter().copied().max() {
            assert!(block.input.len() >= reach as usize + block.positions + WIDEST);
        }
        assert!(block.weights.len() >= block.offsets.len() * block.channels);
        assert!(block.bias.len() >= block.channels);
        assert!(block.output_stride >= block.positions + WIDEST);
        assert!(output.len() >= block.channels * block.output_stride);
        let output = output.as_mut_ptr();
        // SAFETY: the assertions above bound every access, because a tile is never wider than `WIDEST`;
        // a value of this type other than `Portable` is only made where the processor was asked.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512(block, output),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2(block, output),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => neon(block, output),
                _ => portable(block, output),
            }
        }
    }
}

/// Twenty-four accumulators of the 32 registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(block: &Block<'_>, output: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { wide::<std::arch::x86_64::__m512>(block, output) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(block: &Block<'_>, output: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { wide::<std::arch::aarch64::float32x4_t>(block, output) }
}

/// At most twelve accumulators of the 16 registers: with one more value in flight, compilers spill.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(block: &Block<'_>, output: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { narrow::<std::arch::x86_64::__m256>(block, output) }
}

unsafe fn portable(block: &Block<'_>, output: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { narrow::<Portable>(block, output) }
}

#[inline(always)]
unsafe fn wide<V: Vector>(block: &Block<'_>, output: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        match block.channels {
            1 => sweep::<V, 1, 8>(block, output),
            2 => sweep::<V, 2, 6>(block, output),
            3 => sweep::<V, 3, 6>(block, output),
            4 => sweep::<V, 4, 5>(block, output),
            5 => sweep::<V, 5, 4>(block, output),
            6 => sweep::<V, 6, 4>(block, output),
            7 => sweep::<V, 7, 3>(block, output),
            _ => sweep::<V, 8, 3>(block, output),
        }
    }
}

#[inline(always)]
unsafe fn narrow<V: Vector>(block: &Block<'_>, output: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        match block.channels {
            1 => sweep::<V, 1, 8>(block, output),
            2 => sweep::<V, 2, 5>(block, output),
            3 => sweep::<V, 3, 3>(block, output),
            4 => sweep::<V, 4, 2>(block, output),
            5 => sweep::<V, 5, 2>(block, output),
            _ => sweep::<V, 6, 2>(block, output),
        }
    }
}

/// Runs the tile of `CHANNELS` by `VECTORS` registers over all positions.
///
/// # Safety
/// As [`InstructionSet::compute`] asserts, with the processor able to run `V`.
#[inline(always)]
unsafe fn sweep<V: Vector, const CHANNELS: usize, const VECTORS: usize>(block: &Block<'_>, output: *mut f32) {
    const { assert!(V::LANES * VECTORS <= WIDEST) };
    let width = V::LANES * VECTORS;
    let mut position = 0;
    while position < block.positions {
        // SAFETY: the tile starts before `positions` and reaches at most `WIDEST` further; the caller
        // asserted that much room in the input behind every offset and in every output channel.
        unsafe {
            let input = block.input.as_ptr().add(position);
            let mut sums: [[V; VECTORS]; CHANNELS] =
                std::array::from_fn(|channel| [V::splat(*block.bias.as_ptr().add(channel)); VECTORS]);
            let mut weight = block.weights.as_ptr();
            for &offset in block.offsets {
                let from = input.add(offset as usize);
                let values: [V; VECTORS] = std::array::from_fn(|vector| V::load(from.add(vector * V::LANES)));
                for (channel, sums) in sums.iter_mut().enumerate() {
                    let factor = V::splat(*weight.add(channel));
                    for (sum, &value) in sums.iter_mut().zip(&values) {
                        *sum = value.multiply_add(factor, *sum);
                    }
                }
                weight = weight.add(CHANNELS);
            }
            for (channel, sums) in sums.iter().enumerate() {
                let to = output.add(channel * block.output_stride + position);
                for (vector, sum) in sums.iter().enumerate() {
                    sum.store(to.add(vector * V::LANES));
                }
            }
        }
        position += width;
    }
}
