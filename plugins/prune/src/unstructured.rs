//! The rule `prune_unstructured`: sets single weights to zero.

use kmr_methods::sparse_gpt::Pattern;
use kmr_sdk::{Action, Applied, Error, Host, Ignore, KnobSettings, Result, Rule, Target, log, model::Model, wire::Per};
use serde::Deserialize;

use crate::{
    importance::{ElementScores, weights::Importance},
    knob::{MODEL, Sparsity, unknown_target},
    made_up::{Wanted, make_up},
    scored::Remembered,
    selection::removed,
    weights::{Weight, stored},
    zeroing::Zeroing,
};

/// The name of the knob: the share of weights set to zero, from 0 to 0.99.
const KNOB: &str = "weight_sparsity";
const MOST: f64 = 0.99;

/// What a sparsity of the whole model means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Scope {
    /// The same share of every weight tensor.
    #[default]
    Uniform,
    /// This share of all weights, the smallest of all first.
    Global,
}

/// The configuration of `prune_unstructured`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    importance: Importance,
    scope: Scope,
    samples: usize,
    ignore: Ignore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            importance: Importance::default(),
            scope: Scope::default(),
            samples: 256,
            ignore: Ignore::default(),
        }
    }
}

/// The rule `prune_unstructured`.
pub struct PruneUnstructured {
    scope: Scope,
    importance: Importance,
    samples: usize,
    sparsity: Sparsity,
    remembered: Remembered,
}

impl Rule for PruneUnstructured {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        let sparsity = Sparsity::read(&knobs, KNOB, MOST)?;
        if config.scope == Scope::Global {
            let message = match (sparsity.per, config.importance) {
                (Per::Layer, _) if knobs.get(KNOB).is_some() => Some(
                    "\"global\" ranks the weights of the whole model for one knob; turn the knob with per = \"model\", \
                     or leave scope out",
                ),
                (_, importance) if importance.compares_outputs() => {
                    Some("this importance compares the weights of one output alone; take importance = \"l1\"")
                }
                _ => None,
            };
            if let Some(message) = message {
                return Err(Error::invalid_configuration(message).at("config.scope"));
            }
        }
        Ok(Self {
            scope: config.scope,
            importance: config.importance,
            samples: config.samples,
            sparsity,
            remembered: Remembered::new(config.importance, config.samples, config.ignore)?,
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        log::info!(
            "zeros save bytes only where a tensor's sparse form is smaller, above two thirds of float32 weights"
        );
        let scored = self.remembered.of(host)?;
        let nonzero = |weight: &Weight, sparsity: f64| self.nonzero(&scored.base, weight, sparsity);
        if self.sparsity.per == Per::Layer {
            let targets = scored.weights.iter().filter_map(|weight| {
                let layers = weight.readers.iter().map(|reader| reader.node.clone()).collect();
                self.sparsity
                    .target(&weight.tensor, weight.label(), layers, |sparsity| {
                        nonzero(weight, sparsity)
                    })
            });
            return Ok(targets.collect());
        }
        let readers = scored.weights.iter().flat_map(|weight| &weight.readers);
        let layers = readers.map(|reader| reader.node.clone()).collect();
        let target = self
            .sparsity
            .target(MODEL, "all weights", layers, |sparsity| match self.scope {
                Scope::Uniform => scored.weights.iter().map(|weight| nonzero(weight, sparsity)).sum(),
                Scope::Global => {
                    let total: usize = scored.weights.iter().map(Weight::len).sum();
                    let before: usize = scored.weights.iter().map(|weight| nonzero(weight, 0.0)).sum();
                    before.min(total - removed(total, sparsity))
                }
            });
        Ok(target.into_iter().collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let assigned = self.sparsity.assigned(action)?;
        if assigned.is_empty() {
            return Ok(Applied::default());
        }
        let scored = self.remembered.of(host)?;
        let mut zeroing = Zeroing::of(&scored.base);
        let mut made_up: Vec<Wanted<'_>> = Vec::new();
        for (assignment, sparsity) in assigned {
            let chosen: Vec<&Weight> = match self.sparsity.per {
                Per::Model if assignment.target == MODEL => scored.weights.iter().collect(),
                Per::Layer | Per::ChannelGroup => scored
                    .weights
                    .iter()
                    .filter(|weight| weight.tensor == assignment.target)
                    .collect(),
                Per::Model => Vec::new(),
            };
            if chosen.is_empty() {
                return Err(unknown_target(assignment));
            }
            if self.scope == Scope::Global {
                for (weight, positions) in least_of_all(&chosen, &scored.scores, sparsity) {
                    zeroing.zero(weight, positions)?;
                }
                continue;
            }
            if self.importance == Importance::SparseGpt && !action.costs_only {
                made_up.extend(chosen.into_iter().map(|weight| Wanted {
                    weight,
                    pattern: Pattern::Share {
                        removed: removed(weight.len() / weight.shape[weight.output_axis].max(1), sparsity),
                    },
                }));
                continue;
            }
            for weight in chosen {
                zeroing.zero(weight, self.least(weight, &scored.scores[&weight.tensor], sparsity))?;
            }
        }
        make_up(host, &scored.base, &made_up, self.samples, &mut zeroing)?;
        let done = self.importance != Importance::SparseGpt || !action.costs_only;
        zeroing.finish(host, done)
    }
}

impl PruneUnstructured {
    /// The sets of positions of which the same share is removed: a whole tensor, or each output on its own.
    fn sets(&self, weight: &Weight) -> Vec<Vec<usize>> {
        if !self.importance.compares_outputs() {
            return vec![(0..weight.len()).collect()];
        }
        let mut sets = vec![Vec::new(); weight.shape[weight.output_axis]];
        for element in 0..weight.len() {
            sets[weight.coordinate(element, weight.output_axis)].push(element);
        }
        sets
    }

    fn least(&self, weight: &Weight, scores: &[f32], sparsity: f64) -> Vec<usize> {
        let mut least = Vec::new();
        for mut set in self.sets(weight) {
            let count = removed(set.len(), sparsity);
            least.extend_from_slice(least_of(&mut set, count, |&position| (scores[position], position)));
        }
        least
    }

    /// Weights that are not zero when the rule has done its work.
    fn nonzero(&self, model: &Model, weight: &Weight, sparsity: f64) -> usize {
        let Ok(Some(tensor)) = stored(&model.graph, &weight.tensor) else {
            return 0;
        };
        let Ok(values) = tensor.to_f32() else {
            return 0;
        };
        let sets = self.sets(weight);
        let left = sets.iter().map(|set| {
            let nonzero = set.iter().filter(|&&position| values[position] != 0.0).count();
            nonzero.min(set.len() - removed(set.len(), sparsity))
        });
        left.sum()
    }
}

/// Moves the `count` items of the smallest scores to the front and gives them. Of equal scores the last go first.
fn least_of<T>(items: &mut [T], count: usize, key: impl Fn(&T) -> (f32, usize)) -> &[T] {
    if count > 0 && count < items.len() {
        items.select_nth_unstable_by(count, |a, b| {
            let (a, b) = (key(a), key(b));
            a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))
        });
    }
    &items[..count.min(items.len())]
}

/// For each of `weights`, the positions among the least of all of them together.
fn least_of_all<'w>(weights: &[&'w Weight], scores: &ElementScores, sparsity: f64) -> Vec<(&'w Weight, Vec<usize>)> {
    let mut all: Vec<(f32, usize, usize)> = Vec::new();
    for (number, weight) in weights.iter().enumerate() {
        all.extend(
            scores[&weight.tensor]
                .iter()
                .enumerate()
                .map(|(position, &score)| (score, number, position)),
        );
    }
    let starts: Vec<usize> = weights
        .iter()
        .scan(0, |start, weight| {
            let here = *start;
            *start += weight.len();
            Some(here)
        })
        .collect();
    let count = removed(all.len(), sparsity);
    let mut least: Vec<_> = weights.iter().map(|&weight| (weight, Vec::new())).collect();
    for &(_, number, position) in least_of(&mut all, count, |&(score, number, position)| {
        (score, starts[number] + position)
    }) {
        least[number].1.push(position);
    }
    least
}

#[cfg(test)]
mod tests {
    use kmr_sdk::{
        Assignment,
        model::{Layout, Tensor},
        serde_json::{self, json},
    };

    use super::*;
    use crate::testing::{ModelHost, residual_network};

    fn rule(config: serde_json::Value, per: &str) -> Result<PruneUnstructured> {
        let knobs = format!(r#"{{"{KNOB}": {{"values": [0, 0.25, 0.5, 0.9], "per": "{per}"}}}}"#);
        PruneUnstructured::new(serde_json::from_value(config)?, serde_json::from_str(&knobs).unwrap())
    }

    fn apply(rule: &mut PruneUnstructured, host: &ModelHost, target: &str, value: f64) -> Applied {
        let assignment = Assignment {
            knob: KNOB.into(),
            target: target.into(),
            value: value.into(),
        };
        let action = Action {
            assignments: vec![assignment],
            ..Action::default()
        };
        host.with(|host| rule.apply(host, &action)).unwrap()
    }

    fn values(model: &Model, name: &str) -> Vec<f32> {
        model.graph.tensor(name).unwrap().values::<f32>().unwrap().into_owned()
    }

    #[test]
    fn the_smallest_go_and_the_file_shrinks_only_where_sparse_is_smaller() {
        let base = residual_network();
        let mut rule = rule(json!({}), "layer").unwrap();
        let host = ModelHost::new(base.clone());
        let applied = apply(&mut rule, &host, "wide.weight", 0.5);
        let model = host.candidate();
        let (before, after) = (values(&base, "wide.weight"), values(&model, "wide.weight"));
        let threshold = after
            .iter()
            .filter(|v| **v != 0.0)
            .map(|v| v.abs())
            .fold(f32::INFINITY, f32::min);
        assert_eq!(after.iter().filter(|v| **v == 0.0).count(), 720);
        assert!(
            before
                .iter()
                .zip(&after)
                .all(|(b, a)| if b.abs() < threshold { *a == 0.0 } else { a == b })
        );
        assert_eq!(model.encoded_len(), base.encoded_len());
        assert!(
            applied.notes[0].starts_with("stored zeros save no bytes in wide.conv"),
            "{applied:?}"
        );

        let host = ModelHost::new(base.clone());
        let applied = apply(&mut rule, &host, "wide.weight", 0.9);
        let model = host.candidate();
        assert_eq!(model.graph.initializers["wide.weight"].layout, Layout::Sparse);
        assert!(model.encoded_len() < base.encoded_len() - 3000);
        assert_eq!(
            applied.notes,
            ["written in ONNX's sparse form, which is smaller: 1 of 1 tensors"]
        );
    }

    #[test]
    fn a_ranking_of_all_weights_takes_the_smallest_wherever_they_are() {
        let mut base = residual_network();
        let tiny = Tensor::from_vec(vec![4, 16], vec![1e-6_f32; 64]);
        base.graph.initializers.insert("linear.weight".into(), tiny.into());
        let total: usize = crate::weights::weights(&base.graph).iter().map(Weight::len).sum();
        let mut rule = rule(json!({"scope": "global"}), "model").unwrap();
        let host = ModelHost::new(base);
        let targets = host.with(|host| rule.targets(host)).unwrap();
        assert_eq!(targets[0].values, [0.0, 0.25, 0.5, 0.9]);
        apply(&mut rule, &host, MODEL, 0.25);
        let model = host.candidate();
        assert!(values(&model, "linear.weight").iter().all(|value| *value == 0.0));
        let zeros = crate::weights::weights(&model.graph)
            .iter()
            .flat_map(|weight| values(&model, &weight.tensor))
            .filter(|value| *value == 0.0)
            .count();
        assert_eq!(zeros, removed(total, 0.25));
    }

    #[test]
    fn zeros_that_are_there_already_are_no_effect() {
        let mut base = residual_network();
        let mut sparse = values(&base, "linear.weight");
        sparse[..40].fill(0.0);
        base.graph
            .initializers
            .insert("linear.weight".into(), Tensor::from_vec(vec![4, 16], sparse).into());
        let mut rule = rule(json!({}), "layer").unwrap();
        let targets = ModelHost::new(base).with(|host| rule.targets(host)).unwrap();
        let linear = targets.iter().find(|target| target.target == "linear.weight").unwrap();
        assert_eq!(linear.values, [0.0, 0.9]);
    }

    #[test]
    fn wanda_takes_the_same_share_of_every_output() {
        let host = ModelHost::new(residual_network()).observing(|_, request| {
            let request = request.values.iter().map(|value| {
                let channels = match value.as_str() {
                    "image" => 1,
                    "block.first.relu" => 12,
                    "flatten" => 16,
                    _ => 10,
                };
                (
                    format!("{value}/mean_square"),
                    Tensor::from_vec(vec![channels], vec![1.0_f32; channels]),
                )
            });
            request.collect()
        });
        let mut rule = rule(json!({"importance": "wanda"}), "layer").unwrap();
        apply(&mut rule, &host, "linear.weight", 0.5);
        let left = values(&host.candidate(), "linear.weight");
        assert!(
            left.chunks(16)
                .all(|row| row.iter().filter(|value| **value == 0.0).count() == 8)
        );
    }

    #[test]
    fn scopes_that_cannot_be_are_refused() {
        let refused = |config, per| rule(config, per).err().unwrap().to_string();
        assert!(refused(json!({"scope": "global"}), "layer").contains("per = \"model\""));
        assert!(refused(json!({"scope": "global", "importance": "wanda"}), "model").contains("\"l1\""));
        assert!(refused(json!({"samples": 0}), "layer").starts_with("config.samples"));
    }
}
