//! The rule `moe_split`: a dense feed-forward layer becomes experts ("MoEfication", arXiv 2110.01786).

mod parts;

use std::{collections::BTreeMap, sync::Arc};

use kmr_methods::ridge::Linear;
use kmr_sdk::{
    Action, Applied, Error, Host, KnobSettings, Result, Rule, Target, log,
    model::{
        Build, DType, Graph, Model,
        experts::{FoundExpert, FoundNetwork, find, networks},
    },
};

use crate::{
    clusters::Clusters,
    config::SplitConfig,
    knob::{Count, Place},
    network::{Network, Weights},
    prediction::{Distances, Prediction, closed_form},
    refit::correction,
    samples::{Rows, rows},
    training::{Student, train},
};
use parts::Parts;

/// The rule `moe_split`.
pub struct Split {
    config: SplitConfig,
    knob: Count,
    /// What was found out about layers of a model, by their ids.
    known: Option<(Model, BTreeMap<String, Arc<Analysis>>)>,
}

/// A dense layer that can be split.
struct Dense {
    found: FoundNetwork,
    network: Network,
}

/// Which neurons go together, and what chooses among them.
struct Analysis {
    clusters: Clusters,
    prediction: Prediction,
    /// The tokens that the layer reads on the calibration data.
    tokens: Rows,
}

/// An analysis whose router may still be trained.
struct Draft {
    clusters: Clusters,
    experts: Vec<Network>,
    distances: Distances,
    router: Linear,
    tokens: Rows,
}

impl Rule for Split {
    type Config = SplitConfig;

    fn new(config: SplitConfig, knobs: KnobSettings) -> Result<Self> {
        config.check()?;
        let knob = Count::read(&knobs, "active")?;
        Ok(Self {
            config,
            knob,
            known: None,
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let layers = self.layers(&host.graph()?.graph)?;
        if layers.is_empty() {
            log::warn!(
                "no layer can be split: none is a product, an activation (ReLU, SiLU, GELU) and a product, with weights of \
                 floats and {} neurons or more",
                self.config.experts
            );
        }
        Ok(self
            .knob
            .targets(&self.places(&layers, self.config.experts), "all feed-forward layers"))
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let base = host.graph()?;
        let layers = self.layers(&base.graph)?;
        let assigned = self.knob.assigned(action, &self.places(&layers, self.config.experts))?;
        let chosen: Vec<(&Dense, usize)> = assigned.into_iter().map(|(at, active)| (&layers[at], active)).collect();
        self.split(host, &base, &chosen, action.costs_only)
    }
}

impl Split {
    /// Splits these layers, so many experts of each being active.
    fn split(
        &mut self,
        host: &Host<'_>,
        base: &Model,
        chosen: &[(&Dense, usize)],
        costs_only: bool,
    ) -> Result<Applied> {
        let mut applied = Applied {
            complete: chosen.is_empty() || !costs_only,
            ..Applied::default()
        };
        if chosen.is_empty() {
            return Ok(applied);
        }
        let dense: Vec<&Dense> = chosen.iter().map(|&(layer, _)| layer).collect();
        let known = if costs_only {
            BTreeMap::new()
        } else {
            self.analyze(host, base, &dense)?
        };
        let mut build = Build::on(&base.graph);
        for &(layer, active) in chosen {
            let parts = match known.get(layer.id()) {
                Some(analysis) => self.parts(layer, active, analysis)?,
                None => Parts::any(
                    &layer.network,
                    Clusters::by_position(layer.network.neurons(), &self.config),
                ),
            };
            parts.write(&mut build, &base.graph, layer, active - self.config.shared)?;
            let after = format!("{active} of {} experts", self.config.experts);
            applied.change(&layer.label(&base.graph), "active neurons", "dense", after);
        }
        host.edit(&build.finish())?;
        Ok(applied)
    }

    fn layers(&self, graph: &Graph) -> Result<Vec<Dense>> {
        let routed = find(graph);
        let index = graph.index();
        let mut layers = Vec::new();
        for found in networks(graph) {
            let inside = routed.iter().any(|layer| {
                let own = |expert: &FoundExpert| expert.made == found.output;
                layer.tokens == found.input || layer.each.iter().any(own)
            });
            if inside {
                continue;
            }
            if let Some(network) = Network::of(graph, &index, &found.network)? {
                layers.push(Dense { found, network });
            }
        }
        let names = |layer: &Dense| [layer.id().to_owned(), layer.label(graph), layer.found.output.clone()];
        let all: Vec<[String; 3]> = layers.iter().map(names).collect();
        self.config.ignore.check(all.iter().flatten().map(String::as_str))?;
        let meant = layers.into_iter().zip(all).filter(|(layer, names)| {
            let wide = layer.network.neurons() >= self.config.experts;
            if !wide {
                log::info!("{} stays dense: it has {} neurons", names[1], layer.network.neurons());
            }
            wide && !self.config.ignore.covers(names.iter().map(String::as_str))
        });
        Ok(meant.map(|(layer, _)| layer).collect())
    }

    fn places(&self, layers: &[Dense], end: usize) -> Vec<Place> {
        let place = |layer: &Dense| Place {
            id: layer.id().to_owned(),
            label: layer.base().to_owned(),
            layers: layer.found.nodes.clone(),
            counts: self.config.shared + 1..end,
        };
        layers.iter().map(place).collect()
    }

    /// What is known of these layers, after those that are not known yet have been looked at.
    fn analyze(&mut self, host: &Host<'_>, base: &Model, layers: &[&Dense]) -> Result<BTreeMap<String, Arc<Analysis>>> {
        let mut known = match self.known.take() {
            Some((model, known)) if model == *base => known,
            _ => BTreeMap::new(),
        };
        let open: Vec<&&Dense> = layers.iter().filter(|layer| !known.contains_key(layer.id())).collect();
        let inputs: Vec<(String, usize)> = open
            .iter()
            .map(|layer| (layer.found.input.clone(), layer.network.up.inputs))
            .collect();
        let config = &self.config;
        let mut drafts: Vec<Draft> = Vec::new();
        rows(host, &inputs, config.samples, config.tokens, &mut |at, tokens| {
            let layer = open[at];
            host.progress(at as f64 / open.len() as f64, &format!("splitting {}", layer.base()))?;
            let place = |error: Error| error.at(format!("layer `{}`", layer.base()));
            let clusters = Clusters::find(&layer.network, &layer.network.hidden(&tokens), config).map_err(place)?;
            let each = clusters.routed.iter();
            let experts: Vec<Network> = each.map(|neurons| layer.network.only(neurons)).collect();
            let (distances, here) = Distances::from(&experts, &tokens);
            let router = closed_form(experts.len(), &here, &tokens, config.damping).map_err(place)?;
            drafts.push(Draft {
                clusters,
                experts,
                distances,
                router,
                tokens,
            });
            Ok(())
        })?;
        if let Some(config) = config.train.as_ref().filter(|_| !open.is_empty()) {
            let students = open.iter().zip(&drafts).map(|(layer, draft)| Student {
                label: layer.base(),
                input: &layer.found.input,
                experts: &draft.experts,
                distances: &draft.distances,
                router: &draft.router,
            });
            let routers = train(host, &base.graph, &students.collect::<Vec<_>>(), config)?;
            for (draft, router) in drafts.iter_mut().zip(routers) {
                draft.router = router;
            }
        }
        for (layer, draft) in open.iter().zip(drafts) {
            let analysis = Analysis {
                prediction: Prediction::of(draft.router, &draft.experts, &draft.tokens),
                clusters: draft.clusters,
                tokens: draft.tokens,
            };
            known.insert(layer.id().to_owned(), Arc::new(analysis));
        }
        self.known = Some((base.clone(), known.clone()));
        Ok(known)
    }

    /// The parts of `layer` with so many experts active.
    fn parts(&self, layer: &Dense, active: usize, analysis: &Analysis) -> Result<Parts> {
        let Analysis {
            clusters,
            prediction,
            tokens,
        } = analysis;
        let top_k = active - self.config.shared;
        let mut network = layer.network.clone();
        let mut constant = vec![0.0; network.down.outputs];
        if self.config.refit && top_k < clusters.routed.len() {
            let place = |error: Error| error.at(format!("layer `{}`", layer.base()));
            if let Some(change) = correction(&network, clusters, prediction, top_k, tokens).map_err(place)? {
                let weights = network.down.matrix.iter_mut().zip(&change.matrix);
                weights.for_each(|(weight, change)| *weight += change);
                constant = change.constant;
            }
        }
        let narrow = |values: &[f64]| values.iter().map(|&value| value as f32).collect::<Vec<_>>();
        Ok(Parts {
            clusters: clusters.clone(),
            router: Weights {
                outputs: clusters.routed.len(),
                inputs: network.up.inputs,
                matrix: narrow(&prediction.router.weights),
                bias: Some(narrow(&prediction.router.intercepts)),
                dtype: DType::FLOAT,
            },
            network,
            means: prediction.means(top_k),
            constant,
        })
    }
}

impl Dense {
    /// The layer's id: the name of the weight that makes its neurons.
    fn id(&self) -> &str {
        &self.found.network.up.weight
    }

    /// What its new tensors are named after.
    fn base(&self) -> &str {
        let weight = self.id();
        weight
            .strip_suffix(".weight")
            .filter(|base| !base.is_empty())
            .unwrap_or(weight)
    }

    /// What people call it.
    fn label(&self, graph: &Graph) -> String {
        let last = graph.node(&self.found.output);
        match last.filter(|_| self.base() == self.id()) {
            Some(last) => last.label().to_owned(),
            None => self.base().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
