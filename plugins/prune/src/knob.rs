//! The values of a knob, read and put in order.

use kmr_sdk::{Action, Assignment, Error, KnobSettings, Result, Target, serde_json::Value, wire::Per};

/// The target of a knob that is turned once for the whole model.
pub const MODEL: &str = "model";

/// How much is removed: the values of a sparsity, 0 first, then rising.
#[derive(Clone, Debug, PartialEq)]
pub struct Sparsity {
    /// The knob's name.
    pub name: &'static str,
    /// Where it is turned.
    pub per: Per,
    values: Vec<f64>,
    most: f64,
}

impl Sparsity {
    /// The values of `name` in `knobs`; none if the manifest does not turn it.
    ///
    /// # Errors
    /// If a value lies outside of 0 to `most`, or the first is not 0.
    pub fn read(knobs: &KnobSettings, name: &'static str, most: f64) -> Result<Self> {
        let place = || format!("knob `{name}`");
        let mut values: Vec<f64> = knobs.values(name)?;
        if let Some(outside) = values.iter().find(|value| !(0.0..=most).contains(*value)) {
            return Err(
                Error::invalid_configuration(format!("takes values in [0, {most}]; got {outside}")).at(place()),
            );
        }
        if values.first().is_some_and(|&off| off != 0.0) {
            return Err(Error::invalid_configuration("the first value means off, and has to be 0").at(place()));
        }
        values.sort_by(f64::total_cmp);
        values.dedup();
        let per = knobs.get(name).map_or(Per::Layer, |setting| setting.per);
        Ok(Self {
            name,
            per,
            values,
            most,
        })
    }

    /// A target with the values that `effect` tells apart; none if only *off* is left.
    pub fn target<E: PartialEq>(
        &self,
        target: &str,
        label: &str,
        layers: Vec<String>,
        effect: impl Fn(f64) -> E,
    ) -> Option<Target> {
        let mut last = effect(*self.values.first()?);
        let mut values = vec![Value::from(0.0)];
        for &value in &self.values[1..] {
            let next = effect(value);
            if next != last {
                values.push(value.into());
                last = next;
            }
        }
        (values.len() > 1).then(|| Target {
            knob: self.name.into(),
            target: target.into(),
            label: label.into(),
            values,
            layers,
        })
    }

    /// The assignments of this knob that are not off, with their values.
    ///
    /// # Errors
    /// If a value is no sparsity.
    pub fn assigned<'a>(&self, action: &'a Action) -> Result<Vec<(&'a Assignment, f64)>> {
        let mut assigned = Vec::new();
        for assignment in action.of(self.name) {
            let value: f64 = assignment.value()?;
            if !(0.0..=self.most).contains(&value) {
                let message = format!("takes values in [0, {}]; got {value}", self.most);
                return Err(Error::invalid_request(message).at(format!("knob `{}`", self.name)));
            }
            if value > 0.0 {
                assigned.push((assignment, value));
            }
        }
        Ok(assigned)
    }
}

/// The error for an assignment to a target that this model does not have.
pub fn unknown_target(assignment: &Assignment) -> Error {
    let message = format!(
        "this model has no such target for `{}`; targets have to be asked for again when the model has changed",
        assignment.knob
    );
    Error::not_found(message).at(format!("target `{}`", assignment.target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(values: &str) -> KnobSettings {
        kmr_sdk::serde_json::from_str(&format!(r#"{{"s": {{"values": {values}, "per": "layer"}}}}"#)).unwrap()
    }

    #[test]
    fn values_come_in_order_and_only_those_with_an_effect() {
        let knob = Sparsity::read(&knobs("[0, 0.5, 0.1, 0.11, 0.5]"), "s", 0.95).unwrap();
        let target = knob
            .target("t", "layer", vec![], |sparsity| (sparsity * 10.0) as usize)
            .unwrap();
        assert_eq!(target.values, [0.0, 0.1, 0.5]);
        assert_eq!(knob.target("t", "layer", vec![], |_| 1), None);
        assert_eq!(
            Sparsity::read(&knobs("[]"), "s", 0.95)
                .unwrap()
                .target("t", "", vec![], |_| 1),
            None
        );
    }

    #[test]
    fn values_outside_are_refused() {
        let refused = |values| Sparsity::read(&knobs(values), "s", 0.95).unwrap_err().to_string();
        assert_eq!(refused("[0, 1.2]"), "knob `s`: takes values in [0, 0.95]; got 1.2");
        assert!(refused("[0.1, 0.2]").contains("off"));
        assert!(refused(r#"[0, "much"]"#).starts_with("knob `s`"));
    }
}
