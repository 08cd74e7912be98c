//! Batch normalization in training, and the loops over elements, against their definitions.

#[path = "common/noise.rs"]
mod noise;

use kmr_kernels::{BatchNormalization, Statistics, add_relu, relu_gradient};
use noise::noise;
use proptest::prelude::*;

const EPSILON: f32 = 1e-3;

/// Normalized values, mean, variance, and the gradients by input, scale and bias, in float64.
struct Reference {
    output: Vec<f64>,
    mean: Vec<f64>,
    variance: Vec<f64>,
    input: Vec<f64>,
    scale: Vec<f64>,
    bias: Vec<f64>,
}

fn reference(norm: &BatchNormalization<'_>, input: &[f32], cotangent: &[f32], plane: usize) -> Reference {
    let channels = norm.scale.len();
    let mut result = Reference {
        output: vec![0.0; input.len()],
        mean: vec![0.0; channels],
        variance: vec![0.0; channels],
        input: vec![0.0; input.len()],
        scale: vec![0.0; channels],
        bias: vec![0.0; channels],
    };
    for channel in 0..channels {
        let elements: Vec<usize> = (0..input.len()).filter(|i| i / plane % channels == channel).collect();
        let average =
            |value: &dyn Fn(usize) -> f64| elements.iter().map(|&i| value(i)).sum::<f64>() / elements.len() as f64;
        let mean = average(&|i| f64::from(input[i]));
        let variance = average(&|i| (f64::from(input[i]) - mean).powi(2));
        let inverse = 1.0 / (variance + f64::from(norm.epsilon)).sqrt();
        let (scale, bias) = (f64::from(norm.scale[channel]), f64::from(norm.bias[channel]));
        let normal = |i: usize| (f64::from(input[i]) - mean) * inverse;
        let masked = |i: usize| {
            let kept = !norm.relu || normal(i) * scale + bias > 0.0;
            if kept { f64::from(cotangent[i]) } else { 0.0 }
        };
        let mean_cotangent = average(&masked);
        let mean_product = average(&|i| masked(i) * normal(i));
        for &i in &elements {
            let value = normal(i) * scale + bias;
            result.output[i] = if norm.relu { value.max(0.0) } else { value };
            result.input[i] = scale * inverse * (masked(i) - mean_cotangent - normal(i) * mean_product);
        }
        result.mean[channel] = mean;
        result.variance[channel] = variance;
        result.scale[channel] = mean_product * elements.len() as f64;
        result.bias[channel] = mean_cotangent * elements.len() as f64;
    }
    result
}

fn compare(name: &str, result: &[f32], expected: &[f64], tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(result.len(), expected.len());
    for (got, want) in result.iter().zip(expected) {
        prop_assert!(
            (f64::from(*got) - want).abs() < tolerance * (1.0 + want.abs()),
            "{name}: {got} is not {want}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn normalization_is_its_definition(
        (batch, channels, plane) in (1_usize..6, 1_usize..6, 1_usize..60),
        relu in any::<bool>(),
        distance in 0_u8..3,
        seed in any::<u64>(),
    ) {
        let (scale, bias) = (noise(channels, seed ^ 1), noise(channels, seed ^ 2));
        let norm = BatchNormalization { scale: &scale, bias: &bias, epsilon: EPSILON, relu };
        let length = batch * channels * plane;
        let far = f32::from(distance) * 100.0;
        let input: Vec<f32> = noise(length, seed ^ 3).into_iter().map(|value| value + far).collect();
        let cotangent = noise(length, seed ^ 4);
        let expected = reference(&norm, &input, &cotangent, plane);
        let (output, statistics) = norm.forward(&input, None, plane).unwrap();
        compare("mean", &statistics.mean, &expected.mean, 1e-6)?;
        compare("variance", &statistics.variance, &expected.variance, 1e-6)?;
        // The mean is rounded to float32, which moves every element by as much.
        let tolerance = if distance == 0 { 1e-4 } else { 2e-3 };
        compare("output", &output, &expected.output, tolerance)?;
        // A mask may flip where an element is as good as zero.
        let certain = !relu || expected.output.iter().all(|&value| value == 0.0 || value > 1e-2);
        if certain && distance == 0 {
            let gradient = norm.backward(&statistics, &input, &cotangent, plane).unwrap();
            compare("scale", &gradient.scale, &expected.scale, 1e-3)?;
            compare("bias", &gradient.bias, &expected.bias, 1e-3)?;
            compare("input", &gradient.input, &expected.input, 2e-3)?;
        }
        let add = noise(length, seed ^ 5);
        let (fused, same) = norm.forward(&input, Some(&add), plane).unwrap();
        prop_assert_eq!(same, statistics);
        let plain = BatchNormalization { relu: false, ..norm };
        let apart = plain.forward(&input, None, plane).unwrap().0;
        let sum: Vec<f32> = apart.iter().zip(&add).map(|(value, add)| value + add).collect();
        prop_assert_eq!(fused, if relu { add_relu(&apart, &add).unwrap() } else { sum });
    }

    #[test]
    fn a_mask_is_that_of_the_output((batch, channels, plane) in (1_usize..6, 1_usize..6, 1_usize..60), seed in any::<u64>()) {
        let (scale, bias) = (noise(channels, seed ^ 1), noise(channels, seed ^ 2));
        let norm = BatchNormalization { scale: &scale, bias: &bias, epsilon: EPSILON, relu: true };
        let (input, cotangent) = (noise(batch * channels * plane, seed ^ 3), noise(batch * channels * plane, seed ^ 4));
        let (output, statistics) = norm.forward(&input, None, plane).unwrap();
        let fused = norm.backward(&statistics, &input, &cotangent, plane).unwrap();
        let masked = relu_gradient(&output, &cotangent).unwrap();
        let apart = BatchNormalization { relu: false, ..norm }.backward(&statistics, &input, &masked, plane).unwrap();
        prop_assert_eq!(fused, apart);
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (batch, channels) = (150, 3);
    for plane in [49, 1024] {
        let (scale, bias) = (noise(channels, 1), noise(channels, 2));
        let norm = BatchNormalization {
            scale: &scale,
            bias: &bias,
            epsilon: EPSILON,
            relu: true,
        };
        let (input, cotangent) = (noise(batch * channels * plane, 3), noise(batch * channels * plane, 4));
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let (output, statistics) = norm.forward(&input, None, plane).unwrap();
                let gradient = norm.backward(&statistics, &input, &cotangent, plane).unwrap();
                (output, statistics, gradient)
            })
        };
        let one = with(1);
        for threads in [2, 3, 4] {
            assert_eq!(one, with(threads));
        }
    }
}

#[test]
fn an_empty_batch_has_no_statistics() {
    let norm = BatchNormalization {
        scale: &[1.0; 2],
        bias: &[0.0; 2],
        epsilon: 1.0,
        relu: false,
    };
    let (output, statistics) = norm.forward(&[], None, 9).unwrap();
    assert_eq!(output, []);
    assert_eq!(
        statistics,
        Statistics {
            mean: vec![0.0; 2],
            variance: vec![0.0; 2],
            inverse_deviation: vec![1.0; 2],
        }
    );
    let gradient = norm.backward(&statistics, &[], &[], 9).unwrap();
    assert_eq!((gradient.scale, gradient.bias), (vec![0.0; 2], vec![0.0; 2]));
}

#[test]
fn not_a_number_passes_through_a_relu() {
    assert!(add_relu(&[f32::NAN], &[1.0]).unwrap()[0].is_nan());
    assert_eq!(
        relu_gradient(&[-1.0, 0.0, 1.0, f32::NAN], &[5.0; 4]).unwrap(),
        [0.0, 0.0, 5.0, 5.0]
    );
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let norm = BatchNormalization {
        scale: &[1.0; 2],
        bias: &[0.0; 2],
        epsilon: EPSILON,
        relu: false,
    };
    assert!(norm.forward(&[0.0; 5], None, 3).is_err());
    assert!(norm.forward(&[0.0; 6], None, 0).is_err());
    assert!(norm.forward(&[0.0; 6], Some(&[0.0; 5]), 3).is_err());
    assert!(
        BatchNormalization { bias: &[0.0], ..norm }
            .forward(&[0.0; 6], None, 3)
            .is_err()
    );
    let (_, statistics) = norm.forward(&[0.0; 6], None, 3).unwrap();
    assert!(norm.backward(&statistics, &[0.0; 6], &[0.0; 5], 3).is_err());
    assert!(norm.backward(&Statistics::default(), &[0.0; 6], &[0.0; 6], 3).is_err());
    assert!(add_relu(&[0.0], &[]).is_err());
    assert!(relu_gradient(&[0.0], &[]).is_err());
}
