//! Layers in groups that do not depend on one another.

use std::collections::HashMap;

use kmr_sdk::model::Graph;

/// The positions of `layers` in groups: what a layer of one group multiplies depends on layers of earlier groups alone.
/// Groups are as early as they can be, and in the order of the graph; in a transformer they are queries, keys and
/// values, the product behind the attention, and so on, block after block.
///
/// A layer is given by the ids of the nodes that read it. One that is read by nodes which depend on one another belongs
/// to the first of them.
pub fn stages<'l, N>(graph: &Graph, layers: impl IntoIterator<Item = N>) -> Vec<Vec<usize>>
where
    N: IntoIterator<Item = &'l str>,
{
    let mut of_node: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut depth_of_layer: Vec<Option<usize>> = Vec::new();
    for (position, nodes) in layers.into_iter().enumerate() {
        depth_of_layer.push(None);
        for node in nodes {
            of_node.entry(node).or_default().push(position);
        }
    }
    // For each value, how many groups lie before it.
    let mut depths: HashMap<&str, usize> = HashMap::new();
    for node in &graph.nodes {
        let before = node
            .reads()
            .filter_map(|value| depths.get(value))
            .copied()
            .max()
            .unwrap_or(0);
        let mut after = before;
        for &layer in of_node.get(node.id()).into_iter().flatten() {
            let depth = *depth_of_layer[layer].get_or_insert(before);
            after = after.max(depth + 1);
        }
        for output in node.outputs() {
            depths.insert(output, after);
        }
    }
    let mut stages: Vec<Vec<usize>> = Vec::new();
    for (layer, depth) in depth_of_layer.iter().enumerate() {
        let depth = depth.unwrap_or(0);
        if stages.len() <= depth {
            stages.resize_with(depth + 1, Vec::new);
        }
        stages[depth].push(layer);
    }
    stages.retain(|stage| !stage.is_empty());
    stages
}
