//! The rule `prune_depth`: removes whole residual blocks.

mod blocks;
mod influence;
mod removal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use kmr_sdk::{
    Action, Applied, Error, Host, Ignore, KnobSettings, Result, Rule, Target, log,
    model::{Model, shapes},
    serde_json::Value,
};
use serde::Deserialize;

use crate::{
    knob::{MODEL, unknown_target},
    recent::Recent,
};
use blocks::{Block, blocks, layers};

/// The name of the knob: how many blocks are removed.
const KNOB: &str = "blocks_removed";

/// What goes as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    /// What lies beside one shortcut: an attention or a feed-forward part, the convolutions of a residual block.
    #[default]
    Block,
    /// Two of them in a row, from the first on: a layer of a transformer.
    Pair,
}

/// What a block is judged by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Importance {
    /// How far what comes out of it points elsewhere than what goes in.
    #[default]
    Influence,
    /// How far the model's outputs point elsewhere without it.
    Output,
}

/// The configuration of `prune_depth`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    importance: Importance,
    unit: Unit,
    samples: usize,
    ignore: Ignore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            importance: Importance::default(),
            unit: Unit::default(),
            samples: 64,
            ignore: Ignore::default(),
        }
    }
}

/// The rule `prune_depth`.
pub struct PruneDepth {
    config: Config,
    /// The numbers of blocks that the manifest turns the knob through, 0 first.
    counts: Vec<usize>,
    prepared: Recent<Prepared>,
}

/// What is found out about a model once.
struct Prepared {
    base: Model,
    seed: u64,
    /// The blocks, from the first to go to the last.
    blocks: Vec<Block>,
}

impl Rule for PruneDepth {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        if config.samples == 0 {
            return Err(Error::invalid_configuration("has to be 1 or more; got 0").at("config.samples"));
        }
        let values: Vec<Value> = knobs.values(KNOB)?;
        let mut counts = values.iter().map(count).collect::<Result<Vec<usize>>>()?;
        if counts.first().is_some_and(|&off| off != 0) {
            let message = "the first value means off, and has to be 0";
            return Err(Error::invalid_configuration(message).at(format!("knob `{KNOB}`")));
        }
        counts.sort_unstable();
        counts.dedup();
        Ok(Self {
            config,
            counts,
            prepared: Recent::default(),
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        if self.counts.len() < 2 {
            return Ok(Vec::new());
        }
        let prepared = self.prepare(host)?;
        // One block stays, as one channel does.
        let most = prepared.blocks.len().saturating_sub(1);
        let values: Vec<Value> = self
            .counts
            .iter()
            .filter(|&&count| count <= most)
            .map(|&count| count.into())
            .collect();
        if prepared.blocks.is_empty() {
            log::warn!(
                "no blocks can be removed: no sum adds the output of layers to what they read, in the same shape"
            );
        }
        if let Some(message) = without_effect(&self.counts, prepared.blocks.len()) {
            log::warn!("{message}");
        }
        let layers = prepared.blocks.iter().flat_map(|block| block.layers.iter().cloned());
        let target = (values.len() > 1).then(|| Target {
            knob: KNOB.into(),
            target: MODEL.into(),
            label: "all residual blocks".into(),
            values,
            layers: layers.collect(),
        });
        Ok(target.into_iter().collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let mut applied = Applied {
            complete: true,
            ..Applied::default()
        };
        for assignment in action.of(KNOB) {
            let removed = count(&assignment.value)?;
            if removed == 0 {
                continue;
            }
            let prepared = self.prepare(host)?;
            if assignment.target != MODEL || removed >= prepared.blocks.len() {
                return Err(unknown_target(assignment));
            }
            let gone = &prepared.blocks[..removed];
            let graph = &prepared.base.graph;
            host.edit(&removal::patch(graph, gone)?)?;
            for block in gone {
                let label = graph.node(&block.sum).map_or(block.sum.as_str(), |node| node.label());
                applied.change(label, "block", block.kind(), "removed");
            }
        }
        Ok(applied)
    }
}

/// What is said where there are blocks, and no count takes any of them away.
fn without_effect(counts: &[usize], blocks: usize) -> Option<String> {
    let most = blocks.checked_sub(1)?;
    let asked = counts.iter().filter(|&&count| count > 0);
    if asked.clone().next().is_none() || asked.clone().any(|&count| count <= most) {
        return None;
    }
    let asked: Vec<String> = asked.map(usize::to_string).collect();
    Some(format!(
        "knob `{KNOB}` changes nothing at {}: of {blocks} blocks one stays, so that it takes at most {most}",
        asked.join(", ")
    ))
}

/// A number of blocks.
fn count(value: &Value) -> Result<usize> {
    let whole = value
        .as_f64()
        .filter(|count| (0.0..=1e6).contains(count) && count.fract() == 0.0);
    whole.map(|count| count as usize).ok_or_else(|| {
        Error::invalid_request(format!("takes whole numbers from 0 on; got {value}")).at(format!("knob `{KNOB}`"))
    })
}

impl PruneDepth {
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
        let mut found = blocks(&base.graph, &shapes);
        if self.config.unit == Unit::Pair {
            found = layers(found);
        }
        let names = |block: &Block| -> Vec<String> {
            let ids = block.layers.iter().chain([&block.sum]);
            let labels = ids
                .clone()
                .filter_map(|id| Some(base.graph.node(id)?.label().to_owned()));
            labels
                .chain(ids.cloned())
                .chain(block.tensors.iter().cloned())
                .collect()
        };
        let all: Vec<Vec<String>> = found.iter().map(names).collect();
        self.config.ignore.check(all.iter().flatten().map(String::as_str))?;
        let open = found
            .into_iter()
            .zip(&all)
            .filter(|(_, names)| !self.config.ignore.covers(names.iter().map(String::as_str)));
        let open: Vec<Block> = open.map(|(block, _)| block).collect();
        let order = match self.config.importance {
            Importance::Influence => influence::by_angle(host, &open, self.config.samples)?,
            Importance::Output => {
                let most = self.counts.last().copied().unwrap_or(0);
                influence::by_output(host, &base.graph, &open, most, self.config.samples, seed)?
            }
        };
        let mut open: Vec<Option<Block>> = open.into_iter().map(Some).collect();
        Ok(Prepared {
            base,
            seed,
            blocks: order.into_iter().filter_map(|place| open[place].take()).collect(),
        })
    }
}
