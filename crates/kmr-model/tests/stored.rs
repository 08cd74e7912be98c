//! Weights written as integers are found again, code by code.

use std::sync::Arc;

use kmr_model::{
    Build, Graph, Model, ModelError, Node, Tensor, ValueInfo,
    stored::{
        Codes, Decode, IntegerWeight, Integers, Sharing, store_half, store_integers, stored_bytes, stored_weights,
    },
};
use proptest::prelude::*;

/// A weight to be stored.
#[derive(Clone, Debug)]
struct Weight {
    name: String,
    shape: Vec<usize>,
    axis: usize,
    bits: u8,
    low: i16,
    sharing: Sharing,
    codes: Vec<i16>,
    scales: Vec<f32>,
    zeros: Vec<i32>,
}

fn weight(name: &str, shape: &[usize], axis: usize, bits: u8, symmetric: bool, sharing: Sharing) -> Weight {
    let count: usize = shape.iter().product();
    let (rows, columns) = (shape[axis], count / shape[axis]);
    let low = if symmetric { -(1 << (bits - 1)) } else { 0 };
    let code = |at: usize| (at * 7 + at / 3) as i16 % (1 << bits) + low;
    let scales = match sharing {
        Sharing::Tensor => 1,
        Sharing::Channel => rows,
        Sharing::Group(size) => rows * columns.div_ceil(size),
    };
    Weight {
        name: name.into(),
        shape: shape.to_vec(),
        axis,
        bits,
        low,
        sharing,
        codes: (0..count).map(code).collect(),
        scales: (0..scales).map(|at| 0.5 + at as f32).collect(),
        zeros: (0..scales)
            .map(|at| if symmetric { 0 } else { at as i32 % (1 << bits) })
            .collect(),
    }
}

impl Weight {
    /// What each element of the tensor is worth.
    fn values(&self) -> Vec<f32> {
        let (before, rows) = (self.shape[..self.axis].iter().product::<usize>(), self.shape[self.axis]);
        let after: usize = self.shape[self.axis + 1..].iter().product();
        let columns = before * after;
        let value = |at: usize| {
            let (outer, row, inner) = (at / (rows * after), at / after % rows, at % after);
            let column = outer * after + inner;
            let scale = match self.sharing {
                Sharing::Tensor => 0,
                Sharing::Channel => row,
                Sharing::Group(size) => row * columns.div_ceil(size) + column / size,
            };
            (i32::from(self.codes[row * columns + column]) - self.zeros[scale]) as f32 * self.scales[scale]
        };
        (0..self.codes.len()).map(value).collect()
    }
}

fn pack(codes: &[u8], bits: u8) -> Result<Vec<u64>, ModelError> {
    let word = |codes: &[u8]| codes.iter().rev().fold(0, |word, &code| word << bits | u64::from(code));
    Ok(codes.chunks(usize::from(64 / bits)).map(word).collect())
}

fn codes(graph: &Graph, weight: &Integers) -> Vec<i16> {
    match &weight.codes {
        Codes::Typed { .. } => weight.typed_codes(graph).unwrap(),
        Codes::Packed {
            words,
            bits,
            first,
            low,
        } => {
            let words = graph.tensor(words).unwrap();
            let words = words.values::<u64>().unwrap();
            let per_word = usize::from(64 / bits);
            let code = |at: usize| (words[at / per_word] >> (at % per_word * usize::from(*bits))) & ((1 << bits) - 1);
            (*first..first + weight.len()).map(|at| code(at) as i16 + low).collect()
        }
    }
}

fn stored(weights: &[Weight], decode: Decode) -> Graph {
    stored_by(weights, decode, usize::MAX)
}

/// Stores so many weights with each edit.
fn stored_by(weights: &[Weight], decode: Decode, size: usize) -> Graph {
    let mut graph = Graph::new("weights");
    for weight in weights {
        let read = format!("{}_read", weight.name);
        let tensor = Tensor::from_vec(weight.shape.clone(), vec![0.0_f32; weight.codes.len()]);
        graph.initializers.insert(weight.name.clone(), tensor.into());
        graph
            .nodes
            .push(Arc::new(Node::new("Relu", "", &[&weight.name], &[&read])));
        graph.outputs.push(ValueInfo::untyped(&read));
    }
    let readers: Vec<String> = weights.iter().map(|weight| format!("{}_read", weight.name)).collect();
    let integers: Vec<IntegerWeight<'_>> = weights
        .iter()
        .zip(&readers)
        .map(|(weight, reader)| IntegerWeight {
            tensor: &weight.name,
            shape: &weight.shape,
            axis: weight.axis,
            reader: Some(reader),
            bits: weight.bits,
            low: weight.low,
            sharing: weight.sharing,
            codes: &weight.codes,
            scales: &weight.scales,
            zero_points: &weight.zeros,
            half_scales: false,
            decode,
            spelled_zero: false,
        })
        .collect();
    let mut build = Build::on(&graph);
    for integers in integers.chunks(size) {
        store_integers(&mut build, integers, Some("w0_read"), &pack).unwrap();
        graph = build.take().apply(&graph).unwrap();
        assert_eq!(build.tensor_bytes(), 0);
    }
    graph
}

/// Stores weights and checks that each is found with what its codes are worth.
fn check(weights: &[Weight], decode: Decode) {
    let graph = stored(weights, decode);
    let found = stored_weights(&graph).integers;
    assert_eq!(found.len(), weights.len());
    for weight in weights {
        let place = format!("{decode:?} {weight:?}");
        let found = found.iter().find(|found| found.value == weight.name).expect(&place);
        let (codes, scales) = (codes(&graph, found), found.scales(&graph).unwrap());
        let zeros = found.zero_points(&graph).unwrap();
        let mut values: Vec<f32> = codes
            .iter()
            .zip(&zeros)
            .zip(&scales)
            .map(|((&code, zero), scale)| (f32::from(code) - zero) * scale)
            .collect();
        if found.shape != weight.shape {
            // A stack of filled up blocks, rows first.
            let (rows, width) = (found.shape[0], found.shape[1] * found.shape[2]);
            let columns = weight.codes.len() / rows;
            values = values.chunks(width).flat_map(|row| row[..columns].to_vec()).collect();
            let matrix = Weight {
                shape: vec![rows, columns],
                axis: 0,
                ..weight.clone()
            };
            assert_eq!(values, matrix.values(), "{place}");
        } else {
            assert_eq!(values, weight.values(), "{place}");
        }
        let packed = stored_bytes(found.len(), weight.bits).1;
        assert_eq!(matches!(found.codes, Codes::Packed { .. }), packed, "{place}");
    }
}

#[test]
fn every_form_is_found_again() {
    for bits in 2..=8 {
        for symmetric in [true, false] {
            for sharing in [Sharing::Tensor, Sharing::Channel, Sharing::Group(16)] {
                for decode in [Decode::Constant, Decode::Kernel] {
                    let shapes: &[(&[usize], usize)] = match (sharing, decode) {
                        (Sharing::Group(_), Decode::Kernel) => &[(&[40, 33], 1), (&[24, 50], 0)],
                        _ => &[(&[16, 9, 3, 3], 0), (&[31, 40], 1), (&[6, 20, 3], 1), (&[2, 8, 24], 2)],
                    };
                    let weights: Vec<Weight> = shapes
                        .iter()
                        .enumerate()
                        .map(|(at, (shape, axis))| weight(&format!("w{at}"), shape, *axis, bits, symmetric, sharing))
                        .collect();
                    check(&weights, decode);
                    check(&weights[..1], decode);
                }
            }
        }
    }
}

#[test]
fn weights_that_are_stored_one_by_one_make_the_same_model() {
    for decode in [Decode::Constant, Decode::Kernel] {
        let weights = [("w0", 4), ("w1", 8), ("w2", 4), ("w3", 4)].map(|(name, bits)| {
            // Groups that do not divide a row take nodes and shapes of their own, which weights share.
            let sharing = Sharing::Group(if name == "w2" { 7 } else { 8 });
            weight(name, &[16, 32], 0, bits, true, sharing)
        });
        let written = |size: usize| Model::new(stored_by(&weights, decode, size), 10, 21).encode_to_vec();
        assert_eq!(written(1), written(4));
    }
}

#[test]
fn halves_are_found() {
    let mut graph = Graph::new("weights");
    graph
        .initializers
        .insert("w".into(), Tensor::from_vec(vec![2], vec![1.0_f32; 2]).into());
    graph.nodes.push(Arc::new(Node::new("Relu", "", &["w"], &["y"])));
    graph.outputs.push(ValueInfo::untyped("y"));
    let mut build = Build::on(&graph);
    build.place(Some("y"));
    store_half(&mut build, "w", Tensor::from_vec(vec![2], vec![half::f16::ONE; 2]));
    let graph = build.finish().apply(&graph).unwrap();
    let found = stored_weights(&graph).halves;
    assert_eq!((found[0].value.as_str(), found[0].tensor.as_str()), ("w", "w_stored"));
}

#[test]
fn what_is_computed_is_no_stored_weight() {
    let mut graph = stored(&[weight("w0", &[4, 4], 0, 8, true, Sharing::Tensor)], Decode::Constant);
    graph.initializers.insert("half".into(), Tensor::scalar(0.5_f32).into());
    for node in [
        Node::new("Mul", "", &["w0_read", "half"], &["a"]),
        Node::new("Cast", "", &["a"], &["b"]).with_int("to", 1),
        Node::new("Mul", "", &["b", "half"], &["c"]),
        Node::new("DequantizeLinear", "", &["c", "half"], &["d"]),
    ] {
        graph.nodes.push(Arc::new(node));
    }
    assert_eq!(stored_weights(&graph).integers.len(), 1);
}

proptest! {
    /// A damaged tensor makes a weight be passed over or have no scales, never a panic.
    #[test]
    fn damage_never_panics(
        bits in 2_u8..=8, kernel: bool, which in 0_usize..40, small in -3_i64..300, great in prop::sample::select(vec![None, Some(i64::MAX), Some(i64::MIN)]),
        shape in prop::collection::vec(0_usize..4, 0..4),
    ) {
        let weights = [0, 1].map(|at| weight(&format!("w{at}"), &[16, 20], at, bits, false, Sharing::Channel));
        let mut graph = stored(&weights, if kernel { Decode::Kernel } else { Decode::Constant });
        let (name, stored) = graph.initializers.get_index(which % graph.initializers.len()).unwrap();
        let (name, dtype, before) = (name.clone(), stored.tensor.dtype(), stored.tensor.shape().to_vec());
        let value = great.unwrap_or(small);
        for shape in [before, shape] {
            let count: usize = shape.iter().product();
            let bytes: Vec<u8> = match dtype.bits() {
                Some(64) => (0..count).flat_map(|_| value.to_le_bytes()).collect(),
                Some(32) => (0..count).flat_map(|_| (value as f32).to_le_bytes()).collect(),
                _ => vec![value as u8; dtype.byte_len(count).unwrap()],
            };
            graph.initializers.insert(name.clone(), Tensor::new(dtype, shape, bytes.into()).unwrap().into());
            for found in stored_weights(&graph).integers {
                let _ = (found.scales(&graph), found.zero_points(&graph), found.typed_codes(&graph));
            }
        }
    }

    #[test]
    fn any_group_is_found(
        rows in 1_usize..6, columns in 1_usize..40, group in 1_usize..50, bits in 2_u8..=8, symmetric: bool, turned: bool,
    ) {
        let shape = if turned { [columns, rows] } else { [rows, columns] };
        for decode in [Decode::Constant, Decode::Kernel] {
            check(&[weight("w0", &shape, usize::from(turned), bits, symmetric, Sharing::Group(group))], decode);
        }
    }
}
