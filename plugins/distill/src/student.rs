//! The rule `distill_student`: a smaller model of the same kind, cut out of the teacher and taught by it.

use std::collections::BTreeMap;

use kmr_sdk::{
    Action, Applied, Error, Host, KnobSettings, Result, Rule, Target,
    model::{
        Graph,
        channels::{self, ChannelGroup},
        shapes::{self, Shapes},
    },
    serde_json::Value,
};

use crate::{
    blocks::{Block, blocks, leave_out, left_out},
    config::{Config, refused},
    rule::train,
};

/// The share of channels kept.
const WIDTH: &str = "width";
/// The share of residual blocks kept.
const DEPTH: &str = "depth";
/// The only target of both.
const MODEL: &str = "model";
/// Passes over the data where the configuration says nothing.
const EPOCHS: f64 = 5.0;

/// The rule `distill_student`.
pub struct DistillStudent {
    config: Config,
    widths: Vec<f64>,
    depths: Vec<f64>,
}

impl Rule for DistillStudent {
    type Config = Config;

    fn new(config: Config, knobs: KnobSettings) -> Result<Self> {
        config.check()?;
        let epochs = config.epochs.unwrap_or(EPOCHS);
        if !(epochs >= 0.0 && epochs.is_finite()) {
            return Err(refused("epochs", format!("has to be 0 or more; got {epochs}")));
        }
        Ok(Self {
            config,
            widths: shares(&knobs, WIDTH)?,
            depths: shares(&knobs, DEPTH)?,
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let model = host.graph()?;
        let shapes = shapes::infer(&model, &host.feeds(&model))?;
        let (blocks, groups) = (
            blocks(&model.graph, &shapes),
            channels::analyze(&model, &shapes)?.groups,
        );
        let readers = groups
            .iter()
            .flat_map(|group| &group.producers)
            .map(|producer| producer.node.clone());
        let counts = |width: f64| {
            groups
                .iter()
                .map(|group| kept(group.channels, width))
                .collect::<Vec<_>>()
        };
        let wide = target(WIDTH, "all channels", &self.widths, readers.collect(), counts);
        let bodies = blocks.iter().flat_map(|block| block.body.iter().cloned());
        let gone = |depth: f64| left_out(blocks.len(), depth);
        let deep = target(DEPTH, "all residual blocks", &self.depths, bodies.collect(), gone);
        Ok(wide.into_iter().chain(deep).collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let (width, depth) = (assigned(action, WIDTH)?, assigned(action, DEPTH)?);
        if width == 1.0 && depth == 1.0 {
            return Ok(Applied {
                complete: true,
                ..Applied::default()
            });
        }
        let mut applied = Applied::default();
        if depth < 1.0 {
            flatten(host, depth, &mut applied)?;
        }
        if width < 1.0 {
            narrow(host, width, &mut applied)?;
        }
        let epochs = self.config.epochs.unwrap_or(EPOCHS);
        applied.complete = epochs == 0.0;
        if epochs > 0.0 && !action.costs_only {
            let trained = train(host, &self.config, epochs)?;
            applied.changes.extend(trained.changes);
            applied.notes.extend(trained.notes);
        }
        Ok(applied)
    }
}

/// Leaves residual blocks out.
fn flatten(host: &Host<'_>, depth: f64, applied: &mut Applied) -> Result<()> {
    let model = host.graph()?;
    let all = blocks(&model.graph, &shapes::infer(&model, &host.feeds(&model))?);
    let gone: Vec<&Block> = left_out(all.len(), depth).into_iter().map(|at| &all[at]).collect();
    if gone.is_empty() {
        return Ok(());
    }
    host.edit(&leave_out(&model.graph, &gone))?;
    applied.change("the whole model", "blocks", all.len(), all.len() - gone.len());
    applied.notes.push(format!(
        "left out: {}",
        gone.iter()
            .map(|block| block.add.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    ));
    Ok(())
}

/// Keeps a share of every group of channels, those with the greatest weights.
fn narrow(host: &Host<'_>, width: f64, applied: &mut Applied) -> Result<()> {
    let model = host.graph()?;
    let shapes: Shapes = shapes::infer(&model, &host.feeds(&model))?;
    let analysis = channels::analyze(&model, &shapes)?;
    let mut keep: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let (mut before, mut after) = (0, 0);
    for group in &analysis.groups {
        let count = kept(group.channels, width);
        before += group.channels;
        after += count;
        if count < group.channels {
            keep.insert(group.id.clone(), greatest(&sizes(&model.graph, group), count));
        }
    }
    if keep.is_empty() {
        return Ok(());
    }
    host.edit(&analysis.cut(&model, &keep)?)?;
    applied.change("the whole model", "channels", before, after);
    Ok(())
}

/// The sum of squares of the weights that make or read each channel of `group`.
fn sizes(graph: &Graph, group: &ChannelGroup) -> Vec<f64> {
    let mut sizes = vec![0.0; group.channels];
    for slice in &group.slices {
        let Some(tensor) = graph.tensor(&slice.tensor).filter(|tensor| tensor.shape().len() > 1) else {
            continue;
        };
        let Ok(values) = tensor.to_f32() else { continue };
        let inner: usize = tensor.shape()[slice.axis + 1..].iter().product();
        let mut along = vec![0.0; slice.size];
        for (at, &value) in values.iter().enumerate() {
            along[at / inner.max(1) % slice.size.max(1)] += f64::from(value).powi(2);
        }
        for (size, indices) in sizes.iter_mut().zip(&slice.indices) {
            *size += indices.iter().map(|&index| along[index]).sum::<f64>();
        }
    }
    sizes
}

/// The positions of the `count` greatest of `sizes`, ascending; the earlier one of equals.
fn greatest(sizes: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by(|&a, &b| sizes[b].total_cmp(&sizes[a]));
    order.truncate(count);
    order.sort_unstable();
    order
}

/// How many of `channels` a width keeps: one at least.
fn kept(channels: usize, width: f64) -> usize {
    ((channels as f64 * width).round() as usize).clamp(1, channels.max(1))
}

/// The values of a knob, *off* first, then falling.
fn shares(knobs: &KnobSettings, knob: &str) -> Result<Vec<f64>> {
    let mut values: Vec<f64> = knobs.values(knob)?;
    let place = || format!("knob `{knob}`");
    if let Some(outside) = values.iter().find(|&&value| !(value > 0.0 && value <= 1.0)) {
        return Err(Error::invalid_configuration(format!("takes values above 0, up to 1; got {outside}")).at(place()));
    }
    if values.first().is_some_and(|&off| off != 1.0) {
        return Err(Error::invalid_configuration("the first value means off, and has to be 1").at(place()));
    }
    values.sort_by(|a, b| b.total_cmp(a));
    values.dedup();
    Ok(values)
}

/// A target with the values that `effect` tells apart; none if only *off* is left.
fn target<E: PartialEq>(
    knob: &str,
    label: &str,
    shares: &[f64],
    layers: Vec<String>,
    effect: impl Fn(f64) -> E,
) -> Option<Target> {
    let mut last = effect(1.0);
    let mut values = vec![Value::from(1.0)];
    for &share in shares.iter().skip(1) {
        let next = effect(share);
        if next != last {
            values.push(share.into());
            last = next;
        }
    }
    (values.len() > 1).then(|| Target {
        knob: knob.into(),
        target: MODEL.into(),
        label: label.into(),
        values,
        layers,
    })
}

fn assigned(action: &Action, knob: &str) -> Result<f64> {
    let mut share = 1.0;
    for assignment in action.of(knob) {
        if assignment.target != MODEL {
            let message = format!("`{knob}` has the target `{MODEL}` alone");
            return Err(Error::not_found(message).at(format!("target `{}`", assignment.target)));
        }
        share = assignment.value()?;
        if !(share > 0.0 && share <= 1.0) {
            let message = format!("takes values above 0, up to 1; got {share}");
            return Err(Error::invalid_request(message).at(format!("knob `{knob}`")));
        }
    }
    Ok(share)
}

#[cfg(test)]
mod tests {
    use kmr_sdk::{
        Assignment,
        model::{Node, Tensor},
        serde_json,
    };

    use super::*;
    use crate::testing::{ToyHost, model, network, noise, samples};

    fn rule(config: &str) -> DistillStudent {
        let knobs = r#"{"width": {"values": [1, 0.5, 0.26, 0.25], "per": "model"},
            "depth": {"values": [1, 0.5], "per": "model"}}"#;
        let config = serde_json::from_str(config).unwrap();
        DistillStudent::new(config, serde_json::from_str(knobs).unwrap()).unwrap()
    }

    fn action(knobs: &[(&str, f64)], costs_only: bool) -> Action {
        let assignment = |&(knob, value): &(&str, f64)| Assignment {
            knob: knob.into(),
            target: MODEL.into(),
            value: value.into(),
        };
        Action {
            assignments: knobs.iter().map(assignment).collect(),
            costs_only,
        }
    }

    /// Two residual blocks between layers of eight units.
    fn residual() -> kmr_sdk::model::Model {
        let weight = |shape: [usize; 2], seed| {
            let values = noise(shape[0] * shape[1], seed);
            Tensor::from_vec(
                shape.to_vec(),
                values.iter().map(|value| value * 0.5).collect::<Vec<f32>>(),
            )
        };
        let mut nodes = vec![
            Node::new("MatMul", "", &["x", "stem"], &["s"]),
            Node::new("Relu", "", &["s"], &["y0"]),
        ];
        for at in 0..2 {
            let [from, product, bent, to] = [
                format!("y{at}"),
                format!("p{at}"),
                format!("r{at}"),
                format!("y{}", at + 1),
            ];
            nodes.push(Node::new("MatMul", "", &[&from, &format!("w{at}")], &[&product]));
            nodes.push(Node::new("Relu", "", &[&product], &[&bent]));
            nodes.push(Node::new("Add", "", &[&from, &bent], &[&to]));
        }
        nodes.push(Node::new("MatMul", "", &["y2", "head"], &["logits"]));
        let tensors = vec![
            ("stem", weight([4, 8], 1)),
            ("w0", weight([8, 8], 2)),
            ("w1", weight([8, 8], 3)),
            ("head", weight([8, 3], 4)),
        ];
        model(4, tensors, nodes)
    }

    #[test]
    fn both_knobs_make_the_model_smaller_and_training_follows() {
        let host = ToyHost::new(residual(), residual(), samples(60));
        let config = r#"{"epochs": 20, "batch": 10, "alpha": 0, "learning_rate": 0.1}"#;
        let action = action(&[(WIDTH, 0.5), (DEPTH, 0.5)], false);
        let applied = host.with(|host| rule(config).apply(host, &action)).unwrap();
        let graph = host.candidate().graph;
        let shape = |name: &str| graph.tensor(name).map(|tensor| tensor.shape().to_vec());
        assert_eq!(
            (shape("stem"), shape("w0"), shape("w1"), shape("head")),
            (Some(vec![4, 4]), Some(vec![4, 4]), None, Some(vec![4, 3]))
        );
        let told: Vec<&str> = applied.changes.iter().map(|change| change.what.as_str()).collect();
        assert_eq!(told, ["blocks", "channels", "loss"]);
        let loss = |text: &str| text.parse::<f64>().unwrap();
        assert!(
            loss(&applied.changes[2].after) < loss(&applied.changes[2].before) / 2.0,
            "{applied:?}"
        );
    }

    #[test]
    fn costs_come_without_training() {
        let host = ToyHost::new(residual(), residual(), samples(60));
        let costs = action(&[(WIDTH, 0.25), (DEPTH, 1.0)], true);
        let applied = host.with(|host| rule("{}").apply(host, &costs)).unwrap();
        assert!(!applied.complete && host.seen().sessions.is_empty());
        assert_eq!(host.candidate().graph.tensor("w1").unwrap().shape(), [2, 2]);
        let off = action(&[(WIDTH, 1.0), (DEPTH, 1.0)], false);
        let host = ToyHost::new(residual(), residual(), samples(60));
        assert!(host.with(|host| rule("{}").apply(host, &off)).unwrap().complete);
        assert_eq!(host.candidate(), residual());
    }

    #[test]
    fn values_without_an_effect_are_dropped() {
        let host = ToyHost::new(residual(), residual(), samples(60));
        let targets = host.with(|host| rule("{}").targets(host)).unwrap();
        let told: Vec<_> = targets
            .iter()
            .map(|target| (target.knob.as_str(), target.values.len()))
            .collect();
        assert_eq!(told, [(WIDTH, 3), (DEPTH, 2)]);
        // Without residual blocks depth is no knob.
        let host = ToyHost::new(network(6, 1), network(6, 1), samples(60));
        assert_eq!(host.with(|host| rule("{}").targets(host)).unwrap().len(), 1);
    }

    #[test]
    fn the_greatest_channels_stay() {
        let mut model = residual();
        let mut stem = vec![0.01_f32; 32];
        (0..4).for_each(|row| stem[row * 8 + 5] = 9.0);
        model
            .graph
            .initializers
            .insert("stem".into(), Tensor::from_vec(vec![4, 8], stem).into());
        let host = ToyHost::new(model, residual(), samples(60));
        let action = action(&[(WIDTH, 0.12)], false);
        host.with(|host| rule(r#"{"epochs": 0}"#).apply(host, &action)).unwrap();
        let stem = host.candidate().graph.tensor("stem").unwrap().clone();
        assert_eq!(*stem.values::<f32>().unwrap(), [9.0; 4]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused = |config: &str, knobs: &str| {
            let config = serde_json::from_str(config).unwrap();
            DistillStudent::new(config, serde_json::from_str(knobs).unwrap())
                .err()
                .unwrap()
                .to_string()
        };
        let width = |values: &str| format!(r#"{{"width": {{"values": {values}, "per": "model"}}}}"#);
        assert_eq!(
            refused("{}", &width("[1, 0]")),
            "knob `width`: takes values above 0, up to 1; got 0"
        );
        assert!(refused("{}", &width("[0.5]")).contains("has to be 1"));
        assert!(refused(r#"{"epochs": -1}"#, "{}").starts_with("config.epochs: has to be 0 or more"));
        let host = ToyHost::new(residual(), residual(), samples(60));
        let mut unknown = action(&[(WIDTH, 0.5)], false);
        unknown.assignments[0].target = "layer".into();
        let error = host
            .with(|host| rule("{}").apply(host, &unknown))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("target `layer`"), "{error}");
    }
}
