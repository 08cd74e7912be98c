//! The rule `prune_n_m`: of every M neighbouring weights at most N stay, as sparse tensor cores ask for.

use std::str::FromStr;

use kmr_methods::sparse_gpt;
use kmr_sdk::{
    Action, Applied, Error, Host, Ignore, KnobSettings, Result, Rule, Target, log, serde_json::Value, wire::Per,
};
use serde::Deserialize;

use crate::{
    importance::weights::Importance,
    knob::{MODEL, unknown_target},
    made_up::{Wanted, make_up},
    scored::{Remembered, Scored},
    selection::greatest,
    weights::{Weight, stored},
    zeroing::Zeroing,
};

/// The name of the knob.
const KNOB: &str = "pattern";
const OFF: &str = "off";

/// At most `keep` of every `of` neighbours along the input channels stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pattern {
    keep: usize,
    of: usize,
}

impl FromStr for Pattern {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = text
            .split_once(':')
            .and_then(|(keep, of)| Some((keep.parse().ok()?, of.parse().ok()?)));
        match parsed {
            Some((keep, of)) if 0 < keep && keep < of => Ok(Self { keep, of }),
            _ => Err(
                Error::invalid_request(format!("takes \"off\" or a pattern as \"2:4\"; got `{text}`"))
                    .at(format!("knob `{KNOB}`")),
            ),
        }
    }
}

/// The configuration of `prune_n_m`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    importance: Importance,
    samples: usize,
    ignore: Ignore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            importance: Importance::default(),
            samples: 256,
            ignore: Ignore::default(),
        }
    }
}

/// The rule `prune_n_m`.
pub struct PruneNM {
    per: Per,
    importance: Importance,
    samples: usize,
    /// The patterns that the manifest turns the knob through, the densest first.
    patterns: Vec<(String, Pattern)>,
    remembered: Remembered,
}

impl Rule for PruneNM {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        let values: Vec<String> = knobs.values(KNOB)?;
        if values.first().is_some_and(|off| off != OFF) {
            let message = "the first value has to be \"off\"";
            return Err(Error::invalid_configuration(message).at(format!("knob `{KNOB}`")));
        }
        let mut patterns = Vec::new();
        for value in values.into_iter().skip(1) {
            let pattern: Pattern = value.parse()?;
            patterns.push((value, pattern));
        }
        // Stable: 2:4 and 4:8 are equally dense and stay as the manifest has them.
        patterns.sort_by(|(_, a), (_, b)| (b.keep * a.of).cmp(&(a.keep * b.of)));
        Ok(Self {
            per: knobs.get(KNOB).map_or(Per::Layer, |setting| setting.per),
            importance: config.importance,
            samples: config.samples,
            patterns,
            remembered: Remembered::new(config.importance, config.samples, config.ignore)?,
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        log::info!(
            "N:M patterns save time on hardware that knows them; ONNX stores their zeros, so bytes fall only where the \
             sparse form is smaller, from about 1:4 on"
        );
        if self.patterns.is_empty() {
            return Ok(Vec::new());
        }
        let scored = self.remembered.of(host)?;
        if self.per == Per::Layer {
            let targets = scored.weights.iter().filter_map(|weight| {
                let layers = weight.readers.iter().map(|reader| reader.node.clone()).collect();
                self.target(&scored, &[weight], &weight.tensor, weight.label(), layers)
            });
            return Ok(targets.collect());
        }
        let weights: Vec<&Weight> = scored.weights.iter().collect();
        let readers = scored.weights.iter().flat_map(|weight| &weight.readers);
        let layers = readers.map(|reader| reader.node.clone()).collect();
        Ok(self
            .target(&scored, &weights, MODEL, "all weights", layers)
            .into_iter()
            .collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let mut assigned = Vec::new();
        for assignment in action.of(KNOB) {
            let value: String = assignment.value()?;
            if value != OFF {
                assigned.push((assignment, value.parse::<Pattern>()?));
            }
        }
        if assigned.is_empty() {
            return Ok(Applied::default());
        }
        let scored = self.remembered.of(host)?;
        let mut zeroing = Zeroing::of(&scored.base);
        let mut made_up: Vec<Wanted<'_>> = Vec::new();
        for (assignment, pattern) in assigned {
            let chosen = scored.weights.iter().filter(|weight| match self.per {
                Per::Model => assignment.target == MODEL,
                Per::Layer | Per::ChannelGroup => weight.tensor == assignment.target,
            });
            let mut found = false;
            for weight in chosen {
                found = true;
                if self.importance == Importance::SparseGpt && !action.costs_only {
                    made_up.push(Wanted {
                        weight,
                        pattern: sparse_gpt::Pattern::Blocks {
                            keep: pattern.keep,
                            of: pattern.of,
                            stride: weight.taps(),
                        },
                    });
                    continue;
                }
                zeroing.zero(weight, removed(weight, &scored.scores[&weight.tensor], pattern))?;
            }
            if !found {
                return Err(unknown_target(assignment));
            }
        }
        make_up(host, &scored.base, &made_up, self.samples, &mut zeroing)?;
        let done = self.importance != Importance::SparseGpt || !action.costs_only;
        zeroing.finish(host, done)
    }
}

impl PruneNM {
    fn target(
        &self,
        scored: &Scored,
        weights: &[&Weight],
        target: &str,
        label: &str,
        layers: Vec<String>,
    ) -> Option<Target> {
        // What each value zeroes that is not zero yet; a value that zeroes what the one before it does is no value.
        let effect = |pattern: Pattern| -> Vec<(usize, usize)> {
            let mut effect = Vec::new();
            for (number, weight) in weights.iter().enumerate() {
                let Ok(Some(tensor)) = stored(&scored.base.graph, &weight.tensor) else {
                    continue;
                };
                let Ok(values) = tensor.to_f32() else {
                    continue;
                };
                let positions = removed(weight, &scored.scores[&weight.tensor], pattern);
                let positions = positions.into_iter().filter(|&position| values[position] != 0.0);
                effect.extend(positions.map(|position| (number, position)));
            }
            effect.sort_unstable();
            effect
        };
        let mut last = Vec::new();
        let mut values = vec![Value::from(OFF)];
        for (name, pattern) in &self.patterns {
            let next = effect(*pattern);
            if next != last {
                values.push(name.as_str().into());
                last = next;
            }
        }
        (values.len() > 1).then(|| Target {
            knob: KNOB.into(),
            target: target.into(),
            label: label.into(),
            values,
            layers,
        })
    }
}

/// The positions that `pattern` sets to zero: in every block of neighbours along the input channels, all but the
/// greatest. A block that the axis cuts short keeps as many as a whole one.
fn removed(weight: &Weight, scores: &[f32], pattern: Pattern) -> Vec<usize> {
    let (length, stride) = (weight.shape[weight.input_axis], weight.stride(weight.input_axis));
    let mut positions = Vec::new();
    for start in (0..weight.len()).filter(|&element| weight.coordinate(element, weight.input_axis) == 0) {
        for first in (0..length).step_by(pattern.of) {
            let block: Vec<usize> = (first..length.min(first + pattern.of))
                .map(|index| start + index * stride)
                .collect();
            let values: Vec<f64> = block.iter().map(|&position| f64::from(scores[position])).collect();
            let kept = greatest(&values, pattern.keep);
            let gone = (0..block.len()).filter(|index| !kept.contains(index));
            positions.extend(gone.map(|index| block[index]));
        }
    }
    positions
}

#[cfg(test)]
mod tests {
    use kmr_sdk::{
        model::{Layout, Node, Tensor},
        serde_json,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{ModelHost, graph, noise, residual_network};

    fn weight(node: Node, shape: &[usize]) -> Weight {
        let mut graph = graph(&["x"], &["y"]);
        let tensor = Tensor::from_vec(shape.to_vec(), vec![1.0_f32; shape.iter().product()]);
        graph.initializers.insert("w".into(), tensor.into());
        crate::weights::weights_of(&graph, &node).remove(0)
    }

    proptest! {
        #[test]
        fn of_every_block_at_most_n_stay_and_they_are_the_greatest(
            outputs in 1_usize..5, inputs in 1_usize..20, kernel in 1_usize..4, seed in any::<u64>(),
            keep in 1_usize..4, more in 1_usize..5,
        ) {
            let pattern = Pattern { keep, of: keep + more };
            let conv = weight(Node::new("Conv", "", &["x", "w"], &["y"]), &[outputs, inputs, kernel, 1]);
            let scores: Vec<f32> = noise(conv.len(), seed).into_iter().map(f32::abs).collect();
            let gone = removed(&conv, &scores, pattern);
            let at = |output: usize, input: usize, place: usize| (output * inputs + input) * kernel + place;
            for output in 0..outputs {
                for place in 0..kernel {
                    for first in (0..inputs).step_by(pattern.of) {
                        let block: Vec<usize> = (first..inputs.min(first + pattern.of)).map(|i| at(output, i, place)).collect();
                        let (lost, kept): (Vec<usize>, Vec<usize>) = block.iter().partition(|e| gone.contains(e));
                        prop_assert_eq!(kept.len(), block.len().min(keep));
                        let least = kept.iter().map(|&e| scores[e]).fold(f32::INFINITY, f32::min);
                        prop_assert!(lost.iter().all(|&e| scores[e] <= least));
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_lie_along_the_inputs_of_a_matrix_product() {
        let scores = [5.0, 1.0, 1.0, 5.0, 2.0, 2.0, 3.0, 4.0];
        let half = Pattern { keep: 1, of: 2 };
        let product = weight(Node::new("MatMul", "", &["x", "w"], &["y"]), &[4, 2]);
        let mut gone = removed(&product, &scores, half);
        gone.sort_unstable();
        assert_eq!(gone, [1, 2, 4, 5]);
        let turned = Node::new("Gemm", "", &["x", "w"], &["y"]).with_int("transB", 1);
        let mut gone = removed(&weight(turned, &[2, 4]), &scores, half);
        gone.sort_unstable();
        assert_eq!(gone, [1, 2, 5, 6]);
    }

    #[test]
    fn a_pattern_is_applied_and_its_saving_told_honestly() {
        let knobs = r#"{"pattern": {"values": ["off", "1:4", "2:4"], "per": "layer"}}"#;
        let mut rule = PruneNM::new(Config::default(), serde_json::from_str(knobs).unwrap()).unwrap();
        let host = ModelHost::new(residual_network());
        let targets = host.with(|host| rule.targets(host)).unwrap();
        let labels: Vec<_> = targets.iter().map(|target| target.label.as_str()).collect();
        assert_eq!(
            labels,
            ["block.first.conv", "block.second.conv", "wide.conv", "linear"],
            "one input channel makes no block"
        );
        assert_eq!(targets[0].values, ["off", "2:4", "1:4"]);
        let mut apply = |value: &str| {
            let host = ModelHost::new(residual_network());
            let assignment = kmr_sdk::Assignment {
                knob: KNOB.into(),
                target: "wide.weight".into(),
                value: value.into(),
            };
            let action = Action {
                assignments: vec![assignment],
                ..Action::default()
            };
            let applied = host.with(|host| rule.apply(host, &action)).unwrap();
            (host.candidate(), applied)
        };
        let (dense, applied) = apply("2:4");
        assert_eq!(dense.encoded_len(), residual_network().encoded_len());
        assert!(applied.notes[0].starts_with("stored zeros save no bytes in wide.conv"));
        // Ten input channels: blocks of 4, 4 and 2, so 3 stay of 10.
        let (sparse, applied) = apply("1:4");
        assert_eq!(sparse.graph.initializers["wide.weight"].layout, Layout::Sparse);
        assert!(sparse.encoded_len() < residual_network().encoded_len());
        assert_eq!(
            (applied.changes[0].before.as_str(), applied.changes[0].after.as_str()),
            ("1440", "432")
        );
    }

    #[test]
    fn a_pattern_that_is_none_is_refused() {
        for text in ["2:2", "0:4", "2/4", "much", "5:4"] {
            let error = text.parse::<Pattern>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("knob `pattern`: takes \"off\" or a pattern as \"2:4\"; got `{text}`")
            );
        }
    }
}
