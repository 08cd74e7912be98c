//! The knob: how many passes over the training data.

use kmr_sdk::{Action, Error, KnobSettings, Result, Target, serde_json::Value};

/// The knob's name.
pub const KNOB: &str = "epochs";
/// Its only target.
const MODEL: &str = "model";
/// Its greatest value.
const MOST: f64 = 1000.0;

/// The values that a manifest turns the knob through.
#[derive(Clone, Debug, PartialEq)]
pub struct Epochs(Vec<f64>);

impl Epochs {
    /// The knob's values in `knobs`; none if the manifest does not turn it.
    ///
    /// # Errors
    /// If a value is no number of epochs, or the first is not 0.
    pub fn read(knobs: &KnobSettings) -> Result<Self> {
        let mut values: Vec<f64> = knobs.values(KNOB)?;
        let place = || format!("knob `{KNOB}`");
        if let Some(outside) = values.iter().find(|value| !(0.0..=MOST).contains(*value)) {
            let message = format!("takes values in [0, {MOST}]; got {outside}");
            return Err(Error::invalid_configuration(message).at(place()));
        }
        if values.first().is_some_and(|&off| off != 0.0) {
            return Err(Error::invalid_configuration("the first value means off, and has to be 0").at(place()));
        }
        values.sort_by(f64::total_cmp);
        values.dedup();
        Ok(Self(values))
    }

    /// Where the knob is turned: once, for the nodes `layers`; nowhere if *off* is its only value.
    pub fn target(&self, layers: Vec<String>) -> Option<Target> {
        (self.0.len() > 1).then(|| Target {
            knob: KNOB.into(),
            target: MODEL.into(),
            label: "the whole model".into(),
            values: self.0.iter().map(|&value| Value::from(value)).collect(),
            layers,
        })
    }

    /// How many epochs `action` asks for.
    ///
    /// # Errors
    /// If it names another target, or a value that is no number of epochs.
    pub fn assigned(action: &Action) -> Result<f64> {
        let mut epochs = 0.0;
        for assignment in action.of(KNOB) {
            if assignment.target != MODEL {
                let message = format!("`{KNOB}` has the target `{MODEL}` alone");
                return Err(Error::not_found(message).at(format!("target `{}`", assignment.target)));
            }
            epochs = assignment.value()?;
            if !(0.0..=MOST).contains(&epochs) {
                let message = format!("takes values in [0, {MOST}]; got {epochs}");
                return Err(Error::invalid_request(message).at(format!("knob `{KNOB}`")));
            }
        }
        Ok(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kmr_sdk::Assignment;

    fn knobs(values: &str) -> KnobSettings {
        kmr_sdk::serde_json::from_str(&format!(r#"{{"epochs": {{"values": {values}, "per": "model"}}}}"#)).unwrap()
    }

    #[test]
    fn values_come_in_order() {
        let epochs = Epochs::read(&knobs("[0, 2, 0.5, 2]")).unwrap();
        let target = epochs.target(vec!["conv".into()]).unwrap();
        assert_eq!(target.values, [0.0, 0.5, 2.0]);
        assert_eq!(Epochs::read(&knobs("[0]")).unwrap().target(vec![]), None);
        assert_eq!(Epochs::read(&KnobSettings::default()).unwrap().target(vec![]), None);
    }

    #[test]
    fn others_are_refused() {
        let refused = |values| Epochs::read(&knobs(values)).unwrap_err().to_string();
        assert_eq!(refused("[0, -1]"), "knob `epochs`: takes values in [0, 1000]; got -1");
        assert!(refused("[1, 2]").contains("off"));
        let assigned = |target: &str, value: f64| {
            Epochs::assigned(&Action {
                assignments: vec![Assignment {
                    knob: KNOB.into(),
                    target: target.into(),
                    value: value.into(),
                }],
                costs_only: false,
            })
        };
        assert_eq!(assigned("model", 1.5).unwrap(), 1.5);
        assert!(
            assigned("layer", 1.0)
                .unwrap_err()
                .to_string()
                .contains("target `layer`")
        );
        assert!(assigned("model", -1.0).unwrap_err().to_string().contains("got -1"));
    }
}
