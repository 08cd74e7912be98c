//! The rule `moe_top_k`: fewer experts for each token.

use kmr_sdk::{
    Action, Applied, Host, KnobSettings, Result, Rule, Target, log,
    model::{
        Build, Graph, Tensor,
        experts::{Choice, FoundExperts},
    },
};

use crate::{
    config::TopKConfig,
    knob::{Count, Place},
    layer::{place, routed},
};

/// The rule `moe_top_k`.
pub struct TopK {
    config: TopKConfig,
    knob: Count,
}

impl Rule for TopK {
    type Config = TopKConfig;

    fn new(config: TopKConfig, knobs: KnobSettings) -> Result<Self> {
        let knob = Count::read(&knobs, "experts_per_token")?;
        Ok(Self { config, knob })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let layers = routed(&host.graph()?.graph, &self.config.ignore)?;
        if layers.is_empty() {
            log::warn!("{NOTHING}");
        }
        Ok(self.knob.targets(&places(&layers), "all routers"))
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let graph = host.graph()?.graph;
        let layers = routed(&graph, &self.config.ignore)?;
        let mut applied = Applied {
            complete: true,
            ..Applied::default()
        };
        let assigned = self.knob.assigned(action, &places(&layers))?;
        if assigned.is_empty() {
            return Ok(applied);
        }
        let mut build = Build::on(&graph);
        for (at, top_k) in assigned {
            let layer = &layers[at];
            choose(&mut build, &graph, layer, top_k, self.config.renormalize);
            applied.change(&layer.scores, "experts per token", layer.experts.router.top_k, top_k);
        }
        host.edit(&build.finish())?;
        Ok(applied)
    }
}

/// Why there is nothing to do.
pub const NOTHING: &str = "the model has no routed experts in the form that kmr knows; `moe_split` makes some";

fn places(layers: &[FoundExperts]) -> Vec<Place> {
    layers
        .iter()
        .map(|layer| place(layer, 1..layer.experts.router.top_k))
        .collect()
}

/// Makes the router of `layer` choose `top_k` experts, and divide their weights by their sum where that is asked for.
fn choose(build: &mut Build, graph: &Graph, layer: &FoundExperts, top_k: usize, renormalize: bool) {
    let count = Tensor::from_vec(vec![1], vec![top_k as i64]);
    let index = graph.index();
    let held = graph.node(&layer.top_k).and_then(|node| node.input(1));
    match held.filter(|held| graph.tensor(held).is_some() && index.sole_consumer(held).is_some()) {
        Some(held) => build.store(held, count),
        None => {
            let count = build.tensor(&format!("{}.top_k", layer.label()), count);
            build.rewire(&layer.top_k, 1, &count);
        }
    }
    let raw = layer.experts.router.choice == Choice::SoftmaxThenTopK { renormalize: false };
    let (true, true, Some(weights)) = (renormalize, raw, &layer.weights) else {
        return;
    };
    // Before the first expert that reads a weight.
    let first = graph.nodes.iter().find(|node| node.inputs().contains(weights));
    build.place(first.map(|node| node.id()));
    let axis = build.constant("last_axis", Tensor::from_vec(vec![1], vec![-1_i64]));
    let of = |part: &str| format!("{}.{part}", layer.label());
    let total = build.node("ReduceSum", &[weights, &axis], &of("total"), |node| {
        node.with_int("keepdims", 1)
    });
    let shares = build.node("Div", &[weights, &total], &of("weights"), |node| node);
    for node in &graph.nodes {
        for (slot, _) in node.inputs().iter().enumerate().filter(|(_, input)| *input == weights) {
            build.rewire(node.id(), slot, &shares);
        }
    }
    build.place(None);
}

#[cfg(test)]
mod tests {
    use kmr_sdk::model::experts::find;

    use super::*;
    use crate::testing::{ModelHost, apply, mixture, noise, run};

    #[test]
    fn fewer_are_chosen_and_the_rest_is_as_it_was() {
        for (choice, renormalize, expected) in [
            (
                Choice::SoftmaxThenTopK { renormalize: true },
                false,
                Choice::SoftmaxThenTopK { renormalize: true },
            ),
            (
                Choice::SoftmaxThenTopK { renormalize: false },
                false,
                Choice::SoftmaxThenTopK { renormalize: false },
            ),
            (
                Choice::SoftmaxThenTopK { renormalize: false },
                true,
                Choice::SoftmaxThenTopK { renormalize: true },
            ),
            (Choice::TopKThenSoftmax, true, Choice::TopKThenSoftmax),
        ] {
            let model = mixture(4, 3, choice);
            let host = ModelHost::new(model.clone());
            let config = TopKConfig {
                renormalize,
                ..TopKConfig::default()
            };
            let applied =
                apply::<TopK>(&host, config, "experts_per_token", "layer", &[("mlp.gate.weight", 2)]).unwrap();
            assert_eq!(applied.changes[0].after, "2");
            let found = find(&host.candidate().graph).remove(0);
            assert_eq!((found.experts.router.top_k, found.experts.router.choice), (2, expected));
            let wanted = mixture(4, 2, expected);
            let x = Tensor::from_vec(vec![2, 3, 6], noise(36, 5));
            assert_eq!(run(&host.candidate(), &x), run(&wanted, &x));
            assert_ne!(run(&host.candidate(), &x), run(&model, &x));
        }
    }

    #[test]
    fn only_fewer_than_now_is_a_value() {
        let host = ModelHost::new(mixture(4, 2, Choice::TopKThenSoftmax));
        let mut rule = crate::testing::rule::<TopK>(TopKConfig::default(), "experts_per_token", "layer").unwrap();
        let targets = host.with(|host| rule.targets(host)).unwrap();
        assert_eq!(targets.len(), 1);
        assert_eq!(targets[0].values, [0, 1]);
    }
}
