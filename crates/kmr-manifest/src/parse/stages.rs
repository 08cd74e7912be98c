//! Stages, rules and knobs.

use std::collections::HashSet;
use std::ops::Range;

use serde_json::Value;
use toml::de::DeValue;

use super::config::{config, scalar};
use crate::reader::{Context, Section};
use crate::resolve::same_value;
use crate::suggest::quoted;
use crate::{ErrorKind, KnobUse, Per, Placed, Role, RuleUse, Stage, Until};

pub(super) fn stages(root: &Section<'_, '_>) -> Vec<Stage> {
    let stages: Vec<Stage> = root.tables("stage").iter().map(stage).collect();
    let context = root.context();
    let names = stages.iter().map(|stage| &stage.name);
    report_duplicates(context, "stages", "name", names);
    let ids = stages.iter().flat_map(|stage| &stage.rules).map(|rule| &rule.id);
    report_duplicates(context, "rules", "id", ids);
    stages
}

fn report_duplicates<'a>(context: &Context, things: &str, key: &str, names: impl Iterator<Item = &'a Placed<String>>) {
    let mut seen = HashSet::new();
    for name in names.filter(|name| !name.is_empty()) {
        if seen.insert(name.as_str()) {
            continue;
        }
        context.report(
            ErrorKind::Value,
            name.span.clone(),
            format!("two {things} have the {key} {}", quoted(name)),
            format!("give each its own, such as `{key} = \"{}-2\"`", name.value),
        );
    }
}

fn stage(section: &Section<'_, '_>) -> Stage {
    let name = section.text("name").unwrap_or_default();
    check_name(section.context(), "name", &name);
    Stage {
        name,
        until: until(section),
        rules: section.tables("rule").iter().map(rule).collect(),
        span: section.span(),
    }
}

fn until(section: &Section<'_, '_>) -> Option<Until> {
    let value = section.value("until")?;
    let DeValue::Table(table) = value.get_ref() else {
        return Some(Until {
            meter: None,
            at_most: section.amount("until")?,
        });
    };
    let shown = format!("{} until", section.shown());
    let inner = Section::open(section.context(), "until", shown, table, value.span());
    let (meter, at_most) = (inner.text("meter"), inner.amount("at_most"));
    Some(Until {
        meter: Some(meter?),
        at_most: at_most?,
    })
}

fn rule(section: &Section<'_, '_>) -> RuleUse {
    let rule = section.text("use").unwrap_or_default();
    let id = section.text("id").unwrap_or_else(|| rule.clone());
    check_name(section.context(), "id", &id);
    let role = section.choice("role").map(|choice| {
        choice.map(|role| match role {
            "reduce" => Role::Reduce,
            _ => Role::Recover,
        })
    });
    RuleUse {
        rule,
        id,
        enabled: section.boolean("enabled").unwrap_or(true),
        role,
        knobs: knobs(section),
        config: config(section, "config"),
        span: section.span(),
    }
}

/// Names end up in file names, in the journal and on command lines.
fn check_name(context: &Context, key: &str, name: &Placed<String>) {
    const LONGEST: usize = 64;
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
    if name.is_empty() || (name.chars().all(allowed) && name.len() <= LONGEST) {
        return;
    }
    context.report(
        ErrorKind::Value,
        name.span.clone(),
        format!("{} is no {key}", quoted(name)),
        format!("use up to {LONGEST} letters a-z, A-Z, digits, `_`, `-` and `.`"),
    );
}

fn knobs(section: &Section<'_, '_>) -> Vec<KnobUse> {
    let Some(table) = section.table("knobs") else {
        return Vec::new();
    };
    let entries = table.entries();
    let knobs = entries.filter_map(|(name, value)| {
        let shown = format!("{} {}", table.shown(), quoted(&name));
        let inner = table.entry_table(&name, shown, value)?;
        Some(knob(name, &inner))
    });
    knobs.collect()
}

fn knob(name: Placed<String>, section: &Section<'_, '_>) -> KnobUse {
    let per = section.choice("per").map(|choice| {
        choice.map(|per| match per {
            "model" => Per::Model,
            "channel_group" => Per::ChannelGroup,
            _ => Per::Layer,
        })
    });
    KnobUse {
        values: values(&name, section),
        name,
        per,
    }
}

fn values(knob: &Placed<String>, section: &Section<'_, '_>) -> Option<Placed<Vec<Placed<Value>>>> {
    let context = section.context();
    let written = section.value("values")?;
    let report = |kind, span: Range<usize>, message: String, help: &str| {
        context.report(kind, span, message, help);
    };
    let items = written.get_ref().as_array();
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        let shown = context.shown(&written.span());
        report(
            ErrorKind::Type,
            written.span(),
            format!("`values` takes a list of at least one value; got {shown}"),
            "write for example `values = [0.0, 0.1, 0.2]`, the first being off",
        );
        return None;
    };
    const MOST: usize = 1000;
    if items.len() > MOST {
        report(
            ErrorKind::Value,
            written.span(),
            format!(
                "knob {} has {} values; at most {MOST} can be searched",
                quoted(knob),
                items.len()
            ),
            "write a few values from off to the strongest",
        );
        return None;
    }
    let mut values: Vec<Placed<Value>> = Vec::new();
    for item in items.iter() {
        let scalar = match item.get_ref() {
            DeValue::Datetime(_) => None,
            other => scalar(other),
        };
        let Some(scalar) = scalar else {
            let shown = context.shown(&item.span());
            report(
                ErrorKind::Type,
                item.span(),
                format!("a knob's value is a finite number, a text or a boolean; got {shown}"),
                "write for example `values = [0.0, 0.1, 0.2]`",
            );
            continue;
        };
        if values.iter().any(|value| same_value(value, &scalar)) {
            let shown = context.shown(&item.span());
            report(
                ErrorKind::Value,
                item.span(),
                format!("knob {} has the value {shown} twice", quoted(knob)),
                "write every value once",
            );
            continue;
        }
        values.push(Placed::new(scalar, item.span()));
    }
    Some(Placed::new(values, written.span()))
}
