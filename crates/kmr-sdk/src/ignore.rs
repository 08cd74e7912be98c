//! Layers that are left alone, by name or pattern.

use crate::{Error, Result};
use serde::Deserialize;

/// Names of layers or tensors, or patterns in which `*` stands for any text and `?` for any one character.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Ignore(Vec<String>);

impl Ignore {
    /// Whether one of `names` is to be left alone.
    pub fn covers<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        names
            .into_iter()
            .any(|name| self.0.iter().any(|pattern| matches(pattern, name)))
    }

    /// Refuses patterns that match none of `names`: most likely a slip of the pen.
    ///
    /// # Errors
    /// The first such pattern.
    pub fn check<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
        match self.0.iter().find(|pattern| !names.clone().any(|name| matches(pattern, name))) {
            Some(pattern) => Err(Error::invalid_configuration(format!(
                "`{pattern}` matches no layer and no tensor of this model; remove it, or see `kmr measure` for the names"
            ))
            .at("config.ignore")),
            None => Ok(()),
        }
    }
}

/// Linear in the product of the lengths: remembers the last `*` and tries again after it.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut read) = (0, 0);
    let mut again: Option<(usize, usize)> = None;
    while read < name.len() {
        match pattern.get(at) {
            Some('*') => {
                again = Some((at, read));
                at += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == name[read] => {
                at += 1;
                read += 1;
            }
            _ => match again {
                Some((star, taken)) => {
                    again = Some((star, taken + 1));
                    at = star + 1;
                    read = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|&rest| rest == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("layer1.0.conv1", "layer1.0.conv1", true),
            ("layer1", "layer1.0", false),
            ("layer1.*", "layer1.0.conv1", true),
            ("*conv?", "layer1.0.conv2", true),
            ("*conv?", "layer1.0.conv", false),
            ("*.0.*1", "layer1.0.conv1", true),
            ("*", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_without_a_match_is_refused() {
        let ignore = Ignore(vec!["conv*".into(), "layre1".into()]);
        assert!(ignore.covers(["stem", "conv1"]));
        let error = ignore.check(["conv1", "layer1"].into_iter()).unwrap_err();
        assert!(error.to_string().contains("`layre1` matches no layer"), "{error}");
    }
}
