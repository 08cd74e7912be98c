//! Which nodes run for the asked values, in which order, and when values are dropped.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{Network, ValueId, subgraph::Subgraph, versions::BROADCASTING};

/// What a plan depends on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Values that are given.
    pub fed: BTreeSet<ValueId>,
    pub outputs: Vec<ValueId>,
    /// Values that a derivative is asked by: their node runs, and what follows them is not constant.
    pub trainable: BTreeSet<ValueId>,
    /// Whether steps may be merged: never changes a bit, but hides inner values and the tape.
    pub merge: bool,
}

/// One step of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Positions of the nodes that this step executes; the first is a convolution if there are several.
    pub nodes: Vec<usize>,
    /// Values that nobody needs after this step.
    pub dropped: Vec<ValueId>,
}

/// An execution, decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// Constant nodes, whose outputs are computed once and kept. Those of initializers that are too large to keep
    /// anything of are steps like others.
    pub constants: Vec<usize>,
    /// Values that must be fed and are not.
    pub missing: Vec<ValueId>,
}

impl Plan {
    pub fn new(network: &Network, key: &Key) -> Self {
        let changed = |value: &ValueId| key.fed.contains(value) || key.trainable.contains(value);
        // Which nodes are needed, from the back.
        let mut needed = vec![false; network.nodes.len()];
        let mut missing = Vec::new();
        let mut stack: Vec<ValueId> = key.outputs.iter().chain(&key.trainable).copied().collect();
        let mut seen: HashSet<ValueId> = HashSet::new();
        while let Some(value) = stack.pop() {
            if !seen.insert(value) || key.fed.contains(&value) || network.initial[value].is_some() {
                continue;
            }
            match network.producers[value] {
                Some(node) => {
                    if !needed[node] {
                        needed[node] = true;
                        stack.extend(network.nodes[node].reads());
                    }
                }
                None => missing.push(value),
            }
        }
        missing.sort_unstable();

        // Which of them always give the same.
        let mut constant: HashSet<ValueId> = (0..network.initial.len())
            .filter(|value| network.initial[*value].is_some() && !changed(value))
            .collect();
        let mut constants = Vec::new();
        let mut running = Vec::new();
        for position in (0..network.nodes.len()).filter(|&position| needed[position]) {
            let node = &network.nodes[position];
            // Batch normalization of a constant depends on the mode.
            let fixed = !node.node.is("BatchNormalization")
                && !node.subgraphs.iter().any(Subgraph::has_modes)
                && node
                    .reads()
                    .all(|v| constant.contains(v) && !network.passing.contains(v))
                && !node.outputs.iter().flatten().any(changed);
            if fixed {
                constant.extend(node.outputs.iter().flatten());
                constants.push(position);
            } else {
                running.push(position);
            }
        }

        let groups = if key.merge {
            merge(network, &running, &constant, key)
        } else {
            running.into_iter().map(|node| vec![node]).collect()
        };
        let mut last: HashMap<ValueId, usize> = HashMap::new();
        for (step, nodes) in groups.iter().enumerate() {
            for &node in nodes {
                let node = &network.nodes[node];
                // An output that nobody reads is dropped by the step that makes it.
                for value in node.reads().chain(node.outputs.iter().flatten()) {
                    last.insert(*value, step);
                }
            }
        }
        let mut steps: Vec<Step> = groups
            .into_iter()
            .map(|nodes| Step {
                nodes,
                dropped: Vec::new(),
            })
            .collect();
        let kept: HashSet<&ValueId> = key.outputs.iter().chain(&key.trainable).collect();
        for (value, step) in last {
            if !kept.contains(&value) && !constant.contains(&value) {
                steps[step].dropped.push(value);
            }
        }
        for step in &mut steps {
            step.dropped.sort_unstable();
        }
        Self {
            steps,
            constants,
            missing,
        }
    }
}

/// Merges a convolution with the batch normalization, addition and rectifier that alone read its result.
///
/// A merged step stands where its last node stood, when everything that it reads exists.
fn merge(network: &Network, running: &[usize], constant: &HashSet<ValueId>, key: &Key) -> Vec<Vec<usize>> {
    let asked: HashSet<ValueId> = key.outputs.iter().copied().collect();
    let mut readers: HashMap<ValueId, Vec<usize>> = HashMap::new();
    for &position in running {
        for value in network.nodes[position].reads() {
            readers.entry(*value).or_default().push(position);
        }
    }
    // The only node that sees the result of `position`, if there is just one.
    let successor = |position: usize| {
        let mut outputs = network.nodes[position].outputs.iter().flatten();
        let (value, None) = (*outputs.next()?, outputs.next()) else {
            return None;
        };
        if asked.contains(&value) || key.fed.contains(&value) {
            return None;
        }
        match readers.get(&value)?.as_slice() {
            [reader] => Some((value, *reader)),
            _ => None,
        }
    };
    let mut merged: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut taken: HashSet<usize> = HashSet::new();
    for &first in running {
        // What is refused must be seen to be refused.
        if !network.nodes[first].node.is("Conv") || network.nodes[first].operator.is_err() {
            continue;
        }
        let mut chain = vec![first];
        let mut stage = 0;
        while let Some((value, next)) = successor(chain[chain.len() - 1]) {
            let node = &network.nodes[next];
            let (operator, plain) = (node.node.op_type(), node.node.domain().is_empty());
            let reached = match operator {
                "BatchNormalization" if stage == 0 => {
                    let parameters = node.inputs.iter().skip(1).flatten();
                    let known = node.node.int("training_mode") != Some(1)
                        && parameters.clone().count() == 4
                        && parameters.clone().all(|v| constant.contains(v));
                    if known && node.inputs[0] == Some(value) { 1 } else { 0 }
                }
                "Add" if stage <= 1 && network.opset >= BROADCASTING => 2,
                "Relu" if stage <= 2 => 3,
                _ => 0,
            };
            if reached == 0 || !plain || node.operator.is_err() || taken.contains(&next) {
                break;
            }
            stage = reached;
            taken.insert(next);
            chain.push(next);
        }
        if chain.len() > 1 {
            taken.insert(first);
            merged.insert(chain[chain.len() - 1], chain);
        }
    }
    running
        .iter()
        .filter_map(|position| match merged.remove(position) {
            Some(chain) => Some(chain),
            None => (!taken.contains(position)).then(|| vec![*position]),
        })
        .collect()
}
