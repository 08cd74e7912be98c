//! Feed-forward networks: one or two products, an activation, and a product.

use std::sync::Arc;

use super::{
    Activation,
    activation::{Activated, activated},
};
use crate::{Build, Graph, GraphIndex, Node, Tensor, stored::initializer_of};

/// A product with a matrix, and maybe a bias.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Linear {
    /// The matrix: an initializer, or a value that nodes make of one, as a Cast of 16 bits.
    pub weight: String,
    /// Whether the matrix is outputs × inputs, as training code has it; else it is inputs × outputs.
    pub outputs_first: bool,
    /// What is added, one number for each output: an initializer, or a Cast of one of 16 bits.
    pub bias: Option<String>,
}

impl Linear {
    /// A product with an outputs × inputs matrix.
    pub fn outputs_first(weight: &str, bias: Option<&str>) -> Self {
        Self {
            weight: weight.to_owned(),
            outputs_first: true,
            bias: bias.map(str::to_owned),
        }
    }

    /// Its weight, and its bias where it has one.
    pub fn tensors(&self) -> impl Iterator<Item = &str> {
        [Some(&self.weight), self.bias.as_ref()]
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// (outputs, inputs), where the weight is an initializer, or one of 16 bits that is cast, and a matrix.
    pub fn shape(&self, graph: &Graph, index: &GraphIndex<'_>) -> Option<(usize, usize)> {
        match *initializer_of(graph, index, &self.weight)?.1.shape() {
            [outputs, inputs] if self.outputs_first => Some((outputs, inputs)),
            [inputs, outputs] if !self.outputs_first => Some((outputs, inputs)),
            _ => None,
        }
    }

    /// Adds the node that multiplies the rows of `value`.
    pub(super) fn write(&self, build: &mut Build, value: &str, name: &str) -> String {
        match (self.outputs_first, &self.bias) {
            (false, None) => build.node("MatMul", &[value, &self.weight], name, |node| node),
            (outputs_first, bias) => {
                let mut inputs = vec![value, &self.weight];
                inputs.extend(bias.as_deref());
                build.node("Gemm", &inputs, name, |node| {
                    if outputs_first {
                        node.with_int("transB", 1)
                    } else {
                        node
                    }
                })
            }
        }
    }
}

/// down(activation(up(x))), or down(activation(gate(x)) · up(x)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FeedForward {
    /// What the activation is applied to, where up's result is multiplied by it.
    pub gate: Option<Linear>,
    /// From the input to the neurons.
    pub up: Linear,
    /// From the neurons to the output.
    pub down: Linear,
    /// The activation.
    pub activation: Activation,
}

impl FeedForward {
    /// Its products, in the order in which they are computed.
    pub fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    /// Adds nodes that apply it to the rows of `value`.
    pub(super) fn write(&self, build: &mut Build, value: &str, name: &str) -> String {
        let hidden = match &self.gate {
            Some(gate) => {
                let gate = gate.write(build, value, &format!("{name}.gate"));
                let up = self.up.write(build, value, &format!("{name}.up"));
                let active = self.activation.write(build, &gate, &format!("{name}.active"));
                build.node("Mul", &[&active, &up], &format!("{name}.hidden"), |node| node)
            }
            None => {
                let up = self.up.write(build, value, &format!("{name}.up"));
                self.activation.write(build, &up, &format!("{name}.active"))
            }
        };
        self.down.write(build, &hidden, &format!("{name}.down"))
    }
}

/// A feed-forward network in a graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundNetwork {
    /// The value that it reads.
    pub input: String,
    /// The neurons after activation: what its last product reads.
    pub hidden: String,
    /// The value that it makes.
    pub output: String,
    /// What it computes.
    pub network: FeedForward,
    /// The ids of its nodes, each behind those that it reads. Nothing else reads their values, but for the last one's.
    pub nodes: Vec<String>,
}

/// The feed-forward networks of a graph, in the order in which they end. Those of [routed experts](super::find) are
/// among them.
pub fn networks(graph: &Graph) -> Vec<FoundNetwork> {
    let finder = Finder::on(graph);
    let ends = graph.nodes.iter().flat_map(|node| node.outputs());
    ends.filter_map(|value| finder.network(value)).collect()
}

/// A product in a graph.
pub(super) struct FoundLinear {
    pub linear: Linear,
    pub input: String,
    /// The ids of its nodes.
    pub nodes: Vec<String>,
}

pub(super) struct Finder<'g> {
    pub graph: &'g Graph,
    pub index: GraphIndex<'g>,
}

impl<'g> Finder<'g> {
    pub fn on(graph: &'g Graph) -> Self {
        Self {
            graph,
            index: graph.index(),
        }
    }

    pub fn maker(&self, value: &str) -> Option<&'g Node> {
        self.index.producer(value).map(|at| &*self.graph.nodes[at])
    }

    pub fn made_by(&self, value: &str, op_type: &str) -> Option<&'g Node> {
        self.maker(value).filter(|node| node.is(op_type))
    }

    /// The nodes that read `value`, each with the slot it reads it in.
    pub fn readers(&self, value: &str) -> impl Iterator<Item = (&'g Arc<Node>, usize)> {
        let readers = self.index.consumers(value).iter();
        readers.map(|&(at, slot)| (&self.graph.nodes[at], slot))
    }

    /// The tensor that `value` is, be it stored in 16 bits.
    fn held(&self, value: &str) -> Option<&'g Tensor> {
        initializer_of(self.graph, &self.index, value).map(|(_, tensor)| tensor)
    }

    /// The Cast that makes `value` of a tensor of 16 bits for one reader.
    fn own_cast(&self, value: &str) -> Option<String> {
        self.held(value)?;
        let cast = self.maker(value)?;
        self.index.sole_consumer(value).map(|_| cast.id().to_owned())
    }

    /// Whether `value` is a stored list of as many numbers as a product has outputs.
    fn is_bias(&self, value: &str) -> bool {
        self.held(value)
            .is_some_and(|tensor| tensor.shape().len() == 1 && tensor.dtype().is_float())
    }

    /// Whether `value` is a matrix that does not depend on what is fed, as far as one can see from here.
    fn weight(&self, value: &str) -> bool {
        self.held(value).is_none_or(|tensor| tensor.shape().len() == 2)
    }

    /// The product that makes `value`.
    pub fn linear(&self, value: &str) -> Option<FoundLinear> {
        let node = self.maker(value)?;
        match node.op_type() {
            "Gemm" if node.domain().is_empty() => self.gemm(node),
            "MatMul" if node.domain().is_empty() => self.product(node),
            "Add" if node.domain().is_empty() => {
                let (a, b) = (node.input(0)?, node.input(1)?);
                let (product, bias) = if self.is_bias(b) { (a, b) } else { (b, a) };
                let product = self.made_by(product, "MatMul").filter(|_| self.is_bias(bias))?;
                self.index.sole_consumer(product.id())?;
                let mut found = self.product(product)?;
                found.linear.bias = Some(bias.to_owned());
                found.nodes.extend(self.own_cast(bias));
                found.nodes.push(node.id().to_owned());
                Some(found)
            }
            _ => None,
        }
    }

    fn gemm(&self, node: &Node) -> Option<FoundLinear> {
        let plain = node.float("alpha").unwrap_or(1.0) == 1.0
            && node.float("beta").unwrap_or(1.0) == 1.0
            && node.int("transA").unwrap_or(0) == 0;
        let weight = node.input(1).filter(|weight| self.weight(weight))?;
        let bias = node.input(2);
        if !plain || bias.is_some_and(|bias| !self.is_bias(bias)) {
            return None;
        }
        let casts = [Some(weight), bias].into_iter().flatten();
        let mut nodes: Vec<String> = casts.filter_map(|value| self.own_cast(value)).collect();
        nodes.push(node.id().to_owned());
        Some(FoundLinear {
            linear: Linear {
                weight: weight.to_owned(),
                outputs_first: node.int("transB").unwrap_or(0) != 0,
                bias: bias.map(str::to_owned),
            },
            input: node.input(0)?.to_owned(),
            nodes,
        })
    }

    fn product(&self, node: &Node) -> Option<FoundLinear> {
        let mut nodes = Vec::new();
        let mut weight = node.input(1).filter(|weight| self.weight(weight))?;
        let turned = self.made_by(weight, "Transpose").filter(|turn| {
            let two = turn.ints("perm").is_none_or(|order| order == [1, 0]);
            two && turn
                .input(0)
                .and_then(|held| self.held(held))
                .is_some_and(|held| held.shape().len() == 2)
        });
        if let Some(turn) = turned {
            weight = turn.input(0)?;
        }
        // Another product may read the turned matrix, too.
        if turned.is_none_or(|turn| self.index.sole_consumer(turn.id()).is_some()) {
            nodes.extend(self.own_cast(weight));
            nodes.extend(turned.map(|turn| turn.id().to_owned()));
        }
        nodes.push(node.id().to_owned());
        Some(FoundLinear {
            linear: Linear {
                weight: weight.to_owned(),
                outputs_first: turned.is_some(),
                bias: None,
            },
            input: node.input(0)?.to_owned(),
            nodes,
        })
    }

    /// Whether a product makes `value`, and is all of it: no bias of its own comes after it.
    fn ends_product(&self, value: &str) -> bool {
        let Some(found) = self.linear(value) else {
            return false;
        };
        let biased = |(node, _): (&Arc<Node>, usize)| node.is("Add") && self.linear(node.id()).is_some();
        found.linear.bias.is_some() || !self.readers(value).any(biased)
    }

    /// The feed-forward network that makes `value`.
    pub fn network(&self, value: &str) -> Option<FoundNetwork> {
        if !self.ends_product(value) {
            return None;
        }
        let down = self.linear(value)?;
        let hidden = down.input.clone();
        let ends = |value: &str| self.ends_product(value);
        let Activated {
            activation,
            inner,
            factor,
            nodes: between,
        } = activated(self.graph, &self.index, &hidden, &ends)?;
        let (gate, up) = match factor {
            Some(factor) => (Some(self.linear(&inner)?), self.linear(&factor)?),
            None => (None, self.linear(&inner)?),
        };
        if gate.as_ref().is_some_and(|gate| gate.input != up.input) {
            return None;
        }
        let input = up.input.clone();
        let mut nodes: Vec<String> = gate.iter().flat_map(|gate| gate.nodes.clone()).collect();
        nodes.extend(up.nodes);
        nodes.extend(between);
        nodes.extend(down.nodes);
        // All is read within, so that all can go.
        let inside = |node: &Node| nodes.iter().any(|id| id == node.id());
        let closed = nodes.iter().filter(|id| *id != value).all(|id| {
            let maker = self.maker(id);
            maker.is_some_and(|maker| {
                maker
                    .outputs()
                    .iter()
                    .all(|output| self.index.is_inner(output) && self.readers(output).all(|(node, _)| inside(node)))
            })
        });
        closed.then(|| FoundNetwork {
            input,
            hidden,
            output: value.to_owned(),
            network: FeedForward {
                gate: gate.map(|gate| gate.linear),
                up: up.linear,
                down: down.linear,
                activation,
            },
            nodes,
        })
    }
}
