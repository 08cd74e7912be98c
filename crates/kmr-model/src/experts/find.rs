//! Finding routed experts.

use std::collections::{HashMap, HashSet};

use super::{
    Choice, FeedForward, RoutedExperts, Router, SharedExpert,
    network::{Finder, FoundLinear, FoundNetwork},
};
use crate::{Graph, Node, Tensor, cost::constant_tensor};

/// A layer of routed experts in a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundExperts {
    /// What the layer is.
    pub experts: RoutedExperts,
    /// The value of all tokens, T × width.
    pub tokens: String,
    /// The value of the router's scores, T × experts.
    pub scores: String,
    /// The value of the numbers of the chosen experts, T × k, int64.
    pub chosen: String,
    /// The value of their weights, T × k, where experts are weighted.
    pub weights: Option<String>,
    /// The id of the TopK that chooses.
    pub top_k: String,
    /// The value of the sum before any routed expert is added.
    pub start: String,
    /// The experts' own nodes, in the order of the router's scores.
    pub each: Vec<FoundExpert>,
    /// The id of the Reshape that makes the layer's output.
    pub end: String,
}

/// The nodes of one routed expert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundExpert {
    /// The value of its own tokens, n × width.
    pub tokens: String,
    /// The value of its neurons after activation, n × neurons.
    pub hidden: String,
    /// The value that it makes of its tokens, not weighted yet.
    pub made: String,
    /// The value that it is added to.
    pub before: String,
    /// The value of the sum with it: the output of its ScatterND.
    pub after: String,
    /// The ids of its nodes, the ScatterND last.
    pub nodes: Vec<String>,
}

impl FoundExperts {
    /// How many experts there are.
    pub fn count(&self) -> usize {
        self.each.len()
    }

    /// What people call the layer: the module that its router's weight is named after, or that weight.
    pub fn label(&self) -> &str {
        let weight = self.experts.router.scores.weight.as_str();
        weight.strip_suffix(".weight").unwrap_or(weight)
    }
}

/// The routed experts of `graph`, in the order in which they choose, as far as they are connected as
/// [`write`](super::write) connects them. What differs from this is not found.
pub fn find(graph: &Graph) -> Vec<FoundExperts> {
    let finder = Finder::on(graph);
    let routers = graph.nodes.iter().filter(|node| node.is("TopK"));
    routers.filter_map(|node| finder.experts(node)).collect()
}

/// An expert with its number, while its layer is put together.
struct Numbered {
    number: usize,
    network: FeedForward,
    found: FoundExpert,
    weights: Option<String>,
    tokens: String,
}

impl<'g> Finder<'g> {
    fn experts(&self, choosing: &'g Node) -> Option<FoundExperts> {
        let top_k = usize::try_from(*self.integers(choosing.input(1)?)?.first()?).ok()?;
        let last_axis = matches!(choosing.int("axis"), None | Some(-1 | 1));
        if !last_axis || choosing.int("largest") == Some(0) {
            return None;
        }
        let (greatest, chosen) = (choosing.outputs().first()?, choosing.outputs().get(1)?);
        let mut numbered: Vec<Numbered> = Vec::new();
        for (node, _) in self.readers(chosen) {
            numbered.push(self.expert(node, chosen)?);
        }
        if !self.index.is_inner(chosen) || numbered.is_empty() {
            return None;
        }
        numbered.sort_by_key(|expert| expert.number);
        let first = numbered.first()?;
        let (tokens, weights) = (first.tokens.clone(), first.weights.clone());
        let alike = numbered.iter().enumerate().all(|(position, expert)| {
            expert.number == position && expert.tokens == tokens && expert.weights == weights
        });
        let (choice, scores) = self.choice(choosing, greatest, weights.as_deref())?;
        let router = self.linear(&scores).filter(|router| router.input == tokens)?;
        let outputs = router.linear.shape(self.graph, &self.index).map(|(outputs, _)| outputs);
        if !alike || outputs.is_some_and(|outputs| outputs != numbered.len()) || top_k > numbered.len() || top_k == 0 {
            return None;
        }
        let (start, last) = chain(&numbered)?;
        let shared = self.start(&start, &tokens)?;
        let flat = self.made_by(&tokens, "Reshape")?;
        // Tokens × width, whatever is fed.
        self.integers(flat.input(1)?).filter(|sizes| sizes.len() == 2)?;
        let (end, 0) = self.index.sole_consumer(&last)? else {
            return None;
        };
        let end = &self.graph.nodes[end];
        let sizes = self.made_by(end.input(1)?, "Shape").filter(|_| end.is("Reshape"))?;
        if sizes.input(0) != flat.input(0) {
            return None;
        }
        let (networks, each) = numbered
            .into_iter()
            .map(|expert| (expert.network, expert.found))
            .unzip();
        Some(FoundExperts {
            experts: RoutedExperts {
                input: flat.input(0)?.to_owned(),
                output: end.id().to_owned(),
                router: Router {
                    scores: router.linear,
                    choice,
                    top_k,
                },
                experts: networks,
                shared,
            },
            tokens,
            scores,
            chosen: chosen.clone(),
            weights,
            top_k: choosing.id().to_owned(),
            start,
            each,
            end: end.id().to_owned(),
        })
    }

    /// The expert whose number `equal` looks for.
    fn expert(&self, equal: &'g Node, chosen: &str) -> Option<Numbered> {
        let other = match (equal.input(0)?, equal.input(1)?) {
            (a, b) if a == chosen => b,
            (a, _) => a,
        };
        let number = self
            .constant(other)
            .filter(|tensor| equal.is("Equal") && tensor.len() == 1)?;
        let number = usize::try_from(*number.to_i64().ok()?.first()?).ok()?;
        let found = self.only_reader(equal.id(), "NonZero")?;

        let gathers = |node: &Node, value: &str| node.is("Gather") && node.input(0) == Some(value) && first_axis(node);
        let mut rows = None;
        let mut places = None;
        for (node, _) in self.readers(found.id()) {
            let index = node.input(1).and_then(|index| self.integers(index));
            if gathers(node, found.id()) && index.as_deref() == Some(&[0]) {
                rows = Some(&**node);
            } else if node.is("Transpose") && node.ints("perm").is_none_or(|order| order == [1, 0]) {
                places = Some(&**node);
            } else {
                return None;
            }
        }
        let rows = rows.filter(|rows| self.index.is_inner(rows.id()) && self.index.is_inner(found.id()))?;

        let mut own = None;
        let mut indices = None;
        for (node, slot) in self.readers(rows.id()) {
            if node.is("Gather") && slot == 1 && first_axis(node) {
                own = Some(&**node);
            } else if self.makes_column(node) {
                indices = Some(&**node);
            } else {
                return None;
            }
        }
        let (own, indices) = (own?, indices?);
        let sum = self.only_reader(indices.id(), "ScatterND")?;
        if sum.input(1) != Some(indices.id()) || sum.string("reduction") != Some("add") {
            return None;
        }
        // What else reads a sum would read that of other experts.
        self.index.sole_consumer(sum.id())?;
        let mut nodes: Vec<String> = [equal, found, rows, own].map(|node| node.id().to_owned()).into();
        let mut made = sum.input(2)?;
        let mut weighing = Vec::new();
        let mut weights = None;
        if let Some(places) = places {
            let gather = self.only_reader(places.id(), "GatherND")?;
            if gather.input(1) != Some(places.id()) || gather.int("batch_dims").unwrap_or(0) != 0 {
                return None;
            }
            weights = Some(gather.input(0)?.to_owned());
            let column = self
                .only_reader(gather.id(), "Unsqueeze")
                .filter(|node| self.makes_column(node))?;
            let product = self.only_reader(column.id(), "Mul")?;
            if product.id() != made || self.index.sole_consumer(made).is_none() {
                return None;
            }
            made = match (product.input(0)?, product.input(1)?) {
                (a, b) if b == column.id() => a,
                (_, b) => b,
            };
            weighing = [places, gather, column, product]
                .map(|node| node.id().to_owned())
                .into();
        }
        self.index.sole_consumer(made)?;
        let network = self.network(made).filter(|network| network.input == own.id())?;
        let tokens = own.input(0)?.to_owned();
        let FoundNetwork {
            hidden,
            network,
            nodes: inner,
            ..
        } = network;
        nodes.extend(inner);
        nodes.extend(weighing);
        nodes.extend([indices, sum].map(|node| node.id().to_owned()));
        let found = FoundExpert {
            tokens: own.id().to_owned(),
            hidden,
            made: made.to_owned(),
            before: sum.input(0)?.to_owned(),
            after: sum.id().to_owned(),
            nodes,
        };
        Some(Numbered {
            number,
            network,
            found,
            weights,
            tokens,
        })
    }

    /// How the TopK `choosing`, whose greatest values are `greatest`, makes `weights`; and the value of the scores.
    fn choice(&self, choosing: &Node, greatest: &str, weights: Option<&str>) -> Option<(Choice, String)> {
        let ranked = choosing.input(0)?;
        let softmax = |value: &str| {
            let node = self.made_by(value, "Softmax")?;
            matches!(node.int("axis"), None | Some(-1 | 1)).then(|| node.input(0))?
        };
        let Some(weights) = weights else {
            return Some((Choice::Unweighted, ranked.to_owned()));
        };
        if softmax(weights) == Some(greatest) {
            return Some((Choice::TopKThenSoftmax, ranked.to_owned()));
        }
        let scores = softmax(ranked)?.to_owned();
        if weights == greatest {
            return Some((Choice::SoftmaxThenTopK { renormalize: false }, scores));
        }
        let division = self
            .made_by(weights, "Div")
            .filter(|node| node.input(0) == Some(greatest))?;
        let total = self.made_by(division.input(1)?, "ReduceSum")?;
        let axes = total.input(1).and_then(|axes| self.integers(axes))?;
        let over_chosen = total.input(0) == Some(greatest) && (axes == [-1] || axes == [1]);
        let keeps = total.int("keepdims").unwrap_or(1) == 1;
        (over_chosen && keeps).then_some((Choice::SoftmaxThenTopK { renormalize: true }, scores))
    }

    /// The shared expert that `value` is, or none if it is zero; nothing if it is neither.
    fn start(&self, value: &str, tokens: &str) -> Option<Option<SharedExpert>> {
        if let Some(zeros) = self.made_by(value, "ConstantOfShape") {
            let zero = zeros.attribute("value").is_none_or(|held| {
                let held = held.t.as_option().map(crate::codec::tensor_from_message);
                held.is_some_and(|held| held.is_ok_and(|held| held.bytes().iter().all(|&byte| byte == 0)))
            });
            let sizes = self.made_by(zeros.input(0)?, "Shape")?;
            return (zero && sizes.input(0) == Some(tokens)).then_some(None);
        }
        if let Some(found) = self.network(value) {
            return (found.input == tokens).then_some(Some(SharedExpert {
                network: found.network,
                gate: None,
            }));
        }
        let product = self.made_by(value, "Mul")?;
        let (a, b) = (product.input(0)?, product.input(1)?);
        let (made, share) = if self.made_by(b, "Sigmoid").is_some() {
            (a, b)
        } else {
            (b, a)
        };
        let FoundLinear { linear, input, .. } = self.linear(self.made_by(share, "Sigmoid")?.input(0)?)?;
        let found = self
            .network(made)
            .filter(|found| found.input == tokens && input == tokens)?;
        Some(Some(SharedExpert {
            network: found.network,
            gate: Some(linear),
        }))
    }

    /// The one node that reads `value`, if it is this operator.
    fn only_reader(&self, value: &str, op_type: &str) -> Option<&'g Node> {
        let (at, _) = self.index.sole_consumer(value)?;
        Some(&*self.graph.nodes[at]).filter(|node| node.is(op_type))
    }

    /// Whether this makes a column of a list.
    fn makes_column(&self, node: &Node) -> bool {
        let axes = node.input(1).and_then(|axes| self.integers(axes));
        node.is("Unsqueeze") && axes.is_some_and(|axes| axes == [1] || axes == [-1])
    }

    fn constant(&self, value: &str) -> Option<Tensor> {
        match self.graph.tensor(value) {
            Some(tensor) => Some((**tensor).clone()),
            None => constant_tensor(self.maker(value)?).ok()?,
        }
    }

    fn integers(&self, value: &str) -> Option<Vec<i64>> {
        self.constant(value)?.to_i64().ok()
    }
}

fn first_axis(node: &Node) -> bool {
    node.int("axis").unwrap_or(0) == 0
}

/// The values that the sums of these experts begin and end with, if they form one chain with all of them in it.
fn chain(experts: &[Numbered]) -> Option<(String, String)> {
    let made: HashSet<&str> = experts.iter().map(|expert| expert.found.after.as_str()).collect();
    let mut next: HashMap<&str, &str> = HashMap::new();
    for expert in experts {
        // Two that add to one sum are two sums.
        if next.insert(&expert.found.before, &expert.found.after).is_some() {
            return None;
        }
    }
    let start = next.keys().copied().find(|before| !made.contains(before))?;
    let mut last = start;
    while let Some(after) = next.remove(last) {
        last = after;
    }
    next.is_empty().then(|| (start.to_owned(), last.to_owned()))
}
