//! The register tile: neighbouring positions of a row over a few vectors of output channels.

use crate::{
    InstructionSet,
    vector::{Portable, Vector},
};

/// Vectors of output channels in a block, at most.
pub(crate) const BLOCK: usize = 2;

/// What one row of outputs receives from the taps of one kernel column.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    /// The input of a group, one plane after another.
    pub input: &'a [f32],
    /// Floats of a plane.
    pub plane: usize,
    /// Input channels.
    pub channels: usize,
    /// For each tap, what the first position reads of the first plane, and where its weights start.
    pub taps: &'a [[usize; 2]],
    /// For each tap, for each input channel: one float for each output channel of the block.
    pub weights: &'a [f32],
    /// Positions to compute.
    pub positions: usize,
    /// Input columns from one position to the next, 1 or 2.
    pub stride: usize,
    /// Vectors of output channels.
    pub vectors: usize,
}

impl InstructionSet {
    /// Adds the products of `row` to `sums`, `[position][output channel]`.
    pub(crate) fn add_row(self, row: &Row<'_>, sums: &mut [f32]) {
        if row.positions == 0 || row.channels == 0 {
            return;
        }
        let width = row.vectors * self.lanes();
        let reach = (row.channels - 1) * row.plane + (row.positions - 1) * row.stride;
        assert!((1..=BLOCK).contains(&row.vectors) && (1..=2).contains(&row.stride));
        for &[input, weights] in row.taps {
            assert!(row.input.len() > input + reach);
            assert!(row.weights.len() >= weights + row.channels * width);
        }
        assert!(sums.len() >= row.positions * width);
        let sums = sums.as_mut_ptr();
        // SAFETY: the assertions above bound every access; a value of this type other than `Portable` is
        // only made where the processor was asked.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Self::Avx512 => avx512(row, sums),
                #[cfg(target_arch = "x86_64")]
                Self::Avx2 => avx2(row, sums),
                #[cfg(target_arch = "aarch64")]
                Self::Neon => neon(row, sums),
                _ => portable(row, sums),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512(row: &Row<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { wide::<std::arch::x86_64::__m512>(row, sums) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn neon(row: &Row<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { wide::<std::arch::aarch64::float32x4_t>(row, sums) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(row: &Row<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { narrow::<std::arch::x86_64::__m256>(row, sums) }
}

unsafe fn portable(row: &Row<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe { narrow::<Portable>(row, sums) }
}

/// Runs the tiles of a row: `$most` positions by `$vectors` vectors, or fewer positions.
macro_rules! tiles {
    ($row:ident, $sums:ident, $vector:ty, $vectors:literal, $stride:literal, $most:literal: $($size:literal)*) => {
        for (first, count) in parts($row.positions, $most) {
            match count {
                $($size => tile::<$vector, $size, $vectors, $stride>($row, first, $sums),)*
                _ => tile::<$vector, $most, $vectors, $stride>($row, first, $sums),
            }
        }
    };
}

/// At most 28 accumulators of the 32 registers.
///
/// # Safety
/// As [`InstructionSet::add_row`] asserts, with the processor able to run `V`.
#[inline(always)]
unsafe fn wide<V: Vector>(row: &Row<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (row.vectors, row.stride) {
            (1, 1) => tiles!(row, sums, V, 1, 1, 14: 1 2 3 4 5 6 7 8 9 10 11 12 13),
            (1, _) => tiles!(row, sums, V, 1, 2, 14: 1 2 3 4 5 6 7 8 9 10 11 12 13),
            (_, 1) => tiles!(row, sums, V, 2, 1, 14: 1 2 3 4 5 6 7 8 9 10 11 12 13),
            (_, _) => tiles!(row, sums, V, 2, 2, 14: 1 2 3 4 5 6 7 8 9 10 11 12 13),
        }
    }
}

/// At most 12 accumulators of the 16 registers.
///
/// # Safety
/// As for [`wide`].
#[inline(always)]
unsafe fn narrow<V: Vector>(row: &Row<'_>, sums: *mut f32) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (row.vectors, row.stride) {
            (1, 1) => tiles!(row, sums, V, 1, 1, 12: 1 2 3 4 5 6 7 8 9 10 11),
            (1, _) => tiles!(row, sums, V, 1, 2, 12: 1 2 3 4 5 6 7 8 9 10 11),
            (_, 1) => tiles!(row, sums, V, 2, 1, 6: 1 2 3 4 5),
            (_, _) => tiles!(row, sums, V, 2, 2, 6: 1 2 3 4 5),
        }
    }
}

/// Divides `count` into nearly equal parts of at most `most`, as (first, count).
pub(crate) fn parts(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let parts = count.div_ceil(most);
    (0..parts).map(move |part| {
        let (first, end) = (count * part / parts, count * (part + 1) / parts);
        (first, end - first)
    })
}

/// `POSITIONS` positions from `first`.
///
/// # Safety
/// As for [`wide`].
#[inline(always)]
unsafe fn tile<V: Vector, const POSITIONS: usize, const VECTORS: usize, const STRIDE: usize>(
    row: &Row<'_>,
    first: usize,
    sums: *mut f32,
) {
    // SAFETY: passed on from the caller; the positions lie inside those of `row`.
    unsafe {
        let sums = sums.add(first * VECTORS * V::LANES);
        let mut tile: [[V; VECTORS]; POSITIONS] = std::array::from_fn(|position| {
            std::array::from_fn(|vector| V::load(sums.add((position * VECTORS + vector) * V::LANES)))
        });
        for &[input, weights] in row.taps {
            let mut input = row.input.as_ptr().add(input + first * STRIDE);
            let mut weights = row.weights.as_ptr().add(weights);
            for _ in 0..row.channels {
                let factors: [V; VECTORS] = std::array::from_fn(|vector| V::load(weights.add(vector * V::LANES)));
                for (position, tile) in tile.iter_mut().enumerate() {
                    let value = V::splat(*input.add(position * STRIDE));
                    for (sum, &factor) in tile.iter_mut().zip(&factors) {
                        *sum = value.multiply_add(factor, *sum);
                    }
                }
                input = input.wrapping_add(row.plane);
                weights = weights.wrapping_add(VECTORS * V::LANES);
            }
        }
        for (position, tile) in tile.iter().enumerate() {
            for (vector, sum) in tile.iter().enumerate() {
                sum.store(sums.add((position * VECTORS + vector) * V::LANES));
            }
        }
    }
}
