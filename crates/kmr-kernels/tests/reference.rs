//! The kernels against the definition of a convolution.

#[path = "common/geometries.rs"]
mod geometries;
#[path = "common/noise.rs"]
mod noise;

use geometries::geometries;
use kmr_kernels::{Affine, Convolution, Finish, Geometry, InstructionSet, affine};
use noise::noise;
use proptest::prelude::*;

/// The definition, in float64.
fn reference(
    geometry: &Geometry,
    weights: &[f32],
    bias: &[f32],
    input: &[f32],
    batch: usize,
    [height, width]: [usize; 2],
) -> Vec<f64> {
    let [out_height, out_width] = geometry.output([height, width]).unwrap();
    let per_group = geometry.in_channels / geometry.groups;
    let mut result = Vec::new();
    for image in 0..batch {
        for out in 0..geometry.out_channels {
            let group = out / (geometry.out_channels / geometry.groups);
            for y in 0..out_height {
                for x in 0..out_width {
                    let mut sum = f64::from(bias[out]);
                    for channel in 0..per_group {
                        for ky in 0..geometry.kernel[0] {
                            for kx in 0..geometry.kernel[1] {
                                let row =
                                    (y * geometry.stride[0] + ky * geometry.dilation[0]).checked_sub(geometry.pads[0]);
                                let column =
                                    (x * geometry.stride[1] + kx * geometry.dilation[1]).checked_sub(geometry.pads[1]);
                                if let (Some(row), Some(column)) = (row, column)
                                    && row < height
                                    && column < width
                                {
                                    let from = image * geometry.in_channels + group * per_group;
                                    let value = input[((from + channel) * height + row) * width + column];
                                    let weight = weights[((out * per_group + channel) * geometry.kernel[0] + ky)
                                        * geometry.kernel[1]
                                        + kx];
                                    sum += f64::from(value) * f64::from(weight);
                                }
                            }
                        }
                    }
                    result.push(sum);
                }
            }
        }
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_instruction_set_computes_the_definition((geometry, batch, size) in geometries(), seed in any::<u64>()) {
        let weights = noise(geometry.weights(), seed ^ 1);
        let bias = noise(geometry.out_channels, seed ^ 2);
        let input = noise(batch * geometry.in_channels * size[0] * size[1], seed ^ 3);
        let expected = reference(&geometry, &weights, &bias, &input, batch, size);
        for instruction_set in InstructionSet::available() {
            let convolution =
                Convolution::for_instruction_set(geometry, &weights, Some(&bias), instruction_set).unwrap();
            let result = convolution.run(&input, batch, size, Finish::default()).unwrap();
            prop_assert_eq!(result.len(), expected.len());
            for (got, want) in result.iter().zip(&expected) {
                prop_assert!((f64::from(*got) - want).abs() < 1e-4, "{instruction_set}: {got} is not {want}");
            }
        }
    }

    #[test]
    fn an_image_does_not_see_its_batch_and_a_finish_is_what_it_says((geometry, batch, size) in geometries(), seed in any::<u64>()) {
        let weights = noise(geometry.weights(), seed ^ 1);
        let image = geometry.in_channels * size[0] * size[1];
        let input = noise(batch * image, seed ^ 3);
        let convolution = Convolution::new(geometry, &weights, None).unwrap();
        let whole = convolution.run(&input, batch, size, Finish::default()).unwrap();
        let singly: Vec<f32> = input
            .chunks(image)
            .flat_map(|image| convolution.run(image, 1, size, Finish::default()).unwrap())
            .collect();
        prop_assert!(whole.iter().zip(&singly).all(|(a, b)| a.to_bits() == b.to_bits()));

        let norm = Affine { scale: noise(geometry.out_channels, seed ^ 4), shift: noise(geometry.out_channels, seed ^ 5) };
        let add = noise(whole.len(), seed ^ 6);
        let finish = Finish { affine: Some(&norm), add: Some(&add), relu: true };
        let fused = convolution.run(&input, batch, size, finish).unwrap();
        let mut apart = whole;
        let [height, width] = geometry.output(size).unwrap();
        affine(&mut apart, height * width, &norm).unwrap();
        apart.iter_mut().zip(&add).for_each(|(value, add)| *value = (*value + add).max(0.0));
        prop_assert_eq!(fused, apart);
    }
}

#[test]
fn many_channels_compute_the_definition() {
    for (in_channels, out_channels, groups, kernel, stride, size) in [
        (20, 40, 1, 3, 1, [14, 15]),
        (37, 55, 1, 3, 2, [13, 14]),
        (34, 66, 2, 3, 1, [7, 7]),
        (16, 32, 1, 1, 2, [9, 8]),
        (48, 16, 1, 5, 1, [31, 5]),
        (5, 16, 1, 3, 1, [70, 90]),
        (8, 16, 1, 3, 3, [20, 20]),
    ] {
        let geometry = Geometry {
            in_channels,
            out_channels,
            groups,
            kernel: [kernel; 2],
            stride: [stride; 2],
            dilation: [1; 2],
            pads: [kernel / 2; 4],
        };
        let weights = noise(geometry.weights(), 1);
        let bias = noise(out_channels, 2);
        let input = noise(2 * in_channels * size[0] * size[1], 3);
        let expected = reference(&geometry, &weights, &bias, &input, 2, size);
        for instruction_set in InstructionSet::available() {
            let convolution =
                Convolution::for_instruction_set(geometry, &weights, Some(&bias), instruction_set).unwrap();
            let result = convolution.run(&input, 2, size, Finish::default()).unwrap();
            assert_eq!(result.len(), expected.len());
            for (got, want) in result.iter().zip(&expected) {
                assert!(
                    (f64::from(*got) - want).abs() < 1e-3,
                    "{instruction_set}: {got} is not {want}"
                );
            }
        }
    }
}

#[test]
fn the_way_that_channels_are_laid_out_changes_no_bit() {
    // Sixteen output channels fill vectors, five do not.
    let whole = Geometry {
        in_channels: 9,
        out_channels: 16,
        groups: 1,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1; 4],
    };
    let part = Geometry {
        out_channels: 5,
        ..whole
    };
    let weights = noise(whole.weights(), 1);
    let input = noise(9 * 12 * 12, 2);
    for instruction_set in InstructionSet::available() {
        let run = |geometry: Geometry| {
            let weights = &weights[..geometry.weights()];
            let convolution = Convolution::for_instruction_set(geometry, weights, None, instruction_set).unwrap();
            convolution.run(&input, 1, [12, 12], Finish::default()).unwrap()
        };
        let (whole, part) = (run(whole), run(part));
        assert!(whole.iter().zip(&part).all(|(a, b)| a.to_bits() == b.to_bits()));
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let geometry = Geometry {
        in_channels: 11,
        out_channels: 23,
        groups: 1,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [1; 4],
    };
    let convolution = Convolution::new(geometry, &noise(geometry.weights(), 1), None).unwrap();
    let input = noise(9 * 11 * 28 * 28, 2);
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| convolution.run(&input, 9, [28, 28], Finish::default()).unwrap())
    };
    let one = with(1);
    assert!(one.iter().any(|&value| value != 0.0));
    assert_eq!(one, with(2));
    assert_eq!(one, with(4));
}

#[test]
fn not_a_number_and_infinity_pass_through() {
    let geometry = Geometry {
        in_channels: 1,
        out_channels: 1,
        groups: 1,
        kernel: [1, 1],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [0; 4],
    };
    let convolution = Convolution::new(geometry, &[1.0], None).unwrap();
    let finish = Finish {
        relu: true,
        ..Finish::default()
    };
    let input = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0];
    let result = convolution.run(&input, 1, [2, 2], finish).unwrap();
    assert!(result[0].is_nan());
    assert_eq!(result[1..], [f32::INFINITY, 0.0, 0.0]);
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let geometry = Geometry {
        in_channels: 2,
        out_channels: 3,
        groups: 1,
        kernel: [3, 3],
        stride: [1, 1],
        dilation: [1, 1],
        pads: [0; 4],
    };
    assert!(Convolution::new(geometry, &[0.0; 53], None).is_err());
    assert!(Convolution::new(Geometry { groups: 2, ..geometry }, &[0.0; 27], None).is_err());
    let convolution = Convolution::new(geometry, &[0.0; 54], None).unwrap();
    let error = convolution.run(&[0.0; 8], 1, [2, 2], Finish::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a kernel that spans 3 does not fit into a padded input of 2"
    );
    assert!(convolution.run(&[0.0; 17], 1, [3, 3], Finish::default()).is_err());
}
