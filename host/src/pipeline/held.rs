//! Values that a run keeps for the next one of the same call: a rule that goes through a model layer by layer would
//! otherwise compute all layers before the one at hand again and again.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kmr_model::{Graph, Node, Tensor};

/// Bytes that are held at most; beyond them nothing is, and runs begin at the inputs.
const LIMIT: usize = 1 << 30;

/// What is held.
#[derive(Clone, Default)]
pub struct HeldValues(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The graph that the values were computed in.
    graph: Option<Graph>,
    /// By samples.
    values: HashMap<Range<usize>, Vec<(String, Tensor)>>,
    bytes: usize,
    /// Counts runs: what an earlier one computes is not kept.
    run: u64,
    is_full: bool,
}

/// A run that holds values.
pub struct Holding {
    held: HeldValues,
    run: u64,
    /// The values that whoever runs on from here needs.
    frontier: Vec<String>,
}

impl HeldValues {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run of `graph` for `outputs`. What was held stays as far as nothing before it has changed.
    pub fn begin(&self, graph: &Graph, outputs: &[String]) -> Holding {
        let mut state = self.state();
        state.run += 1;
        if state.is_full {
            return Holding {
                held: self.clone(),
                run: state.run,
                frontier: Vec::new(),
            };
        }
        if let Some(before) = state.graph.replace(graph.clone()) {
            let changed = changed(&before, graph);
            for values in state.values.values_mut() {
                values.retain(|(name, _)| !changed.contains(name.as_str()));
            }
        }
        state.bytes = state
            .values
            .values()
            .flatten()
            .map(|(_, tensor)| tensor.byte_len())
            .sum();
        Holding {
            held: self.clone(),
            run: state.run,
            frontier: frontier(graph, outputs),
        }
    }
}

impl Holding {
    /// What is known of these samples.
    pub fn known(&self, samples: &Range<usize>) -> Vec<(String, Tensor)> {
        self.held.state().values.get(samples).cloned().unwrap_or_default()
    }

    /// The values that are to be computed beside those that were asked for, where `known` is known.
    pub fn missing(&self, known: &[(String, Tensor)]) -> Vec<String> {
        let missing = self.frontier.iter();
        missing
            .filter(|name| known.iter().all(|(known, _)| known != *name))
            .cloned()
            .collect()
    }

    /// Keeps what was computed of these samples, in place of what is behind it.
    pub fn keep(&self, samples: Range<usize>, known: Vec<(String, Tensor)>, computed: Vec<(String, Tensor)>) {
        let mut state = self.held.state();
        if state.run != self.run || state.is_full {
            return;
        }
        let wanted = |(name, _): &(String, Tensor)| self.frontier.contains(name);
        let values: Vec<(String, Tensor)> = known.into_iter().chain(computed).filter(wanted).collect();
        let bytes = |values: &[(String, Tensor)]| values.iter().map(|(_, tensor)| tensor.byte_len()).sum::<usize>();
        let before = state.values.get(&samples).map_or(0, |values| bytes(values));
        state.bytes = state.bytes - before + bytes(&values);
        state.values.insert(samples, values);
        if state.bytes > LIMIT {
            state.is_full = true;
            state.values.clear();
            state.bytes = 0;
        }
    }
}

/// The values that depend on what is fed and that, when `outputs` are computed, others are still to be computed from.
fn frontier(graph: &Graph, outputs: &[String]) -> Vec<String> {
    let mut fed: HashSet<&str> = graph.feeds().map(|feed| feed.name()).collect();
    for node in &graph.nodes {
        if node.reads().any(|value| fed.contains(value)) {
            fed.extend(node.outputs().iter().map(String::as_str));
        }
    }
    let mut needed: HashSet<&str> = outputs.iter().map(String::as_str).collect();
    let mut computed: HashSet<&str> = HashSet::new();
    for node in graph.nodes.iter().rev() {
        if node.outputs().iter().any(|output| needed.contains(output.as_str())) {
            needed.extend(node.reads());
            computed.extend(node.outputs().iter().map(String::as_str));
        }
    }
    let mut frontier = Vec::new();
    for node in graph.nodes.iter().filter(|node| !computed.contains(node.id())) {
        for value in node.reads() {
            if computed.contains(value) && fed.contains(value) && frontier.iter().all(|known| known != value) {
                frontier.push(value.to_owned());
            }
        }
    }
    frontier
}

/// The values of `after` that may be others than in `before`.
fn changed<'g>(before: &Graph, after: &'g Graph) -> HashSet<&'g str> {
    let nodes: HashMap<&str, &Arc<Node>> = before.nodes.iter().map(|node| (node.id(), node)).collect();
    let mut changed: HashSet<&str> = after
        .initializers
        .iter()
        .filter(|(name, initializer)| {
            let known = before.tensor(name);
            known.is_none_or(|known| !Arc::ptr_eq(known, &initializer.tensor))
        })
        .map(|(name, _)| name.as_str())
        .collect();
    for node in &after.nodes {
        let same = nodes
            .get(node.id())
            .is_some_and(|known| Arc::ptr_eq(known, node) || *known == node);
        if !same || node.reads().any(|value| changed.contains(value)) {
            changed.extend(node.outputs().iter().map(String::as_str));
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use kmr_model::{DType, Dimension, Edit, Patch, ValueInfo};

    use super::*;

    /// Two layers beside a shortcut.
    fn graph() -> Graph {
        let mut graph = Graph::new("test");
        graph.inputs = vec![ValueInfo::tensor("x", DType::FLOAT, &[Dimension::Unknown])];
        graph.outputs = vec![ValueInfo::tensor("y", DType::FLOAT, &[Dimension::Unknown])];
        for weight in ["first", "second"] {
            graph
                .initializers
                .insert(weight.into(), Tensor::from_vec(vec![1], vec![1.0_f32]).into());
        }
        for node in [
            Node::new("Relu", "", &["x"], &["h"]),
            Node::new("Relu", "", &["first"], &["constant"]),
            Node::new("Mul", "", &["h", "constant"], &["a"]),
            Node::new("Relu", "", &["a"], &["b"]),
            Node::new("Mul", "", &["b", "second"], &["c"]),
            Node::new("Mul", "", &["c", "constant"], &["d"]),
            Node::new("Add", "", &["d", "h"], &["y"]),
        ] {
            graph.nodes.push(Arc::new(node));
        }
        graph.check().unwrap();
        graph
    }

    fn value(number: f32) -> Tensor {
        Tensor::from_vec(vec![1], vec![number])
    }

    fn named(values: &[&str]) -> Vec<(String, Tensor)> {
        values.iter().map(|name| ((*name).to_owned(), value(2.0))).collect()
    }

    #[test]
    fn what_comes_after_is_computed_from_what_is_held() {
        let held = HeldValues::default();
        let graph = graph();
        let run = held.begin(&graph, &["b".into()]);
        // The shortcut is needed once more; what no input has to do with is not held.
        assert_eq!(run.missing(&[]), ["b", "h"]);
        run.keep(0..4, Vec::new(), named(&["b", "h"]));

        let mut patch = Patch::new();
        patch.push(Edit::StoreTensor {
            name: "second".into(),
            tensor: value(3.0),
        });
        let edited = patch.apply(&graph).unwrap();
        let run = held.begin(&edited, &["c".into()]);
        let known = run.known(&(0..4));
        assert_eq!(known, named(&["b", "h"]));
        assert_eq!(run.missing(&known), ["c"]);
        run.keep(0..4, known, named(&["c"]));
        assert_eq!(held.begin(&edited, &["y".into()]).known(&(0..4)), named(&["h", "c"]));
        assert_eq!(held.begin(&edited, &["y".into()]).known(&(4..8)), []);
    }

    #[test]
    fn what_an_edit_reaches_is_forgotten() {
        let held = HeldValues::default();
        let graph = graph();
        let run = held.begin(&graph, &["b".into()]);
        run.keep(0..4, Vec::new(), named(&["b", "h"]));
        let mut patch = Patch::new();
        patch.push(Edit::StoreTensor {
            name: "first".into(),
            tensor: value(3.0),
        });
        let edited = patch.apply(&graph).unwrap();
        let later = held.begin(&edited, &["c".into()]);
        assert_eq!(later.known(&(0..4)), named(&["h"]));
        // A run that has been overtaken keeps nothing.
        run.keep(0..4, Vec::new(), named(&["b"]));
        assert_eq!(later.known(&(0..4)), named(&["h"]));
    }
}
