//! Sums over the elements of a channel, in float64 and in an order that no instruction set changes.

use crate::InstructionSet;

/// Sums that are taken side by side.
const LANES: usize = 16;

/// Two sums over elements: whatever they are sums of, each is added to in a fixed order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sums {
    first: [f64; LANES],
    second: [f64; LANES],
}

impl Sums {
    pub fn new() -> Self {
        Self {
            first: [0.0; LANES],
            second: [0.0; LANES],
        }
    }

    /// Adds other sums, lane by lane.
    pub fn add(&mut self, other: &Self) {
        for lane in 0..LANES {
            self.first[lane] += other.first[lane];
            self.second[lane] += other.second[lane];
        }
    }

    /// Both sums over all lanes.
    pub fn total(&self) -> [f64; 2] {
        [self.first.iter().sum(), self.second.iter().sum()]
    }
}

/// What a channel's elements were normalized with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    pub mean: f32,
    /// Scale by inverse deviation.
    pub factor: f32,
    pub bias: f32,
    pub relu: bool,
}

impl Channel {
    /// The normalized element before anything follows it.
    #[inline(always)]
    pub fn apply(&self, value: f32) -> f32 {
        (value - self.mean) * self.factor + self.bias
    }

    /// The cotangent of the normalized element, from that of what follows it.
    #[inline(always)]
    pub fn cotangent<const RELU: bool>(&self, value: f32, cotangent: f32) -> f32 {
        if RELU && self.apply(value) <= 0.0 {
            0.0
        } else {
            cotangent
        }
    }
}

impl InstructionSet {
    /// Adds the elements and their squares.
    pub(crate) fn add_moments(self, values: &[f32], sums: &mut Sums) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a value of this type other than `Portable` is only made where the processor was
            // asked, and every processor with AVX-512 has AVX2.
            Self::Avx512 | Self::Avx2 => unsafe { moments_avx2(values, sums) },
            _ => moments(values, sums),
        }
    }

    /// Adds the cotangents of the normalized elements, and their products with the elements' distances
    /// from the mean.
    pub(crate) fn add_cotangents(self, channel: &Channel, values: &[f32], cotangents: &[f32], sums: &mut Sums) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512 | Self::Avx2 => unsafe { cotangents_avx2(channel, values, cotangents, sums) },
            _ => either(channel, values, cotangents, sums),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn moments_avx2(values: &[f32], sums: &mut Sums) {
    moments(values, sums);
}

#[inline(always)]
fn moments(values: &[f32], sums: &mut Sums) {
    accumulate(values, values, sums, |value, _| {
        let value = f64::from(value);
        [value, value * value]
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn cotangents_avx2(channel: &Channel, values: &[f32], cotangents: &[f32], sums: &mut Sums) {
    either(channel, values, cotangents, sums);
}

#[inline(always)]
fn either(channel: &Channel, values: &[f32], cotangents: &[f32], sums: &mut Sums) {
    if channel.relu {
        products::<true>(channel, values, cotangents, sums);
    } else {
        products::<false>(channel, values, cotangents, sums);
    }
}

#[inline(always)]
fn products<const RELU: bool>(channel: &Channel, values: &[f32], cotangents: &[f32], sums: &mut Sums) {
    accumulate(values, cotangents, sums, |value, cotangent| {
        let cotangent = channel.cotangent::<RELU>(value, cotangent);
        [f64::from(cotangent), f64::from(cotangent * (value - channel.mean))]
    });
}

#[inline(always)]
fn accumulate(first: &[f32], second: &[f32], sums: &mut Sums, terms: impl Fn(f32, f32) -> [f64; 2]) {
    // Copies stay in registers.
    let Sums {
        first: mut a,
        second: mut b,
    } = *sums;
    let (chunks, rest) = first.as_chunks::<LANES>();
    let (second_chunks, second_rest) = second.as_chunks::<LANES>();
    for (x, y) in chunks.iter().zip(second_chunks) {
        for lane in 0..LANES {
            let [p, q] = terms(x[lane], y[lane]);
            a[lane] += p;
            b[lane] += q;
        }
    }
    for (lane, (&x, &y)) in rest.iter().zip(second_rest).enumerate() {
        let [p, q] = terms(x, y);
        a[lane] += p;
        b[lane] += q;
    }
    *sums = Sums { first: a, second: b };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_adds_the_same_bits() {
        let values: Vec<f32> = (0..77).map(|i| (i as f32 * 0.73).sin() * 3.0 + 1.0).collect();
        let cotangents: Vec<f32> = (0..77).map(|i| (i as f32 * 0.31).cos()).collect();
        for relu in [false, true] {
            let channel = Channel {
                mean: 0.9,
                factor: 0.4,
                bias: 0.1,
                relu,
            };
            let with = |instruction_set: InstructionSet| {
                let mut sums = [Sums::new(); 2];
                instruction_set.add_moments(&values, &mut sums[0]);
                instruction_set.add_cotangents(&channel, &values, &cotangents, &mut sums[1]);
                sums.map(|sums| sums.total().map(f64::to_bits))
            };
            for instruction_set in InstructionSet::available() {
                assert_eq!(with(instruction_set), with(InstructionSet::Portable));
            }
        }
    }
}
