//! What became of each layer.

use std::collections::{BTreeSet, HashSet};

use kmr_model::cost::LayerCost;
use kmr_run::{BeforeAfter, ChangeReport, LayerReport};
use kmr_sdk::wire::Change;

/// Layers with parameters, multiplications or changes: what they cost `before` and `after`, and the `changes`, each with
/// its rule.
pub fn layers(before: &[LayerCost], after: &[LayerCost], changes: &[(String, Change)]) -> Vec<LayerReport> {
    let reading = |before: f64, after: f64| BeforeAfter {
        before,
        after,
        unit: String::new(),
    };
    // Layers that are new count for the one that they are named after, as experts do, or else for themselves.
    let known: HashSet<&str> = before.iter().map(|layer| layer.node.as_str()).collect();
    let (kept, new): (Vec<&LayerCost>, Vec<&LayerCost>) =
        after.iter().partition(|layer| known.contains(layer.node.as_str()));
    let parts = |layer: &LayerCost| -> Vec<&LayerCost> {
        let own = kept.iter().filter(|other| other.node == layer.node);
        let named = new.iter().filter(|other| is_part(other, layer));
        own.chain(named).copied().collect()
    };
    // No number of multiplications can be told where one of them cannot. (The sum of no float is -0.)
    let macs = |layers: &[&LayerCost]| {
        let each = layers
            .iter()
            .map(|layer| layer.macs.map_or(f64::NAN, |macs| macs as f64));
        each.fold(0.0, |total, macs| total + macs)
    };
    let params = |layers: &[&LayerCost]| layers.iter().map(|layer| layer.params).sum::<u64>() as f64;
    let changed = |meant: &dyn Fn(&Change) -> bool| -> Vec<ChangeReport> {
        let meant = changes.iter().filter(|(_, change)| meant(change));
        meant
            .map(|(rule, change)| ChangeReport {
                rule: rule.clone(),
                what: change.what.clone(),
                before: change.before.clone(),
                after: change.after.clone(),
            })
            .collect()
    };
    let report = |layer: &LayerCost, before: &[&LayerCost], after: &[&LayerCost]| LayerReport {
        layer: layer.label.clone(),
        operator: layer.op_type.clone(),
        changes: changed(&|change| is_about(change, layer)),
        params: reading(params(before), params(after)),
        macs: reading(macs(before), macs(after)),
    };
    let alone = new.iter().filter(|layer| !before.iter().any(|old| is_part(layer, old)));
    let reports = before.iter().map(|layer| report(layer, &[layer], &parts(layer)));
    let reports = reports.chain(alone.map(|layer| report(layer, &[], &[layer])));
    // What is no layer that costs anything, or the whole model.
    let others: BTreeSet<&str> = changes
        .iter()
        .filter(|(_, change)| !before.iter().any(|layer| is_about(change, layer)))
        .map(|(_, change)| change.layer.as_str())
        .collect();
    let reports = reports.chain(others.into_iter().map(|name| LayerReport {
        layer: name.to_owned(),
        operator: String::new(),
        changes: changed(&|change| change.layer == name),
        params: reading(0.0, 0.0),
        macs: reading(0.0, 0.0),
    }));
    let counts = |reading: &BeforeAfter| reading.before != 0.0 || reading.after != 0.0;
    reports
        .filter(|layer| counts(&layer.params) || counts(&layer.macs) || !layer.changes.is_empty())
        .collect()
}

fn is_about(change: &Change, layer: &LayerCost) -> bool {
    change.layer == layer.node || change.layer == layer.label
}

/// Whether a new layer has the name of `layer` with more behind it.
fn is_part(new: &LayerCost, layer: &LayerCost) -> bool {
    new.label
        .strip_prefix(layer.label.as_str())
        .is_some_and(|rest| rest.starts_with('.'))
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
    fn no_change_is_lost() {
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
        let changes = ["up_output", "the whole model", "up", "the whole model"].map(change);
        let reports = layers(&before, &before, &changes);
        let told: Vec<_> = reports
            .iter()
            .map(|report| (&*report.layer, report.changes.len()))
            .collect();
        assert_eq!(told, [("up", 2), ("the whole model", 2)]);
    }

    #[test]
    fn multiplications_that_cannot_be_counted_are_not_zero() {
        let before = [layer("loop", 2, Some(8))];
        let after = [layer("loop", 2, None)];
        assert_eq!(told(&before, &after)[0].2, "8 -> NaN");
    }
}
