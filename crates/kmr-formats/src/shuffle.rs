//! The one order that a seed stands for, on every machine and in every version.
//!
//! Fisher–Yates from the last place down, each place drawn from a SplitMix64 stream (Steele, Lea
//! and Flood, "Fast Splittable Pseudorandom Number Generators", 2014) that starts at the seed. A
//! number below `n` is the high half of the 128-bit product of a draw and `n`; draws that would
//! favor some numbers are thrown away (Lemire, "Fast Random Integer Generation in an Interval",
//! 2019). Changing anything here changes what every recorded run means.

/// A stream of numbers that look random.
pub(crate) struct SplitMix64(pub u64);

impl SplitMix64 {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..limit`, all equally likely; `limit` is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        let uneven = limit.wrapping_neg() % limit;
        loop {
            let product = u128::from(self.next()) * u128::from(limit);
            if product as u64 >= uneven {
                return (product >> 64) as u64;
            }
        }
    }
}

/// The numbers `0..count` in the order that `seed` stands for.
pub fn permutation(count: usize, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for place in (1..count).rev() {
        order.swap(place, random.below(place as u64 + 1) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // The first outputs for seed 1234567, as published with the reference implementation.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn the_order_of_a_seed_never_changes() {
        assert_eq!(permutation(10, 7), [9, 5, 8, 6, 1, 2, 4, 7, 0, 3]);
        assert_eq!(permutation(0, 7), [0_usize; 0]);
        assert_eq!(permutation(1, 7), [0]);
    }

    #[test]
    fn every_order_is_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..24_000 {
            *counts.entry(permutation(4, seed)).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 24);
        // 1000 expected each; five standard deviations are 155.
        assert!(counts.values().all(|count| (845..1155).contains(count)));
    }
}
