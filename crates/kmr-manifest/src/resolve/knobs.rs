//! Knob values against the domains that rules declare.

use serde_json::{Map, Value, json};

use super::Resolution;
use crate::suggest::{listed, nearest, quoted};
use crate::{Domain, ErrorKind, KnobOffer, KnobUse, Placed, Role, RuleOffer, RuleUse};

impl Resolution<'_> {
    /// The `knobs` part of a rule's configuration.
    pub(super) fn knobs(&mut self, rule: &RuleUse, offer: &RuleOffer) -> Map<String, Value> {
        if rule.knobs.is_empty() && offer.role == Role::Reduce && !offer.knobs.is_empty() {
            let message = format!("rule {} has no knob to turn", quoted(&rule.id));
            let names = offer.knobs.iter().map(|knob| knob.name.as_str());
            let help = format!(
                "its knobs are {}; write `knobs.{} = {{}}` for the rule's own values",
                listed(names),
                offer.knobs[0].name
            );
            self.report(ErrorKind::Key, &rule.span, message, help);
        }
        let mut resolved = Map::new();
        for written in &rule.knobs {
            match offer.knobs.iter().find(|k| k.name == written.name.value) {
                Some(knob) => {
                    resolved.insert(knob.name.clone(), self.knob(written, knob));
                }
                None => self.report_unknown_knob(written, offer),
            }
        }
        resolved
    }

    fn report_unknown_knob(&mut self, written: &KnobUse, offer: &RuleOffer) {
        let names = || offer.knobs.iter().map(|knob| knob.name.as_str());
        let help = match nearest(&written.name, names()) {
            Some(near) => format!("did you mean {}?", quoted(near)),
            None if offer.knobs.is_empty() => "it has none".to_string(),
            None => format!("its knobs are {}", listed(names())),
        };
        let message = format!("rule {} has no knob {}", quoted(&offer.id), quoted(&written.name));
        self.report(ErrorKind::Value, &written.name.span, message, help);
    }

    fn knob(&mut self, written: &KnobUse, knob: &KnobOffer) -> Value {
        let values = match &written.values {
            Some(values) => {
                self.check_values(values, knob);
                values.iter().map(|value| value.value.clone()).collect()
            }
            None => {
                if knob.default.is_empty() {
                    let message = format!("knob {} lacks `values`", quoted(&knob.name));
                    let help = format!("the rule has no values of its own; it takes {}", knob.domain);
                    self.report(ErrorKind::Key, &written.name.span, message, help);
                }
                knob.default.clone()
            }
        };
        let per = match (&written.per, knob.per.first()) {
            (Some(per), _) => {
                if !knob.per.contains(&per.value) {
                    let known: Vec<String> = knob.per.iter().map(ToString::to_string).collect();
                    let message = format!("knob {} cannot be turned per {}", quoted(&knob.name), per.value);
                    let help = format!("it is turned per {}", known.join(" or per "));
                    self.report(ErrorKind::Value, &per.span, message, help);
                }
                per.value
            }
            (None, Some(first)) => *first,
            (None, None) => crate::Per::Model,
        };
        json!({ "values": Value::Array(values), "per": per.to_string() })
    }

    /// Reports the first thing that is wrong with a list of values, since the rest follows.
    fn check_values(&mut self, values: &Placed<Vec<Placed<Value>>>, knob: &KnobOffer) {
        let name = quoted(&knob.name);
        if let Some(outside) = values.iter().find(|value| !contains(&knob.domain, value)) {
            let takes = match &knob.domain {
                range @ Domain::Range { .. } => format!("values in {range}"),
                Domain::Choices(choices) => {
                    let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
                    format!("one of {}", choices.join(", "))
                }
            };
            let got = &outside.value;
            let message = format!("knob {name} takes {takes}; got {got}");
            let help = match knob.description.as_str() {
                "" => "the rule declares what its knobs take",
                description => description,
            };
            self.report(ErrorKind::Value, &outside.span, message, help);
            return;
        }
        let (Some(off), Some(first)) = (knob.off(), values.first()) else {
            return;
        };
        if !same_value(first, &off) {
            let message = format!("knob {name} starts at {}, not at off", first.value);
            let help = format!("write {off} first: it leaves the model as it is");
            self.report(ErrorKind::Value, &first.span, message, help);
            return;
        }
        let distance = |value: &Value| distance(&knob.domain, value, &off);
        let mut pairs = values.iter().zip(values.iter().skip(1));
        if let Some((before, after)) = pairs.find(|(a, b)| distance(b) <= distance(a)) {
            let message = format!(
                "the values of knob {name} are out of order: {} stands behind {}",
                after.value, before.value
            );
            let help = "write them from off to the strongest";
            self.report(ErrorKind::Value, &after.span, message, help);
        }
    }
}

/// Whether two knob values are one: numbers by value, so that 8 is 8.0.
pub(crate) fn same_value(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

fn contains(domain: &Domain, value: &Value) -> bool {
    match domain {
        Domain::Range { min, max } => value.as_f64().is_some_and(|v| *min <= v && v <= *max),
        Domain::Choices(choices) => choices.iter().any(|choice| same_value(choice, value)),
    }
}

/// How far a value of the domain lies from *off*.
fn distance(domain: &Domain, value: &Value, off: &Value) -> f64 {
    let position = |value: &Value| match domain {
        Domain::Range { .. } => value.as_f64(),
        Domain::Choices(choices) => choices
            .iter()
            .position(|choice| same_value(choice, value))
            .map(|index| index as f64),
    };
    match (position(value), position(off)) {
        (Some(value), Some(off)) => (value - off).abs(),
        _ => 0.0,
    }
}
