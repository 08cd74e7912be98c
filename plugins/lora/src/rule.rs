//! The rule `lora`.

use std::{collections::HashMap, sync::Arc};

use kmr_methods::low_rank::{Spectrum, allocate};
use kmr_sdk::{
    Action, Applied, Error, Host, KnobSettings, Result, Rule, Target, log,
    model::{
        Graph, Model, Patch,
        adapters::{A, Adapter, B},
    },
    wire::Per,
};

use crate::{
    adapter::{fresh, of_factors},
    compression::{self, Loss, finite, losses},
    config::{Config, Initialize, Keep, meant, refuse},
    knob::{KNOB, MODEL, Order, Ranks, assigned, unknown_target},
    layers::{Layer, layers},
    merge,
    nodes::Adding,
    training::train,
};

/// The rule `lora`.
pub struct Lora {
    config: Config,
    ranks: Ranks,
    known: Option<Known>,
}

/// What compression has done to a model, found out once.
struct Known {
    base: Model,
    losses: Arc<Vec<Loss>>,
}

impl Rule for Lora {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        config.check()?;
        let ranks = Ranks::read(&knobs, Order::Rising)?;
        if config.allocate && ranks.per == Per::Layer {
            return refuse(
                "allocate",
                "shares one budget of the whole model; write per = \"model\" for the knob `rank`, or false",
            );
        }
        Ok(Self {
            config,
            ranks,
            known: None,
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let base = host.graph()?;
        let mut layers = self.layers(&base)?;
        let index = base.graph.index();
        for layer in &layers {
            if let Some(weight) = base.graph.tensor(&layer.weight) {
                finite(weight, &layer.weight)?;
            }
            if self.config.keep == Keep::Merge {
                merge::check(&base.graph, &index, layer)?;
            }
        }
        if self.config.epochs == 0 {
            let reference = host.graph_of("reference")?.graph;
            layers.retain(|layer| compression::may_differ(&reference, &base.graph, layer));
            if layers.is_empty() {
                log::warn!("adapters have nothing to repair: every weight is the reference's");
            }
        }
        let target = |target: &str, label: &str, layers: &[&Layer]| {
            let most = layers.iter().map(|layer| layer.most()).max().unwrap_or(0);
            let ranks = self.ranks.values.iter().filter(|&&rank| rank <= most);
            let values: Vec<_> = std::iter::once(0).chain(ranks.copied()).map(Into::into).collect();
            (values.len() > 1).then(|| Target {
                knob: KNOB.into(),
                target: target.into(),
                label: label.into(),
                values,
                layers: layers.iter().flat_map(|layer| layer.nodes.iter().cloned()).collect(),
            })
        };
        Ok(match self.ranks.per {
            Per::Model => {
                let all: Vec<&Layer> = layers.iter().collect();
                target(MODEL, "all layers", &all).into_iter().collect()
            }
            Per::Layer | Per::ChannelGroup => {
                let targets = layers
                    .iter()
                    .filter_map(|layer| target(&layer.weight, &layer.name, &[layer]));
                targets.collect()
            }
        })
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let mut applied = Applied::default();
        let assigned = assigned(action)?;
        if assigned.is_empty() {
            return Ok(applied);
        }
        let base = host.graph()?;
        let layers = self.layers(&base)?;
        if self.config.keep == Keep::Merge {
            let index = base.graph.index();
            layers
                .iter()
                .try_for_each(|layer| merge::check(&base.graph, &index, layer))?;
            if action.costs_only {
                return Ok(applied);
            }
        }
        let asked: HashMap<&str, usize> = assigned
            .iter()
            .map(|(assignment, rank)| (assignment.target.as_str(), *rank))
            .collect();
        let known = |target: &&&str| match self.ranks.per {
            Per::Model => **target == MODEL,
            Per::Layer | Per::ChannelGroup => layers.iter().any(|layer| layer.weight == **target),
        };
        if let Some(unknown) = asked.keys().find(|target| !known(target)) {
            return Err(unknown_target(unknown));
        }
        let untrained = self.config.epochs == 0;
        let by_values = untrained || self.config.allocate || !action.costs_only;
        let losses = match self.config.initialize == Initialize::Error && by_values {
            true => Some(self.losses(host, &base, &layers)?),
            false => None,
        };
        let losses = losses.as_ref().map(|losses| losses.as_slice());
        let adapters = self.adapters(host, &layers, losses, &asked, &mut applied)?;
        let adapters = match untrained || action.costs_only || adapters.is_empty() {
            true => adapters,
            false => self.trained(host, &base.graph, adapters, &mut applied)?,
        };
        self.keep(host, &base.graph, adapters, &mut applied)?;
        applied.complete = untrained;
        Ok(applied)
    }
}

impl Lora {
    fn layers(&self, base: &Model) -> Result<Vec<Layer>> {
        meant(layers(base)?, self.config.targets.as_ref(), &self.config.ignore)
    }

    fn losses(&mut self, host: &Host<'_>, base: &Model, layers: &[Layer]) -> Result<Arc<Vec<Loss>>> {
        if let Some(known) = self.known.as_ref().filter(|known| known.base == *base) {
            return Ok(known.losses.clone());
        }
        let most = match self.config.allocate {
            true => layers.iter().map(Layer::most).max().unwrap_or(0),
            false => self.ranks.greatest(),
        };
        let losses = Arc::new(losses(host, base, layers, most, &self.config)?);
        self.known = Some(Known {
            base: base.clone(),
            losses: losses.clone(),
        });
        Ok(losses)
    }

    /// The adapters that training starts from, with their layers.
    fn adapters<'l>(
        &self,
        host: &Host<'_>,
        layers: &'l [Layer],
        losses: Option<&[Loss]>,
        asked: &HashMap<&str, usize>,
        applied: &mut Applied,
    ) -> Result<Vec<(&'l Layer, Adapter)>> {
        let (scaling, seed) = (self.config.scaling(), self.config.seed.map_or_else(|| host.seed(), Ok)?);
        let ranks = match (self.config.allocate, losses) {
            (true, Some(losses)) => self.allocated(layers, losses, asked, applied),
            _ => layers
                .iter()
                .map(|layer| {
                    let asked = asked.get(layer.weight.as_str()).or_else(|| asked.get(MODEL));
                    asked.copied().unwrap_or(0).min(layer.most())
                })
                .collect(),
        };
        let mut adapters = Vec::new();
        for (position, (layer, rank)) in layers.iter().zip(ranks).enumerate() {
            if rank == 0 {
                continue;
            }
            let loss = losses.map(|losses| &losses[position]);
            let adapter = match loss {
                Some(Loss::Difference(decomposition)) => of_factors(layer, decomposition.factors(rank), scaling)?,
                Some(Loss::Unknown(reason)) => {
                    applied
                        .notes
                        .push(format!("layer `{}`: {reason}; its adapter starts at zero", layer.name));
                    fresh(layer, rank, scaling, seed)?
                }
                _ => fresh(layer, rank, scaling, seed)?,
            };
            let idle = !matches!(loss, Some(Loss::Difference(_)));
            if self.config.epochs > 0 || !idle {
                adapters.push((layer, adapter));
            }
        }
        Ok(adapters)
    }

    /// The rank of each layer where the asked rank is an average: one budget of parameters for all.
    fn allocated(
        &self,
        layers: &[Layer],
        losses: &[Loss],
        asked: &HashMap<&str, usize>,
        applied: &mut Applied,
    ) -> Vec<usize> {
        let average = asked.get(MODEL).copied().unwrap_or(0);
        let budget: usize = layers
            .iter()
            .map(|layer| average.min(layer.most()) * layer.cost())
            .sum();
        let spectra = layers.iter().zip(losses).map(|(layer, loss)| Spectrum {
            singular_values: match loss {
                Loss::Difference(decomposition) => decomposition.singular_values(),
                _ => &[],
            },
            cost: layer.cost(),
            most: layer.most(),
        });
        let spectra: Vec<Spectrum<'_>> = spectra.collect();
        let ranks = allocate(&spectra, budget);
        let told: Vec<String> = layers
            .iter()
            .zip(&ranks)
            .map(|(layer, rank)| format!("{} {rank}", layer.name))
            .collect();
        applied.notes.push(format!(
            "ranks of one budget of {budget} parameters: {}",
            told.join(", ")
        ));
        ranks
    }

    fn trained<'l>(
        &self,
        host: &Host<'_>,
        graph: &Graph,
        adapters: Vec<(&'l Layer, Adapter)>,
        applied: &mut Applied,
    ) -> Result<Vec<(&'l Layer, Adapter)>> {
        let mut adding = Adding::to(graph).dropping(self.config.dropout as f32);
        let mut names = Vec::new();
        for (layer, adapter) in &adapters {
            adding.adapter(layer, adapter)?;
            names.extend([format!("{}{A}", layer.name), format!("{}{B}", layer.name)]);
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let trained = train(host, graph, &adding.finish(), &names, &self.config)?;
        if let (Some(first), Some(last)) = (trained.losses.first(), trained.losses.last()) {
            let epochs = trained.losses.len();
            applied.notes.push(format!(
                "trained {} adapters for {epochs} epochs: mean loss {first:.4} in the first, {last:.4} in the last",
                adapters.len()
            ));
        }
        let mut tensors = trained.tensors.into_iter();
        let moved = adapters.into_iter().map(|(layer, adapter)| {
            let (a, b) = (tensors.next(), tensors.next());
            let (Some(a), Some(b)) = (a, b) else {
                return Err(Error::not_found("was not trained").at(format!("adapter of `{}`", layer.name)));
            };
            Ok((layer, Adapter::new(&layer.name, a, b, adapter.scaling)?))
        });
        moved.collect()
    }

    /// Stores the adapters as the configuration says.
    fn keep(
        &self,
        host: &Host<'_>,
        graph: &Graph,
        adapters: Vec<(&Layer, Adapter)>,
        applied: &mut Applied,
    ) -> Result<()> {
        let mut patch = Patch::new();
        let index = graph.index();
        let mut adding = Adding::to(graph);
        let (mut codes, mut changed) = (0, 0);
        for (layer, adapter) in &adapters {
            let after = match self.config.keep {
                Keep::Nodes => {
                    adding.adapter(layer, adapter)?;
                    format!("rank {}", adapter.rank)
                }
                Keep::Merge => {
                    let merged = merge::merged(graph, &index, layer, adapter)?;
                    if let Some(own) = merged.changed {
                        codes += layer.shape.iter().product::<usize>();
                        changed += own;
                    }
                    patch.push(merged.edit());
                    format!("rank {}, merged", adapter.rank)
                }
            };
            applied.change(&layer.nodes[0], "adapter", "none", after);
        }
        if codes > 0 {
            applied.notes.push(format!(
                "merging was rounded to the stored integers: {changed} of {codes} codes are others now; keep = \"nodes\" \
                 loses nothing"
            ));
        }
        patch.edits.extend(adding.finish().edits);
        if patch.edits.is_empty() {
            return Ok(());
        }
        host.edit(&patch)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use kmr_sdk::{ErrorCode, Method, Split, model::adapters::adapters};

    use super::*;
    use crate::testing::{ModelHost, convolutions, evaluate, noise, packed, perceptron, quantized};
    use kmr_sdk::model::{DType, Edit, Tensor};

    fn rule_per(per: &str, config: &str) -> Result<Lora> {
        let knobs = format!(r#"{{"rank": {{"values": [0, 1, 2, 4], "per": "{per}"}}}}"#);
        let config = kmr_sdk::serde_json::from_str(config).unwrap();
        Lora::new(config, kmr_sdk::serde_json::from_str(&knobs).unwrap())
    }

    fn rule(config: &str) -> Lora {
        rule_per("model", config).unwrap()
    }

    fn action(target: &str, rank: usize) -> Action {
        let text = format!(r#"{{"assignments": [{{"knob": "rank", "target": "{target}", "value": {rank}}}]}}"#);
        kmr_sdk::serde_json::from_str(&text).unwrap()
    }

    /// A perceptron in four bits, and what it was.
    fn compressed() -> ModelHost {
        let model = perceptron();
        let small = quantized(&packed(&model, "matrix"), &["first.weight", "third.weight"], 4);
        ModelHost::new(small, model)
    }

    fn repaired(rule: &mut Lora, host: &ModelHost, rank: usize) -> Applied {
        host.with(|host| rule.apply(host, &action("model", rank))).unwrap()
    }

    const REPAIR: &str = r#"{"epochs": 0, "keep": "nodes"}"#;

    #[test]
    fn a_greater_rank_repairs_more_and_the_full_one_everything() {
        let before = compressed().distance();
        let mut last = before;
        for rank in [1, 2, 4] {
            let host = compressed();
            let applied = repaired(&mut rule(REPAIR), &host, rank);
            assert!(
                applied.complete && applied.changes.len() == 3 && applied.notes.is_empty(),
                "{applied:?}"
            );
            let now = host.distance();
            assert!(now < last, "rank {rank}: {now} after {last}");
            last = now;
        }
        assert!(last < 0.05 * before, "{last} of {before}");
        let host = compressed();
        let all = r#"{"epochs": 0, "keep": "nodes", "error_norm": "weights"}"#;
        let knobs = kmr_sdk::serde_json::from_str(r#"{"rank": {"values": [0, 5], "per": "model"}}"#).unwrap();
        let mut rule = Lora::new(kmr_sdk::serde_json::from_str(all).unwrap(), knobs).unwrap();
        repaired(&mut rule, &host, 5);
        assert!(host.distance() < 1e-9 * before);
    }

    #[test]
    fn outputs_count_more_than_weights() {
        let by = |norm: &str| {
            let host = ModelHost::new(quantized(&perceptron(), &["first.weight"], 4), perceptron());
            let config = format!(r#"{{"epochs": 0, "keep": "nodes", "error_norm": "{norm}"}}"#);
            repaired(&mut rule(&config), &host, 1);
            let off = |feeds| {
                let of = |model: &Model| evaluate(&model.graph, feeds, &["h"]).remove(0).values;
                let pairs = of(&host.candidate()).into_iter().zip(of(host.reference()));
                pairs.map(|(a, b)| (a - b).powi(2)).sum::<f64>()
            };
            host.batches.iter().map(|feeds| off(feeds)).sum::<f64>()
        };
        let (outputs, weights) = (by("outputs"), by("weights"));
        assert!(outputs < weights, "{outputs} {weights}");
    }

    #[test]
    fn convolutions_are_repaired_through_a_folded_normalization() {
        let model = convolutions();
        let graph = &model.graph;
        // What quantization does before it: fold, then round.
        let values = |name: &str| graph.tensor(name).unwrap().to_f32().unwrap().into_owned();
        let (gamma, beta) = (values("gamma"), values("beta"));
        let (mean, variance) = (values("mean"), values("variance"));
        let factor = |row: usize| gamma[row] / (variance[row] + 1e-5).sqrt();
        let folded = values("stem.weight")
            .iter()
            .enumerate()
            .map(|(at, w)| w * factor(at / 18))
            .collect();
        let bias = (0..4).map(|row| beta[row] - mean[row] * factor(row)).collect();
        let mut patch = Patch::new();
        for (name, tensor) in [
            ("stem.weight", Tensor::from_vec(vec![4, 2, 3, 3], folded)),
            ("beta", Tensor::from_vec(vec![4], bias)),
        ] {
            patch.push(Edit::StoreTensor {
                name: name.into(),
                tensor,
            });
        }
        for (node, input, value) in [("c", 2, "beta"), ("r", 0, "c")] {
            patch.push(Edit::Rewire {
                node: node.into(),
                input,
                value: value.into(),
            });
        }
        patch.push(Edit::RemoveNode { node: "n".into() });
        for name in ["gamma", "mean", "variance"] {
            patch.push(Edit::RemoveTensor { name: name.into() });
        }
        let graph = patch.apply(graph).unwrap();
        let small = quantized(&model.with_graph(graph), &["stem.weight"], 4);
        let host = ModelHost::new(small, model);
        let before = host.distance();
        let applied = repaired(&mut rule(REPAIR), &host, 4);
        assert!(applied.notes.is_empty(), "{applied:?}");
        assert!(host.distance() < 1e-6 * before, "{} {before}", host.distance());
        let found = adapters(&host.candidate().graph).unwrap();
        assert_eq!(
            (found[0].a.shape(), found[0].b.shape()),
            (&[4, 2, 3, 3][..], &[4, 4, 1, 1][..])
        );
        let layer = &layers(&host.reference().clone()).unwrap()[0];
        let most = crate::adapter::added(layer, &found[0])
            .unwrap()
            .iter()
            .fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(most < 0.2, "no more than what rounding took: {most}");
    }

    #[test]
    fn a_rank_of_one_layer_and_a_rank_of_all() {
        let mut per_layer = rule_per("layer", REPAIR).unwrap();
        let host = compressed();
        let targets = host.with(|host| per_layer.targets(host)).unwrap();
        let told: Vec<_> = targets.iter().map(|t| (t.target.as_str(), t.values.len())).collect();
        assert_eq!(
            told,
            [("first.weight", 4), ("matrix", 4), ("third.weight", 3)],
            "rank 4 is beyond the last"
        );
        host.with(|host| per_layer.apply(host, &action("matrix", 2))).unwrap();
        let found = adapters(&host.candidate().graph).unwrap();
        assert_eq!(
            (found.len(), found[0].layer.as_str(), found[0].rank),
            (1, "block.second", 2)
        );
        let mut rule = rule(REPAIR);
        let targets = host.with(|host| rule.targets(host)).unwrap();
        assert_eq!((targets.len(), targets[0].layers.len()), (1, 2), "{targets:?}");
    }

    #[test]
    fn one_budget_is_shared_by_the_error() {
        let host = compressed();
        let config = r#"{"epochs": 0, "keep": "nodes", "allocate": true, "error_norm": "weights"}"#;
        let applied = repaired(&mut rule(config), &host, 2);
        assert!(
            applied.notes[0].starts_with("ranks of one budget of 56 parameters: first "),
            "{applied:?}"
        );
        let found = adapters(&host.candidate().graph).unwrap();
        let spent: usize = found.iter().map(Adapter::parameters).sum();
        assert!(spent <= 56 && !found.is_empty());
        let uniform = compressed();
        repaired(
            &mut rule(r#"{"epochs": 0, "keep": "nodes", "error_norm": "weights"}"#),
            &uniform,
            2,
        );
        let error = rule_per("layer", config).err().unwrap().to_string();
        assert!(error.starts_with("config.allocate: shares one budget"), "{error}");
    }

    #[test]
    fn costs_are_what_comes_of_it() {
        for config in [
            REPAIR,
            r#"{"keep": "nodes"}"#,
            r#"{"epochs": 0, "keep": "nodes", "allocate": true}"#,
        ] {
            let shapes = |costs_only: bool| {
                let host = compressed();
                let mut action = action("model", 2);
                action.costs_only = costs_only;
                host.with(|host| rule(config).apply(host, &action)).unwrap();
                host.candidate().encoded_len()
            };
            assert_eq!(shapes(true), shapes(false), "{config}");
        }
    }

    #[test]
    fn merging_repairs_floats_and_tells_what_rounding_kept() {
        let model = perceptron();
        let mut patch = Patch::new();
        let pruned = model.graph.tensor("matrix").unwrap().to_f32().unwrap().into_owned();
        let pruned = pruned
            .into_iter()
            .map(|value| if value.abs() < 0.3 { 0.0 } else { value })
            .collect();
        patch.push(Edit::StoreTensor {
            name: "matrix".into(),
            tensor: Tensor::from_vec(vec![6, 4], pruned),
        });
        let host = ModelHost::new(model.with_graph(patch.apply(&model.graph).unwrap()), model.clone());
        let before = host.distance();
        let applied = repaired(&mut rule(r#"{"epochs": 0}"#), &host, 4);
        assert!(
            host.distance() < 1e-6 * before && applied.changes.len() == 1,
            "{applied:?}"
        );
        assert_eq!(host.candidate().encoded_len(), model.encoded_len());
        let host = ModelHost::new(quantized(&model, &["matrix"], 8), model.clone());
        let size = host.candidate().encoded_len();
        let applied = repaired(&mut rule(r#"{"epochs": 0}"#), &host, 2);
        assert_eq!(host.candidate().encoded_len(), size);
        assert!(applied.notes[0].contains("of 24 codes are others now"), "{applied:?}");
    }

    #[test]
    fn what_cannot_be_merged_is_refused_at_once() {
        let host = compressed();
        let error = host.with(|host| rule("{}").targets(host)).unwrap_err();
        assert!(
            error.to_string().starts_with("tensor `matrix`: is made by a Mul"),
            "{error}"
        );
        let error = host
            .with(|host| rule("{}").apply(host, &action("model", 1)))
            .unwrap_err();
        assert_eq!(error.code, ErrorCode::UNSUPPORTED);
        assert!(
            host.with(|host| rule(r#"{"ignore": ["matrix"]}"#).targets(host))
                .is_ok()
        );
    }

    #[test]
    fn another_shape_falls_back_layer_by_layer() {
        let mut reference = perceptron();
        let wide = Tensor::from_vec(vec![6, 5, 1], noise(30, 9));
        reference.graph.initializers.insert("first.weight".into(), wide.into());
        let mut patch = Patch::new();
        let third = (**reference.graph.tensor("third.weight").unwrap()).clone();
        patch.push(Edit::StoreTensor {
            name: "other".into(),
            tensor: third,
        });
        patch.push(Edit::Rewire {
            node: "logits".into(),
            input: 1,
            value: "other".into(),
        });
        patch.push(Edit::RemoveTensor {
            name: "third.weight".into(),
        });
        reference = reference.with_graph(patch.apply(&reference.graph).unwrap());
        let host = ModelHost::new(quantized(&perceptron(), &["first.weight", "matrix"], 4), reference);
        let applied = repaired(&mut rule(REPAIR), &host, 2);
        assert_eq!(applied.changes.len(), 1);
        let notes = applied.notes.join("\n");
        assert!(
            notes.contains("layer `first`: its weight has shape [6, 5], the reference's [6, 5, 1]"),
            "{notes}"
        );
        assert!(
            notes.contains("layer `third`: the reference has no weight of this name; its adapter"),
            "{notes}"
        );
    }

    #[test]
    fn a_rescaled_layer_falls_back() {
        let model = perceptron();
        let mut patch = Patch::new();
        let scaled = model
            .graph
            .tensor("first.weight")
            .unwrap()
            .to_f32()
            .unwrap()
            .into_owned();
        let scaled = scaled
            .into_iter()
            .enumerate()
            .map(|(at, value)| value * (1.0 + (at % 5) as f32))
            .collect();
        patch.push(Edit::StoreTensor {
            name: "first.weight".into(),
            tensor: Tensor::from_vec(vec![6, 5], scaled),
        });
        let host = ModelHost::new(model.with_graph(patch.apply(&model.graph).unwrap()), model);
        let applied = repaired(&mut rule(REPAIR), &host, 2);
        assert!(applied.notes[0].contains("its weight was rescaled"), "{applied:?}");
        assert!(applied.changes.is_empty());
    }

    #[test]
    fn data_is_asked_for_by_name() {
        let small = quantized(&perceptron(), &["matrix"], 8);
        let host = || ModelHost::new(small.clone(), perceptron()).without_data();
        let error = |config: &str| {
            host()
                .with(|host| rule(config).apply(host, &action("model", 1)))
                .unwrap_err()
        };
        let observing = error(r#"{"epochs": 0}"#).to_string();
        assert!(
            observing.starts_with("config.error_norm: \"outputs\" looks at calibration data"),
            "{observing}"
        );
        let training = error(r#"{"error_norm": "weights"}"#).to_string();
        assert!(training.starts_with("config.epochs: training needs data"), "{training}");
        let host = host();
        let config = r#"{"epochs": 0, "error_norm": "weights"}"#;
        host.with(|host| rule(config).apply(host, &action("model", 1))).unwrap();
        let packed = ModelHost::new(packed(&perceptron(), "matrix"), perceptron()).without_data();
        let config = r#"{"epochs": 0, "error_norm": "weights", "keep": "nodes"}"#;
        let applied = packed
            .with(|host| rule(config).apply(host, &action("model", 1)))
            .unwrap();
        assert!(
            applied.notes[0].contains("without calibration data they cannot be run"),
            "{applied:?}"
        );
    }

    #[test]
    fn nothing_to_repair_is_no_target() {
        let host = ModelHost::new(perceptron(), perceptron());
        assert_eq!(host.with(|host| rule(REPAIR).targets(host)).unwrap(), []);
        assert_eq!(
            host.with(|host| rule("{}").targets(host)).unwrap().len(),
            1,
            "training may still help"
        );
        let applied = repaired(&mut rule(REPAIR), &host, 2);
        assert!(applied.changes.is_empty() && host.candidate() == perceptron());
    }

    #[test]
    fn what_is_not_finite_or_has_no_layers_is_refused() {
        let mut model = perceptron();
        let broken = Tensor::from_vec(vec![6, 4], vec![f32::NAN; 24]);
        model.graph.initializers.insert("matrix".into(), broken.into());
        let host = ModelHost::new(model.clone(), perceptron());
        let error = host.with(|host| rule("{}").targets(host)).unwrap_err().to_string();
        assert!(error.starts_with("tensor `matrix`: holds NaN"), "{error}");
        let error = host
            .with(|host| rule(REPAIR).apply(host, &action("model", 1)))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("tensor `matrix`: holds NaN"), "{error}");
        for name in ["first.weight", "matrix", "third.weight"] {
            let shape = model.graph.tensor(name).unwrap().shape().to_vec();
            let bytes = vec![0; 2 * shape.iter().product::<usize>()];
            let half = Tensor::new(DType::FLOAT16, shape, bytes.into()).unwrap();
            model.graph.initializers.insert(name.into(), half.into());
        }
        let host = ModelHost::new(model, perceptron());
        let error = host.with(|host| rule("{}").targets(host)).unwrap_err().to_string();
        assert!(error.starts_with("the model has nothing to adapt"), "{error}");
    }

    #[test]
    fn unknown_targets_and_values_are_refused() {
        let host = compressed();
        let error = host
            .with(|host| rule(REPAIR).apply(host, &action("matrix", 1)))
            .unwrap_err();
        assert_eq!(
            (error.code, error.location.as_str()),
            (ErrorCode::NOT_FOUND, "target `matrix`")
        );
        let error = host
            .with(|host| rule(REPAIR).apply(host, &action("model", 5000)))
            .unwrap_err();
        assert!(
            error.to_string().starts_with("knob `rank`: takes whole numbers"),
            "{error}"
        );
    }

    const TRAIN: &str = r#"{"epochs": 3, "keep": "nodes", "initialize": "zeros", "optimizer": "sgd",
        "learning_rate": 0.05, "temperature": 1, "schedule": "constant"}"#;

    #[test]
    fn training_brings_answers_closer_and_leaves_the_base() {
        let host = compressed();
        let base = host.candidate();
        let before = host.distance();
        let applied = repaired(&mut rule(TRAIN), &host, 2);
        assert!(
            applied.notes[0].starts_with("trained 3 adapters for 3 epochs: mean loss"),
            "{applied:?}"
        );
        assert_eq!(host.steps.load(Ordering::SeqCst), 9);
        assert!(host.distance() < before, "{} {before}", host.distance());
        let after = host.candidate();
        for (name, initializer) in &base.graph.initializers {
            assert_eq!(after.graph.initializers.get(name), Some(initializer), "{name}");
        }
        let sessions = host.sessions.lock().unwrap();
        let student = sessions.iter().find(|session| !session.trainable.is_empty()).unwrap();
        assert_eq!(student.trainable.len(), 6);
        assert_eq!((student.split, student.straight_through), (Split::Training, true));
        assert!(matches!(student.optimizer.method, Method::Sgd { .. }));
        assert!(
            sessions
                .iter()
                .any(|session| session.model == "reference" && session.seed == student.seed)
        );
        assert_eq!(host.trained.load(Ordering::SeqCst), 0, "nothing of the base moves");
    }

    #[test]
    fn a_resumed_training_ends_the_same() {
        let whole = compressed();
        repaired(&mut rule(TRAIN), &whole, 2);
        let first = compressed();
        let one = TRAIN.replace("\"epochs\": 3", "\"epochs\": 1");
        repaired(&mut rule(&one), &first, 2);
        let second = compressed();
        *second.checkpoint.lock().unwrap() = first.checkpoint.lock().unwrap().clone();
        repaired(&mut rule(TRAIN), &second, 2);
        assert_eq!(second.steps.load(Ordering::SeqCst), 6);
        assert_eq!(second.candidate(), whole.candidate());
    }

    #[test]
    fn labels_train_too_where_there_are_some() {
        let config = TRAIN.replace("\"temperature\": 1", "\"soft_share\": 0.5");
        let mut host = compressed();
        let error = host
            .with(|host| rule(&config).apply(host, &action("model", 1)))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("config.soft_share: the data has no labels; write 1"),
            "{error}"
        );
        host.labels = vec![Some(vec![0, 1, 2, 0, 1, 2, 0, 1]); 3];
        repaired(&mut rule(&config), &host, 1);
        host.labels = vec![Some(vec![0, 1, 3, 0, 1, 2, 0, 1]); 3];
        let mut wrong = compressed();
        wrong.labels = host.labels;
        let error = wrong
            .with(|host| rule(&config).apply(host, &action("model", 1)))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("training data: label 3 of row 2"), "{error}");
    }

    #[test]
    fn a_training_that_runs_away_is_told() {
        let config = TRAIN.replace("0.05", "1e30");
        let host = compressed();
        let base = host.candidate();
        let error = host
            .with(|host| rule(&config).apply(host, &action("model", 1)))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("epoch 1 of 3, batch ") && error.contains("try a smaller `learning_rate`"),
            "{error}"
        );
        assert_eq!(host.candidate(), base);
    }

    #[test]
    fn dropping_needs_a_base_without_normalizations() {
        let config = TRAIN.replace("\"epochs\": 3", "\"epochs\": 1, \"dropout\": 0.1");
        let host = ModelHost::new(convolutions(), convolutions());
        let error = host
            .with(|host| rule(&config).apply(host, &action("model", 1)))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("config.dropout: dropping needs training mode"),
            "{error}"
        );
        let host = compressed();
        repaired(&mut rule(&config), &host, 1);
        assert_eq!(host.trained.load(Ordering::SeqCst), 1);
        let nodes = host.candidate().graph.nodes;
        assert!(
            !nodes.iter().any(|node| node.is("Dropout")),
            "it lives while training alone"
        );
    }
}
