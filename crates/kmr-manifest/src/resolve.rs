//! A manifest against what the host and its plugins offer.

mod knobs;
mod offers;
mod order;

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::amount::BYTES;
use crate::suggest::{listed, nearest, quoted};
use crate::{
    Amount, Catalog, Config, Error, ErrorKind, Floor, Limit, Manifest, Measures, MeterOffer, OnNoProgress, Placed,
    PolicyOffer, Problem, Role, RuleOffer, RuleUse, Stage,
};

pub(crate) use knobs::same_value;

/// A manifest in which every name stands for something that is offered.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The limits of the budget.
    pub limits: Vec<ResolvedLimit>,
    /// What decides about quality.
    pub quality: ResolvedQuality,
    /// Who picks the actions.
    pub policy: ResolvedPolicy,
    /// The stages with at least one enabled rule, and of them the enabled rules.
    pub stages: Vec<ResolvedStage>,
    /// Every meter of the run, each once: budget, stages, quality, policy, report.
    pub meters: Vec<ResolvedMeter>,
    /// What is worth knowing; [`ErrorKind::Warning`] all of them.
    pub warnings: Vec<Problem>,
}

/// An upper limit on an offered cost meter.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedLimit {
    /// The cost meter's id.
    pub meter: String,
    /// The most it may read.
    pub at_most: Amount,
}

/// What decides about quality.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedQuality {
    /// The quality meter's id.
    pub meter: String,
    /// The floor.
    pub floor: Floor,
    /// The confidence of the final test, in (0, 1).
    pub confidence: f64,
}

/// The chosen policy.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedPolicy {
    /// Who offers it.
    pub offer: PolicyOffer,
    /// Its settings, an object.
    pub config: Value,
    /// The seed of the run.
    pub seed: u64,
    /// What a useless action does.
    pub on_no_progress: OnNoProgress,
    /// The greatest number of accepted steps.
    pub max_steps: Option<u64>,
}

/// A stage with at least one enabled rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedStage {
    /// Its name.
    pub name: String,
    /// Where it ends before the whole budget is met.
    pub until: Option<ResolvedLimit>,
    /// Its enabled rules, at least one, in the order in which they are applied: as written, but each behind those that
    /// it declares itself to be [after](RuleOffer::after).
    pub rules: Vec<ResolvedRule>,
}

/// An enabled use of an offered rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedRule {
    /// The name of this use.
    pub id: String,
    /// Who offers it.
    pub offer: RuleOffer,
    /// What the rule's `configure` gets:
    /// `{"config": {...}, "knobs": {NAME: {"values": [...], "per": "layer"}}}`.
    pub configuration: Value,
}

/// A meter of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedMeter {
    /// Who offers it.
    pub offer: MeterOffer,
    /// Its settings, an object.
    pub config: Value,
}

impl Manifest {
    /// Finds everything that the manifest names among what is offered, and checks knob values
    /// against their domains. Disabled rules are not looked at.
    ///
    /// # Errors
    ///
    /// A name that nothing offers ([`ErrorKind::Extension`]) and every value that does not fit
    /// what is offered, in the order of the text.
    pub fn resolve(&self, catalog: &Catalog) -> Result<Resolved, Error> {
        let mut resolution = Resolution {
            manifest: self,
            catalog,
            problems: Vec::new(),
            warnings: self.warnings(),
            meters: Vec::new(),
            named: HashSet::new(),
        };
        let limits = resolution.limits();
        let stages = resolution.stages(limits.len() == self.budget.len());
        let quality = ResolvedQuality {
            meter: self.quality.meter.value.clone(),
            floor: self.quality.floor.value,
            confidence: self.quality.confidence,
        };
        resolution.meter(&self.quality.meter, Some(Measures::Quality));
        let policy = resolution.policy();
        for meter in &self.meters.report {
            resolution.meter(meter, None);
        }
        resolution.check_meter_settings();
        let Resolution {
            problems,
            warnings,
            meters,
            ..
        } = resolution;
        match (Error::from_problems(problems), policy) {
            (Some(error), _) => Err(error),
            (None, Some(policy)) => Ok(Resolved {
                limits,
                quality,
                policy,
                stages,
                meters,
                warnings,
            }),
            // A policy that is not found is a problem, so this arm is never taken.
            (None, None) => Err(Error::from(self.problem(
                ErrorKind::Extension,
                self.policy.name.span.clone(),
                "the policy is not offered",
                "",
            ))),
        }
    }

    fn warnings(&self) -> Vec<Problem> {
        let mut warnings = Vec::new();
        let mut warn = |span, message: String, help| {
            warnings.push(self.problem(ErrorKind::Warning, span, message, help));
        };
        if self.data.holdout.is_none() && self.quality.floor.value != NO_FLOOR {
            warn(
                self.quality.floor.span.clone(),
                "no holdout is given, so nothing proves the floor on data that the search never \
                 saw"
                .to_string(),
                "give `holdout` in [data]",
            );
        }
        for stage in &self.stages {
            if stage.rules.iter().all(|rule| !rule.enabled) {
                warn(
                    stage.span.clone(),
                    format!("stage {} has no enabled rule", quoted(&stage.name)),
                    "it is left out",
                );
            }
        }
        warnings
    }
}

const NO_FLOOR: Floor = Floor::DropAtMost(f64::INFINITY);

/// One resolution under way.
struct Resolution<'m> {
    manifest: &'m Manifest,
    catalog: &'m Catalog,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    meters: Vec<ResolvedMeter>,
    /// Every meter that the manifest uses, the ones that are not offered included.
    named: HashSet<String>,
}

impl<'m> Resolution<'m> {
    fn report(
        &mut self,
        kind: ErrorKind,
        span: &std::ops::Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let problem = self.manifest.problem(kind, span.clone(), message, help);
        self.problems.push(problem);
    }

    fn warn(&mut self, span: &std::ops::Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let problem = self.manifest.problem(ErrorKind::Warning, span.clone(), message, help);
        self.warnings.push(problem);
    }

    /// Finds a meter, notes that the run needs it, and checks what it measures.
    fn meter(&mut self, name: &Placed<String>, expected: Option<Measures>) -> Option<&'m MeterOffer> {
        self.named.insert(name.value.clone());
        let catalog = self.catalog;
        let offer = self.find(name, &catalog.meters)?;
        if let Some(expected) = expected.filter(|expected| *expected != offer.measures) {
            let fitting = catalog.meters.iter();
            let fitting = fitting.filter(|meter| meter.measures == expected);
            let help = format!(
                "meters of {expected} are {}",
                listed(fitting.map(|meter| meter.id.as_str()))
            );
            let message = format!(
                "meter {} measures {}; a meter of {expected} is needed here",
                quoted(name),
                offer.measures
            );
            self.report(ErrorKind::Value, &name.span, message, help);
            return None;
        }
        if self.meters.iter().all(|meter| meter.offer.id != offer.id) {
            let config = self.manifest.meters.config.get(&offer.id);
            self.meters.push(ResolvedMeter {
                offer: offer.clone(),
                config: config.map_or_else(|| json!({}), |config| config.value.clone()),
            });
        }
        Some(offer)
    }

    fn limits(&mut self) -> Vec<ResolvedLimit> {
        let limits = self.manifest.budget.iter();
        limits
            .filter_map(|limit| self.limit(&limit.meter, &limit.at_most))
            .collect()
    }

    fn limit(&mut self, meter: &Placed<String>, at_most: &Placed<Amount>) -> Option<ResolvedLimit> {
        let offer = self.meter(meter, Some(Measures::Cost))?;
        if let Amount::Absolute { unit: Some(unit), .. } = &at_most.value
            && *unit != offer.unit
        {
            let counted = match offer.unit.as_str() {
                "" => format!("meter {} has no unit", quoted(meter)),
                own => format!("meter {} counts in {own}", quoted(meter)),
            };
            let help = match unit.as_str() {
                BYTES => "write a whole number, or a share such as \"30%\"",
                _ => "write a number in the meter's unit, or a share such as \"30%\"",
            };
            let message = format!("{counted}; the amount is in {unit}");
            self.report(ErrorKind::Value, &at_most.span, message, help);
            return None;
        }
        Some(ResolvedLimit {
            meter: meter.value.clone(),
            at_most: at_most.value.clone(),
        })
    }

    fn policy(&mut self) -> Option<ResolvedPolicy> {
        let policy = &self.manifest.policy;
        if let Some(proxy) = policy.config.value.pointer("/proxy/meter")
            && let Some(name) = proxy.as_str()
        {
            let span = policy.config.span("/proxy/meter");
            self.meter(&Placed::new(name.to_string(), span), None);
        }
        let catalog = self.catalog;
        let offer = self.find(&policy.name, &catalog.policies)?;
        Some(ResolvedPolicy {
            offer: offer.clone(),
            config: policy.config.value.clone(),
            seed: policy.seed,
            on_no_progress: policy.on_no_progress,
            max_steps: policy.max_steps,
        })
    }

    fn check_meter_settings(&mut self) {
        for (name, config) in &self.manifest.meters.config {
            if self.named.contains(name) {
                continue;
            }
            let used = self.meters.iter().map(|meter| meter.offer.id.as_str());
            let help = match nearest(name, used) {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None => "add it to `report`, or remove its settings".to_string(),
            };
            let message = format!("meter {} has settings but is not used", quoted(name));
            self.report(ErrorKind::Value, &config.span(""), message, help);
        }
    }

    fn stages(&mut self, budget_is_sound: bool) -> Vec<ResolvedStage> {
        let manifest = self.manifest;
        let stages: Vec<(&Stage, ResolvedStage)> = manifest
            .stages
            .iter()
            .filter(|stage| stage.rules.iter().any(|rule| rule.enabled))
            .map(|stage| (stage, self.stage(stage, budget_is_sound)))
            .collect();
        let last_reducing = stages.iter().rposition(|(_, stage)| stage.reduces());
        for (index, (written, stage)) in stages.iter().enumerate() {
            if last_reducing.is_some_and(|last| index < last) {
                self.check_until_is_given(written, stage);
            }
            self.check_until_has_a_meaning(written, stage);
        }
        self.check_order_of_stages(&stages);
        stages.into_iter().map(|(_, stage)| stage).collect()
    }

    fn check_until_is_given(&mut self, written: &Stage, stage: &ResolvedStage) {
        if !stage.reduces() || written.until.is_some() {
            return;
        }
        let message = format!("stage {} lacks `until`", quoted(&stage.name));
        let help = "a later stage also reduces, so write where this one ends: `until = \"40%\"`";
        self.report(ErrorKind::Key, &written.span, message, help);
    }

    fn check_until_has_a_meaning(&mut self, written: &Stage, stage: &ResolvedStage) {
        let Some(until) = &written.until else {
            return;
        };
        // With a disabled or unknown rule nobody can tell what the stage is for.
        let complete = stage.rules.len() == written.rules.len();
        if complete && !stage.reduces() {
            let message = format!(
                "stage {} lowers no cost, so `until` has no meaning",
                quoted(&stage.name)
            );
            let help = "remove it: a stage that recovers always runs to its end";
            self.report(ErrorKind::Value, &until.at_most.span, message, help);
        }
    }

    fn stage(&mut self, stage: &'m Stage, budget_is_sound: bool) -> ResolvedStage {
        let until = stage.until.as_ref().and_then(|until| {
            let meter = match (&until.meter, self.manifest.budget.as_slice()) {
                (Some(meter), _) => meter,
                (None, [Limit { meter, .. }]) => meter,
                (None, _) => {
                    let message = "the budget has several limits, so `until` must name its meter";
                    let help = "write `until = { meter = \"size_bytes\", at_most = \"40%\" }`";
                    self.report(ErrorKind::Value, &until.at_most.span, message, help);
                    return None;
                }
            };
            // A mistake in the budget's own limit is reported there alone.
            if until.meter.is_none() && !budget_is_sound {
                return None;
            }
            self.limit(meter, &until.at_most)
        });
        let enabled = stage.rules.iter().filter(|rule| rule.enabled);
        let rules = enabled.filter_map(|rule| Some((rule, self.rule(rule)?))).collect();
        ResolvedStage {
            name: stage.name.value.clone(),
            until,
            rules: self.ordered(stage, rules),
        }
    }

    fn rule(&mut self, rule: &RuleUse) -> Option<ResolvedRule> {
        let catalog = self.catalog;
        let offer = self.find(&rule.rule, &catalog.rules)?;
        if let Some(role) = rule.role.as_ref().filter(|role| role.value != offer.role) {
            let message = format!(
                "rule {} is there to {}; the manifest says {}",
                quoted(&offer.id),
                offer.role,
                role.value
            );
            let help = format!("write `role = \"{}\"`, or leave it out", offer.role);
            self.report(ErrorKind::Value, &role.span, message, help);
        }
        let knobs = self.knobs(rule, offer);
        Some(ResolvedRule {
            id: rule.id.value.clone(),
            offer: offer.clone(),
            configuration: configuration(&rule.config, knobs),
        })
    }
}

impl ResolvedStage {
    /// Whether the stage has a rule that lowers a cost.
    pub fn reduces(&self) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|rule| rule.offer.role == Role::Reduce)
    }
}

fn configuration(config: &Config, knobs: serde_json::Map<String, Value>) -> Value {
    json!({ "config": config.value, "knobs": knobs })
}
