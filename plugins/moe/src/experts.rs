//! The rule `moe_experts`: fewer experts, and a router for those that are left.

mod merge;
mod order;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kmr_sdk::{
    Action, Applied, Error, Host, KnobSettings, Result, Rule, Target, log,
    model::{
        Edit, Graph, GraphIndex, Model, Patch,
        experts::{FeedForward, FoundExperts, Linear},
        stored::initializer_of,
    },
};

use crate::{
    config::{ExpertsConfig, Method},
    knob::{Count, Place},
    layer::{place, routed, store},
    network::{Network, Weights},
    samples::rows,
    top_k::NOTHING,
};
use order::Order;

/// The rule `moe_experts`.
pub struct Experts {
    config: ExpertsConfig,
    knob: Count,
    /// What was found out about layers of a model, by the names of their routers.
    known: Option<(Model, BTreeMap<String, Arc<Order>>)>,
}

/// A layer whose experts can be dropped.
struct Layer {
    found: FoundExperts,
    router: Weights,
    networks: Vec<Network>,
}

impl Rule for Experts {
    type Config = ExpertsConfig;

    fn new(config: ExpertsConfig, knobs: KnobSettings) -> Result<Self> {
        config.check()?;
        let knob = Count::read(&knobs, "experts")?;
        Ok(Self {
            config,
            knob,
            known: None,
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let layers = self.layers(&host.graph()?.graph)?;
        if layers.is_empty() {
            log::warn!("{NOTHING}");
        }
        Ok(self.knob.targets(&places(&layers), "all experts"))
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let base = host.graph()?;
        let layers = self.layers(&base.graph)?;
        let assigned = self.knob.assigned(action, &places(&layers))?;
        let meant: Vec<&Layer> = assigned.iter().map(|&(at, _)| &layers[at]).collect();
        // Where experts are of one size, any of them cost the same: no data has to be looked at.
        let unseen = action.costs_only && meant.iter().all(|layer| are_even(&layer.networks));
        let mut applied = Applied {
            complete: meant.is_empty() || !unseen,
            ..Applied::default()
        };
        if meant.is_empty() {
            return Ok(applied);
        }
        let known = match unseen {
            true => BTreeMap::new(),
            false => self.analyze(host, &base, &meant)?,
        };
        let index = base.graph.index();
        let mut patch = Patch::new();
        let mut removed = BTreeSet::new();
        for (layer, &(_, count)) in meant.iter().zip(&assigned) {
            let place = |error: Error| error.at(format!("layer `{}`", layer.found.label()));
            let (router, networks) = match known.get(layer.id()) {
                Some(order) => self.kept(layer, order, count).map_err(place)?,
                None => layer.only(&(0..count).collect::<Vec<_>>()),
            };
            removed.extend(layer.write(&mut patch, &base.graph, &index, &router, &networks)?);
            applied.change(&layer.found.scores, "experts", layer.networks.len(), count);
        }
        forget(&mut patch, &base.graph, &removed);
        host.edit(&patch)?;
        Ok(applied)
    }
}

fn places(layers: &[Layer]) -> Vec<Place> {
    let counts = |layer: &Layer| layer.found.experts.router.top_k..layer.networks.len();
    layers.iter().map(|layer| place(&layer.found, counts(layer))).collect()
}

impl Experts {
    fn layers(&self, graph: &Graph) -> Result<Vec<Layer>> {
        let mut layers = Vec::new();
        for found in routed(graph, &self.config.ignore)? {
            let label = found.label().to_owned();
            match Layer::of(graph, found, self.config.method == Method::Merge)? {
                Ok(layer) => layers.push(layer),
                Err(reason) => log::info!("the experts of {label} stay: {reason}"),
            }
        }
        Ok(layers)
    }

    fn analyze(&mut self, host: &Host<'_>, base: &Model, layers: &[&Layer]) -> Result<BTreeMap<String, Arc<Order>>> {
        let mut known = match self.known.take() {
            Some((model, known)) if model == *base => known,
            _ => BTreeMap::new(),
        };
        let open: Vec<&&Layer> = layers.iter().filter(|layer| !known.contains_key(layer.id())).collect();
        let tokens: Vec<(String, usize)> = open
            .iter()
            .map(|layer| (layer.found.tokens.clone(), layer.router.inputs))
            .collect();
        let config = &self.config;
        rows(host, &tokens, config.samples, config.tokens, &mut |at, tokens| {
            let layer = open[at];
            host.progress(
                at as f64 / open.len() as f64,
                &format!("experts of {}", layer.found.label()),
            )?;
            let order = Order::of(layer, tokens, config)
                .map_err(|error| error.at(format!("layer `{}`", layer.found.label())))?;
            known.insert(layer.id().to_owned(), Arc::new(order));
            Ok(())
        })?;
        self.known = Some((base.clone(), known.clone()));
        Ok(known)
    }

    /// The `count` experts that stay of `layer`, and their router.
    fn kept(&self, layer: &Layer, order: &Order, count: usize) -> Result<(Weights, Vec<Network>)> {
        let kept = order.kept(count);
        match &order.merged {
            Some(seen) => merge::merged(layer, order, seen, &kept),
            None => Ok(layer.only(&kept)),
        }
    }
}

impl Layer {
    /// A layer of which experts can be dropped, or why it is none.
    fn of(graph: &Graph, found: FoundExperts, alike: bool) -> Result<Result<Self, &'static str>> {
        let experts = &found.experts;
        let first = &experts.experts[0];
        let form = |network: &FeedForward| -> Vec<(bool, bool)> {
            network
                .linears()
                .map(|linear| (linear.outputs_first, linear.bias.is_some()))
                .collect()
        };
        if experts
            .experts
            .iter()
            .any(|expert| form(expert) != form(first) || expert.activation != first.activation)
        {
            return Ok(Err("they are not of one form"));
        }
        let index = graph.index();
        let own = experts.experts.iter().flat_map(FeedForward::linears);
        let own: Vec<&str> = own.chain([&experts.router.scores]).flat_map(Linear::tensors).collect();
        let is_shared = |value: &str| {
            let held = initializer_of(graph, &index, value).map_or(value, |(name, _)| name);
            let alone = |name: &str| index.sole_consumer(name).map(|(reader, _)| &graph.nodes[reader]);
            match (alone(held), alone(value)) {
                // Several products may read a matrix that is turned once.
                (Some(_), Some(reader)) => reader.is("Transpose") && alone(reader.id()).is_none(),
                _ => true,
            }
        };
        if own.into_iter().any(is_shared) {
            return Ok(Err("something else reads their weights, too"));
        }
        let networks = experts.experts.iter().map(|expert| Network::of(graph, &index, expert));
        let networks: Option<Vec<Network>> = networks.collect::<Result<_>>()?;
        let (Some(networks), Some(router)) = (networks, Weights::of(graph, &index, &experts.router.scores)?) else {
            let reason =
                "their weights are neither float32 nor cast to it from 16 bits; drop experts before quantization";
            return Ok(Err(reason));
        };
        if alike && !are_even(&networks) {
            return Ok(Err("they are not of one size, and cannot be merged"));
        }
        Ok(Ok(Self {
            found,
            router,
            networks,
        }))
    }

    fn id(&self) -> &str {
        &self.found.experts.router.scores.weight
    }

    /// These experts as they are, and their scores.
    fn only(&self, kept: &[usize]) -> (Weights, Vec<Network>) {
        let networks = kept.iter().map(|&expert| self.networks[expert].clone()).collect();
        (self.router.only_outputs(kept), networks)
    }

    /// Stores `networks` as the first experts and takes the others out, so that names go on counting from the first. Gives
    /// the ids of the nodes that go.
    ///
    /// # Errors
    /// If a tensor cannot be stored.
    fn write(
        &self,
        patch: &mut Patch,
        graph: &Graph,
        index: &GraphIndex<'_>,
        router: &Weights,
        networks: &[Network],
    ) -> Result<Vec<String>> {
        let experts = &self.found.experts;
        store(patch, graph, index, &experts.router.scores, router)?;
        for (named, network) in experts.experts.iter().zip(networks) {
            let weights = network.gate.iter().chain([&network.up, &network.down]);
            for (linear, weights) in named.linears().zip(weights) {
                store(patch, graph, index, linear, weights)?;
            }
        }
        let (left, gone) = self.found.each.split_at(networks.len());
        let before = |value: &str| {
            let mut value = value;
            while let Some(expert) = gone.iter().find(|expert| expert.after == value) {
                value = &expert.before;
            }
            value.to_owned()
        };
        let mut reads = |node: &str, value: &str| {
            let now = before(value);
            if now != value {
                patch.push(Edit::Rewire {
                    node: node.into(),
                    input: 0,
                    value: now,
                });
            }
        };
        left.iter().for_each(|expert| reads(&expert.after, &expert.before));
        if let Some(sum) = graph.node(&self.found.end).and_then(|end| end.input(0)) {
            reads(&self.found.end, sum);
        }
        for node in gone.iter().rev().flat_map(|expert| expert.nodes.iter().rev()) {
            patch.push(Edit::RemoveNode { node: node.clone() });
        }
        Ok(gone.iter().flat_map(|expert| expert.nodes.iter().cloned()).collect())
    }
}

/// Whether all experts have as many neurons.
fn are_even(networks: &[Network]) -> bool {
    networks.windows(2).all(|pair| pair[0].neurons() == pair[1].neurons())
}

/// Takes out what only removed nodes read: weights, and numbers that several layers may share.
fn forget(patch: &mut Patch, graph: &Graph, removed: &BTreeSet<String>) {
    let index = graph.index();
    let read_elsewhere = |name: &str| {
        let readers = index.consumers(name).iter();
        !index.is_inner(name)
            || readers
                .map(|&(at, _)| graph.nodes[at].id())
                .any(|id| !removed.contains(id))
    };
    let read = removed
        .iter()
        .filter_map(|id| index.producer(id))
        .flat_map(|at| graph.nodes[at].inputs());
    let orphans: BTreeSet<&String> = read
        .filter(|name| graph.tensor(name).is_some() && !read_elsewhere(name))
        .collect();
    for name in orphans {
        patch.push(Edit::RemoveTensor { name: name.clone() });
    }
}

#[cfg(test)]
mod tests;
