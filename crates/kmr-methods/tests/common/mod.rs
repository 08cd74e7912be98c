//! What schemes are made of, for laws that hold of all.

use kmr_methods::{Granularity, Grid};
use proptest::prelude::*;

/// Every kind of grid.
pub fn grids() -> impl Strategy<Value = Grid> {
    prop_oneof![
        (2_u8..=8).prop_map(|bits| Grid::symmetric(bits).unwrap()),
        (2_u8..=8).prop_map(|bits| Grid::narrow(bits).unwrap()),
        (1_u8..=8).prop_map(|bits| Grid::asymmetric(bits).unwrap()),
    ]
}

/// Every kind of sharing; groups need not divide a row.
pub fn granularities() -> impl Strategy<Value = Granularity> {
    prop_oneof![
        Just(Granularity::Tensor),
        Just(Granularity::Channel),
        (1_usize..9).prop_map(Granularity::Group)
    ]
}
