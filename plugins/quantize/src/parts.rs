//! Layers whose output channels are stored in several numbers of bits: the weight is cut into parts of neighboring
//! channels, which a Concat joins.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use kmr_methods::{Granularity, Quantized};
use kmr_sdk::{
    Result,
    model::{Build, Edit, Graph, Patch, Tensor},
    wire::Per,
};

use crate::{
    bits::Bits,
    layers::{Layer, Use},
    values::finite,
    weights::Encoded,
};

/// Channels of one layer that are stored alike.
pub struct Part {
    /// The layer, by its position among all.
    pub position: usize,
    /// Its output channels.
    pub rows: Range<usize>,
    /// The part as a layer of its own; the layer itself if it is whole.
    pub layer: Layer,
    /// How it is stored.
    pub bits: Bits,
}

/// What part of a layer a target stands for.
pub fn targets(layer: &Layer, per: Per, channels: usize) -> Vec<Layer> {
    // What is stored in 16 bits is no initializer that a Concat could take the place of.
    if per != Per::ChannelGroup || layer.rows() <= channels || layer.stored_bits != 32 {
        return vec![layer.clone()];
    }
    let starts = (0..layer.rows()).step_by(channels);
    starts
        .map(|start| part(layer, &(start..layer.rows().min(start + channels))))
        .collect()
}

/// The parts of `layers` under what `assigned` says of each target, neighbors that are alike joined.
pub fn parts(layers: &[Layer], targets: &[Vec<Layer>], assigned: impl Fn(&Layer, &Layer) -> Option<Bits>) -> Vec<Part> {
    let mut parts = Vec::new();
    for (position, (layer, targets)) in layers.iter().zip(targets).enumerate() {
        let mut runs: Vec<(Range<usize>, Bits)> = Vec::new();
        let mut start = 0;
        for target in targets {
            let end = start + target.rows();
            let bits = assigned(layer, target).unwrap_or(Bits::Off);
            match runs.last_mut() {
                Some((rows, last)) if *last == bits => rows.end = end,
                _ => runs.push((start..end, bits)),
            }
            start = end;
        }
        if matches!(runs.as_slice(), [(_, Bits::Off)]) {
            continue;
        }
        let whole = runs.len() == 1;
        parts.extend(runs.into_iter().map(|(rows, bits)| Part {
            position,
            layer: match whole {
                true => layer.clone(),
                // The Concat reads it.
                false => Layer {
                    nodes: vec![layer.tensor.clone()],
                    reader: layer.tensor.clone(),
                    ..part(layer, &rows)
                },
            },
            rows,
            bits,
        }));
    }
    parts
}

/// Cuts every weight that has several parts: each becomes an initializer, and a Concat makes the weight.
///
/// # Errors
/// If a weight is not finite.
pub fn cut(graph: &Graph, layers: &[Layer], parts: &[Part]) -> Result<Patch> {
    let mut build = Build::on(graph);
    for of_layer in parts.chunk_by(|a, b| a.position == b.position) {
        let [first, _, ..] = of_layer else { continue };
        let layer = &layers[first.position];
        let values = finite(graph, &layer.tensor)?;
        let matrix = layer.in_matrix_order(&values);
        build.edit(Edit::RemoveTensor {
            name: layer.tensor.clone(),
        });
        for Part { rows, layer: part, .. } in of_layer {
            let columns = layer.columns();
            let part_of_matrix = &matrix[rows.start * columns..rows.end * columns];
            let values = part.in_tensor_order(part_of_matrix).into_owned();
            build.store(&part.tensor, Tensor::from_vec(part.shape.clone(), values));
        }
        let names: Vec<&str> = of_layer.iter().map(|part| part.layer.tensor.as_str()).collect();
        build.place(Some(&layer.reader));
        let axis = i64::try_from(layer.axis).unwrap_or(i64::MAX);
        build.node_into("Concat", &names, &[&layer.tensor], |node| node.with_int("axis", axis));
    }
    Ok(build.finish())
}

/// These rows of a layer's integers.
pub fn rows_of<'q>(quantized: &'q Quantized, rows: &Range<usize>) -> Cow<'q, Quantized> {
    if rows.len() == quantized.rows {
        return Cow::Borrowed(quantized);
    }
    let columns = quantized.columns;
    let shared = match quantized.granularity {
        Granularity::Tensor => 0..quantized.scales.len(),
        Granularity::Channel | Granularity::Group(_) => {
            let each = quantized.scales.len() / quantized.rows.max(1);
            rows.start * each..rows.end * each
        }
    };
    Cow::Owned(Quantized {
        rows: rows.len(),
        codes: quantized.codes[rows.start * columns..rows.end * columns].to_vec(),
        scales: quantized.scales[shared.clone()].to_vec(),
        zero_points: quantized.zero_points[shared].to_vec(),
        ..*quantized
    })
}

/// `parts` of integers in runs that are encoded and stored together: all at once up to `elements`. Beyond that, what may
/// be packed into one chain of nodes comes first, and the others in their order, so many elements or one part at a time.
pub fn batches(parts: Vec<&Part>, elements: usize) -> Vec<Vec<&Part>> {
    let size = |part: &Part| part.layer.len();
    if parts.iter().map(|part| size(part)).sum::<usize>() <= elements {
        return vec![parts];
    }
    let has_type = |part: &&Part| matches!(part.bits, Bits::Integer(4 | 8));
    let (plain, chained): (Vec<&Part>, Vec<&Part>) = parts.into_iter().partition(has_type);
    let mut batches = vec![chained];
    let mut filled = elements;
    for part in plain {
        filled += size(part);
        match batches.last_mut() {
            Some(batch) if filled <= elements => batch.push(part),
            _ => {
                filled = size(part);
                batches.push(vec![part]);
            }
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

/// What each layer's bias is corrected by, put together from its parts; layers without are left out.
pub fn corrections<'e>(
    layers: &[Layer],
    encoded: impl Iterator<Item = (usize, &'e Range<usize>, &'e Encoded)>,
) -> BTreeMap<usize, Vec<f32>> {
    let mut corrections = BTreeMap::new();
    for (position, rows, encoded) in encoded {
        if let Some(correction) = &encoded.correction {
            let whole: &mut Vec<f32> = corrections
                .entry(position)
                .or_insert_with(|| vec![0.0; layers[position].rows()]);
            whole[rows.clone()].copy_from_slice(&correction[rows.clone()]);
        }
    }
    corrections
}

/// These output channels of `layer` as a layer of their own.
fn part(layer: &Layer, rows: &Range<usize>) -> Layer {
    let mut shape = layer.shape.clone();
    shape[layer.axis] = rows.len();
    let named = |name: &str| format!("{name}[{}:{}]", rows.start, rows.end);
    Layer {
        tensor: named(&layer.tensor),
        label: named(&layer.label),
        nodes: layer.nodes.clone(),
        reader: layer.reader.clone(),
        shape,
        axis: layer.axis,
        stored_bits: layer.stored_bits,
        reads: match layer.reads {
            Use::Embedding => Use::Embedding,
            _ => Use::Unobserved,
        },
    }
}

#[cfg(test)]
mod tests {
    use kmr_sdk::model::Node;
    use proptest::prelude::*;

    use super::*;

    fn layer(rows: usize) -> Layer {
        Layer {
            tensor: "w".into(),
            label: "w".into(),
            nodes: vec!["y".into()],
            reader: "y".into(),
            shape: vec![3, rows],
            axis: 1,
            reads: Use::Unobserved,
            stored_bits: 32,
        }
    }

    #[test]
    fn batches_keep_every_part_and_hold_so_many_weights_or_one_part() {
        let part = |rows: usize, bits: u8| Part {
            position: 0,
            rows: 0..rows,
            layer: layer(rows),
            bits: Bits::Integer(bits),
        };
        let parts = [
            part(1, 4),
            part(2, 3),
            part(2, 8),
            part(9, 4),
            part(1, 4),
            part(1, 2),
            part(2, 4),
        ];
        let rows = |elements: usize| -> Vec<Vec<usize>> {
            let batches = batches(parts.iter().collect(), elements);
            let rows = |batch: Vec<&Part>| batch.iter().map(|part| part.rows.end).collect();
            batches.into_iter().map(rows).collect()
        };
        // Three elements to a row.
        assert_eq!(rows(54), [vec![1, 2, 2, 9, 1, 1, 2]]);
        assert_eq!(rows(12), [vec![2, 1], vec![1, 2], vec![9], vec![1, 2]]);
        assert_eq!(rows(0), [vec![2, 1], vec![1], vec![2], vec![9], vec![1], vec![2]]);
        assert_eq!(batches(Vec::new(), 0).concat().len(), 0);
    }

    proptest! {
        /// Parts cover the channels once, in order; neighbors differ; and what they store is the layer's.
        #[test]
        fn parts_cover_a_layer(rows in 1_usize..40, channels in 1_usize..12, bits in prop::collection::vec(0_u8..3, 40)) {
            let layers = [layer(rows)];
            let targets = [targets(&layers[0], Per::ChannelGroup, channels)];
            prop_assert_eq!(targets[0].len(), rows.div_ceil(channels));
            let names: Vec<&str> = targets[0].iter().map(|target| target.tensor.as_str()).collect();
            let of = |_: &Layer, target: &Layer| {
                let at = names.iter().position(|name| *name == target.tensor)?;
                [None, Some(Bits::Integer(4)), Some(Bits::Float16)][usize::from(bits[at])]
            };
            let parts = parts(&layers, &targets, of);
            let mut end = 0;
            for (at, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.rows.start, end);
                prop_assert_eq!(part.layer.rows(), part.rows.len());
                prop_assert!(at == 0 || parts[at - 1].bits != part.bits);
                end = part.rows.end;
            }
            prop_assert!(end == rows || (parts.is_empty() && bits[..names.len()].iter().all(|&bits| bits == 0)));

            let mut graph = Graph::new("g");
            let values: Vec<f32> = (0..3 * rows).map(|value| value as f32).collect();
            graph.initializers.insert("w".into(), Tensor::from_vec(vec![3, rows], values.clone()).into());
            graph.nodes.push(Node::new("Identity", "y", &["w"], &["y"]).into());
            let cut = cut(&graph, &layers, &parts).unwrap().apply(&graph).unwrap();
            let mut joined = vec![0.0; 3 * rows];
            for part in parts.iter().filter(|_| parts.len() > 1) {
                let tensor = cut.tensor(&part.layer.tensor).unwrap().to_f32().unwrap().into_owned();
                for (at, value) in tensor.iter().enumerate() {
                    joined[at / part.rows.len() * rows + part.rows.start + at % part.rows.len()] = *value;
                }
            }
            prop_assert!(parts.len() < 2 || joined == values);
        }
    }
}
