//! What can be cut of language models, as exporters and as this project's own importer write them.

use std::collections::BTreeMap;

use kmr_model::{
    Model,
    channels::{ChannelAnalysis, ChannelGroup, analyze},
    shapes,
};

use super::zoo;

fn analysis(network: &zoo::Network) -> ChannelAnalysis {
    let feeds = network.feeds.iter().cloned().collect();
    let shapes = shapes::infer(&network.model, &feeds).unwrap();
    analyze(&network.model, &shapes).unwrap()
}

fn language(name: &str) -> zoo::Network {
    zoo::networks()
        .into_iter()
        .find(|network| network.name == name)
        .unwrap()
}

/// The sizes of the stored weights that a cut to one unit of `group` changes, before and after.
fn sizes(network: &zoo::Network, found: &ChannelAnalysis, group: &ChannelGroup) -> Vec<(Vec<usize>, Vec<usize>)> {
    let keep = BTreeMap::from([(group.id.clone(), vec![0])]);
    let patch = found.cut(&network.model, &keep).unwrap();
    let cut: Model = network.model.with_graph(patch.apply(&network.model.graph).unwrap());
    // What is left fits together, and gives outputs as before.
    let feeds = network.feeds.iter().cloned().collect();
    let (before, after) = (
        shapes::infer(&network.model, &feeds).unwrap(),
        shapes::infer(&cut, &feeds).unwrap(),
    );
    for output in &network.model.graph.outputs {
        assert_eq!(before.shape(output.name()), after.shape(output.name()));
    }
    let stored = network
        .model
        .graph
        .initializers
        .iter()
        .filter_map(|(name, initializer)| {
            let before = initializer.tensor.shape();
            let after = cut.graph.tensor(name)?.shape();
            (initializer.tensor.dtype().is_float() && before != after).then(|| (before.to_vec(), after.to_vec()))
        });
    stored.collect()
}

/// Units of each group, in the order of the graph: the heads of a layer's attention, then the neurons of its feed-forward
/// part.
#[test]
fn heads_and_neurons_are_groups() {
    for (name, heads) in [
        ("bert", 3),
        // Two keys with two queries each: a key goes with its queries.
        ("grouped_decoder", 2),
        ("rows_decoder", 2),
        // One key for three queries, which go one by one.
        ("one_key_decoder", 3),
        ("rows_one_key_decoder", 3),
    ] {
        let network = language(name);
        let found = analysis(&network);
        let units: Vec<usize> = found.groups.iter().map(|group| group.channels).collect();
        assert_eq!(units, [heads, 10, heads, 10], "{name}: {:?}", found.refused);
        assert_eq!(network.groups, 4);
    }
}

#[test]
fn a_key_goes_with_all_of_its_queries() {
    for name in ["grouped_decoder", "rows_decoder"] {
        let network = language(name);
        let found = analysis(&network);
        let changed = sizes(&network, &found, &found.groups[0]);
        // Queries, keys, values, and what reads the heads: of two keys of four numbers, four queries.
        let pair = |before: [usize; 2], after: [usize; 2]| (before.to_vec(), after.to_vec());
        let expected = [
            pair([16, 12], [8, 12]),
            pair([8, 12], [4, 12]),
            pair([8, 12], [4, 12]),
            pair([12, 16], [12, 8]),
        ];
        assert_eq!(changed, expected, "{name}");
    }
}

#[test]
fn queries_of_one_key_go_alone() {
    for name in ["one_key_decoder", "rows_one_key_decoder"] {
        let network = language(name);
        let found = analysis(&network);
        let changed = sizes(&network, &found, &found.groups[0]);
        let expected = [(vec![12, 12], vec![4, 12]), (vec![12, 12], vec![12, 4])];
        assert_eq!(changed, expected, "{name}");
    }
}

#[test]
fn both_matrices_of_a_gate_lose_the_same_neurons() {
    let network = language("rows_decoder");
    let found = analysis(&network);
    let changed = sizes(&network, &found, &found.groups[1]);
    let expected = [
        (vec![10, 12], vec![1, 12]),
        (vec![10, 12], vec![1, 12]),
        (vec![12, 10], vec![12, 1]),
    ];
    assert_eq!(changed, expected);
}

#[test]
fn what_a_normalization_takes_together_stays_and_says_so() {
    for name in ["bert", "rows_decoder"] {
        let found = analysis(&language(name));
        let width = found.refused.iter().find(|refusal| refusal.channels == 12);
        let reason = &width.unwrap().reason;
        assert!(
            ["it normalizes over this axis", "it reduces this axis"].contains(&reason.as_str()),
            "{reason}"
        );
    }
}
