//! Who chooses: the host's policies and those of plugins.

use kmr_core::{
    Ask, Evolve, EvolveSettings, Greedy, History, Knapsack, KnapsackSettings, Policy, PolicyError, Refinement,
    Scheduled,
};
use kmr_loader::{Plugin, PolicyInstance};
use kmr_manifest::Resolved;
use kmr_sdk::wire::PolicyConfiguration;
use serde::Deserialize;

use super::{catalog::loader_failure, plan};
use crate::{exit, failure::Failure};

type MakePolicy = Box<dyn Fn(&[Box<dyn Plugin>]) -> Result<Box<dyn Policy>, Failure>>;

/// A policy and the meter that it looks at while it ranks.
pub struct Chosen {
    /// The meter of cheap comparisons; none means the quality meter.
    pub proxy_meter: Option<String>,
    /// The settings of the knapsack, if it is that.
    pub knapsack: Option<KnapsackSettings>,
    make: MakePolicy,
}

impl Chosen {
    /// A new policy for a stage.
    pub fn policy(&self, plugins: &[Box<dyn Plugin>]) -> Result<Box<dyn Policy>, Failure> {
        (self.make)(plugins)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GreedyConfig {
    proxy: ProxyConfig,
    confirm: usize,
    jump: bool,
    reuse: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ProxyConfig {
    meter: Option<String>,
    samples: usize,
}

impl Default for GreedyConfig {
    fn default() -> Self {
        let greedy = Greedy::default();
        Self {
            proxy: ProxyConfig::default(),
            confirm: greedy.confirm,
            jump: greedy.jump,
            reuse: greedy.reuse,
        }
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            meter: None,
            samples: Greedy::default().proxy_samples,
        }
    }
}

/// Of `knapsack` and `evolve`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanConfig {
    #[serde(default)]
    proxy: ProxyConfig,
    #[serde(default = "cost_probes")]
    cost_probes: usize,
    #[serde(default)]
    refine: RefineConfig,
}

fn cost_probes() -> usize {
    KnapsackSettings::default().cost_probes
}

/// What is left out has the policy's own default.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RefineConfig {
    /// 0 refines nothing.
    generations: Option<usize>,
    lambda: Option<usize>,
    by_proxy: Option<bool>,
}

impl RefineConfig {
    fn or(&self, default: Refinement) -> Refinement {
        Refinement {
            generations: self.generations.unwrap_or(default.generations),
            lambda: self.lambda.unwrap_or(default.lambda),
            by_proxy: self.by_proxy.unwrap_or(default.by_proxy),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoConfig {}

/// The policy that the manifest asks for.
pub fn choose(resolved: &Resolved) -> Result<Chosen, Failure> {
    let policy = &resolved.policy;
    let id = policy.offer.id.clone();
    let config = policy.config.clone();
    let invalid = |error: serde_json::Error| {
        Failure::new(
            exit::MANIFEST,
            format!("the settings of policy `{id}` are invalid: {error}"),
        )
        .help("see `[policy]` in the manifest")
    };
    match (&policy.offer.plugin, id.as_str()) {
        (None, "scheduled") => {
            let _: NoConfig = serde_json::from_value(config).map_err(invalid)?;
            Ok(Chosen {
                proxy_meter: None,
                knapsack: None,
                make: Box::new(|_| Ok(Box::new(Scheduled::Lockstep))),
            })
        }
        (None, "knapsack") => {
            let config: PlanConfig = serde_json::from_value(config).map_err(invalid)?;
            let refine = config.refine.or(Refinement::default());
            let settings = KnapsackSettings {
                proxy_samples: config.proxy.samples,
                cost_probes: config.cost_probes,
                refine: Some(refine).filter(|refine| refine.generations > 0),
                seed: policy.seed,
            };
            Ok(Chosen {
                proxy_meter: config.proxy.meter,
                knapsack: Some(settings.clone()),
                make: Box::new(move |_| Ok(Box::new(Knapsack::new(settings.clone())))),
            })
        }
        (None, "evolve") => {
            let config: PlanConfig = serde_json::from_value(config).map_err(invalid)?;
            let settings = EvolveSettings {
                proxy_samples: config.proxy.samples,
                cost_probes: config.cost_probes,
                refine: config.refine.or(EvolveSettings::default().refine),
                seed: policy.seed,
            };
            Ok(Chosen {
                proxy_meter: config.proxy.meter,
                knapsack: None,
                make: Box::new(move |_| Ok(Box::new(Evolve::new(settings.clone())))),
            })
        }
        (None, _) => {
            let config: GreedyConfig = serde_json::from_value(config).map_err(invalid)?;
            let greedy = Greedy {
                proxy_samples: config.proxy.samples,
                confirm: config.confirm,
                jump: config.jump,
                reuse: config.reuse,
            };
            Ok(Chosen {
                proxy_meter: config.proxy.meter,
                knapsack: None,
                make: Box::new(move |_| Ok(Box::new(greedy.clone()))),
            })
        }
        (Some(plugin), _) => {
            let configuration = PolicyConfiguration {
                config: config.as_object().cloned().unwrap_or_default(),
                seed: policy.seed,
            };
            let plugin = plugin.clone();
            Ok(Chosen {
                proxy_meter: None,
                knapsack: None,
                make: Box::new(move |plugins| {
                    let made = plan::plugin(plugins, &plugin)?.policy(&id, &configuration);
                    Ok(Box::new(Foreign(made.map_err(|error| loader_failure(&error))?)))
                }),
            })
        }
    }
}

/// A plugin's policy.
struct Foreign(Box<dyn PolicyInstance>);

impl Policy for Foreign {
    fn next(&mut self, history: &History) -> Result<Ask, PolicyError> {
        self.0
            .next(history)
            .map_err(|error| PolicyError::new(error.to_string()))
    }
}
