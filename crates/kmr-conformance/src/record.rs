//! What an engine passes and refuses, kept in a file so that it can only improve.

use std::{collections::BTreeMap, fmt};

use crate::Verdict;

/// The verdicts on an engine, by the paths of the cases. As text, a line for each case, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record(BTreeMap<String, Verdict>);

/// How a record differs from an earlier one of the same engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Cases that are wrong, with the first difference.
    pub wrong: Vec<String>,
    /// Cases that passed earlier and do not now.
    pub lost: Vec<String>,
    /// All other differences.
    pub changed: Vec<String>,
}

impl Record {
    /// Notes the verdict on the case `path`.
    pub fn insert(&mut self, path: String, verdict: Verdict) {
        self.0.insert(path, verdict);
    }

    /// The verdicts, by path.
    pub fn verdicts(&self) -> impl Iterator<Item = (&str, &Verdict)> {
        self.0.iter().map(|(path, verdict)| (path.as_str(), verdict))
    }

    /// Reads what `Display` writes. Where merged lists have several lines for a case, one that passes counts.
    ///
    /// # Errors
    /// The first line that is not a verdict.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut record = Self::default();
        for line in text.lines() {
            let (path, verdict) = parse_line(line).ok_or_else(|| format!("is not a verdict: `{line}`"))?;
            let known = record.0.get(&path);
            if !known.is_some_and(passes) {
                record.insert(path, verdict);
            }
        }
        Ok(record)
    }

    /// How this record differs from an `earlier` one.
    pub fn compare(&self, earlier: &Self) -> Comparison {
        let mut comparison = Comparison::default();
        let paths: std::collections::BTreeSet<&String> = self.0.keys().chain(earlier.0.keys()).collect();
        for path in paths {
            let (now, before) = (self.0.get(path), earlier.0.get(path));
            let line = || match (now, before) {
                (Some(now), Some(before)) => format!("{} (earlier: {})", line(path, now), label(before)),
                (Some(now), None) => format!("{} (earlier: not there)", line(path, now)),
                (None, _) => format!("{path} is not there any more"),
            };
            if matches!(now, Some(Verdict::Wrong(_))) {
                comparison.wrong.push(line());
            }
            if before.is_some_and(passes) && !now.is_some_and(passes) {
                comparison.lost.push(line());
            } else if now != before {
                comparison.changed.push(line());
            }
        }
        comparison
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|(path, verdict)| writeln!(f, "{}", line(path, verdict)))
    }
}

fn passes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Passed | Verdict::PassedByShape)
}

fn label(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::PassedByShape => "passed by shape",
        Verdict::Refused(_) => "refused",
        Verdict::Wrong(_) => "wrong",
    }
}

fn line(path: &str, verdict: &Verdict) -> String {
    match verdict {
        Verdict::Passed => format!("passed {path}"),
        Verdict::PassedByShape => format!("passed-by-shape {path}"),
        Verdict::Refused(reason) => format!("refused {path}: {}", single(reason)),
        Verdict::Wrong(difference) => format!("wrong {path}: {}", single(difference)),
    }
}

fn single(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn parse_line(line: &str) -> Option<(String, Verdict)> {
    let (kind, rest) = line.split_once(' ')?;
    let reasoned = || {
        rest.split_once(": ")
            .map(|(path, reason)| (path.to_owned(), reason.to_owned()))
    };
    match kind {
        "passed" => Some((rest.to_owned(), Verdict::Passed)),
        "passed-by-shape" => Some((rest.to_owned(), Verdict::PassedByShape)),
        "refused" => reasoned().map(|(path, reason)| (path, Verdict::Refused(reason))),
        "wrong" => reasoned().map(|(path, difference)| (path, Verdict::Wrong(difference))),
        _ => None,
    }
}
