//! Rounding, dequantizing, fitting and packing against plain references.

mod common;

use common::{granularities, grids};
use kmr_methods::{
    Clipping::{self, MinMax, Mse},
    Granularity::{self, Channel, Group, Tensor},
    Grid, Matrix, MethodError, Parameters, Quantized, Scheme, fit,
    pack::{pack, unpack, words},
    quantize, round_to_nearest,
};
use proptest::prelude::*;

fn clippings() -> impl Strategy<Value = Clipping> {
    prop_oneof![Just(MinMax), Just(Mse)]
}

/// Rows, columns and values, of wildly different sizes.
fn matrices() -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
    let value =
        prop_oneof![4 => -2.0_f32..2.0, 1 => Just(0.0), 1 => any::<f32>().prop_filter("finite", |x| x.is_finite())];
    (1_usize..6, 1_usize..14).prop_flat_map(move |(rows, columns)| {
        (
            Just(rows),
            Just(columns),
            prop::collection::vec(value.clone(), rows * columns),
        )
    })
}

/// The scale that a weight has.
fn scale_of(granularity: Granularity, row: usize, column: usize, columns: usize) -> usize {
    match granularity {
        Tensor => 0,
        Channel => row,
        Group(size) => row * columns.div_ceil(size) + column / size,
    }
}

/// QuantizeLinear and DequantizeLinear as ONNX words them, one weight at a time.
fn reference(weights: &[f32], rows: usize, columns: usize, of: &Quantized) -> (Vec<i16>, Vec<f32>) {
    let (mut codes, mut values) = (Vec::new(), Vec::new());
    for row in 0..rows {
        for column in 0..columns {
            let index = scale_of(of.granularity, row, column, columns);
            let (scale, zero) = (of.scales[index], of.zero_points[index]);
            let rounded = f64::from((weights[row * columns + column] / scale).round_ties_even()) + f64::from(zero);
            let code = rounded.clamp(f64::from(of.grid.low()), f64::from(of.grid.high())) as i16;
            codes.push(code);
            values.push((i32::from(code) - zero) as f32 * scale);
        }
    }
    (codes, values)
}

fn error(weights: &[f32], quantized: &Quantized, importance: &[f64]) -> f64 {
    let importance = importance.iter().cycle();
    let pairs = weights.iter().zip(quantized.dequantize()).zip(importance);
    pairs
        .map(|((&a, b), factor)| factor * (f64::from(a) - f64::from(b)).powi(2))
        .sum()
}

proptest! {
    #[test]
    fn half_scales_are_numbers_of_float16_and_cost_little(
        (rows, columns, weights) in matrices(), grid in grids(), granularity in granularities(), clipping in clippings(),
    ) {
        let matrix = Matrix::new(rows, columns, &weights).unwrap();
        let whole = quantize(matrix, &Scheme { grid, granularity, clipping }, None).unwrap();
        let half = quantize(matrix, &Scheme { grid: grid.with_half_scales(), granularity, clipping }, None).unwrap();
        for (&half, &whole) in half.scales.iter().zip(&whole.scales) {
            prop_assert_eq!(half::f16::from_f32(half).to_f32(), half);
            prop_assert!(half > 0.0);
            if clipping == MinMax && (1e-4..6e4).contains(&whole) {
                prop_assert!((half / whole - 1.0).abs() < 1e-3, "{} for {}", half, whole);
            }
        }
    }

    #[test]
    fn rounding_and_dequantizing_are_the_references_to_the_last_bit(
        (rows, columns, weights) in matrices(), grid in grids(), granularity in granularities(), clipping in clippings(),
    ) {
        let matrix = Matrix::new(rows, columns, &weights).unwrap();
        let scheme = Scheme { grid, granularity, clipping };
        let quantized = quantize(matrix, &scheme, None).unwrap();
        let (codes, values) = reference(&weights, rows, columns, &quantized);
        prop_assert_eq!(&quantized.codes, &codes);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&quantized.dequantize()), bits(&values));
        prop_assert!(values.iter().all(|value| value.is_finite()));
        prop_assert!(quantized.scales.iter().all(|scale| scale.is_normal() && *scale > 0.0));
        prop_assert_eq!(quantized.scales.len(), granularity.count(rows, columns).unwrap());
        let offsets = quantized.offset_codes();
        let packed = pack(&offsets, grid.bits()).unwrap();
        prop_assert_eq!(unpack(&packed, offsets.len(), grid.bits()).unwrap(), offsets);
    }

    #[test]
    fn the_range_loses_half_a_step_at_most(
        weights in prop::collection::vec(-3.0_f32..3.0, 12), grid in grids(), granularity in granularities(),
    ) {
        let matrix = Matrix::new(2, 6, &weights).unwrap();
        let quantized = quantize(matrix, &Scheme { grid, granularity, clipping: MinMax }, None).unwrap();
        for (at, (weight, value)) in weights.iter().zip(quantized.dequantize()).enumerate() {
            let scale = quantized.scales[scale_of(granularity, at / 6, at % 6, 6)];
            // An asymmetric grid may lose another half where its zero point was rounded.
            let steps = if grid.is_symmetric() { 0.5 } else { 1.0 };
            prop_assert!((weight - value).abs() <= steps * 1.0001 * scale);
        }
    }

    #[test]
    fn clipping_never_errs_more_than_the_range(
        (rows, columns, weights) in matrices(), grid in grids(), granularity in granularities(), seed in 0_usize..7,
    ) {
        let matrix = Matrix::new(rows, columns, &weights).unwrap();
        let importance: Vec<f64> = (0..columns).map(|column| ((column * 5 + seed) % 7) as f64).collect();
        let errors = [MinMax, Mse].map(|clipping| {
            let scheme = Scheme { grid, granularity, clipping };
            error(&weights, &quantize(matrix, &scheme, Some(&importance)).unwrap(), &importance)
        });
        prop_assert!(errors[1] <= errors[0] * (1.0 + 1e-12), "{errors:?}");
    }

    #[test]
    fn packed_codes_come_back(codes in prop::collection::vec(any::<u8>(), 0..200), bits in 1_u8..=8) {
        let codes: Vec<u8> = codes.iter().map(|code| code >> (8 - bits)).collect();
        let packed = pack(&codes, bits).unwrap();
        prop_assert_eq!(packed.len(), words(codes.len(), bits));
        prop_assert_eq!(unpack(&packed, codes.len(), bits).unwrap(), codes);
    }
}

#[test]
fn words_are_filled_from_their_lowest_bits() {
    assert_eq!(pack(&[1, 2, 3], 2).unwrap(), [0b11_10_01]);
    assert_eq!(pack(&[0x21, 0x43], 8).unwrap(), [0x4321]);
    // Ten codes of six bits to a word; four bits stay free.
    assert_eq!(pack(&[63; 11], 6).unwrap(), [(1 << 60) - 1, 63]);
    assert_eq!(words(21, 3), 1);
    assert_eq!(words(22, 3), 2);
}

#[test]
fn what_cannot_be_packed_is_named() {
    assert_eq!(
        pack(&[0, 4], 2),
        Err(MethodError::Code {
            code: 4,
            position: 1,
            bits: 2
        })
    );
    assert!(pack(&[], 0).is_err() && pack(&[], 9).is_err());
    assert!(unpack(&[0], 22, 3).is_err() && unpack(&[], 0, 200).is_err());
}

#[test]
fn grids_have_their_codes() {
    let range = |grid: Grid| (grid.low(), grid.high());
    assert_eq!(range(Grid::symmetric(8).unwrap()), (-128, 127));
    assert_eq!(range(Grid::symmetric(7).unwrap()), (-64, 63));
    assert_eq!(range(Grid::narrow(2).unwrap()), (-1, 1));
    assert_eq!(range(Grid::asymmetric(1).unwrap()), (0, 1));
    assert_eq!(range(Grid::asymmetric(8).unwrap()), (0, 255));
    for grid in [
        Grid::symmetric(1),
        Grid::symmetric(9),
        Grid::narrow(0),
        Grid::asymmetric(0),
        Grid::asymmetric(9),
    ] {
        assert!(matches!(grid, Err(MethodError::Domain { .. })));
    }
}

#[test]
fn the_longer_negative_side_gets_the_lowest_code() {
    let weights = [-8.0, 3.0, 7.0];
    let scheme = Scheme {
        grid: Grid::symmetric(4).unwrap(),
        granularity: Channel,
        clipping: MinMax,
    };
    let quantized = quantize(Matrix::new(1, 3, &weights).unwrap(), &scheme, None).unwrap();
    assert_eq!((quantized.scales[0], &quantized.codes[..]), (1.0, &[-8, 3, 7][..]));
    assert_eq!(quantized.dequantize(), weights);
}

#[test]
fn the_last_group_may_be_shorter() {
    let weights = [1.0, 2.0, 3.0, 4.0, 50.0, 10.0, 20.0, 30.0, 40.0, 5.0];
    let scheme = Scheme {
        grid: Grid::narrow(8).unwrap(),
        granularity: Group(2),
        clipping: MinMax,
    };
    let quantized = quantize(Matrix::new(2, 5, &weights).unwrap(), &scheme, None).unwrap();
    let expected = [2.0, 4.0, 50.0, 20.0, 40.0, 5.0].map(|most: f32| (f64::from(most) / 127.0) as f32);
    assert_eq!(quantized.scales, expected);
    let huge = Scheme {
        granularity: Group(usize::MAX),
        ..scheme
    };
    assert_eq!(
        quantize(Matrix::new(2, 5, &weights).unwrap(), &huge, None)
            .unwrap()
            .scales
            .len(),
        2
    );
}

#[test]
fn degenerate_weights_have_finite_scales() {
    for grid in [
        Grid::symmetric(4).unwrap(),
        Grid::asymmetric(4).unwrap(),
        Grid::asymmetric(1).unwrap(),
    ] {
        for clipping in [MinMax, Mse] {
            let scheme = Scheme {
                grid,
                granularity: Channel,
                clipping,
            };
            let run =
                |weights: &[f32]| quantize(Matrix::new(1, weights.len(), weights).unwrap(), &scheme, None).unwrap();
            let zeros = run(&[0.0, -0.0]);
            assert_eq!((zeros.scales[0], zeros.dequantize()), (1.0, vec![0.0, 0.0]));
            for constant in [0.7, -0.7, 1e-30, 1e38] {
                for value in run(&[constant; 3]).dequantize() {
                    assert!(
                        (value - constant).abs() <= 0.01 * constant.abs(),
                        "{constant} became {value}"
                    );
                }
            }
            assert_eq!(
                run(&[f32::from_bits(1), -f32::from_bits(9)]).scales[0],
                f32::MIN_POSITIVE
            );
            assert!(
                run(&[f32::MAX, -f32::MAX])
                    .dequantize()
                    .iter()
                    .all(|value| value.is_finite())
            );
            assert!(run(&[]).codes.is_empty());
        }
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let error = Matrix::new(2, 3, &[0.0, 0.0, 0.0, 0.0, f32::NEG_INFINITY, 0.0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the weight at row 1, column 1 is -inf; only finite numbers can be compressed"
    );
    assert!(Matrix::new(2, 3, &[0.0; 5]).is_err());
    assert!(Matrix::new(usize::MAX, 3, &[0.0; 5]).is_err());
}

#[test]
fn parameters_outside_their_domain_are_refused() {
    let weights = [1.0, 2.0];
    let matrix = Matrix::new(1, 2, &weights).unwrap();
    let scheme = Scheme {
        grid: Grid::symmetric(4).unwrap(),
        granularity: Group(0),
        clipping: Mse,
    };
    assert!(fit(matrix, &scheme, None).is_err());
    let scheme = Scheme {
        granularity: Channel,
        ..scheme
    };
    for importance in [&[1.0][..], &[1.0, f64::NAN], &[-1.0, 1.0]] {
        assert!(fit(matrix, &scheme, Some(importance)).is_err());
    }
    for (scale, zero) in [(0.0, 0), (f32::NAN, 0), (-1.0, 0), (1e-40, 0), (1.0, 1)] {
        let parameters = Parameters {
            scales: vec![scale],
            zero_points: vec![zero],
        };
        assert!(round_to_nearest(matrix, scheme.grid, Channel, parameters).is_err());
    }
    let parameters = Parameters {
        scales: vec![1.0; 2],
        zero_points: vec![0; 2],
    };
    assert!(round_to_nearest(matrix, scheme.grid, Channel, parameters).is_err());
}
