//! Laws of cutting, on random networks.

use std::collections::{BTreeMap, HashSet};

use kmr_model::{
    Edit, Model, Patch, Tensor,
    channels::{ChannelAnalysis, analyze},
    cost::Costs,
    shapes,
};
use proptest::prelude::*;

use super::{
    interpreter::run,
    networks::{BLOCKS, Network, SIDE},
};

fn analysis(model: &Model) -> ChannelAnalysis {
    let shapes = shapes::infer(model, &BTreeMap::new()).unwrap();
    analyze(model, &shapes).unwrap()
}

/// `model` with the weights that read the channels not in `keep` set to zero.
fn silenced(model: &Model, analysis: &ChannelAnalysis, keep: &BTreeMap<String, Vec<usize>>) -> Model {
    let mut summed: HashSet<(&str, usize)> = HashSet::new();
    for node in &model.graph.nodes {
        let depthwise = node.is("Conv") && model.graph.tensor(&node.inputs()[1]).unwrap().shape()[1] == 1;
        match node.op_type() {
            // A depthwise convolution reads a channel to make one: its own consumers ignore that.
            "Conv" if depthwise && node.int("group") != Some(1) => {}
            "Conv" => {
                summed.insert((&node.inputs()[1], 1));
            }
            "MatMul" | "Gemm" => {
                let inner = usize::from(node.int("transB") == Some(1));
                summed.insert((&node.inputs()[1], inner));
            }
            _ => {}
        }
    }
    let mut patch = Patch::new();
    let mut zeroed: BTreeMap<&str, Vec<f32>> = BTreeMap::new();
    for (id, keep) in keep {
        let group = analysis.group(id).unwrap();
        for slice in &group.slices {
            if !summed.contains(&(slice.tensor.as_str(), slice.axis)) {
                continue;
            }
            let tensor = model.graph.tensor(&slice.tensor).unwrap();
            let inner: usize = tensor.shape()[slice.axis + 1..].iter().product();
            let values = zeroed
                .entry(&slice.tensor)
                .or_insert_with(|| tensor.to_f32().unwrap().into_owned());
            let removed: HashSet<usize> = (0..group.channels)
                .filter(|unit| !keep.contains(unit))
                .flat_map(|unit| slice.indices[unit].iter().copied())
                .collect();
            for (position, value) in values.iter_mut().enumerate() {
                if removed.contains(&(position / inner % slice.size)) {
                    *value = 0.0;
                }
            }
        }
    }
    for (name, values) in zeroed {
        let shape = model.graph.tensor(name).unwrap().shape().to_vec();
        patch.push(Edit::StoreTensor {
            name: name.to_owned(),
            tensor: Tensor::from_vec(shape, values),
        });
    }
    model.with_graph(patch.apply(&model.graph).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_cut_computes_what_silenced_channels_compute(
        blocks in prop::collection::vec((0..BLOCKS, 1_usize..5), 1..7),
        head in 0_u8..3,
        choices in prop::collection::vec(any::<u64>(), 24),
    ) {
        let mut network = Network::new();
        network.block(0, 3);
        for &(kind, size) in &blocks {
            network.block(kind, size);
        }
        let model = network.finish(head);
        let found = analysis(&model);
        prop_assert!(!found.groups.is_empty());
        // Nothing but the classes themselves.
        for refusal in &found.refused {
            prop_assert_eq!(&refusal.reason, "is an output of the model", "{:?}", refusal);
        }
        prop_assert_eq!(found.refused.len(), 1);

        let keep: BTreeMap<String, Vec<usize>> = found
            .groups
            .iter()
            .zip(choices.iter().cycle())
            .filter(|(_, choice)| *choice % 4 != 0)
            .map(|(group, choice)| {
                let mut keep: Vec<usize> =
                    (0..group.channels).filter(|unit| choice >> (unit % 60 + 2) & 1 == 1).collect();
                if keep.is_empty() {
                    keep.push(*choice as usize % group.channels);
                }
                (group.id.clone(), keep)
            })
            .collect();
        let patch = found.cut(&model, &keep).unwrap();
        let cut = model.with_graph(patch.apply(&model.graph).unwrap());

        // Every axis has lost exactly the channels of the groups on it.
        let mut lost: BTreeMap<(&str, usize), usize> = BTreeMap::new();
        for (id, keep) in &keep {
            let group = found.group(id).unwrap();
            for slice in group.slices.iter().chain(&group.values) {
                let removed = (0..group.channels).filter(|unit| !keep.contains(unit));
                *lost.entry((&slice.tensor, slice.axis)).or_default() +=
                    removed.map(|unit| slice.indices[unit].len()).sum::<usize>();
            }
        }
        let (before, after) = (
            shapes::infer(&model, &BTreeMap::new()).unwrap(),
            shapes::infer(&cut, &BTreeMap::new()).unwrap(),
        );
        for (value, known) in before.iter().filter(|(value, _)| after.get(value).is_some()) {
            // Constants that spell shapes keep their own.
            let expected: Vec<usize> = known.shape.iter().enumerate()
                .map(|(axis, size)| size - lost.get(&(value, axis)).copied().unwrap_or(0))
                .collect();
            prop_assert_eq!(after.shape(value).unwrap(), expected, "{}", value);
        }

        // To the last bit: the terms left out are zeros.
        let input = Network::new().noise(&[2, 3, SIDE, SIDE]);
        prop_assert_eq!(run(&cut, &input), run(&silenced(&model, &found, &keep), &input));

        // Groups are found again under their names, with the channels left. A convolution in groups is
        // left out: with one channel per group it has become a depthwise one.
        let in_groups = blocks.iter().any(|&(kind, _)| kind == 7);
        let again = analysis(&cut);
        for group in found.groups.iter().filter(|_| !in_groups) {
            let expected = keep.get(&group.id).map_or(group.channels, Vec::len);
            let channels = again.group(&group.id).map(|group| group.channels);
            prop_assert_eq!(channels, Some(expected), "{}", group.id);
        }
        if !keep.is_empty() {
            let params = |model| Costs::of(model, &BTreeMap::new()).unwrap().params();
            let whole = keep.iter().all(|(id, keep)| keep.len() == found.group(id).unwrap().channels);
            prop_assert!(whole || params(&cut) < params(&model));
        }
    }
}

#[test]
fn every_channel_of_a_group_cannot_go() {
    let mut network = Network::new();
    network.block(0, 3);
    let model = network.finish(0);
    let found = analysis(&model);
    let id = found.groups[0].id.clone();
    let cut = |keep: &[usize]| found.cut(&model, &[(id.clone(), keep.to_vec())].into());
    assert!(cut(&[0, 3]).is_ok());
    let error = cut(&[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("channel group `{id}`: must keep at least one channel")
    );
    assert!(cut(&[0, 4]).is_err() && cut(&[1, 0]).is_err() && cut(&[1, 1]).is_err());
    assert!(found.cut(&model, &[("none".into(), vec![0])].into()).is_err());
}

/// The number of groups that people count in a residual network of three stages of three blocks.
#[test]
fn a_residual_network_has_a_group_per_stage_and_one_per_block() {
    let mut network = Network::new();
    network.block(0, 3);
    for stage in 0..3 {
        if stage > 0 {
            // A projection beside the first convolution of the stage.
            let (x, c) = (network.value.clone(), network.channels);
            let shortcut = network.conv(&x, [c + 1, c, 1], 1);
            let y = network.conv(&x, [5, c, 3], 1);
            let y = network.batch_norm(&y, 5);
            let y = network.conv(&y, [c + 1, 5, 3], 1);
            network.value = network.plain("Add", &[&y, &shortcut]);
            network.channels = c + 1;
        } else {
            network.block(1, 4);
        }
        network.block(1, 4);
        network.block(1, 4);
    }
    let found = analysis(&network.finish(0));
    let mut producers: Vec<usize> = found.groups.iter().map(|g| g.producers.len()).collect();
    producers.sort_unstable();
    assert_eq!(producers, [1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 4, 4]);
}
