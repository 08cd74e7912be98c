//! The knob `rank`.

use kmr_sdk::{
    Action, Error, KnobSettings, Result,
    wire::{Assignment, Per},
};

/// The knob's name.
pub const KNOB: &str = "rank";
/// The target of a knob that is turned once for the whole model.
pub const MODEL: &str = "model";
/// The greatest rank, as the metadata says it.
pub const MOST: usize = 1024;

/// Which end of the ranks is mild.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A greater rank does more.
    Rising,
    /// A smaller rank does more.
    Falling,
}

/// Ranks, 0 (off) first, and where they are turned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    /// Without the 0, from mild to strong.
    pub values: Vec<usize>,
    /// Where they are turned.
    pub per: Per,
}

impl Ranks {
    /// The ranks that the manifest names.
    ///
    /// # Errors
    /// If one is no whole number up to [`MOST`], or the first is not 0.
    pub fn read(knobs: &KnobSettings, order: Order) -> Result<Self> {
        let refuse = |message: String| Err(Error::invalid_configuration(message).at(format!("knob `{KNOB}`")));
        let written: Vec<f64> = knobs.values(KNOB)?;
        let mut values = Vec::new();
        for value in &written {
            match rank(*value) {
                Some(rank) => values.push(rank),
                None => return refuse(format!("takes whole numbers from 0 (off) to {MOST}; got {value}")),
            }
        }
        if values.first().is_some_and(|&off| off != 0) {
            return refuse("the first value means off, and has to be 0".into());
        }
        values.sort_unstable();
        values.dedup();
        values.retain(|&rank| rank > 0);
        if order == Order::Falling {
            values.reverse();
        }
        Ok(Self {
            values,
            per: knobs.get(KNOB).map_or(Per::Model, |setting| setting.per),
        })
    }

    /// The greatest of them; 0 if there is none.
    pub fn greatest(&self) -> usize {
        self.values.iter().copied().max().unwrap_or(0)
    }
}

/// The assignments of the knob that are not off, with their ranks.
///
/// # Errors
/// If a value is no rank.
pub fn assigned(action: &Action) -> Result<Vec<(&Assignment, usize)>> {
    let mut assigned = Vec::new();
    for assignment in action.of(KNOB) {
        let value: f64 = assignment.value()?;
        let rank = rank(value).ok_or_else(|| {
            let message = format!("takes whole numbers from 0 (off) to {MOST}; got {value}");
            Error::invalid_request(message).at(format!("knob `{KNOB}`"))
        })?;
        if rank > 0 {
            assigned.push((assignment, rank));
        }
    }
    Ok(assigned)
}

fn rank(value: f64) -> Option<usize> {
    (value.fract() == 0.0 && (0.0..=MOST as f64).contains(&value)).then_some(value as usize)
}

/// The error for a target that this model does not have.
pub fn unknown_target(target: &str) -> Error {
    let message = "this model has no such target; targets have to be asked for again when the model has changed";
    Error::not_found(message).at(format!("target `{target}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knobs(values: &str) -> KnobSettings {
        kmr_sdk::serde_json::from_str(&format!(r#"{{"rank": {{"values": {values}, "per": "layer"}}}}"#)).unwrap()
    }

    #[test]
    fn ranks_go_from_mild_to_strong() {
        let read = |order| Ranks::read(&knobs("[0, 16, 4, 16, 8.0]"), order).unwrap();
        assert_eq!(read(Order::Rising).values, [4, 8, 16]);
        assert_eq!(read(Order::Falling).values, [16, 8, 4]);
        assert_eq!(read(Order::Falling).greatest(), 16);
        assert_eq!(
            Ranks::read(&KnobSettings::default(), Order::Rising).unwrap().greatest(),
            0
        );
    }

    #[test]
    fn what_is_no_rank_is_refused() {
        let refused = |values| Ranks::read(&knobs(values), Order::Rising).unwrap_err().to_string();
        assert_eq!(
            refused("[0, 2.5]"),
            "knob `rank`: takes whole numbers from 0 (off) to 1024; got 2.5"
        );
        assert!(refused("[0, -1]").contains("got -1"));
        assert!(refused("[0, 1025]").contains("got 1025"));
        assert!(refused("[4, 8]").contains("means off"));
        assert!(refused(r#"[0, "some"]"#).starts_with("knob `rank`"));
    }
}
