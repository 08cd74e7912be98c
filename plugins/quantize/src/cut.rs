//! Minimum cuts, by which every node of a graph finds its side at the least cost in all.

use std::collections::VecDeque;

/// A capacity that no cut pays.
pub const NEVER: u64 = u64::MAX / 4;

/// A network of directed edges with capacities.
#[derive(Debug)]
pub struct Network {
    /// Heads and what is left of the capacities; an edge and its reverse are neighbors.
    edges: Vec<(usize, u64)>,
    /// The edges that leave each vertex.
    leaving: Vec<Vec<usize>>,
}

impl Network {
    /// A network of so many vertices.
    pub fn new(vertices: usize) -> Self {
        Self {
            edges: Vec::new(),
            leaving: vec![Vec::new(); vertices],
        }
    }

    /// Adds a vertex.
    pub fn vertex(&mut self) -> usize {
        self.leaving.push(Vec::new());
        self.leaving.len() - 1
    }

    /// A cut with `from` on the source's side and `to` on the sink's pays `capacity`.
    pub fn connect(&mut self, from: usize, to: usize, capacity: u64) {
        if from == to || capacity == 0 {
            return;
        }
        self.leaving[from].push(self.edges.len());
        self.edges.push((to, capacity));
        self.leaving[to].push(self.edges.len());
        self.edges.push((from, 0));
    }

    /// The vertices on the source's side of the minimum cut, as few as there can be (Edmonds and Karp, 1972).
    pub fn source_side(mut self, source: usize, sink: usize) -> Vec<bool> {
        loop {
            let reached = self.reach(source);
            if reached[sink].is_none() {
                let mut side: Vec<bool> = reached.iter().map(Option::is_some).collect();
                side[source] = true;
                return side;
            }
            let mut path = Vec::new();
            let mut at = sink;
            while let Some(edge) = reached[at].filter(|_| at != source) {
                path.push(edge);
                at = self.edges[edge ^ 1].0;
            }
            let most = path.iter().map(|&edge| self.edges[edge].1).min().unwrap_or(0);
            for edge in path {
                self.edges[edge].1 -= most;
                self.edges[edge ^ 1].1 += most;
            }
        }
    }

    /// The edge over which each vertex is first reached from `source`.
    fn reach(&self, source: usize) -> Vec<Option<usize>> {
        let mut reached = vec![None; self.leaving.len()];
        let mut waiting = VecDeque::from([source]);
        while let Some(at) = waiting.pop_front() {
            for &edge in &self.leaving[at] {
                let (head, capacity) = self.edges[edge];
                if capacity > 0 && head != source && reached[head].is_none() {
                    reached[head] = Some(edge);
                    waiting.push_back(head);
                }
            }
        }
        reached
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a cut with these vertices on the source's side pays.
    fn paid(edges: &[(usize, usize, u64)], side: &[bool]) -> u64 {
        let cut = edges.iter().filter(|&&(from, to, _)| side[from] && !side[to]);
        cut.map(|&(_, _, capacity)| capacity).sum()
    }

    proptest! {
        #[test]
        fn no_other_cut_pays_less(
            edges in prop::collection::vec((0_usize..6, 0_usize..6, 0_u64..9), 0..18)
        ) {
            let edges: Vec<_> = edges.into_iter().filter(|(from, to, _)| from != to).collect();
            let mut network = Network::new(6);
            for &(from, to, capacity) in &edges {
                network.connect(from, to, capacity);
            }
            let side = network.source_side(0, 5);
            prop_assert!(side[0] && !side[5]);
            let all = (0..16).map(|inner: usize| {
                let side: Vec<bool> = (0..6).map(|at| at == 0 || at < 5 && inner >> (at - 1) & 1 == 1).collect();
                (paid(&edges, &side), side)
            });
            let least = all.clone().map(|(paid, _)| paid).min().unwrap();
            prop_assert_eq!(paid(&edges, &side), least);
            let smallest = all.filter(|(paid, _)| *paid == least).map(|(_, side)| side.iter().filter(|&&s| s).count());
            prop_assert_eq!(side.iter().filter(|&&s| s).count(), smallest.min().unwrap());
        }
    }
}
