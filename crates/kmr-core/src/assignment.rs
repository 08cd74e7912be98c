//! Assignments and the actions that lead from one to the next.

use std::ops::Index;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::knob::{Knobs, Role};

/// A value index for every knob, in the order of [`Knobs`]; 0 is *off*.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Assignment(Box<[usize]>);

impl Assignment {
    /// The value indexes in knob order.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// The same assignment with one knob changed.
    ///
    /// # Panics
    /// When `knob` is out of range.
    pub fn with(&self, knob: usize, value: usize) -> Assignment {
        let mut values = self.0.clone();
        values[knob] = value;
        Assignment(values)
    }

    /// Whether there is one value in range for every knob.
    pub fn check(&self, knobs: &Knobs) -> Result<(), ActionError> {
        if self.0.len() != knobs.len() {
            return Err(ActionError::Length {
                given: self.0.len(),
                knobs: knobs.len(),
            });
        }
        for (knob, &value) in self.0.iter().enumerate() {
            check_value(knobs, knob, value)?;
        }
        Ok(())
    }

    /// The assignment that an action leads to.
    pub fn apply(&self, knobs: &Knobs, action: &Action) -> Result<Assignment, ActionError> {
        if action.0.is_empty() {
            return Err(ActionError::Empty);
        }
        let mut values = self.0.clone();
        for (position, change) in action.0.iter().enumerate() {
            check_value(knobs, change.knob, change.value)?;
            if action.0[..position].iter().any(|earlier| earlier.knob == change.knob) {
                return Err(ActionError::KnobTwice { knob: change.knob });
            }
            values[change.knob] = change.value;
        }
        Ok(Assignment(values))
    }

    /// The action that leads from here to `other`; empty when they are equal.
    pub fn changes_to(&self, other: &Assignment) -> Action {
        let pairs = self.0.iter().zip(&other.0).enumerate();
        pairs
            .filter(|(_, (here, there))| here != there)
            .map(|(knob, (_, &value))| Change { knob, value })
            .collect()
    }

    /// Whether a knob with this role differs between the two.
    pub fn differs(&self, other: &Assignment, knobs: &Knobs, role: Role) -> bool {
        knobs.with_role(role).any(|knob| self.0[knob] != other.0[knob])
    }

    /// The same assignment with the recovering knobs back at *off*.
    pub fn settled(&self, knobs: &Knobs) -> Assignment {
        let mut values = self.0.clone();
        for knob in knobs.with_role(Role::Recover) {
            values[knob] = 0;
        }
        Assignment(values)
    }

    /// The knobs that are not off, for people: `prune.sparsity of layer1 = 0.3, …`.
    pub fn describe(&self, knobs: &Knobs) -> String {
        let on = knobs.iter().zip(&self.0).filter(|&(_, &value)| value != 0);
        let parts: Vec<String> = on
            .map(|(knob, &value)| match knob.values.get(value) {
                Some(chosen) => format!("{knob} = {chosen}"),
                None => format!("{knob} = value {value}, which does not exist"),
            })
            .collect();
        if parts.is_empty() {
            "everything off".to_owned()
        } else {
            parts.join(", ")
        }
    }
}

fn check_value(knobs: &Knobs, knob: usize, value: usize) -> Result<(), ActionError> {
    let Some(known) = knobs.get(knob) else {
        return Err(ActionError::NoSuchKnob {
            knob,
            knobs: knobs.len(),
        });
    };
    if value >= known.values.len() {
        let values = known.values.len();
        return Err(ActionError::NoSuchValue {
            knob: known.to_string(),
            value,
            values,
        });
    }
    Ok(())
}

impl From<Vec<usize>> for Assignment {
    fn from(values: Vec<usize>) -> Self {
        Assignment(values.into())
    }
}

impl Index<usize> for Assignment {
    type Output = usize;

    fn index(&self, knob: usize) -> &usize {
        &self.0[knob]
    }
}

/// Sets one knob to one of its values, both by index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Position in [`Knobs`].
    pub knob: usize,
    /// Position in the knob's values.
    pub value: usize,
}

/// What a policy proposes: one change is the paper's (k, v); several are a composite rule
/// (Algorithm 10), taken or left as a whole under the same acceptance test.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Action(pub Vec<Change>);

impl Action {
    /// The action with one change.
    pub fn single(knob: usize, value: usize) -> Self {
        Action(vec![Change { knob, value }])
    }

    /// The changes in order.
    pub fn changes(&self) -> &[Change] {
        &self.0
    }

    /// Whether it changes several knobs at once.
    pub fn is_composite(&self) -> bool {
        self.0.len() > 1
    }

    /// For people: `prune.sparsity of layer1 = 0.3, …`, the first few of many. Indexes out of range are
    /// named as such.
    pub fn describe(&self, knobs: &Knobs) -> String {
        const SHOWN: usize = 3;
        let words = self.0.iter().take(SHOWN).map(|change| {
            let known = knobs.get(change.knob);
            match known.and_then(|knob| Some((knob, knob.values.get(change.value)?))) {
                Some((knob, value)) => format!("{knob} = {value}"),
                None => format!("knob {} = value {}, which does not exist", change.knob, change.value),
            }
        });
        let shown = words.collect::<Vec<_>>().join(", ");
        match self.0.len().saturating_sub(SHOWN) {
            0 => shown,
            more => format!("{shown} and {more} more"),
        }
    }
}

impl FromIterator<Change> for Action {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        Action(changes.into_iter().collect())
    }
}

/// An action or assignment that these knobs do not allow.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ActionError {
    /// An action without a change.
    #[error("an action needs at least one change")]
    Empty,
    /// A knob index out of range.
    #[error("there is no knob {knob}; there are {knobs}, counted from 0")]
    NoSuchKnob {
        /// The index given.
        knob: usize,
        /// How many there are.
        knobs: usize,
    },
    /// A value index out of range.
    #[error("knob `{knob}` has no value {value}; it has {values}, counted from 0")]
    NoSuchValue {
        /// The knob.
        knob: String,
        /// The index given.
        value: usize,
        /// How many there are.
        values: usize,
    },
    /// One knob changed twice in one action.
    #[error("knob {knob} is changed twice in one action")]
    KnobTwice {
        /// The knob's index.
        knob: usize,
    },
    /// An assignment of the wrong length.
    #[error("an assignment has one value for each of the {knobs} knobs; got {given}")]
    Length {
        /// Values given.
        given: usize,
        /// Knobs there are.
        knobs: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knob::Knob;

    fn knobs() -> Knobs {
        let values = vec![0.0.into(), 0.5.into(), 0.75.into()];
        Knobs::new(vec![
            Knob::new("prune", "sparsity", "layer1", Role::Reduce, values.clone()),
            Knob::new("prune", "sparsity", "layer2", Role::Reduce, values),
            Knob::new("distill", "on", "model", Role::Recover, vec![false.into(), true.into()]),
        ])
        .unwrap()
    }

    #[test]
    fn actions_lead_where_they_say_and_back_out_as_changes() {
        let knobs = knobs();
        let action = Action(vec![Change { knob: 1, value: 2 }, Change { knob: 2, value: 1 }]);
        let there = knobs.off().apply(&knobs, &action).unwrap();
        assert_eq!(there.as_slice(), [0, 2, 1]);
        assert_eq!(knobs.off().changes_to(&there), action);
        assert_eq!(there.settled(&knobs).as_slice(), [0, 2, 0]);
        assert_eq!(
            there.describe(&knobs),
            "prune.sparsity of layer2 = 0.75, distill.on of model = true"
        );
        assert_eq!(knobs.off().describe(&knobs), "everything off");
    }

    #[test]
    fn foreign_indexes_are_errors() {
        let knobs = knobs();
        let apply = |changes: &[(usize, usize)]| {
            let action = changes.iter().map(|&(knob, value)| Change { knob, value }).collect();
            knobs.off().apply(&knobs, &action).unwrap_err()
        };
        assert_eq!(apply(&[]), ActionError::Empty);
        assert_eq!(apply(&[(3, 0)]), ActionError::NoSuchKnob { knob: 3, knobs: 3 });
        assert!(matches!(
            apply(&[(2, 2)]),
            ActionError::NoSuchValue {
                value: 2,
                values: 2,
                ..
            }
        ));
        assert_eq!(apply(&[(0, 1), (0, 2)]), ActionError::KnobTwice { knob: 0 });
        let short = Assignment::from(vec![0]);
        assert_eq!(short.check(&knobs), Err(ActionError::Length { given: 1, knobs: 3 }));
    }
}
