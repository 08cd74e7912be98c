//! The rule `lora_adapt`: adapters in place of full fine-tuning, so that fewer parameters are to be trained.

use kmr_sdk::{Action, Applied, Host, KnobSettings, Result, Rule, Target, model::Model};

use crate::{
    adapter::fresh,
    config::{AdaptConfig, meant},
    knob::{KNOB, MODEL, Order, Ranks, assigned, unknown_target},
    layers::{Layer, layers},
    meters::everything,
    nodes::Adding,
};

/// The rule `lora_adapt`.
pub struct LoraAdapt {
    config: AdaptConfig,
    ranks: Ranks,
}

impl Rule for LoraAdapt {
    type Config = AdaptConfig;

    fn new(config: AdaptConfig, knobs: KnobSettings) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            ranks: Ranks::read(&knobs, Order::Falling)?,
        })
    }

    fn targets(&mut self, host: &Host<'_>) -> Result<Vec<Target>> {
        let base = host.graph()?;
        let layers = self.layers(&base)?;
        let trainable =
            |rank: usize| -> usize { layers.iter().map(|layer| rank.min(layer.most()) * layer.cost()).sum() };
        let mut least = everything(&base.graph);
        let mut values = vec![0.into()];
        for &rank in &self.ranks.values {
            if trainable(rank) < least {
                least = trainable(rank);
                values.push(rank.into());
            }
        }
        let target = (values.len() > 1).then(|| Target {
            knob: KNOB.into(),
            target: MODEL.into(),
            label: "all layers".into(),
            values,
            layers: layers.iter().flat_map(|layer| layer.nodes.iter().cloned()).collect(),
        });
        Ok(target.into_iter().collect())
    }

    fn apply(&mut self, host: &Host<'_>, action: &Action) -> Result<Applied> {
        let mut applied = Applied::default();
        for (assignment, rank) in assigned(action)? {
            if assignment.target != MODEL {
                return Err(unknown_target(&assignment.target));
            }
            let base = host.graph()?;
            let (scaling, seed) = (self.config.scaling(), host.seed()?);
            let mut adding = Adding::to(&base.graph);
            for layer in &self.layers(&base)? {
                let rank = rank.min(layer.most());
                adding.adapter(layer, &fresh(layer, rank, scaling, seed)?)?;
                applied.change(&layer.nodes[0], "adapter", "none", format!("rank {rank}"));
            }
            host.edit(&adding.finish())?;
        }
        applied.complete = true;
        Ok(applied)
    }
}

impl LoraAdapt {
    fn layers(&self, base: &Model) -> Result<Vec<Layer>> {
        meant(layers(base)?, self.config.targets.as_ref(), &self.config.ignore)
    }
}

#[cfg(test)]
mod tests {
    use kmr_sdk::{ErrorCode, MeasureRequest, Meter, NoConfig, model::adapters::adapters};

    use super::*;
    use crate::{
        meters::TrainableParams,
        testing::{ModelHost, perceptron},
    };

    fn rule(values: &str) -> LoraAdapt {
        let knobs = format!(r#"{{"rank": {{"values": {values}, "per": "model"}}}}"#);
        LoraAdapt::new(AdaptConfig::default(), kmr_sdk::serde_json::from_str(&knobs).unwrap()).unwrap()
    }

    fn action(target: &str, rank: usize) -> Action {
        let text = format!(r#"{{"assignments": [{{"knob": "rank", "target": "{target}", "value": {rank}}}]}}"#);
        kmr_sdk::serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn each_value_trains_less_and_answers_the_same() {
        let mut rule = rule("[0, 4, 2, 1]");
        let host = ModelHost::new(perceptron(), perceptron());
        let targets = host.with(|host| rule.targets(host)).unwrap();
        assert_eq!(targets[0].values, [0, 2, 1], "rank 4 trains more than everything");
        let mut last = f64::INFINITY;
        for rank in [0, 2, 1] {
            let host = ModelHost::new(perceptron(), perceptron());
            host.with(|host| rule.apply(host, &action("model", rank))).unwrap();
            let mut meter = TrainableParams::new(NoConfig {}).unwrap();
            let request = MeasureRequest {
                split: kmr_sdk::Split::Evaluation,
                limit: None,
            };
            let cost = host.with(|host| meter.measure(host, &request)).unwrap().value;
            assert!(cost < last, "{cost} after {last}");
            last = cost;
            assert!(host.distance() < 1e-9);
        }
        assert_eq!(last, 28.0);
    }

    #[test]
    fn off_changes_nothing_and_other_targets_are_refused() {
        let mut rule = rule("[0, 1]");
        let host = ModelHost::new(perceptron(), perceptron());
        host.with(|host| rule.apply(host, &action("model", 0))).unwrap();
        assert_eq!(host.candidate(), perceptron());
        let error = host.with(|host| rule.apply(host, &action("other", 1))).unwrap_err();
        assert_eq!(error.code, ErrorCode::NOT_FOUND);
        host.with(|host| rule.apply(host, &action("model", 1))).unwrap();
        assert_eq!(adapters(&host.candidate().graph).unwrap().len(), 3);
        let error = host.with(|host| rule.targets(host)).unwrap_err();
        assert!(error.to_string().contains("each has an adapter already"), "{error}");
    }
}
