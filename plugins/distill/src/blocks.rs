//! Residual blocks that can be left out: what an Add puts on top of a value that goes past.

use std::collections::{BTreeSet, HashSet};

use kmr_sdk::model::{Edit, Graph, GraphIndex, Node, Patch, shapes::Shapes};

/// A block: an Add of a value and of what is computed from it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The id of the Add.
    pub add: String,
    /// The value that goes past.
    pub past: String,
    /// The ids of the nodes between it and the Add, in the order of the graph.
    pub body: Vec<String>,
}

/// The blocks of `graph` that can be left out one by one, in its order: nobody else reads what is inside, and the sum
/// has the shape of the value that goes past. Of blocks within each other, the inner one.
pub fn blocks(graph: &Graph, shapes: &Shapes) -> Vec<Block> {
    let index = graph.index();
    let mut found: Vec<Block> = Vec::new();
    for node in graph
        .nodes
        .iter()
        .filter(|node| node.is("Add") && node.inputs().len() == 2)
    {
        let [first, second] = [0, 1].map(|slot| node.input(slot).unwrap_or_default());
        let block = [(first, second), (second, first)]
            .into_iter()
            .find_map(|(past, added)| block(graph, &index, shapes, node, past, added));
        let apart = |block: &Block| {
            let holds = |id: &String| found.iter().any(|known| known.add == *id || known.body.contains(id));
            !block.body.iter().any(holds)
        };
        found.extend(block.filter(apart));
    }
    found
}

fn block(graph: &Graph, index: &GraphIndex<'_>, shapes: &Shapes, add: &Node, past: &str, added: &str) -> Option<Block> {
    let known = |value: &str| shapes.shape(value).zip(shapes.dtype(value));
    if known(past).is_none() || known(past) != known(add.id()) || graph.outputs.iter().any(|o| o.name() == add.id()) {
        return None;
    }
    // What is made of the value that goes past, and of it what the Add is made of.
    let last = index.producer(added)?;
    let begin = index.producer(past).map_or(0, |at| at + 1);
    let mut after: HashSet<&str> = HashSet::from([past]);
    for node in graph.nodes.get(begin..=last)? {
        if node.inputs().iter().any(|input| after.contains(input.as_str())) {
            after.extend(node.outputs().iter().map(String::as_str));
        }
    }
    let mut body: BTreeSet<usize> = BTreeSet::new();
    let mut waiting = vec![added];
    while let Some(value) = waiting.pop() {
        let Some(at) = index.producer(value).filter(|_| value != past && after.contains(value)) else {
            continue;
        };
        if body.insert(at) {
            waiting.extend(graph.nodes[at].inputs().iter().map(String::as_str));
        }
    }
    let closed = |&at: &usize| {
        let node = &graph.nodes[at];
        let inside = |&(reader, _): &(usize, usize)| body.contains(&reader) || graph.nodes[reader].id() == add.id();
        let outputs = node.outputs().iter().filter(|output| !output.is_empty());
        !node.has_subgraph()
            && outputs
                .clone()
                .all(|output| index.is_inner(output) && index.consumers(output).iter().all(inside))
    };
    (!body.is_empty() && after.contains(added) && body.iter().all(closed)).then(|| Block {
        add: add.id().to_owned(),
        past: past.to_owned(),
        body: body.iter().map(|&at| graph.nodes[at].id().to_owned()).collect(),
    })
}

/// Which of `count` blocks go when the share `depth` is kept: evenly spread, the later ones first.
pub fn left_out(count: usize, depth: f64) -> Vec<usize> {
    let gone = count - ((count as f64 * depth).round() as usize).min(count);
    let share = |at: usize| (at * gone).checked_div(count).unwrap_or(0);
    (0..count).filter(|&at| share(at + 1) > share(at)).collect()
}

/// The edits that leave `blocks` out, with every node and tensor that nobody reads any more.
pub fn leave_out(graph: &Graph, blocks: &[&Block]) -> Patch {
    let index = graph.index();
    let mut patch = Patch::new();
    let mut gone: HashSet<&str> = HashSet::new();
    // The value that goes past one block may be the sum of another that goes, too.
    let past = |value: &str| -> String {
        let mut value = value;
        while let Some(block) = blocks.iter().find(|block| block.add == value) {
            value = &block.past;
        }
        value.to_owned()
    };
    for block in blocks {
        gone.insert(&block.add);
        gone.extend(block.body.iter().map(String::as_str));
    }
    let kept: HashSet<String> = blocks.iter().map(|block| past(&block.past)).collect();
    for block in blocks {
        for &(reader, input) in index.consumers(&block.add) {
            let node = graph.nodes[reader].id();
            if !gone.contains(node) {
                patch.push(Edit::Rewire {
                    node: node.to_owned(),
                    input,
                    value: past(&block.past),
                });
            }
        }
    }
    // Constants that only these nodes have read are made by nodes, too.
    for at in (0..graph.nodes.len()).rev() {
        let node = &graph.nodes[at];
        let unread = |output: &String| {
            output.is_empty()
                || (index.is_inner(output)
                    && !kept.contains(output)
                    && !index.consumers(output).is_empty()
                    && index
                        .consumers(output)
                        .iter()
                        .all(|&(reader, _)| gone.contains(graph.nodes[reader].id())))
        };
        if gone.contains(node.id()) || (!node.has_subgraph() && node.outputs().iter().all(unread)) {
            gone.insert(node.id());
            patch.push(Edit::RemoveNode {
                node: node.id().to_owned(),
            });
        }
    }
    for name in graph.initializers.keys() {
        let readers = index.consumers(name);
        let read = readers.is_empty()
            || readers
                .iter()
                .any(|&(reader, _)| !gone.contains(graph.nodes[reader].id()));
        if !read && index.is_inner(name) && !kept.contains(name) {
            patch.push(Edit::RemoveTensor { name: name.clone() });
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kmr_sdk::model::{Model, Tensor, shapes};

    use super::*;
    use crate::testing::model;

    /// A chain of blocks of one layer each, then a layer that makes other shapes.
    fn chain(count: usize) -> Model {
        let names: Vec<String> = (0..count).map(|at| format!("w{at}")).collect();
        let square = || Tensor::from_vec(vec![4, 4], vec![0.1_f32; 16]);
        let mut tensors: Vec<(&str, Tensor)> = names.iter().map(|name| (name.as_str(), square())).collect();
        tensors.push(("head", Tensor::from_vec(vec![4, 3], vec![0.1; 12])));
        let mut nodes = vec![Node::new("Relu", "", &["x"], &["y0"])];
        for (at, weight) in names.iter().enumerate() {
            let [from, product, bent, to] = [
                format!("y{at}"),
                format!("p{at}"),
                format!("r{at}"),
                format!("y{}", at + 1),
            ];
            nodes.push(Node::new("MatMul", "", &[&from, weight], &[&product]));
            nodes.push(Node::new("Relu", "", &[&product], &[&bent]));
            nodes.push(Node::new("Add", "", &[&bent, &from], &[&to]));
        }
        nodes.push(Node::new("MatMul", "", &[&format!("y{count}"), "head"], &["logits"]));
        model(4, tensors, nodes)
    }

    fn found(model: &Model) -> Vec<Block> {
        blocks(&model.graph, &shapes::infer(model, &BTreeMap::new()).unwrap())
    }

    #[test]
    fn a_chain_of_blocks() {
        let model = chain(3);
        let found = found(&model);
        let told: Vec<_> = found
            .iter()
            .map(|block| (block.add.as_str(), block.past.as_str(), block.body.len()))
            .collect();
        assert_eq!(told, [("y1", "y0", 2), ("y2", "y1", 2), ("y3", "y2", 2)]);
        let graph = leave_out(&model.graph, &[&found[1], &found[2]])
            .apply(&model.graph)
            .unwrap();
        assert_eq!(graph.node("logits").unwrap().inputs()[0], "y1");
        let tensors: Vec<&str> = graph.initializers.keys().map(String::as_str).collect();
        assert_eq!((graph.nodes.len(), tensors), (5, vec!["w0", "head"]));
    }

    #[test]
    fn what_others_read_stays() {
        let mut model = chain(2);
        let reads = Node::new("Relu", "", &["p0"], &["other"]);
        model.graph.nodes.push(std::sync::Arc::new(reads));
        assert_eq!(found(&model).len(), 1);
        // Both come from elsewhere: nothing goes past.
        let mut model = chain(0);
        let two = [
            Node::new("Relu", "", &["x"], &["a"]),
            Node::new("Relu", "", &["x"], &["b"]),
            Node::new("Add", "", &["a", "b"], &["c"]),
        ];
        model.graph.nodes.extend(two.map(std::sync::Arc::new));
        assert!(found(&model).is_empty());
    }

    #[test]
    fn blocks_go_evenly() {
        assert_eq!(left_out(6, 1.0), Vec::<usize>::new());
        assert_eq!(left_out(6, 0.5), [1, 3, 5]);
        assert_eq!(left_out(6, 0.66), [2, 5]);
        assert_eq!(left_out(3, 0.01), [0, 1, 2]);
        assert_eq!(left_out(0, 0.5), Vec::<usize>::new());
    }
}
