//! Weights as integers in a graph of standard operators: layers and their codes in the form that
//! [`kmr_sdk::model::stored`] writes down.

use kmr_methods::{Granularity, Quantized, pack};
use kmr_sdk::{
    Error, Result,
    model::{
        Build, DType, Edit, ErrorKind, Graph, GraphIndex, ModelError, Tensor,
        stored::{self, IntegerWeight, Sharing},
    },
};

pub use kmr_sdk::model::stored::{Decode, stored_bytes};

use crate::{bits::Bits, layers::Layer};

/// A weight's codes, ready to be stored.
pub struct Stored<'q> {
    pub layer: &'q Layer,
    pub quantized: &'q Quantized,
    pub decode: Decode,
    /// Whether the kernel wants a zero point that is 0, too.
    pub spelled_zero: bool,
}

/// Where a Cast alone reads a layer of 16 bits: takes both away, and gives the layer as the float32 weight that the Cast
/// made, which codes will make instead.
pub fn without_cast(build: &mut Build, graph: &Graph, index: &GraphIndex<'_>, layer: &Layer) -> Option<Layer> {
    let &[(cast, 0)] = index.consumers(&layer.tensor) else {
        return None;
    };
    let cast = graph
        .nodes
        .get(cast)
        .filter(|node| node.is("Cast") && layer.stored_bits == 16)?;
    let value = cast.outputs().first()?;
    let reader = index.consumers(value).iter().map(|&(reader, _)| reader).min()?;
    build.edit(Edit::RemoveNode {
        node: cast.id().to_owned(),
    });
    build.edit(Edit::RemoveTensor {
        name: layer.tensor.clone(),
    });
    // Codes come in the place of an initializer: for a moment there is one, of no numbers.
    build.store(value, Tensor::from_vec(vec![0], Vec::<f32>::new()));
    Some(Layer {
        tensor: value.clone(),
        reader: graph.nodes[reader].id().to_owned(),
        ..layer.clone()
    })
}

impl<'q> Stored<'q> {
    fn weight(&self) -> IntegerWeight<'q> {
        let (layer, quantized) = (self.layer, self.quantized);
        IntegerWeight {
            tensor: &layer.tensor,
            shape: &layer.shape,
            axis: layer.axis,
            reader: Some(&layer.reader),
            bits: quantized.grid.bits(),
            low: quantized.grid.low(),
            sharing: match quantized.granularity {
                Granularity::Tensor => Sharing::Tensor,
                Granularity::Channel => Sharing::Channel,
                Granularity::Group(size) => Sharing::Group(size),
            },
            codes: &quantized.codes,
            scales: &quantized.scales,
            zero_points: &quantized.zero_points,
            half_scales: quantized.grid.has_half_scales(),
            decode: self.decode,
            spelled_zero: self.spelled_zero,
        }
    }
}

/// Stores float32 `values` in 16 bits.
///
/// # Errors
/// If a value is beyond what the type can hold.
pub fn store_half(build: &mut Build, layer: &Layer, values: Vec<f32>, bits: Bits) -> Result<()> {
    let dtype = match bits {
        Bits::BFloat16 => DType::BFLOAT16,
        _ => DType::FLOAT16,
    };
    let is_beyond = |&value: &f32| kmr_sdk::half::f16::from_f32(value).is_infinite();
    if dtype == DType::FLOAT16 && values.iter().any(is_beyond) {
        let message = "holds values beyond 65504, the largest of float16; use \"bf16\" instead of 16";
        return Err(Error::unsupported(message).at(format!("tensor `{}`", layer.tensor)));
    }
    let tensor = Tensor::from_f32(dtype, layer.shape.clone(), values)?;
    stored::store_half(build, &layer.tensor, tensor);
    Ok(())
}

/// Stores integer weights.
///
/// # Errors
/// If a tensor cannot be made.
pub fn store_integers(build: &mut Build, weights: &[Stored<'_>], first_node: Option<&str>) -> Result<()> {
    let pack = |codes: &[u8], bits: u8| {
        pack::pack(codes, bits).map_err(|error| ModelError::new(ErrorKind::Unsupported, "", error.to_string()))
    };
    let weights: Vec<IntegerWeight<'_>> = weights.iter().map(Stored::weight).collect();
    Ok(stored::store_integers(build, &weights, first_node, &pack)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kmr_compute::{Engine, Interpreter, Mode};
    use kmr_methods::{Clipping, Grid, Matrix, Scheme, quantize};
    use kmr_sdk::model::{Graph, Model, Node, ValueInfo};
    use kmr_testkit::noise;
    use proptest::prelude::*;

    use super::*;
    use crate::layers::Use;

    fn layer(name: &str, shape: &[usize], axis: usize) -> Layer {
        Layer {
            stored_bits: 32,
            tensor: name.into(),
            label: name.into(),
            nodes: vec![format!("{name}_read")],
            reader: format!("{name}_read"),
            shape: shape.to_vec(),
            axis,
            reads: Use::Unobserved,
        }
    }

    /// A model that puts out its weights.
    fn model(layers: &[(Layer, Vec<f32>)]) -> Model {
        let mut graph = Graph::new("weights");
        for (layer, values) in layers {
            let output = format!("{}_read", layer.tensor);
            graph.initializers.insert(
                layer.tensor.clone(),
                Tensor::from_vec(layer.shape.clone(), values.clone()).into(),
            );
            graph
                .nodes
                .push(Node::new("Identity", &output, &[&layer.tensor], &[&output]).into());
            graph.outputs.push(ValueInfo::untyped(&output));
        }
        Model::new(graph, 10, 21)
    }

    #[test]
    fn codes_come_in_the_place_of_a_cast_from_16_bits() {
        let values = noise(32 * 32, 5);
        let mut graph = Graph::new("half");
        let half: Vec<u8> = values
            .iter()
            .flat_map(|&value| kmr_sdk::half::bf16::from_f32(value).to_le_bytes())
            .collect();
        let half = Tensor::new(DType::BFLOAT16, vec![32, 32], half.into()).unwrap();
        graph.initializers.insert("w_stored".into(), half.into());
        let cast = Node::new("Cast", "w", &["w_stored"], &["w"]).with_int("to", DType::FLOAT.number().into());
        graph.nodes.push(cast.into());
        graph.nodes.push(Node::new("Identity", "out", &["w"], &["out"]).into());
        graph.outputs.push(ValueInfo::untyped("out"));
        let mut wide = layer("w_stored", &[32, 32], 0);
        (wide.stored_bits, wide.reader) = (16, "w".into());
        let index = graph.index();
        let mut build = Build::on(&graph);
        let found = without_cast(&mut build, &graph, &index, &wide).unwrap();
        assert_eq!((found.tensor.as_str(), found.reader.as_str()), ("w", "out"));
        let matrix = Matrix::new(32, 32, &values).unwrap();
        let quantized = quantize(matrix, &scheme(8, true, Granularity::Channel), None).unwrap();
        let stored = [Stored {
            layer: &found,
            quantized: &quantized,
            decode: Decode::Constant,
            spelled_zero: false,
        }];
        store_integers(&mut build, &stored, None).unwrap();
        let graph = build.finish().apply(&graph).unwrap();
        assert!(graph.tensor("w_stored").is_none());
        let made = decoded(&Model::new(graph, 10, 21));
        assert_eq!(made[0].to_f32().unwrap().as_ref(), quantized.dequantize());

        // A float32 weight has no Cast to take away.
        let model = model(&[(layer("w", &[2, 2], 0), vec![1.0; 4])]);
        let mut build = Build::on(&model.graph);
        assert!(without_cast(&mut build, &model.graph, &model.graph.index(), &layer("w", &[2, 2], 0)).is_none());
    }

    fn decoded(model: &Model) -> Vec<Tensor> {
        let program = Interpreter.load(model).unwrap();
        program.forward(&BTreeMap::new(), &[], Mode::default()).unwrap()
    }

    fn scheme(bits: u8, symmetric: bool, granularity: Granularity) -> Scheme {
        Scheme {
            grid: if symmetric {
                Grid::symmetric(bits)
            } else {
                Grid::asymmetric(bits)
            }
            .unwrap(),
            granularity,
            clipping: Clipping::MinMax,
        }
    }

    /// Stores `layers` by `scheme` and checks that the graph makes what the codes are worth, to the last bit.
    fn check(layers: Vec<(Layer, Vec<f32>)>, scheme: Scheme, decode: Decode) -> usize {
        let original = model(&layers);
        let quantized: Vec<Quantized> = layers
            .iter()
            .map(|(layer, values)| {
                let matrix = layer.in_matrix_order(values);
                quantize(
                    Matrix::new(layer.rows(), layer.columns(), &matrix).unwrap(),
                    &scheme,
                    None,
                )
                .unwrap()
            })
            .collect();
        let stored: Vec<Stored<'_>> = layers
            .iter()
            .zip(&quantized)
            .map(|((layer, _), quantized)| Stored {
                layer,
                quantized,
                decode,
                spelled_zero: false,
            })
            .collect();
        let mut build = Build::on(&original.graph);
        let first = original.graph.nodes[0].id().to_owned();
        store_integers(&mut build, &stored, Some(&first)).unwrap();
        let graph = build.finish().apply(&original.graph).unwrap();
        let model = original.with_graph(graph);
        for (((layer, _), quantized), tensor) in layers.iter().zip(&quantized).zip(decoded(&model)) {
            assert_eq!(tensor.shape(), layer.shape);
            let expected = quantized.dequantize();
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(
                bits(&tensor.values::<f32>().unwrap()),
                bits(&layer.in_tensor_order(&expected)),
                "{}",
                layer.tensor
            );
        }
        model.encoded_len() as usize
    }

    fn some(shapes: &[(&[usize], usize)]) -> Vec<(Layer, Vec<f32>)> {
        let layers = shapes.iter().enumerate().map(|(at, (shape, axis))| {
            let layer = layer(&format!("w{at}"), shape, *axis);
            let values = noise(layer.len(), at as u64 + 5);
            (layer, values)
        });
        layers.collect()
    }

    #[test]
    fn every_size_of_code_decodes_to_the_last_bit() {
        for bits in 2..=8 {
            for symmetric in [true, false] {
                for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group(16)] {
                    for (decode, half) in [
                        (Decode::Constant, false),
                        (Decode::Constant, true),
                        (Decode::Kernel, false),
                    ] {
                        let shapes: &[(&[usize], usize)] = match (granularity, decode) {
                            // Blocks for kernels are those of matrices.
                            (Granularity::Group(_), Decode::Kernel) => &[(&[40, 33], 1), (&[24, 50], 0)],
                            _ => &[(&[16, 9, 3, 3], 0), (&[31, 40], 1), (&[6, 20, 3], 1), (&[2, 8, 24], 2)],
                        };
                        let mut scheme = scheme(bits, symmetric, granularity);
                        if half {
                            scheme.grid = scheme.grid.with_half_scales();
                        }
                        check(some(shapes), scheme, decode);
                    }
                }
            }
        }
    }

    #[test]
    fn fewer_bits_take_fewer_bytes() {
        let bytes = |bits| {
            check(
                some(&[(&[64, 64, 3, 3], 0), (&[32, 64, 3, 3], 0)]),
                scheme(bits, true, Granularity::Channel),
                Decode::Constant,
            )
        };
        let count = 64 * 64 * 9 + 32 * 64 * 9;
        for (bits, most) in [
            (8, count),
            (6, count * 8 / 10),
            (4, count / 2),
            (3, count * 8 / 21),
            (2, count / 4),
        ] {
            let bytes = bytes(bits);
            assert!(
                (most..most + 1800).contains(&bytes),
                "{bits} bits: {bytes} bytes, {most} for the codes"
            );
        }
    }

    #[test]
    fn scales_and_zero_points_take_no_more_than_they_must() {
        let bytes = |symmetric, half| {
            let mut scheme = scheme(4, symmetric, Granularity::Group(16));
            if half {
                scheme.grid = scheme.grid.with_half_scales();
            }
            check(some(&[(&[64, 256], 0)]), scheme, Decode::Constant)
        };
        let (codes, groups) = (64 * 256 / 2, 64 * 256 / 16);
        for (symmetric, half, each) in [(true, false, 8), (true, true, 4), (false, false, 9), (false, true, 5)] {
            let least = codes + groups * each / 2;
            let bytes = bytes(symmetric, half);
            assert!(
                (least..least + 900).contains(&bytes),
                "{symmetric} {half}: {bytes} bytes, {least} needed"
            );
        }
    }

    #[test]
    fn odd_weights_decode_too() {
        for decode in [Decode::Constant, Decode::Kernel] {
            for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::Group(5)] {
                let single = (layer("one", &[1, 1], 0), vec![0.7]);
                let zero = (layer("zero", &[3, 7], 1), vec![0.0; 21]);
                let constant = (layer("same", &[4, 6], 0), vec![-0.25; 24]);
                let tiny = (
                    layer("tiny", &[2, 3], 0),
                    vec![1e-42, 0.0, -1e-45, 1.0, f32::MAX, -f32::MAX],
                );
                for bits in [2, 3, 4, 8] {
                    check(
                        vec![single.clone(), zero.clone(), constant.clone(), tiny.clone()],
                        scheme(bits, true, granularity),
                        decode,
                    );
                }
            }
        }
    }

    #[test]
    fn half_precision_rounds_to_nearest_and_refuses_what_is_beyond() {
        let layer = layer("w", &[2, 2], 0);
        let values = vec![1.0, -0.333_333_34, 65_504.0, 1e-7];
        let original = model(&[(layer.clone(), values.clone())]);
        for bits in [Bits::Float16, Bits::BFloat16] {
            let mut build = Build::on(&original.graph);
            build.place(Some("w_read"));
            store_half(&mut build, &layer, values.clone(), bits).unwrap();
            let model = original.with_graph(build.finish().apply(&original.graph).unwrap());
            let expected: Vec<f32> = values
                .iter()
                .map(|&value| match bits {
                    Bits::BFloat16 => kmr_sdk::half::bf16::from_f32(value).to_f32(),
                    _ => kmr_sdk::half::f16::from_f32(value).to_f32(),
                })
                .collect();
            assert_eq!(*decoded(&model)[0].values::<f32>().unwrap(), expected);
        }
        let mut build = Build::on(&original.graph);
        let error = store_half(&mut build, &layer, vec![7e4, 0.0, 0.0, 0.0], Bits::Float16).unwrap_err();
        assert!(error.to_string().contains("use \"bf16\""), "{error}");
    }

    proptest! {
        #[test]
        fn any_group_decodes(
            rows in 1_usize..6, columns in 1_usize..40, group in 1_usize..50, bits in 2_u8..=8, symmetric: bool, turned: bool,
        ) {
            let shape = if turned { [columns, rows] } else { [rows, columns] };
            let layer = layer("w", &shape, usize::from(turned));
            let values = noise(rows * columns, group as u64);
            for decode in [Decode::Constant, Decode::Kernel] {
                check(vec![(layer.clone(), values.clone())], scheme(bits, symmetric, Granularity::Group(group)), decode);
            }
        }
    }
}
