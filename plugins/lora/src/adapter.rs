//! The numbers of adapters: where they start, how they are scaled, what they add to a weight.

use kmr_methods::low_rank::Factors;
use kmr_sdk::{
    Error, Result,
    model::{Tensor, adapters::Adapter},
};

use crate::layers::Layer;

/// How the product of A and B is scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scaling {
    /// α; the rank itself where there is none, which leaves the product as it is (or times the root of the rank).
    pub alpha: Option<f64>,
    /// α/√r ("Rank-stabilized LoRA", arXiv 2312.03732) in place of α/r.
    pub stabilized: bool,
}

impl Scaling {
    /// The factor for an adapter of this rank.
    pub fn of(&self, rank: usize) -> f32 {
        let rank = rank.max(1) as f64;
        let alpha = self.alpha.unwrap_or(rank);
        (alpha / if self.stabilized { rank.sqrt() } else { rank }) as f32
    }
}

/// An adapter that adds nothing yet: B is zero, A uniform in ±1/√inputs (Kaiming with a = √5, as PEFT has it), the same
/// for the same seed and layer.
///
/// # Errors
/// If the scaling is not finite.
pub fn fresh(layer: &Layer, rank: usize, scaling: Scaling, seed: u64) -> Result<Adapter> {
    let columns = layer.columns();
    let bound = 1.0 / (columns.max(1) as f64).sqrt();
    // FNV-1a of the name, so that the order of layers does not matter.
    let mut state = layer.name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut next = || {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let unit = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
        ((2.0 * unit - 1.0) * bound) as f32
    };
    let a = (0..rank * columns).map(|_| next()).collect();
    adapter(layer, rank, a, vec![0.0; layer.rows() * rank], scaling.of(rank))
}

/// The adapter that adds the product of `factors`.
///
/// # Errors
/// If the scaling is not finite.
pub fn of_factors(layer: &Layer, factors: Factors, scaling: Scaling) -> Result<Adapter> {
    let factor = scaling.of(factors.rank);
    let b = factors.left.iter().map(|value| value / factor).collect();
    adapter(layer, factors.rank, factors.right, b, factor)
}

fn adapter(layer: &Layer, rank: usize, a: Vec<f32>, b: Vec<f32>, scaling: f32) -> Result<Adapter> {
    let kernel = layer.kernel();
    let a_shape = [&[rank, layer.channels()], kernel].concat();
    let b_shape = [&[layer.rows(), rank][..], &vec![1; kernel.len()]].concat();
    let (a, b) = (Tensor::from_vec(a_shape, a), Tensor::from_vec(b_shape, b));
    Ok(Adapter::new(&layer.name, a, b, scaling)?)
}

/// What an adapter adds to the weight, scaling · B A, in the order of the weight's elements.
///
/// # Errors
/// If a number is not finite.
pub fn added(layer: &Layer, adapter: &Adapter) -> Result<Vec<f32>> {
    let factors = Factors {
        rank: adapter.rank,
        left: adapter
            .b
            .to_f32()?
            .iter()
            .map(|value| value * adapter.scaling)
            .collect(),
        right: adapter.a.to_f32()?.into_owned(),
    };
    let product = factors.product();
    if product.iter().any(|value| !value.is_finite()) {
        let message = "has grown beyond all numbers; train with a smaller learning rate";
        return Err(Error::unsupported(message).at(format!("adapter of `{}`", layer.name)));
    }
    Ok(layer.turn(&product, false))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{layers::layers, testing::perceptron};

    #[test]
    fn a_fresh_adapter_adds_nothing_and_depends_on_seed_and_name() {
        let layers = layers(&perceptron()).unwrap();
        let own = fresh(&layers[0], 3, Scaling::default(), 7).unwrap();
        assert!(added(&layers[0], &own).unwrap().iter().all(|&value| value == 0.0));
        let values = own.a.to_f32().unwrap();
        let bound = 1.0 / 5_f32.sqrt();
        assert!(
            values.iter().all(|value| value.abs() <= bound) && values.iter().any(|value| value.abs() > bound / 2.0)
        );
        assert_eq!(own, fresh(&layers[0], 3, Scaling::default(), 7).unwrap());
        assert_ne!(own.a, fresh(&layers[0], 3, Scaling::default(), 8).unwrap().a);
        assert_ne!(
            own.a.bytes()[..8],
            fresh(&layers[1], 3, Scaling::default(), 7).unwrap().a.bytes()[..8]
        );
    }

    proptest! {
        #[test]
        fn scaling_follows_peft(alpha in 0.5_f64..64.0, rank in 1_usize..64) {
            let plain = Scaling { alpha: Some(alpha), stabilized: false };
            let stabilized = Scaling { alpha: Some(alpha), stabilized: true };
            prop_assert!((f64::from(plain.of(rank)) - alpha / rank as f64).abs() < 1e-5);
            prop_assert!((f64::from(stabilized.of(rank)) - alpha / (rank as f64).sqrt()).abs() < 1e-4);
            prop_assert_eq!(Scaling::default().of(rank), 1.0);
        }

        #[test]
        fn the_scaling_cancels_where_factors_are_given(
            alpha in 0.5_f64..64.0, stabilized: bool, left in prop::collection::vec(-2_f32..2.0, 12),
            right in prop::collection::vec(-2_f32..2.0, 10),
        ) {
            let layer = &layers(&perceptron()).unwrap()[0];
            let factors = Factors { rank: 2, left, right };
            let expected = factors.product();
            let adapter = of_factors(layer, factors, Scaling { alpha: Some(alpha), stabilized }).unwrap();
            for (expected, added) in expected.iter().zip(added(layer, &adapter).unwrap()) {
                prop_assert!((expected - added).abs() < 1e-4);
            }
        }
    }
}
