//! What became of each layer.

use std::collections::HashMap;

use kmr_model::cost::LayerCost;
use kmr_run::{BeforeAfter, ChangeReport, LayerReport};
use kmr_sdk::wire::Change;

/// Layers with parameters, multiplications or changes: what they cost `before` and `after`, and the `changes`, each with
/// its rule. Layers that are new count for the one that they are named after, as experts do, or else for themselves; what
/// was changed and is no layer has a row of its own.
pub fn layers(before: &[LayerCost], after: &[LayerCost], changes: &[(String, Change)]) -> Vec<LayerReport> {
    let mut rows: Vec<Row<'_>> = before.iter().map(Row::of).collect();
    let nodes: HashMap<&str, usize> = before.iter().map(|layer| layer.node.as_str()).zip(0..).collect();
    for layer in after {
        match nodes.get(layer.node.as_str()).copied().or_else(|| whole(layer, before)) {
            Some(row) => rows[row].after.push(layer),
            None => rows.push(Row {
                after: vec![layer],
                before: None,
                ..Row::of(layer)
            }),
        }
    }
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (at, row) in rows.iter().enumerate() {
        for name in row.names() {
            places.entry(name).or_insert(at);
        }
    }
    for (rule, change) in changes {
        let place = *places.entry(&change.layer).or_insert(rows.len());
        if place == rows.len() {
            rows.push(Row {
                name: &change.layer,
                ..Row::default()
            });
        }
        rows[place].changes.push(ChangeReport {
            rule: rule.clone(),
            what: change.what.clone(),
            before: change.before.clone(),
            after: change.after.clone(),
        });
    }
    let counts = |reading: &BeforeAfter| reading.before != 0.0 || reading.after != 0.0;
    let reports = rows.into_iter().map(Row::report);
    reports
        .filter(|layer| counts(&layer.params) || counts(&layer.macs) || !layer.changes.is_empty())
        .collect()
}

/// The position of the layer that a new one is a part of: the one with the longest name that its own begins with.
fn whole(part: &LayerCost, before: &[LayerCost]) -> Option<usize> {
    let begins = |old: &LayerCost| {
        let rest = part.label.strip_prefix(old.label.as_str());
        rest.is_some_and(|rest| rest.starts_with('.'))
    };
    // The first of those with one name.
    let places = (0..before.len()).rev().filter(|&at| begins(&before[at]));
    places.max_by_key(|&at| before[at].label.len())
}

#[derive(Default)]
struct Row<'c> {
    name: &'c str,
    operator: &'c str,
    before: Option<&'c LayerCost>,
    after: Vec<&'c LayerCost>,
    changes: Vec<ChangeReport>,
}

impl<'c> Row<'c> {
    fn of(layer: &'c LayerCost) -> Self {
        Self {
            name: &layer.label,
            operator: &layer.op_type,
            before: Some(layer),
            ..Self::default()
        }
    }

    /// What changes may call it, or a part of it.
    fn names(&self) -> impl Iterator<Item = &'c str> {
        let layers = self.before.iter().chain(&self.after);
        let names = layers.flat_map(|layer| [layer.node.as_str(), layer.label.as_str()]);
        std::iter::once(self.name).chain(names)
    }

    fn report(self) -> LayerReport {
        let reading = |before: f64, after: f64| BeforeAfter {
            before,
            after,
            unit: String::new(),
        };
        let before: Vec<&LayerCost> = self.before.into_iter().collect();
        LayerReport {
            layer: self.name.to_owned(),
            operator: self.operator.to_owned(),
            params: reading(params(&before), params(&self.after)),
            macs: reading(macs(&before), macs(&self.after)),
            changes: self.changes,
        }
    }
}

fn params(layers: &[&LayerCost]) -> f64 {
    layers.iter().map(|layer| layer.params).sum::<u64>() as f64
}

/// NaN where one of them cannot be told.
fn macs(layers: &[&LayerCost]) -> f64 {
    let total: Option<u64> = layers.iter().map(|layer| layer.macs).sum();
    total.map_or(f64::NAN, |macs| macs as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(name: &str, params: u64, macs: Option<u64>) -> LayerCost {
        LayerCost {
            node: format!("{name}_output"),
            label: name.into(),
            op_type: "Gemm".into(),
            params,
            macs,
            output_shape: None,
        }
    }

    fn told(before: &[LayerCost], after: &[LayerCost]) -> Vec<(String, String, String)> {
        let reports = layers(before, after, &[]).into_iter();
        let pair = |reading: &BeforeAfter| format!("{} -> {}", reading.before, reading.after);
        reports
            .map(|report| (report.layer.clone(), pair(&report.params), pair(&report.macs)))
            .collect()
    }

    #[test]
    fn experts_count_for_the_layer_that_they_were() {
        let before = [layer("mlp.up", 10, Some(100)), layer("mlp.upper", 3, Some(30))];
        let after = [
            layer("mlp.up.experts.0.up", 4, Some(20)),
            layer("mlp.up.experts.1.up", 6, Some(30)),
            layer("mlp.upper", 3, Some(30)),
            layer("head", 1, Some(2)),
        ];
        let expected = [
            ("mlp.up", "10 -> 10", "100 -> 50"),
            ("mlp.upper", "3 -> 3", "30 -> 30"),
            ("head", "0 -> 1", "0 -> 2"),
        ];
        let expected = expected.map(|(name, params, macs)| (name.to_owned(), params.to_owned(), macs.to_owned()));
        assert_eq!(told(&before, &after), expected);
    }

    #[test]
    fn names_within_names_count_once() {
        let before = [layer("mlp", 10, Some(1)), layer("mlp.up", 4, Some(1))];
        let after = [layer("mlp", 10, Some(1)), layer("mlp.up.experts.0", 14, Some(2))];
        let params: Vec<f64> = layers(&before, &after, &[])
            .iter()
            .map(|row| row.params.after)
            .collect();
        assert_eq!(params, [10.0, 14.0]);
    }

    #[test]
    fn every_change_is_told_once() {
        let change = |layer: &str| {
            let words = |text: &str| text.to_owned();
            let (what, before, after) = (words("bits"), words("32"), words("4"));
            let change = Change {
                layer: layer.into(),
                what,
                before,
                after,
            };
            ("quantize".to_owned(), change)
        };
        let before = [layer("up", 10, Some(100))];
        let after = [layer("up.experts.0", 5, Some(50)), layer("other", 1, Some(1))];
        let changes = ["up_output", "all", "up.experts.0_output", "other_output", "up", "all"].map(change);
        let reports = layers(&before, &after, &changes);
        let told: Vec<_> = reports.iter().map(|row| (&*row.layer, row.changes.len())).collect();
        assert_eq!(told, [("up", 3), ("other", 1), ("all", 2)]);
    }

    #[test]
    fn multiplications_that_cannot_be_counted_are_not_zero() {
        let before = [layer("loop", 2, Some(8))];
        let after = [layer("loop", 2, None)];
        assert_eq!(told(&before, &after)[0].2, "8 -> NaN");
    }
}
