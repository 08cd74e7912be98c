//! A knob that counts, read and put in order.

use kmr_sdk::{Action, Assignment, Error, KnobSettings, Result, Target, log, serde_json::Value, wire::Per};

/// The target of a knob that is turned once for the whole model.
pub const MODEL: &str = "model";

/// How many are left: 0 for off, then falling.
#[derive(Clone, Debug, PartialEq)]
pub struct Count {
    /// The knob's name.
    pub name: &'static str,
    /// Where it is turned.
    pub per: Per,
    /// From many to few.
    values: Vec<usize>,
}

/// A place where the knob can be turned.
pub struct Place {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub label: String,
    /// The ids of the nodes that change.
    pub layers: Vec<String>,
    /// The counts that change something.
    pub counts: std::ops::Range<usize>,
}

impl Count {
    /// The values of `name` in `knobs`; none if the manifest does not turn it.
    ///
    /// # Errors
    /// If a value is no whole number from 0 on, or the first is not 0.
    pub fn read(knobs: &KnobSettings, name: &'static str) -> Result<Self> {
        let mut values: Vec<usize> = knobs.values(name)?;
        if values.first().is_some_and(|&off| off != 0) {
            return Err(
                Error::invalid_configuration("the first value means off, and has to be 0").at(format!("knob `{name}`")),
            );
        }
        values.retain(|&value| value > 0);
        values.sort_unstable_by(|a, b| b.cmp(a));
        values.dedup();
        let per = knobs.get(name).map_or(Per::Layer, |setting| setting.per);
        Ok(Self { name, per, values })
    }

    /// What is said where no value has an effect at any of these places; nothing where one has, or there is no place.
    fn without_effect(&self, places: &[Place]) -> Option<String> {
        let has_effect = |count: &usize| places.iter().any(|place| place.counts.contains(count));
        if places.is_empty() || self.values.is_empty() || self.values.iter().any(has_effect) {
            return None;
        }
        let values: Vec<String> = self.values.iter().map(usize::to_string).collect();
        let open = places.iter().filter(|place| !place.counts.is_empty());
        let (least, most) = (
            open.clone().map(|place| place.counts.start).min(),
            open.map(|place| place.counts.end - 1).max(),
        );
        let takes = match (least, most) {
            (Some(least), Some(most)) => format!("here it takes {least} to {most}, that is at most {most}"),
            _ => "there is nothing left to take away".to_owned(),
        };
        Some(format!(
            "knob `{}` changes nothing at {}: {takes}",
            self.name,
            values.join(", ")
        ))
    }

    /// The targets at these places: each, or all of them as one.
    pub fn targets(&self, places: &[Place], all: &str) -> Vec<Target> {
        if let Some(message) = self.without_effect(places) {
            log::warn!("{message}");
        }
        let target = |id: &str, label: &str, layers: Vec<String>, effect: &dyn Fn(usize) -> bool| {
            let counts = self.values.iter().copied().filter(|&count| effect(count));
            let values: Vec<Value> = std::iter::once(0).chain(counts).map(Value::from).collect();
            (values.len() > 1).then(|| Target {
                knob: self.name.into(),
                target: id.into(),
                label: label.into(),
                values,
                layers,
            })
        };
        match self.per {
            Per::Layer | Per::ChannelGroup => {
                let each = places.iter().filter_map(|place| {
                    let effect = |count: usize| place.counts.contains(&count);
                    target(&place.id, &place.label, place.layers.clone(), &effect)
                });
                each.collect()
            }
            Per::Model => {
                let layers = places.iter().flat_map(|place| place.layers.clone()).collect();
                let effect = |count: usize| places.iter().any(|place| place.counts.contains(&count));
                target(MODEL, all, layers, &effect).into_iter().collect()
            }
        }
    }

    /// The places that `action` changes, by their position, with their counts.
    ///
    /// # Errors
    /// If a value is no whole number, or there is no such target.
    pub fn assigned(&self, action: &Action, places: &[Place]) -> Result<Vec<(usize, usize)>> {
        let mut assigned = Vec::new();
        for assignment in action.of(self.name) {
            let count: usize = assignment.value()?;
            if count == 0 {
                continue;
            }
            let meant: Vec<usize> = match self.per {
                Per::Model if assignment.target == MODEL => (0..places.len()).collect(),
                Per::Layer | Per::ChannelGroup => places
                    .iter()
                    .position(|place| place.id == assignment.target)
                    .into_iter()
                    .collect(),
                Per::Model => Vec::new(),
            };
            if meant.is_empty() {
                return Err(unknown_target(assignment));
            }
            let changed = meant.into_iter().filter(|&at| places[at].counts.contains(&count));
            assigned.extend(changed.map(|at| (at, count)));
        }
        Ok(assigned)
    }
}

/// The error for an assignment to a target that this model does not have.
fn unknown_target(assignment: &Assignment) -> Error {
    let message = format!(
        "this model has no such target for `{}`; targets have to be asked for again when the model has changed",
        assignment.knob
    );
    Error::not_found(message).at(format!("target `{}`", assignment.target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knob(values: &str, per: &str) -> Result<Count> {
        let knobs = format!(r#"{{"k": {{"values": {values}, "per": "{per}"}}}}"#);
        Count::read(&kmr_sdk::serde_json::from_str(&knobs).unwrap(), "k")
    }

    fn places() -> Vec<Place> {
        let place = |id: &str, counts| Place {
            id: id.into(),
            label: id.into(),
            layers: vec![id.into()],
            counts,
        };
        vec![place("a", 1..4), place("b", 1..2), place("c", 1..1)]
    }

    #[test]
    fn values_fall_and_only_those_with_an_effect_are_left() {
        let targets = knob("[0, 1, 9, 3, 3]", "layer").unwrap().targets(&places(), "all");
        let told: Vec<_> = targets.iter().map(|t| (t.target.as_str(), t.values.len())).collect();
        assert_eq!(told, [("a", 3), ("b", 2)]);
        assert_eq!(targets[0].values, [0, 3, 1]);
        let whole = knob("[0, 1, 9, 3]", "model").unwrap().targets(&places(), "all");
        assert_eq!((whole.len(), whole[0].layers.len()), (1, 3));
        assert_eq!(whole[0].values, [0, 3, 1]);
        assert!(knob("[0, 9]", "model").unwrap().targets(&places(), "all").is_empty());
    }

    #[test]
    fn values_without_any_effect_are_told() {
        let told = |values: &str| knob(values, "layer").unwrap().without_effect(&places());
        assert_eq!(
            told("[0, 9, 4]").unwrap(),
            "knob `k` changes nothing at 9, 4: here it takes 1 to 3, that is at most 3"
        );
        assert_eq!(told("[0, 9, 3]"), None);
        assert_eq!(told("[0]"), None);
        let one = knob("[0, 2]", "model").unwrap();
        assert_eq!(one.without_effect(&[]), None);
        assert!(
            one.without_effect(&places()[2..])
                .unwrap()
                .ends_with("nothing left to take away")
        );
    }

    #[test]
    fn assignments_mean_places() {
        let action = |target: &str, value: &str| -> Action {
            let text = format!(r#"{{"assignments": [{{"knob": "k", "target": "{target}", "value": {value}}}]}}"#);
            kmr_sdk::serde_json::from_str(&text).unwrap()
        };
        let layers = knob("[0, 3, 1]", "layer").unwrap();
        assert_eq!(layers.assigned(&action("a", "3"), &places()).unwrap(), [(0, 3)]);
        assert_eq!(layers.assigned(&action("a", "0"), &places()).unwrap(), []);
        assert!(
            layers
                .assigned(&action("d", "3"), &places())
                .unwrap_err()
                .to_string()
                .starts_with("target `d`")
        );
        assert!(layers.assigned(&action("a", "1.5"), &places()).is_err());
        let model = knob("[0, 3, 1]", "model").unwrap();
        assert_eq!(
            model.assigned(&action(MODEL, "1"), &places()).unwrap(),
            [(0, 1), (1, 1)]
        );
        assert_eq!(model.assigned(&action(MODEL, "3"), &places()).unwrap(), [(0, 3)]);
    }

    #[test]
    fn values_that_count_nothing_are_refused() {
        assert!(knob("[1, 2]", "layer").unwrap_err().to_string().contains("off"));
        assert!(
            knob("[0, 1.5]", "layer")
                .unwrap_err()
                .to_string()
                .starts_with("knob `k`")
        );
        assert!(knob("[0, -1]", "layer").is_err());
    }
}
