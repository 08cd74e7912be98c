//! The rule `prune`: removes whole channels, with everything that is coupled to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kmr_sdk::{
    Action, Applied, Error, Host, Ignore, KnobSettings, Result, Rule, Target, log,
    model::{
        Graph, Model,
        channels::{self, ChannelAnalysis, ChannelGroup},
        shapes,
    },
    wire::Per,
};
use serde::Deserialize;

use crate::{
    importance::channels::{Importance, group_scores},
    knob::{MODEL, Sparsity, unknown_target},
    recalibration,
    recent::Recent,
    selection::{Limits, Normalize, Ranked, greatest, kept, kept_globally},
    weights::stored,
};

/// The name of the knob: the share of channels removed, from 0 to 0.95.
const KNOB: &str = "channel_sparsity";
const MOST: f64 = 0.95;

/// What a sparsity of the whole model means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    /// The same share of every group of channels.
    #[default]
    Uniform,
    /// This share of all channels, the least important of all first.
    Global,
}

/// What the number of channels kept is a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "takes a whole number or \"auto\"")]
enum RoundTo {
    /// This many channels.
    Channels(usize),
    /// What kernels work on at a time.
    Auto(Auto),
}

/// The word `"auto"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Auto {
    Auto,
}

impl RoundTo {
    /// The channels of a block of the runtimes' convolution kernels, the smallest of those in use.
    const BLOCK: usize = 8;

    fn channels(self) -> usize {
        match self {
            Self::Channels(channels) => channels,
            Self::Auto(Auto::Auto) => Self::BLOCK,
        }
    }
}

impl Default for RoundTo {
    fn default() -> Self {
        Self::Channels(1)
    }
}

/// The configuration of `prune`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    importance: Importance,
    scope: Scope,
    normalize: Normalize,
    round_to: RoundTo,
    minimum_channels: usize,
    samples: usize,
    recalibrate_batch_norm: bool,
    recalibration_samples: usize,
    ignore: Ignore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            importance: Importance::default(),
            scope: Scope::default(),
            normalize: Normalize::default(),
            round_to: RoundTo::default(),
            minimum_channels: 1,
            samples: 256,
            recalibrate_batch_norm: false,
            recalibration_samples: 512,
            ignore: Ignore::default(),
        }
    }
}

impl Config {
    fn check(&self) -> Result<()> {
        let counts = [
            ("round_to", self.round_to.channels()),
            ("minimum_channels", self.minimum_channels),
            ("samples", self.samples),
            ("recalibration_samples", self.recalibration_samples),
        ];
        match counts.into_iter().find(|&(_, count)| count == 0) {
            Some((key, _)) => {
                Err(Error::invalid_configuration("has to be 1 or more; got 0").at(format!("config.{key}")))
            }
            None => Ok(()),
        }
    }
}

/// The rule `prune`.
pub struct Prune {
    config: Config,
    sparsity: Sparsity,
    prepared: Recent<Prepared>,
}

/// What is found out about a model once.
struct Prepared {
    base: Model,
    seed: u64,
    analysis: ChannelAnalysis,
    groups: Vec<Prunable>,
}

/// A group that may lose channels.
struct Prunable {
    id: String,
    label: String,
    /// The ids of the nodes that make these channels, and then of those that read them with weights.
    nodes: Vec<String>,
    /// One score for each unit.
    scores: Vec<f64>,
    /// Channels in each unit.
    width: usize,
}

impl Rule for Prune {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        config.check()?;
        let sparsity = Sparsity::read(&knobs, KNOB, MOST)?;
        if config.scope == Scope::Global && sparsity.per == Per::Layer && knobs.get(KNOB).is_some() {
            let message = "\"global\" ranks the channels of the whole model for one knob; \
                           turn the knob with per = \"model\", or leave scope out";
            return Err(Error::invalid_configuration(message).at("config.scope"));
        }
        Ok(Self {
            config,
            sparsity,
            prepared: Recent::default(),
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let prepared = self.prepare(host)?;
        for refusal in &prepared.analysis.refused {
            log::info!(
                "{} channels of {} stay: {}: {}",
                refusal.channels,
                refusal.members.join(", "),
                refusal.node,
                refusal.reason
            );
        }
        if prepared.groups.is_empty() {
            log::warn!("{}", nothing_to_cut(&prepared.base, &prepared.analysis));
        }
        if self.sparsity.per == Per::Layer {
            let targets = prepared.groups.iter().filter_map(|group| {
                let count = |sparsity| kept(group.scores.len(), group.width, sparsity, self.limits());
                self.sparsity
                    .target(&group.id, &group.label, group.nodes.clone(), count)
            });
            return Ok(targets.collect());
        }
        let nodes: BTreeSet<&String> = prepared.groups.iter().flat_map(|group| &group.nodes).collect();
        let nodes = nodes.into_iter().cloned().collect();
        let counts = |sparsity| self.counts(&prepared.groups, sparsity);
        let target = self.sparsity.target(MODEL, "all channels", nodes, counts);
        Ok(target.into_iter().collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let assigned = self.sparsity.assigned(action)?;
        if assigned.is_empty() {
            return Ok(Applied::default());
        }
        let prepared = self.prepare(host)?;
        let mut keep: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (assignment, sparsity) in assigned {
            let group = prepared.groups.iter().find(|group| group.id == assignment.target);
            let counts: Vec<(&Prunable, usize)> = match (self.sparsity.per, group) {
                (Per::Layer, Some(group)) => {
                    vec![(group, kept(group.scores.len(), group.width, sparsity, self.limits()))]
                }
                (Per::Model, _) if assignment.target == MODEL => prepared
                    .groups
                    .iter()
                    .zip(self.counts(&prepared.groups, sparsity))
                    .collect(),
                _ => return Err(unknown_target(assignment)),
            };
            for (group, count) in counts {
                if count < group.scores.len() {
                    keep.insert(group.id.clone(), greatest(&group.scores, count));
                }
            }
        }
        let mut applied = cut(host, &prepared, &keep)?;
        applied.complete = !(self.config.recalibrate_batch_norm && action.costs_only);
        if self.config.recalibrate_batch_norm && !action.costs_only && !keep.is_empty() {
            recalibration::recalibrate(host, self.config.recalibration_samples, &mut applied)?;
        }
        Ok(applied)
    }
}

impl Prune {
    fn limits(&self) -> Limits {
        Limits {
            round_to: self.config.round_to.channels(),
            minimum: self.config.minimum_channels,
        }
    }

    /// How many units each group keeps at a sparsity of the whole model.
    fn counts(&self, groups: &[Prunable], sparsity: f64) -> Vec<usize> {
        match self.config.scope {
            Scope::Uniform => groups
                .iter()
                .map(|group| kept(group.scores.len(), group.width, sparsity, self.limits()))
                .collect(),
            Scope::Global => {
                let ranked: Vec<Ranked<'_>> = groups
                    .iter()
                    .map(|group| Ranked {
                        scores: &group.scores,
                        width: group.width,
                    })
                    .collect();
                kept_globally(&ranked, sparsity, self.config.normalize, self.limits())
            }
        }
    }

    /// What is known of the candidate: found out once, and remembered for as long as it stays the same.
    fn prepare(&mut self, host: &Host<'_>) -> Result<Arc<Prepared>> {
        let (base, seed) = (host.graph()?, host.seed()?);
        let known = self.prepared.get(|known| known.seed == seed && known.base == base);
        match known {
            Some(known) => Ok(known),
            None => {
                let found = self.analyze(host, base, seed)?;
                Ok(self.prepared.add(found))
            }
        }
    }

    fn analyze(&self, host: &Host<'_>, base: Model, seed: u64) -> Result<Prepared> {
        let shapes = shapes::infer(&base, &host.feeds(&base))?;
        let analysis = channels::analyze(&base, &shapes)?;
        let names: Vec<Vec<String>> = analysis.groups.iter().map(|group| names(&base, group)).collect();
        self.config.ignore.check(
            names
                .iter()
                .flatten()
                .map(String::as_str)
                .chain(base.graph.nodes.iter().map(|node| node.label())),
        )?;
        let open: Vec<&ChannelGroup> = analysis
            .groups
            .iter()
            .zip(&names)
            .filter(|(group, names)| group.channels > 1 && !self.config.ignore.covers(names.iter().map(String::as_str)))
            .map(|(group, _)| group)
            .collect();
        let scores = group_scores(host, &base, &open, self.config.importance, self.config.samples)?;
        let groups = open.iter().zip(scores).filter_map(|(group, scores)| {
            let Some(scores) = scores else {
                log::info!(
                    "channels of `{}` stay: no weight of floating-point numbers tells what they matter",
                    group.id
                );
                return None;
            };
            Some(Prunable {
                id: group.id.clone(),
                label: label(&base, group),
                nodes: touched(&base.graph, group),
                scores,
                width: width(group),
            })
        });
        let groups = groups.collect();
        Ok(Prepared {
            base,
            seed,
            analysis,
            groups,
        })
    }
}

/// Keeps these units of each group, and says so.
fn cut(host: &Host<'_>, prepared: &Prepared, keep: &BTreeMap<String, Vec<usize>>) -> Result<Applied> {
    let mut applied = Applied::default();
    if keep.is_empty() {
        return Ok(applied);
    }
    let base = &prepared.base;
    let patch = prepared.analysis.cut(base, keep)?;
    let cut = patch.apply(&base.graph)?;
    host.edit(&patch)?;
    let mut told = BTreeSet::new();
    let groups = keep.keys().filter_map(|id| prepared.analysis.group(id));
    for producer in groups.flat_map(|group| &group.producers) {
        let size = |graph: &Graph| -> Result<Option<usize>> {
            let weight = stored(graph, &producer.weight)?;
            Ok(weight.and_then(|weight| weight.shape().get(producer.axis).copied()))
        };
        if let (Some(before), Some(after)) = (size(&base.graph)?, size(&cut)?)
            && told.insert(&producer.node)
        {
            applied.change(&node_label(base, &producer.node), "channels", before, after);
        }
    }
    Ok(applied)
}

/// Why a model has no channels to remove.
fn nothing_to_cut(model: &Model, analysis: &ChannelAnalysis) -> String {
    let reason = analysis.refused.iter().max_by_key(|refusal| refusal.channels);
    match reason {
        _ if analysis.groups.iter().any(|group| group.channels > 1) => {
            "no channels can be removed: all groups are ignored, or have no weights to be judged by".into()
        }
        Some(refusal) => format!(
            "no channels can be removed; most stay because of {}: {}",
            refusal.node, refusal.reason
        ),
        None if model.graph.nodes.iter().any(|node| node.has_subgraph()) => {
            "no channels can be removed: the main graph has no product with a stored weight, and channels inside \
             subgraphs are not followed; `prune_unstructured` reaches weights there"
                .into()
        }
        None => {
            "no channels can be removed: no convolution, matrix product or recurrent layer has a stored weight".into()
        }
    }
}

/// The ids of the nodes that a cut changes: those that make the channels, and those that read them with weights.
fn touched(graph: &Graph, group: &ChannelGroup) -> Vec<String> {
    let index = graph.index();
    let mut nodes: Vec<String> = group.producers.iter().map(|producer| producer.node.clone()).collect();
    let stored = group
        .slices
        .iter()
        .filter(|slice| graph.tensor(&slice.tensor).is_some());
    for &(reader, _) in stored.flat_map(|slice| index.consumers(&slice.tensor)) {
        let id = graph.nodes[reader].id();
        if nodes.iter().all(|known| known != id) {
            nodes.push(id.to_owned());
        }
    }
    nodes
}

/// Channels of the first producer in each unit.
fn width(group: &ChannelGroup) -> usize {
    let slice = group.producers.first().and_then(|producer| {
        group
            .slices
            .iter()
            .find(|slice| slice.tensor == producer.weight && slice.axis == producer.axis)
    });
    slice
        .and_then(|slice| slice.indices.first())
        .map_or(1, |indices| indices.len().max(1))
}

fn node_label(model: &Model, id: &str) -> String {
    model
        .graph
        .node(id)
        .map_or_else(|| id.to_owned(), |node| node.label().to_owned())
}

/// What people call a producer: its weight without `.weight`, as training code names layers, or the node.
fn producer_label(model: &Model, producer: &channels::Producer) -> String {
    match producer.weight.strip_suffix(".weight") {
        Some(layer) if !layer.is_empty() => layer.to_owned(),
        _ => node_label(model, &producer.node),
    }
}

fn label(model: &Model, group: &ChannelGroup) -> String {
    let mut labels: Vec<String> = group
        .producers
        .iter()
        .map(|producer| producer_label(model, producer))
        .collect();
    labels.dedup();
    match labels.as_slice() {
        [] => group.id.clone(),
        [only] => only.clone(),
        [first, second] => format!("{first} + {second}"),
        [first, rest @ ..] => format!("{first} + {} more", rest.len()),
    }
}

/// Everything that `ignore` may call a group by.
fn names(model: &Model, group: &ChannelGroup) -> Vec<String> {
    let mut names = vec![group.id.clone()];
    for producer in &group.producers {
        names.extend([
            producer.node.clone(),
            node_label(model, &producer.node),
            producer.weight.clone(),
            producer_label(model, producer),
        ]);
    }
    names
}

#[cfg(test)]
mod tests {
    use kmr_sdk::{
        model::{Tensor, cost::Costs},
        serde_json::{self, json},
    };

    use super::*;
    use crate::testing::{ModelHost, residual_network};

    fn rule(config: serde_json::Value, values: &str, per: &str) -> Result<Prune> {
        let knobs = format!(r#"{{"{KNOB}": {{"values": {values}, "per": "{per}"}}}}"#);
        let config = serde_json::from_value(config)?;
        Prune::new(config, serde_json::from_str(&knobs).unwrap())
    }

    fn tenths() -> String {
        let values: Vec<f64> = (0..10).map(|tenth| f64::from(tenth) / 10.0).collect();
        serde_json::to_string(&values).unwrap()
    }

    fn action(assignments: &[(&str, f64)]) -> Action {
        let assignments = assignments.iter().map(|&(target, value)| kmr_sdk::Assignment {
            knob: KNOB.into(),
            target: target.into(),
            value: value.into(),
        });
        Action {
            assignments: assignments.collect(),
            ..Action::default()
        }
    }

    fn applied(rule: &mut Prune, assignments: &[(&str, f64)]) -> (Model, Applied) {
        let host = ModelHost::new(residual_network());
        let applied = host.with(|host| rule.apply(host, &action(assignments))).unwrap();
        (host.candidate(), applied)
    }

    fn targets(rule: &mut Prune, model: Model) -> Result<Vec<Target>> {
        ModelHost::new(model).with(|host| rule.targets(host))
    }

    #[test]
    fn every_group_is_a_target_with_the_values_that_change_it() {
        let mut rule = rule(json!({}), &tenths(), "layer").unwrap();
        let targets = targets(&mut rule, residual_network()).unwrap();
        let told: Vec<_> = targets
            .iter()
            .map(|t| (t.target.as_str(), t.label.as_str(), t.values.len()))
            .collect();
        let expected = [
            ("stem.conv", "stem + block.second", 10),
            ("block.first.conv", "block.first", 10),
            ("wide.conv", "wide", 10),
        ];
        assert_eq!(told, expected);
        let layers: Vec<&str> = targets[0].layers.iter().map(String::as_str).collect();
        assert_eq!(
            layers,
            [
                "stem.conv",
                "block.second.conv",
                "stem.norm",
                "block.first.conv",
                "block.second.norm",
                "wide.conv"
            ],
            "what makes the channels comes first, then what reads them in the order of the graph"
        );
    }

    #[test]
    fn a_coarse_rounding_leaves_few_values() {
        let config = json!({"round_to": 4, "minimum_channels": 6});
        let mut rule = rule(config, &tenths(), "layer").unwrap();
        let targets = targets(&mut rule, residual_network()).unwrap();
        let wide = targets.iter().find(|t| t.label == "wide").unwrap();
        assert_eq!(wide.values, [0.0, 0.3, 0.5], "16, 12 and 8 channels");
        let stem = targets.iter().find(|t| t.target == "stem.conv").unwrap();
        assert_eq!(stem.values, [0.0, 0.2], "10 and 8 channels");
    }

    #[test]
    fn automatic_rounding_keeps_whole_blocks_and_leaves_small_groups() {
        let told = |round_to| {
            let mut rule = rule(json!({"round_to": round_to}), &tenths(), "layer").unwrap();
            let targets = targets(&mut rule, residual_network()).unwrap();
            let told = targets.iter().map(|target| (target.label.clone(), target.values.len()));
            told.collect::<Vec<_>>()
        };
        assert_eq!(told(json!("auto")), told(json!(8)));
        let labels: Vec<_> = told(json!(12)).into_iter().map(|(label, _)| label).collect();
        assert_eq!(labels, ["wide"], "16 channels go to 12; 10 and 12 stay");
        let refused = |value| rule(json!({"round_to": value}), "[0, 0.5]", "layer").err().unwrap();
        for wrong in [json!("8"), json!(1.5), json!(-1)] {
            assert!(refused(wrong).to_string().contains("takes a whole number or \"auto\""));
        }
    }

    #[test]
    fn a_cut_takes_everything_coupled_and_says_so() {
        let mut rule = rule(json!({}), "[0, 0.5]", "layer").unwrap();
        let (model, applied) = applied(&mut rule, &[("stem.conv", 0.5), ("wide.conv", 0.0)]);
        let shape = |name: &str| model.graph.tensor(name).unwrap().shape().to_vec();
        assert_eq!(shape("stem.weight"), [5, 1, 3, 3]);
        assert_eq!(shape("stem.variance"), [5]);
        assert_eq!(shape("block.first.weight"), [12, 5, 3, 3]);
        assert_eq!(shape("block.second.weight"), [5, 12, 3, 3]);
        assert_eq!(shape("wide.weight"), [16, 5, 3, 3]);
        shapes::infer(&model, &BTreeMap::new()).unwrap();
        let changes: Vec<_> = applied
            .changes
            .iter()
            .map(|c| (c.layer.as_str(), c.before.as_str(), c.after.as_str()))
            .collect();
        assert_eq!(changes, [("stem.conv", "10", "5"), ("block.second.conv", "10", "5")]);
    }

    #[test]
    fn the_channels_of_least_norm_go() {
        let norm = |model: &Model, channel: usize| -> f32 {
            let values = model.graph.tensor("stem.weight").unwrap();
            let made = values.values::<f32>().unwrap()[channel * 9..][..9].to_vec();
            made.iter().map(|v| v * v).sum()
        };
        let base = residual_network();
        let mut rule = rule(json!({"importance": "l2"}), "[0, 0.5]", "layer").unwrap();
        // Two convolutions make these channels: both count.
        let both = |channel: usize| {
            let second = base.graph.tensor("block.second.weight").unwrap();
            let second = &second.values::<f32>().unwrap()[channel * 108..][..108];
            norm(&base, channel) + second.iter().map(|v| v * v).sum::<f32>()
        };
        let mut expected: Vec<usize> = (0..10).collect();
        expected.sort_by(|&a, &b| both(b).total_cmp(&both(a)));
        expected.truncate(5);
        expected.sort_unstable();
        let (model, _) = applied(&mut rule, &[("stem.conv", 0.5)]);
        for (now, before) in expected.into_iter().enumerate() {
            assert_eq!(norm(&model, now), norm(&base, before));
        }
    }

    #[test]
    fn ten_values_cost_strictly_less_each() {
        let costs = |model: &Model| Costs::of(model, &BTreeMap::new()).unwrap();
        for config in [
            json!({}),
            json!({"scope": "global"}),
            json!({"scope": "global", "normalize": "max"}),
        ] {
            let mut rule = rule(config, &tenths(), "model").unwrap();
            let found = targets(&mut rule, residual_network()).unwrap();
            assert_eq!(found[0].values.len(), 10);
            let mut last = costs(&residual_network());
            for value in &found[0].values[1..] {
                let (model, _) = applied(&mut rule, &[(MODEL, value.as_f64().unwrap())]);
                let now = costs(&model);
                assert!(now.params() < last.params(), "{value}");
                assert!(now.macs().unwrap() < last.macs().unwrap(), "{value}");
                assert!(now.size_bytes() < last.size_bytes(), "{value}");
                last = now;
            }
        }
    }

    #[test]
    fn a_new_instance_makes_the_same_bytes() {
        let make = || {
            let mut rule = rule(json!({"scope": "global"}), &tenths(), "model").unwrap();
            applied(&mut rule, &[(MODEL, 0.6)]).0.encode_to_vec()
        };
        assert_eq!(make(), make());
    }

    #[test]
    fn gradients_are_asked_for_once_for_each_model() {
        let mut host = ModelHost::new(residual_network());
        host.batches = vec![(Tensor::from_vec(vec![1, 1, 8, 8], vec![0.0_f32; 64]), None)];
        host.logits = Tensor::from_vec(vec![1, 4], vec![1.0_f32, 0.0, 0.0, 0.0]);
        let config = json!({"importance": "taylor", "samples": 1});
        let mut rule = rule(config, "[0, 0.5]", "layer").unwrap();
        host.with(|host| rule.targets(host)).unwrap();
        host.with(|host| rule.apply(host, &action(&[("wide.conv", 0.5)])))
            .unwrap();
        assert_eq!(host.sessions.load(std::sync::atomic::Ordering::SeqCst), 1);
        assert_eq!(host.candidate().graph.tensor("wide.weight").unwrap().shape()[0], 8);
        host.with(|host| rule.targets(host)).unwrap();
        assert_eq!(
            host.sessions.load(std::sync::atomic::Ordering::SeqCst),
            2,
            "the model has changed"
        );
    }

    #[test]
    fn batch_normalizations_are_measured_after_the_cut() {
        let host = ModelHost::new(residual_network()).observing(|model, request| {
            assert_eq!(request.batch_norm, kmr_sdk::wire::BatchNorm::Batch);
            let statistics = request.values.iter().flat_map(|value| {
                let weight = value.replace(".conv", ".weight");
                let channels = model.graph.tensor(&weight).unwrap().shape()[0];
                [("mean", 0.5_f32), ("variance", -1e-9)].map(|(name, number)| {
                    let tensor = Tensor::from_vec(vec![channels], vec![number; channels]);
                    (format!("{value}/{name}"), tensor)
                })
            });
            statistics.collect()
        });
        let config = json!({"recalibrate_batch_norm": true, "recalibration_samples": 64});
        let mut rule = rule(config, "[0, 0.5]", "layer").unwrap();
        let applied = host
            .with(|host| rule.apply(host, &action(&[("wide.conv", 0.5)])))
            .unwrap();
        let values = |name: &str| {
            let model = host.candidate();
            let tensor = model.graph.tensor(name).unwrap().clone();
            tensor.values::<f32>().unwrap().into_owned()
        };
        assert_eq!(values("wide.mean"), [0.5; 8]);
        assert_eq!(values("wide.variance"), [0.0; 8]);
        assert_eq!(values("stem.mean"), [0.5; 10]);
        assert_eq!(
            applied.notes,
            ["4 batch normalizations recalibrated on up to 64 samples"]
        );
        assert!(applied.complete);

        let blind = ModelHost::new(residual_network());
        let costs_only = Action {
            costs_only: true,
            ..action(&[("wide.conv", 0.5)])
        };
        let applied = blind.with(|host| rule.apply(host, &costs_only)).unwrap();
        assert!(
            !applied.complete && applied.notes.is_empty(),
            "nothing is observed for costs"
        );
        assert_eq!(blind.candidate().encoded_len(), host.candidate().encoded_len());
    }

    #[test]
    fn layers_to_ignore_are_no_targets() {
        let config = json!({"ignore": ["block.*"]});
        let mut first = rule(config, "[0, 0.5]", "layer").unwrap();
        let found = targets(&mut first, residual_network()).unwrap();
        let labels: Vec<_> = found.iter().map(|target| target.label.as_str()).collect();
        assert_eq!(labels, ["wide"], "the stem's channels are those of block.second too");
        let mut second = rule(json!({"ignore": ["layer7.*"]}), "[0, 0.5]", "layer").unwrap();
        let error = targets(&mut second, residual_network()).unwrap_err();
        assert!(error.to_string().contains("`layer7.*` matches no layer"), "{error}");
    }

    #[test]
    fn mistakes_are_told_with_the_way_out() {
        let refused = |config, per| rule(config, "[0, 0.5]", per).err().unwrap().to_string();
        let unknown = refused(json!({"importanse": "l1"}), "layer");
        assert!(
            unknown.contains("unknown field `importanse`, expected one of `importance`"),
            "{unknown}"
        );
        let variant = refused(json!({"importance": "l3"}), "layer");
        assert!(
            variant.contains("expected one of `l1`, `l2`, `group_l2`, `taylor`, `wanda`"),
            "{variant}"
        );
        assert!(refused(json!({"scope": "global"}), "layer").contains("per = \"model\""));
        assert!(refused(json!({"round_to": 0}), "layer").starts_with("config.round_to"));

        let mut broken = residual_network();
        let mut values = vec![1.0_f32; 12 * 10 * 9];
        values[7] = f32::NAN;
        let tensor = Tensor::from_vec(vec![12, 10, 3, 3], values);
        broken
            .graph
            .initializers
            .insert("block.first.weight".into(), tensor.into());
        let mut nan = rule(json!({}), "[0, 0.5]", "layer").unwrap();
        let error = targets(&mut nan, broken).unwrap_err().to_string();
        assert!(error.contains("tensor `block.first.weight`"), "{error}");

        let mut elsewhere = rule(json!({}), "[0, 0.5]", "layer").unwrap();
        let host = ModelHost::new(residual_network());
        let error = host.with(|host| elsewhere.apply(host, &action(&[("gone", 0.5)])));
        assert!(
            error
                .unwrap_err()
                .to_string()
                .starts_with("target `gone`: this model has no such target")
        );
        assert_eq!(host.candidate(), residual_network());
    }
}
