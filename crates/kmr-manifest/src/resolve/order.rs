//! The order of rules: what they declare of each other, against what is written.

use super::{Resolution, ResolvedRule, ResolvedStage};
use crate::suggest::{listed, quoted};
use crate::{ErrorKind, RuleUse, Stage};

/// A rule as it is written, and what it stands for.
pub(super) type Used<'m> = (&'m RuleUse, ResolvedRule);

/// Whether `rule` declares that it works better after `other`.
fn follows(rule: &ResolvedRule, other: &ResolvedRule) -> bool {
    rule.offer.id != other.offer.id && rule.offer.after.contains(&other.offer.id)
}

/// Whether one of the two declares that they cannot share a stage.
fn conflict(one: &ResolvedRule, other: &ResolvedRule) -> bool {
    one.offer.conflicts.contains(&other.offer.id) || other.offer.conflicts.contains(&one.offer.id)
}

impl<'m> Resolution<'m> {
    /// The rules of one stage as they are written, each moved behind those that it declares itself to be after.
    pub(super) fn ordered(&mut self, stage: &Stage, written: Vec<Used<'m>>) -> Vec<ResolvedRule> {
        self.check_conflicts(&written);
        let mut waiting: Vec<&Used<'m>> = written.iter().collect();
        let mut ordered: Vec<&Used<'m>> = Vec::new();
        while !waiting.is_empty() {
            let free = |(_, rule): &&Used<'m>| !waiting.iter().any(|(_, other)| follows(rule, other));
            let Some(free) = waiting.iter().position(free) else {
                self.report_cycle(&waiting);
                ordered.append(&mut waiting);
                break;
            };
            ordered.push(waiting.remove(free));
        }
        self.tell_new_order(stage, &written, &ordered);
        ordered.into_iter().map(|(_, rule)| rule.clone()).collect()
    }

    fn check_conflicts(&mut self, written: &[Used<'m>]) {
        for (position, (place, rule)) in written.iter().enumerate() {
            let mut earlier = written[..position].iter();
            if let Some((_, other)) = earlier.find(|(_, other)| conflict(rule, other)) {
                let message = format!(
                    "rules {} and {} cannot share a stage",
                    quoted(&other.id),
                    quoted(&rule.id)
                );
                let help = format!(
                    "give {} a stage of its own, or leave one out with `enabled = false`",
                    quoted(&rule.id)
                );
                self.report(ErrorKind::Value, &place.rule.span, message, help);
            }
        }
    }

    fn report_cycle(&mut self, waiting: &[&Used<'m>]) {
        // Each of them waits for another one, so following these leads back to where it was.
        let mut path = vec![0];
        let cycle = loop {
            let last = path[path.len() - 1];
            let next = waiting.iter().position(|(_, other)| follows(&waiting[last].1, other));
            let next = next.unwrap_or(last);
            if let Some(start) = path.iter().position(|&seen| seen == next) {
                break &path[start..];
            }
            path.push(next);
        };
        let names = listed(cycle.iter().map(|&rule| waiting[rule].1.id.as_str()));
        let place = &waiting[cycle[0]].0.rule.span;
        let message = format!("each of the rules {names} declares that it comes after another one of them");
        self.report(ErrorKind::Value, place, message, "give one of them a stage of its own");
    }

    fn tell_new_order(&mut self, stage: &Stage, written: &[Used<'m>], ordered: &[&Used<'m>]) {
        let mut pairs = written.iter().zip(ordered);
        let Some(((place, rule), _)) = pairs.find(|((_, rule), (_, now))| rule.id != now.id) else {
            return;
        };
        let before = written.iter().find(|(_, other)| follows(rule, other));
        let message = format!(
            "stage {} applies its rules in another order than written: {}",
            quoted(&stage.name),
            listed(ordered.iter().map(|(_, rule)| rule.id.as_str()))
        );
        let help = before.map(|(_, other)| {
            format!(
                "{} works better after {}; write them in this order",
                quoted(&rule.id),
                quoted(&other.id)
            )
        });
        self.warn(&place.rule.span, message, help.unwrap_or_default());
    }

    /// Warns of rules that come a stage too late for one that declares itself to be after them.
    pub(super) fn check_order_of_stages(&mut self, stages: &[(&'m Stage, ResolvedStage)]) {
        for (index, (written, stage)) in stages.iter().enumerate() {
            for rule in &stage.rules {
                let before = stages[..=index].iter().flat_map(|(_, stage)| &stage.rules);
                if before
                    .clone()
                    .any(|other| other.id != rule.id && other.offer.id == rule.offer.id)
                {
                    continue;
                }
                let mut earlier = stages[..index].iter().flat_map(|(_, stage)| &stage.rules);
                let (Some(other), Some(place)) = (
                    earlier.find(|other| follows(other, rule)),
                    written.rules.iter().find(|place| place.id.value == rule.id),
                ) else {
                    continue;
                };
                let message = format!(
                    "rule {} comes a stage later than {}, which works better after it",
                    quoted(&rule.id),
                    quoted(&other.id)
                );
                let help = "what the earlier stage made of the model is what this rule sees; swap the stages, or give \
                            both rules one stage";
                self.warn(&place.rule.span, message, help);
            }
        }
    }
}
