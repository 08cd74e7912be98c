//! Sums over the elements of a channel, in float64 and in an order that no instruction set changes.

use std::ops::Range;

use crate::vectorized::vectorized;

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

    #[inline(always)]
    fn products(&self, value: f32, cotangent: f32) -> [f64; 2] {
        [f64::from(cotangent), f64::from(cotangent * (value - self.mean))]
    }
}

/// Some planes of one channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planes {
    /// Where the first starts.
    pub first: usize,
    /// Floats from one to the next.
    pub step: usize,
    pub count: usize,
    /// Floats of each.
    pub length: usize,
}

impl Planes {
    #[inline(always)]
    pub fn ranges(self) -> impl Iterator<Item = Range<usize>> {
        (0..self.count).map(move |plane| {
            let start = self.first + plane * self.step;
            start..start + self.length
        })
    }
}

vectorized! {
    /// Adds the elements and their squares.
    fn add_moments(values: &[f32], planes: Planes, sums: &mut Sums) {
        accumulate(values, values, planes, sums, |value, _| {
            let value = f64::from(value);
            [value, value * value]
        });
    }
}

vectorized! {
    /// Adds the cotangents of the normalized elements, and their products with the elements' distances
    /// from the mean.
    fn add_cotangents(channel: &Channel, values: &[f32], cotangents: &[f32], planes: Planes, sums: &mut Sums) {
        if channel.relu {
            accumulate(values, cotangents, planes, sums, |value, cotangent| {
                channel.products(value, channel.cotangent::<true>(value, cotangent))
            });
        } else {
            accumulate(values, cotangents, planes, sums, |value, cotangent| channel.products(value, cotangent));
        }
    }
}

#[inline(always)]
fn accumulate(first: &[f32], second: &[f32], planes: Planes, sums: &mut Sums, terms: impl Fn(f32, f32) -> [f64; 2]) {
    // Copies stay in registers.
    let Sums {
        first: mut a,
        second: mut b,
    } = *sums;
    for range in planes.ranges() {
        let (chunks, rest) = first[range.clone()].as_chunks::<LANES>();
        let (second_chunks, second_rest) = second[range].as_chunks::<LANES>();
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
    }
    *sums = Sums { first: a, second: b };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InstructionSet;

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
                let planes = Planes {
                    first: 1,
                    step: 40,
                    count: 2,
                    length: 35,
                };
                let mut sums = [Sums::new(); 2];
                instruction_set.add_moments(&values, planes, &mut sums[0]);
                instruction_set.add_cotangents(&channel, &values, &cotangents, planes, &mut sums[1]);
                sums.map(|sums| sums.total().map(f64::to_bits))
            };
            for instruction_set in InstructionSet::available() {
                assert_eq!(with(instruction_set), with(InstructionSet::Portable));
            }
        }
    }
}
