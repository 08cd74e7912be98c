//! The gradients of a convolution against their definition.

#[path = "common/geometries.rs"]
mod geometries;
#[path = "common/noise.rs"]
mod noise;

use geometries::geometries;
use kmr_kernels::{Geometry, Gradient, InstructionSet};
use noise::noise;
use proptest::prelude::*;

/// The gradients by input, weights and bias, in float64.
fn reference(
    geometry: &Geometry,
    weights: &[f32],
    input: &[f32],
    cotangent: &[f32],
    batch: usize,
    [height, width]: [usize; 2],
) -> [Vec<f64>; 3] {
    let [out_height, out_width] = geometry.output([height, width]).unwrap();
    let per_group = geometry.in_channels / geometry.groups;
    let mut result = [
        vec![0.0; input.len()],
        vec![0.0; weights.len()],
        vec![0.0; geometry.out_channels],
    ];
    for image in 0..batch {
        for out in 0..geometry.out_channels {
            let group = out / (geometry.out_channels / geometry.groups);
            for (y, x) in (0..out_height).flat_map(|y| (0..out_width).map(move |x| (y, x))) {
                let plane = image * geometry.out_channels + out;
                let cotangent = f64::from(cotangent[(plane * out_height + y) * out_width + x]);
                result[2][out] += cotangent;
                for channel in 0..per_group {
                    let plane = image * geometry.in_channels + group * per_group + channel;
                    for (ky, kx) in (0..geometry.kernel[0]).flat_map(|y| (0..geometry.kernel[1]).map(move |x| (y, x))) {
                        let row = (y * geometry.stride[0] + ky * geometry.dilation[0]).checked_sub(geometry.pads[0]);
                        let column = (x * geometry.stride[1] + kx * geometry.dilation[1]).checked_sub(geometry.pads[1]);
                        if let (Some(row), Some(column)) = (row, column)
                            && row < height
                            && column < width
                        {
                            let at = (plane * height + row) * width + column;
                            let tap = ((out * per_group + channel) * geometry.kernel[0] + ky) * geometry.kernel[1] + kx;
                            result[0][at] += cotangent * f64::from(weights[tap]);
                            result[1][tap] += cotangent * f64::from(input[at]);
                        }
                    }
                }
            }
        }
    }
    result
}

fn compare(name: &str, result: &[f32], expected: &[f64], tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(result.len(), expected.len());
    for (got, want) in result.iter().zip(expected) {
        prop_assert!(
            (f64::from(*got) - want).abs() < tolerance,
            "{name}: {got} is not {want}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_instruction_set_computes_the_definition((geometry, batch, size) in geometries(), seed in any::<u64>()) {
        let [height, width] = geometry.output(size).unwrap();
        let weights = noise(geometry.weights(), seed ^ 1);
        let input = noise(batch * geometry.in_channels * size[0] * size[1], seed ^ 2);
        let cotangent = noise(batch * geometry.out_channels * height * width, seed ^ 3);
        let expected = reference(&geometry, &weights, &input, &cotangent, batch, size);
        for instruction_set in InstructionSet::available() {
            let gradient = Gradient::for_instruction_set(geometry, instruction_set).unwrap();
            let name = instruction_set.name();
            compare(name, &gradient.input(&weights, &cotangent, batch, size).unwrap(), &expected[0], 1e-4)?;
            compare(name, &gradient.weights(&input, &cotangent, batch, size).unwrap(), &expected[1], 1e-3)?;
            compare(name, &gradient.bias(&cotangent, batch, size).unwrap(), &expected[2], 1e-4)?;
        }
    }
}

fn square(in_channels: usize, out_channels: usize, groups: usize, kernel: usize, stride: usize) -> Geometry {
    Geometry {
        in_channels,
        out_channels,
        groups,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [1; 2],
        pads: [kernel / 2; 4],
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for (geometry, batch, size) in [
        (square(11, 23, 1, 3, 1), 37, [28, 28]),
        (square(16, 32, 1, 3, 2), 37, [27, 28]),
        (square(24, 24, 24, 3, 1), 20, [28, 28]),
        (square(3, 8, 1, 5, 1), 1, [120, 90]),
    ] {
        let [height, width] = geometry.output(size).unwrap();
        let weights = noise(geometry.weights(), 1);
        let input = noise(batch * geometry.in_channels * size[0] * size[1], 2);
        let cotangent = noise(batch * geometry.out_channels * height * width, 3);
        let gradient = Gradient::new(geometry).unwrap();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                [
                    gradient.input(&weights, &cotangent, batch, size).unwrap(),
                    gradient.weights(&input, &cotangent, batch, size).unwrap(),
                    gradient.bias(&cotangent, batch, size).unwrap(),
                ]
            })
        };
        let one = with(1);
        assert!(one.iter().flatten().all(|value| value.is_finite()));
        assert!(one.iter().all(|values| values.iter().any(|&value| value != 0.0)));
        for threads in [2, 3, 4] {
            assert_eq!(one, with(threads));
        }
    }
}

#[test]
fn an_empty_batch_has_no_gradient() {
    let geometry = square(4, 6, 2, 3, 2);
    let gradient = Gradient::new(geometry).unwrap();
    let weights = noise(geometry.weights(), 1);
    assert_eq!(gradient.input(&weights, &[], 0, [5, 5]).unwrap(), []);
    assert_eq!(gradient.weights(&[], &[], 0, [5, 5]).unwrap(), vec![0.0; weights.len()]);
    assert_eq!(gradient.bias(&[], 0, [5, 5]).unwrap(), [0.0; 6]);
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    assert!(Gradient::new(square(4, 6, 4, 3, 1)).is_err());
    let geometry = Geometry {
        pads: [0; 4],
        ..square(2, 3, 1, 3, 1)
    };
    let gradient = Gradient::new(geometry).unwrap();
    let error = gradient.weights(&[0.0; 8], &[0.0; 3], 1, [2, 2]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a kernel that spans 3 does not fit into a padded input of 2"
    );
    assert!(gradient.input(&[0.0; 54], &[0.0; 3], 1, [2, 2]).is_err());
    assert!(gradient.bias(&[0.0; 3], 1, [2, 2]).is_err());
    let error = gradient.input(&[0.0; 54], &[0.0; 4], 1, [3, 3]).unwrap_err();
    assert_eq!(error.to_string(), "expected 3 values of the cotangent; got 4");
    assert!(gradient.input(&[0.0; 53], &[0.0; 3], 1, [3, 3]).is_err());
    assert!(gradient.weights(&[0.0; 17], &[0.0; 3], 1, [3, 3]).is_err());
    assert!(gradient.bias(&[0.0; 2], 1, [3, 3]).is_err());
}

#[test]
fn many_channels_compute_the_definition() {
    for (geometry, batch, size) in [
        (square(20, 40, 1, 3, 1), 2, [14, 15]),
        (square(37, 23, 1, 3, 2), 2, [13, 14]),
        (square(34, 66, 2, 3, 1), 3, [7, 7]),
        (square(16, 32, 1, 1, 2), 3, [9, 8]),
        (square(48, 48, 1, 5, 1), 1, [31, 5]),
        (square(5, 16, 1, 3, 1), 1, [70, 90]),
        (square(50, 50, 50, 3, 2), 2, [15, 15]),
    ] {
        let [height, width] = geometry.output(size).unwrap();
        let weights = noise(geometry.weights(), 1);
        let input = noise(batch * geometry.in_channels * size[0] * size[1], 2);
        let cotangent = noise(batch * geometry.out_channels * height * width, 3);
        let expected = reference(&geometry, &weights, &input, &cotangent, batch, size);
        for instruction_set in InstructionSet::available() {
            let gradient = Gradient::for_instruction_set(geometry, instruction_set).unwrap();
            let by_input = gradient.input(&weights, &cotangent, batch, size).unwrap();
            let by_weights = gradient.weights(&input, &cotangent, batch, size).unwrap();
            compare("input", &by_input, &expected[0], 1e-3).unwrap();
            compare("weights", &by_weights, &expected[1], 1e-2).unwrap();
        }
    }
}
