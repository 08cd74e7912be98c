//! What happens to the sums of one row on their way out.

use crate::{Affine, InstructionSet};

/// One row of one output channel.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub sums: &'a [f32],
    /// Factor and addend of the channel.
    pub affine: Option<(f32, f32)>,
    pub add: Option<&'a [f32]>,
    pub relu: bool,
}

impl InstructionSet {
    /// Writes `row` to `target`, which is as long as its sums. Every class rounds alike here.
    pub(crate) fn finish(self, row: &Row<'_>, target: &mut [f32]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this type other than `Portable` is only made where the processor was
            // asked, and every processor with AVX-512 has AVX2.
            Self::Avx512 | Self::Avx2 => unsafe { avx2(row, target) },
            _ => finish(row, target),
        }
    }
}

/// The same code with wider vectors; without fused multiply-add, which would round differently.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(row: &Row<'_>, target: &mut [f32]) {
    finish(row, target);
}

#[inline(always)]
fn finish(row: &Row<'_>, target: &mut [f32]) {
    match (row.affine, row.add) {
        (None, None) => write(target, row.sums, row.sums, row.relu, |sum, _| sum),
        (Some((scale, shift)), None) => write(target, row.sums, row.sums, row.relu, |sum, _| {
            Affine::apply(sum, scale, shift)
        }),
        (None, Some(add)) => write(target, row.sums, add, row.relu, |sum, add| sum + add),
        (Some((scale, shift)), Some(add)) => write(target, row.sums, add, row.relu, |sum, add| {
            Affine::apply(sum, scale, shift) + add
        }),
    }
}

#[inline(always)]
fn write(target: &mut [f32], sums: &[f32], adds: &[f32], relu: bool, function: impl Fn(f32, f32) -> f32) {
    let elements = target.iter_mut().zip(sums).zip(adds);
    if relu {
        for ((to, &sum), &add) in elements {
            let value = function(sum, add);
            *to = if value < 0.0 { 0.0 } else { value };
        }
    } else {
        for ((to, &sum), &add) in elements {
            *to = function(sum, add);
        }
    }
}
