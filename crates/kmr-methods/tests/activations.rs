//! Calibration, equalization and bias correction.

use kmr_methods::{
    Clipping, Granularity, Grid, Matrix, MethodError, Scheme,
    bias::correction,
    calibration::{Histogram, RangeMethod, activation_parameters},
    equalize::{cross_layer, smooth},
    quantize,
};
use proptest::prelude::*;

fn histogram(values: &[f32]) -> Histogram {
    let mut histogram = Histogram::new();
    histogram.add(values).unwrap();
    histogram
}

/// Bell-shaped values with a few far away.
fn bell(count: usize, outlier: f32) -> Vec<f32> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut values: Vec<f32> = (0..count).map(|_| (0..6).map(|_| next()).sum()).collect();
    values.extend([outlier, -outlier]);
    values
}

proptest! {
    #[test]
    fn batches_and_their_order_do_not_matter(
        values in prop::collection::vec(prop_oneof![-1.0_f32..1.0, -1e4_f32..1e4, -1e-6_f32..1e-6, -1e38_f32..1e38], 1..60),
        cut in 0_usize..60,
    ) {
        let whole = histogram(&values);
        let cut = cut.min(values.len());
        let mut parts = histogram(&values[cut..]);
        parts.add(&values[..cut]).unwrap();
        prop_assert_eq!(&parts, &whole);
        let mut merged = histogram(&values[..cut]);
        merged.merge(&histogram(&values[cut..]));
        prop_assert_eq!(&merged, &whole);
        let mut single = Histogram::new();
        values.iter().rev().for_each(|&value| single.add(&[value]).unwrap());
        prop_assert_eq!(&single, &whole);
        prop_assert_eq!(whole.total(), values.len() as u64);
        prop_assert!(whole.bins().count() <= 2048);
    }

    #[test]
    fn every_range_is_within_the_observed_one(
        values in prop::collection::vec(prop_oneof![3 => -3.0_f32..3.0, 1 => -1e3_f32..1e3, 1 => Just(0.0)], 1..80),
        percent in 1.0_f64..=100.0, bits in 2_u8..=8,
    ) {
        let histogram = histogram(&values);
        let (least, most) = histogram.bounds().unwrap();
        let grid = Grid::asymmetric(bits).unwrap();
        let symmetric = RangeMethod::Mse { grid: Grid::symmetric(bits).unwrap() };
        let methods = [RangeMethod::MinMax, RangeMethod::Percentile(percent), RangeMethod::Entropy { bits },
            RangeMethod::Mse { grid }, symmetric];
        for method in methods {
            let (low, high) = histogram.range(method).unwrap();
            prop_assert!(low.min(0.0) >= least.min(0.0) && high.max(0.0) <= most.max(0.0), "{method:?}: {low} {high}");
            prop_assert!(low <= high, "{method:?}: {low} {high}");
            let (scale, zero) = activation_parameters(low, high, grid).unwrap();
            prop_assert!(scale.is_normal() && scale > 0.0 && (0..=i32::from(grid.high())).contains(&zero));
        }
    }

    #[test]
    fn a_quantile_is_right_within_a_bin(mut values in prop::collection::vec(-5.0_f32..5.0, 2..200), part in 0.0_f64..=1.0) {
        let histogram = histogram(&values);
        values.sort_by(f32::total_cmp);
        let rank = ((part * values.len() as f64).ceil() as usize).clamp(1, values.len());
        prop_assert!((histogram.quantile(part) - values[rank - 1]).abs() <= 10.0 / 1024.0);
    }

    #[test]
    fn equalized_ranges_are_equal(pairs in prop::collection::vec((0.01_f32..100.0, 0.01_f32..100.0), 1..10)) {
        let (producer, consumer): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        for (at, factor) in cross_layer(&producer, &consumer).unwrap().into_iter().enumerate() {
            let (first, second) = (producer[at] / factor, consumer[at] * factor);
            prop_assert!((first - second).abs() <= 1e-5 * first);
        }
    }
}

#[test]
fn the_bounds_are_exact() {
    let histogram = histogram(&[0.1, -0.7, 12.3]);
    assert_eq!(histogram.range(RangeMethod::MinMax), Ok((-0.7, 12.3)));
    assert_eq!(histogram.range(RangeMethod::Percentile(100.0)), Ok((-0.7, 12.3)));
}

#[test]
fn one_value_is_a_range() {
    for value in [0.0, 1e-42, -3.5, f32::MAX] {
        let histogram = histogram(&[value; 5]);
        for method in [
            RangeMethod::MinMax,
            RangeMethod::Percentile(99.0),
            RangeMethod::Entropy { bits: 8 },
        ] {
            let (low, high) = histogram.range(method).unwrap();
            assert_eq!((low, high), (value, value), "{method:?}");
        }
    }
}

#[test]
fn outliers_are_clipped() {
    let values = bell(100_000, 60.0);
    let histogram = histogram(&values);
    let grid = Grid::symmetric(8).unwrap();
    let coarse = Grid::symmetric(4).unwrap();
    let methods = [
        (RangeMethod::Percentile(99.99), 6.0),
        (RangeMethod::Entropy { bits: 8 }, 30.0),
        (RangeMethod::Mse { grid }, 60.0),
        (RangeMethod::Mse { grid: coarse }, 30.0),
    ];
    for (method, most) in methods {
        let (low, high) = histogram.range(method).unwrap();
        assert!(high > 2.0 && high <= most && low < -2.0, "{method:?}: {low} {high}");
    }
}

#[test]
fn the_least_squared_error_is_found() {
    let values = bell(20_000, 9.0);
    let grid = Grid::asymmetric(4).unwrap();
    let (low, high) = histogram(&values).range(RangeMethod::Mse { grid }).unwrap();
    let error = |low: f32, high: f32| {
        let (scale, zero) = activation_parameters(low, high, grid).unwrap();
        let rounded = |value: f32| ((value / scale).round() + zero as f32).clamp(0.0, 15.0) - zero as f32;
        values
            .iter()
            .map(|&value| f64::from(value - rounded(value) * scale).powi(2))
            .sum::<f64>()
    };
    let found = error(low, high);
    for shrink in 1..=20 {
        let bound = 9.0 * shrink as f32 / 20.0;
        assert!(found <= 1.03 * error(-bound, bound), "{low} {high} against {bound}");
    }
}

#[test]
fn rectified_values_keep_their_body() {
    let values: Vec<f32> = bell(50_000, 5.0).into_iter().map(|value| value.max(0.0)).collect();
    let (low, high) = histogram(&values).range(RangeMethod::Entropy { bits: 8 }).unwrap();
    assert!(low == 0.0 && high > 2.0, "{low} {high}");
}

#[test]
fn what_cannot_be_calibrated_is_named() {
    let mut histogram = histogram(&[1.0]);
    let before = histogram.clone();
    assert!(matches!(
        histogram.add(&[2.0, f32::NAN]),
        Err(MethodError::NotFiniteValue { position: 1, .. })
    ));
    assert_eq!(histogram, before);
    assert_eq!(
        Histogram::new().range(RangeMethod::MinMax),
        Err(MethodError::NothingObserved)
    );
    for method in [
        RangeMethod::Percentile(0.0),
        RangeMethod::Percentile(f64::NAN),
        RangeMethod::Entropy { bits: 1 },
    ] {
        assert!(matches!(histogram.range(method), Err(MethodError::Domain { .. })));
    }
}

#[test]
fn zero_is_exact_in_activations() {
    let unsigned = Grid::asymmetric(8).unwrap();
    assert_eq!(activation_parameters(0.0, 25.5, unsigned), Ok((25.5 / 255.0, 0)));
    assert_eq!(activation_parameters(2.0, 25.5, unsigned), Ok((25.5 / 255.0, 0)));
    assert_eq!(activation_parameters(-255.0, 0.0, unsigned), Ok((1.0, 255)));
    assert_eq!(activation_parameters(-100.0, 155.0, unsigned), Ok((1.0, 100)));
    assert_eq!(activation_parameters(0.0, 0.0, unsigned), Ok((1.0, 0)));
    assert_eq!(
        activation_parameters(-3.0, 127.0, Grid::symmetric(8).unwrap()),
        Ok((1.0, 0))
    );
    assert!(activation_parameters(1.0, 0.0, unsigned).is_err());
    assert!(activation_parameters(f32::NAN, 0.0, unsigned).is_err());
}

#[test]
fn channels_without_range_keep_their_factor() {
    let odd = [0.0, 1.0, f32::INFINITY, f32::NAN, 1e-40];
    let even = [1.0, 0.0, 1.0, 1.0, 1.0];
    assert_eq!(cross_layer(&odd, &even).unwrap(), [1.0; 5]);
    assert_eq!(smooth(&odd, &even, 0.5).unwrap(), [1.0; 5]);
    assert_eq!(cross_layer(&[4.0], &[1.0]).unwrap(), [2.0]);
    assert_eq!(smooth(&[16.0], &[4.0], 0.5).unwrap(), [2.0]);
    assert_eq!(smooth(&[16.0], &[4.0], 1.0).unwrap(), [16.0]);
    assert_eq!(smooth(&[16.0], &[4.0], 0.0).unwrap(), [0.25]);
    assert!(smooth(&[1.0], &[1.0], 1.5).is_err() && smooth(&[1.0], &[], 0.5).is_err());
    assert!(cross_layer(&[1.0], &[]).is_err());
}

#[test]
fn the_corrected_bias_keeps_the_mean() {
    let weights = [0.31, -0.27, 0.94, 0.11, 0.52, -0.83];
    let means = [2.0, -1.0, 0.5];
    let matrix = Matrix::new(2, 3, &weights).unwrap();
    let grid = Grid::symmetric(3).unwrap();
    let scheme = Scheme {
        grid,
        granularity: Granularity::Channel,
        clipping: Clipping::MinMax,
    };
    let quantized = quantize(matrix, &scheme, None).unwrap();
    let mean = |weights: &[f32]| {
        weights
            .iter()
            .zip(means)
            .map(|(weight, mean)| weight * mean)
            .sum::<f32>()
    };
    let rounded = quantized.dequantize();
    for (row, delta) in correction(matrix, &quantized, &means).unwrap().into_iter().enumerate() {
        let span = row * 3..row * 3 + 3;
        assert!(delta != 0.0 && (mean(&rounded[span.clone()]) + delta - mean(&weights[span])).abs() < 1e-6);
    }
    assert!(correction(matrix, &quantized, &means[..2]).is_err());
}

#[test]
fn maxima_are_magnitudes() {
    let values = [1.0, -5.0, 2.0, 3.0, 4.0, -6.0];
    let matrix = Matrix::new(2, 3, &values).unwrap();
    assert_eq!(matrix.row_maxima(), [5.0, 6.0]);
    assert_eq!(matrix.column_maxima(), [3.0, 5.0, 6.0]);
}
